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
pub enum Connect {
    /// It is begun.
    Begun(Instant),
    /// It is there, and a call leaves on it; or it is given up. The call may have left on another one meanwhile.
    Ended(Instant),
}

/// Hears of connections: of each that is begun, and then that it ended.
pub type Hears = Arc<dyn Fn(Connect) + Send + Sync>;

/// A connection that is begun. It ends with this, however it ends.
struct Begun(Hears);

impl Begun {
    fn new(hears: &Hears) -> Self {
        hears(Connect::Begun(Instant::now()));
        Self(Arc::clone(hears))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        (self.0)(Connect::Ended(Instant::now()));
    }
}

/// Wraps what connects.
#[derive(Clone)]
pub(super) struct Connects(pub(super) Hears);

/// What connects, and tells of it.
#[derive(Clone)]
pub(super) struct Connecting<S> {
    inner: S,
    hears: Hears,
}

impl<S> Layer<S> for Connects {
    type Service = Connecting<S>;

    fn layer(&self, inner: S) -> Connecting<S> {
        Connecting {
            inner,
            hears: Arc::clone(&self.0),
        }
    }
}

impl<R, S> Service<R> for Connecting<S>
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
        let begun = Begun::new(&self.hears);
        let connecting = self.inner.call(to);
        Box::pin(async move {
            let connection = connecting.await;
            drop(begun);
            connection
        })
    }
}
