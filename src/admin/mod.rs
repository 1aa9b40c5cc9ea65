//! The HTTP side: `/metrics`, `/livez`, `/readyz`, and a page for people at `/`.
mod chart;
mod charts;
mod hour;
#[cfg(test)]
mod looks;
mod page;
mod recent;
mod role;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use tokio::net::TcpListener;

use self::page::{Depths, Reload, View};
use self::recent::Recent;
use crate::metrics::{self, Metrics};
use crate::state::Queue;
use crate::status::Status;
use convgroup_domain::code::CodeTable;
use convgroup_host::clock::unix_seconds;

/// The bounds that the status page holds the figures against.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `amqp.prefetch`, messages in hand.
    pub prefetch: u16,
    /// `rate_limit.calls_per_second`.
    pub calls_per_second: u32,
}

/// Which daemon this is, for a person with several of them. Nothing secret.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The main queue.
    pub queue: String,
    /// Host and port of the API.
    pub api: String,
    /// `im.sdk_app_id`.
    pub sdk_app_id: u64,
    /// The nodes of the broker, their passwords hidden.
    pub nodes: Vec<String>,
    /// Where answers go, in words.
    pub answers: String,
    /// Where this page is served, with the port that was bound.
    pub listen: SocketAddr,
}

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    recent: Arc<Recent>,
    bounds: Bounds,
    identity: Identity,
    started: Instant,
}

impl Admin {
    /// Looks at these from now on.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        status: Arc<Status>,
        codes: &CodeTable,
        bounds: Bounds,
        identity: Identity,
    ) -> Self {
        Self {
            recent: Arc::new(Recent::new(
                Arc::clone(&metrics),
                Arc::clone(&status),
                codes,
            )),
            metrics,
            status,
            bounds,
            identity,
            started: Instant::now(),
        }
    }

    /// Binds the address.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Serves until the process ends.
    pub async fn serve(self, listener: TcpListener) {
        let router = router(self.clone());
        tokio::select! {
            () = server::serve(listener, router) => {}
            () = self.recent.keep() => {}
        }
    }

    fn view(&self, reload: Reload) -> View {
        let model = self.status.model();
        let now = unix_seconds();
        let since = |at: f64| Duration::from_secs_f64((now - at).max(0.0));
        let until = |at: f64| Duration::from_secs_f64((at - now).max(0.0));
        let (lately, hour) = self.recent.shown(now);
        let depth = |queue: Queue| model.broker.depths.map_or(0, |depths| queue.depth(depths));
        View {
            state_for: model.since.elapsed(),
            at: SystemTime::now(),
            up_for: self.started.elapsed(),
            depths: Depths::of(model.broker.is_connected, model.had_session),
            main: depth(Queue::Main),
            retry: depth(Queue::Retry),
            dead: depth(Queue::Dead),
            in_flight: model.in_flight,
            pace: model.pace,
            bounds: self.bounds,
            identity: self.identity.clone(),
            last_delivery: model.last_delivery.map(since),
            last_success: model.last_success.map(since),
            is_connected: model.broker.is_connected,
            publish_is_blocked: model.broker.blocked_since.is_some(),
            answers: model.answers,
            usersig_left: model.usersig_expiry.map(until),
            lately,
            hour,
            state: model.state,
            reload,
        }
    }
}

/// Each path with and without a slash at its end: who configures a health check writes either.
fn router(admin: Admin) -> Router {
    let metrics = page(get(exposition));
    let livez = page(get(livez));
    let readyz = page(get(readyz));
    Router::new()
        .route("/metrics", metrics.clone())
        .route("/metrics/", metrics)
        .route("/livez", livez.clone())
        .route("/livez/", livez)
        .route("/readyz", readyz.clone())
        .route("/readyz/", readyz)
        .route("/", page(get(status_page)))
        .fallback(nothing_here)
        .with_state(admin)
}

/// What every page answers to methods.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// A page that is read, and says so to other methods.
fn page(read: MethodRouter<Admin>) -> MethodRouter<Admin> {
    read.options(methods).fallback(only_read)
}

async fn methods() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(ALLOW, METHODS)])
}

/// 405, for who confuses this with something that can be told what to do.
async fn only_read(method: Method) -> impl IntoResponse {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        [(ALLOW, METHODS)],
        format!("{method} changes nothing here; this can only be read: {METHODS}\n"),
    )
}

async fn exposition(Shared(admin): Shared<Admin>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        admin.metrics.encode(),
    )
}

/// 200 while the loop turns.
async fn livez(Shared(admin): Shared<Admin>) -> impl IntoResponse {
    if admin.status.is_alive() {
        (StatusCode::OK, "the loop turns\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the loop is stuck: restart this process\n",
        )
    }
}

/// 200 when consuming or standing by; else 503 with the reason in words.
async fn readyz(Shared(admin): Shared<Admin>) -> impl IntoResponse {
    let (is_ready, words) = admin.status.readiness();
    let code = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, words + "\n")
}

/// 404, for who mistyped a path into a probe's configuration. `OPTIONS *` asks about all paths at once.
async fn nothing_here(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS && uri.path() == "*" {
        return methods().await.into_response();
    }
    let text = "nothing is here; there are / /metrics /livez /readyz\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

/// For people; nothing on it comes from elsewhere.
async fn status_page(Shared(admin): Shared<Admin>, uri: Uri) -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let reload = match uri.query() {
        Some("still") => Reload::Never,
        _ => Reload::Itself,
    };
    let page = self::page::page(&admin.view(reload));
    (headers, Html(page.into_string()))
}
