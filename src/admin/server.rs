//! Connections of the HTTP side, every one bounded: who comes here unasked must not cost the daemon memory or descriptors.
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use convgroup_host::limits::explained;

/// Connections at a time. A handful is in use: a Prometheus or two, health checks, people who look at the page.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take, counted from when the connection began to wait for it: an idle one ends as well.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// How much of a request is held, in bytes; a real one has a few hundred. Hyper takes no less than 8 KiB.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// How long a connection is kept for further requests.
const KEPT_MAX: Duration = Duration::from_secs(25);
/// How long the answer under way then has to reach its reader: no connection lasts longer than 30 s.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(5);
/// After a connection could not be accepted: mostly there are no file descriptors left, and none comes back at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until it is dropped, which closes all connections.
///
/// One connection too many takes the place of the oldest. Left in the backlog, or closed, a health check behind clients that are
/// slow (or that want no answer at all) would fail, and the process be restarted for nothing.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                let error = explained(err.to_string());
                tracing::warn!(error, "a connection to http.listen can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it, the end of a long answer may wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            // Its end by cancellation is what was asked for; its descriptor is free then.
            let _ = oldest.await;
        }
        let connection = tokio::spawn(serve_connection(stream, router.clone()));
        open.push_back(AbortOnDropHandle::new(connection));
    }
}

/// Answers the requests of one connection. What goes wrong with it is its client's affair.
async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    if timeout(KEPT_MAX, &mut connection).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER_MAX, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, advance};

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    /// More than fits into the pipe between client and server.
    const ANSWER_BYTES: usize = 4096;

    /// The client's end of a connection, and the server's task.
    fn connect() -> (DuplexStream, JoinHandle<()>) {
        let (client, server) = duplex(1024);
        let router = Router::new().route("/", get(|| async { "x".repeat(ANSWER_BYTES) }));
        (client, tokio::spawn(serve_connection(server, router)))
    }

    /// Reads one whole answer, and no more.
    async fn read_answer(client: &mut DuplexStream) {
        let mut answer = String::new();
        while answer
            .split_once("\r\n\r\n")
            .is_none_or(|(_, body)| body.len() < ANSWER_BYTES)
        {
            let byte = client.read_u8().await.expect("a whole answer");
            answer.push(char::from(byte));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_end_is_waited_for_five_seconds() {
        for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\n"] {
            let start = Instant::now();
            let (mut client, served) = connect();
            client.write_all(begun).await.unwrap();
            served.await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 5, "{begun:?}");
        }
    }

    /// Each byte by itself is in time; the head as a whole is not.
    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_not_waited_for_any_longer() {
        let start = Instant::now();
        let (mut client, _served) = connect();
        while client.write_all(b"G").await.is_ok() {
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_of_a_head_is_taken_than_fits_the_buffer() {
        let (mut client, _served) = connect();
        client.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        let mut taken = 0;
        while taken <= 10 * BUFFER_BYTES_MAX && client.write_all(&[b'x'; 512]).await.is_ok() {
            taken += 512;
        }
        let fits = BUFFER_BYTES_MAX / 2..=2 * BUFFER_BYTES_MAX;
        assert!(fits.contains(&taken), "{taken} bytes were taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_further_requests_and_ends_after_an_answer() {
        let start = Instant::now();
        let (mut client, served) = connect();
        for second in [0, 4, 8, 12, 16, 20, 24] {
            advance(start + Duration::from_secs(second) - Instant::now()).await;
            client.write_all(GET).await.unwrap();
            if second < 24 {
                read_answer(&mut client).await;
            }
        }
        // The last one is under way when the time is over.
        advance(Duration::from_secs(3)).await;
        read_answer(&mut client).await;
        served.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 27);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_when_it_was_kept_for_long_enough() {
        let start = Instant::now();
        let (mut client, served) = connect();
        for _ in 0..6 {
            client.write_all(GET).await.unwrap();
            read_answer(&mut client).await;
            advance(Duration::from_secs(4)).await;
        }
        served.await.unwrap();
        assert_eq!(start.elapsed(), KEPT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answer_is_cut_off_after_thirty_seconds() {
        let start = Instant::now();
        let (mut client, served) = connect();
        client.write_all(GET).await.unwrap();
        let cut_off = timeout(Duration::from_mins(1), served).await;
        cut_off.expect("cut off").unwrap();
        assert_eq!(start.elapsed(), KEPT_MAX + LAST_ANSWER_MAX);
    }
}
