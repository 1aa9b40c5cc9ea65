//! Tells when connections are made.
//!
//! A call that has to make one leaves later than it was let go: TCP and TLS take two or three round trips. The pace counts it where
//! it leaves (see [`convgroup_domain::spacing`]).
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tower::{Layer, Service};

/// What happens to a connection that a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectEvent {
    /// It is begun.
    Started(Instant),
    /// It is there, and a call leaves on it; or it is given up. The call may have left on another one meanwhile.
    Ended(Instant),
}

/// Is called for each connection that is begun, and again when that ended.
pub type OnConnect = Arc<dyn Fn(ConnectEvent) + Send + Sync>;

/// A connection that is begun. It ends with this, however it ends.
struct StartedConnect(OnConnect);

impl StartedConnect {
    fn new(on_connect: &OnConnect) -> Self {
        on_connect(ConnectEvent::Started(Instant::now()));
        Self(Arc::clone(on_connect))
    }
}

impl Drop for StartedConnect {
    fn drop(&mut self) {
        (self.0)(ConnectEvent::Ended(Instant::now()));
    }
}

/// Wraps what connects.
#[derive(Clone)]
pub(super) struct ConnectLayer(pub(super) OnConnect);

/// What connects, and tells of it.
#[derive(Clone)]
pub(super) struct ConnectService<S> {
    inner: S,
    on_connect: OnConnect,
}

impl<S> Layer<S> for ConnectLayer {
    type Service = ConnectService<S>;

    fn layer(&self, inner: S) -> ConnectService<S> {
        ConnectService {
            inner,
            on_connect: Arc::clone(&self.0),
        }
    }
}

impl<R, S> Service<R> for ConnectService<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: R) -> Self::Future {
        let begun = StartedConnect::new(&self.on_connect);
        let connecting = self.inner.call(to);
        Box::pin(async move {
            let connection = connecting.await;
            drop(begun);
            connection
        })
    }
}
