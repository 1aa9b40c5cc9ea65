//! Connections: HTTP/1.1 with keep-alive, and the ways to break it.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use futures_util::{StreamExt, stream};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use convgroup_host::clock::unix_s;

use super::api::{Answer, What};
use super::call::{Call, CallKind};
use super::control;
use super::fault::Raw;
use super::shared::Shared;

/// The largest body of a call, in bytes; a real one has about 100.
const BODY_BYTES_MAX: usize = 64 * 1024;

const TOO_LARGE: &str = "a body has 64 KiB at most\n";

/// The body of the `huge` fault comes in 16384 pieces of 64 KiB.
const HUGE_PIECE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
const HUGE_PIECES: usize = 16 * 1024;

/// An answer that ends before its `Content-Length`.
const TRUNCATED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n\
    {\"ActionStatus\":\"OK\",\"ErrorCode\":0,";

/// Serves until it is dropped, which closes all connections.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let controls = control::router(Arc::clone(&shared));
    let mut connections = JoinSet::new();
    loop {
        select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&shared), controls.clone()));
                }
                // Out of file descriptors, or a connection that was gone before it was accepted.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What the service tells the connection it runs on.
enum ConnectionEnd {
    /// Read on until the client goes away, then close.
    Hang,
    /// Write these bytes, then close by FIN.
    Close(&'static [u8]),
    /// Close by RST.
    Reset,
    /// Close by FIN after the answer that is being written.
    Last,
}

struct Link {
    ends: mpsc::UnboundedSender<ConnectionEnd>,
    /// Since when the connection waits for a request; `None` while it does not.
    idle_since: watch::Sender<Option<Instant>>,
    requests: AtomicU32,
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>, controls: Router) {
    // Without it, an answer on a kept-alive connection may wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let (ends, mut end_of_it) = mpsc::unbounded_channel();
    let (idle_since, idle) = watch::channel(Some(Instant::now()));
    let mut idle = pin!(idle_for(shared.idle_close, idle));
    let link = Arc::new(Link {
        ends,
        idle_since,
        requests: AtomicU32::new(0),
    });
    let service = service_fn(move |request| {
        let (shared, link, controls) = (Arc::clone(&shared), Arc::clone(&link), controls.clone());
        async move { Ok::<_, Infallible>(respond(request, &shared, &link, controls).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let end_of_it = loop {
        select! {
            // First, so that an answer is on its way before a [`ConnectionEnd`] takes effect.
            biased;
            _ = &mut connection => return,
            Some(end_of_it) = end_of_it.recv() => match end_of_it {
                ConnectionEnd::Last => std::pin::Pin::new(&mut connection).graceful_shutdown(),
                end_of_it => break end_of_it,
            },
            () = &mut idle => return,
        }
    };
    end(connection.into_parts().io.into_inner(), end_of_it).await;
}

/// Ends a connection without HTTP's knowledge; what goes wrong here was wrong before.
async fn end(mut stream: TcpStream, end_of_it: ConnectionEnd) {
    match end_of_it {
        ConnectionEnd::Hang => {
            while stream
                .read(&mut [0; 1024])
                .await
                .is_ok_and(|bytes| bytes > 0)
            {}
        }
        ConnectionEnd::Close(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
        ConnectionEnd::Reset => {
            let _ = stream.set_zero_linger();
        }
        ConnectionEnd::Last => {}
    }
}

/// Returns when the connection was idle for `limit`.
async fn idle_for(limit: Option<Duration>, mut idle_since: watch::Receiver<Option<Instant>>) {
    let Some(limit) = limit else {
        return pending().await;
    };
    loop {
        let since = *idle_since.borrow_and_update();
        let passed = async {
            match since {
                Some(since) => sleep_until(since + limit).await,
                None => pending().await,
            }
        };
        select! {
            () = passed => return,
            changed = idle_since.changed() => if changed.is_err() { return },
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    shared: &Shared,
    link: &Link,
    controls: Router,
) -> Response<Body> {
    link.idle_since.send_replace(None);
    let response = if let Some(kind) = CallKind::of(request.uri().path()) {
        respond_to_call(kind, request, shared, link).await
    } else {
        let Ok(response) = TowerToHyperService::new(controls)
            .call(request.map(Body::new))
            .await;
        response
    };
    link.idle_since.send_replace(Some(Instant::now()));
    let requests = link.requests.fetch_add(1, Ordering::Relaxed) + 1;
    if shared
        .close_after_requests
        .is_some_and(|max| requests >= max)
    {
        // The receiver lives as long as the connection this runs on.
        let _ = link.ends.send(ConnectionEnd::Last);
    }
    response
}

async fn respond_to_call(
    kind: CallKind,
    request: Request<Incoming>,
    shared: &Shared,
    link: &Link,
) -> Response<Body> {
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "this path takes POST\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    let Ok(body) = to_bytes(Body::new(body), BODY_BYTES_MAX).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    };
    let call = Call::read(kind, head.uri, body);
    let Answer { what, latency } = decide(&call, shared);
    shared.changed.notify_waiters();
    if !latency.is_zero() {
        sleep(latency).await;
    }
    let end_of_it = match what {
        What::Json(json) => return body_of("application/json", Body::from(json)),
        What::HttpStatus(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return plain(status, "<html><body>injected by im-sandbox</body></html>\n");
        }
        What::Raw(raw) => return exactly(raw),
        What::Garbage => {
            return body_of(
                "application/json",
                Body::from("{\"ActionStatus\":\"OK\",<<garbage>>"),
            );
        }
        What::Huge => return body_of("application/json", huge()),
        What::Truncated => ConnectionEnd::Close(TRUNCATED),
        What::Close => ConnectionEnd::Close(b""),
        What::Reset => ConnectionEnd::Reset,
        What::Hang => ConnectionEnd::Hang,
    };
    let _ = link.ends.send(end_of_it);
    pending().await
}

/// The clock is read behind the lock, so that the api sees it go forward only.
fn decide(call: &Call, shared: &Shared) -> Answer {
    let mut api = shared.api();
    api.answer(call, std::time::Instant::now(), unix_s())
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// A header that can't be sent is left out.
fn exactly(raw: Raw) -> Response<Body> {
    let mut response = body_of("application/json", Body::from(raw.body));
    *response.status_mut() = StatusCode::from_u16(raw.status).unwrap_or(StatusCode::OK);
    for (name, value) in raw.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn body_of(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn huge() -> Body {
    let start = Bytes::from_static(b"{\"ActionStatus\":\"OK\",\"ErrorCode\":0,\"ErrorInfo\":\"");
    let pieces = stream::iter([start]).chain(stream::repeat(HUGE_PIECE).take(HUGE_PIECES));
    Body::from_stream(pieces.map(Ok::<_, Infallible>))
}
