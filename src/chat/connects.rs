//! Tells when a connection was made.
//!
//! A call that has to make one leaves later than it was let go: TCP and TLS take two or three round trips. The pace counts it where
//! it leaves (see [`crate::pace::limiter`]).
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tower::{Layer, Service};

/// Hears of each connection that was made: when that began, and when it was done.
pub type Connected = Arc<dyn Fn(Instant, Instant) + Send + Sync>;

/// Wraps what connects.
#[derive(Clone)]
pub(super) struct Connects(pub(super) Connected);

/// What connects, and tells of it.
#[derive(Clone)]
pub(super) struct Connecting<S> {
    inner: S,
    connected: Connected,
}

impl<S> Layer<S> for Connects {
    type Service = Connecting<S>;

    fn layer(&self, inner: S) -> Connecting<S> {
        Connecting {
            inner,
            connected: Arc::clone(&self.0),
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
        let began = Instant::now();
        let connecting = self.inner.call(to);
        let connected = Arc::clone(&self.connected);
        Box::pin(async move {
            let connection = connecting.await?;
            connected(began, Instant::now());
            Ok(connection)
        })
    }
}

impl fmt::Debug for Connects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connects")
    }
}
