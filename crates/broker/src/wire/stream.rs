//! The stream that lapin reads from: the real one, TLS included, behind the filter.
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use futures_util::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::super::connect::{Tls, plain, secured};
use super::{FRAME_BYTES_MAX, Filter};

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;
/// Memory that is kept between reads for what was not handed on yet, in bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// The real stream of a connection, as lapin makes it.
type Wire = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;
/// The runtime of a connection: Tokio, with the filter in its streams.
type Kit = RuntimeParts<Tokio, FilteringReactor>;

/// The name of the header that says why a message can't be read: random, so that no publisher can write it.
pub(crate) fn mark() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| format!("convgroup-unreadable-{:032x}", rand::random::<u128>()))
}

/// Connects as lapin would, with the filter in between.
///
/// # Errors
/// What lapin says.
pub(crate) async fn connect(
    mut uri: AMQPUri,
    tls: Option<Tls>,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let must_ask = Arc::new(AtomicU32::new(0));
    loop {
        let connected = once(uri.clone(), tls.clone(), properties.clone(), &must_ask).await;
        match must_ask.swap(0, Ordering::Relaxed) {
            0 => return connected,
            // It offers less than lapin agrees to, unless lapin asks for it.
            bytes => uri.query.frame_max = Some(bytes),
        }
    }
}

async fn once(
    uri: AMQPUri,
    tls: Option<Tls>,
    properties: ConnectionProperties,
    must_ask: &Arc<AtomicU32>,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let kit = Kit::new(tokio.clone(), FilteringReactor(tokio.clone()));
    let runtime = TokioRuntime::new(tokio);
    let must_ask = Arc::clone(must_ask);
    let open = async move |uri: AMQPUri, _| {
        let wire = plain(&uri).connect_async(&runtime).await?;
        let wire = secured(wire, &uri, tls.as_ref()).await?;
        let asked = uri.query.frame_max.unwrap_or(FRAME_BYTES_MAX);
        let filtered = Filtered::new(wire, asked, Arc::clone(&must_ask));
        Ok(AsyncTcpStream::Plain(filtered))
    };
    Connection::connector(uri, Runtime::new(kit), open, properties).await
}

/// A stream whose incoming bytes pass the filter.
pub(crate) struct Filtered {
    wire: Wire,
    filter: Filter,
    chunk: Box<[u8]>,
    /// What passed; the first `given` bytes of it were handed on.
    passed: Vec<u8>,
    given: usize,
    failed: Option<io::Error>,
    /// Where it is told that a smaller frame bound has to be asked for; 0: it has not.
    must_ask: Arc<AtomicU32>,
}

impl Filtered {
    /// `frame_bytes_max`: what the broker is asked for.
    fn new(wire: Wire, frame_bytes_max: u32, must_ask: Arc<AtomicU32>) -> Self {
        Self {
            wire,
            filter: Filter::new(mark(), frame_bytes_max),
            chunk: vec![0; CHUNK_BYTES].into(),
            passed: Vec::new(),
            given: 0,
            failed: None,
            must_ask,
        }
    }

    /// Hands on what passed, as much as there is room for.
    fn give(&mut self, room: &mut [u8]) -> usize {
        let left = &self.passed[self.given..];
        let count = left.len().min(room.len());
        room[..count].copy_from_slice(&left[..count]);
        self.given += count;
        if self.given == self.passed.len() {
            self.given = 0;
            self.passed.clear();
            self.passed.shrink_to(KEPT_BYTES);
        }
        count
    }
}

impl AsyncRead for Filtered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if !this.passed.is_empty() {
                return Poll::Ready(Ok(this.give(room)));
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Err(error));
            }
            match Pin::new(&mut this.wire).poll_read(cx, &mut this.chunk) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(count)) => {
                    let chunk = &this.chunk[..count];
                    if let Err(error) = this.filter.feed(chunk, &mut this.passed) {
                        this.failed = Some(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                    if let Some(bytes) = this.filter.must_ask() {
                        this.must_ask.store(bytes, Ordering::Relaxed);
                    }
                }
                other => return other,
            }
        }
    }
}

impl AsyncWrite for Filtered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_close(cx)
    }
}

impl fmt::Debug for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").finish_non_exhaustive()
    }
}

/// Tokio's reactor, but for the type of its streams: that is how lapin learns which stream it gets.
#[derive(Clone, Debug)]
struct FilteringReactor(Tokio);

impl Reactor for FilteringReactor {
    type TcpStream = Filtered;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(addr);
        async move {
            let wire = AsyncTcpStream::Plain(connecting.await?);
            Ok(Filtered::new(wire, FRAME_BYTES_MAX, Arc::default()))
        }
    }
}
