//! The HTTP side: `/metrics`, `/livez`, `/readyz`, and a page for people at `/`.
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};
use crate::status::Status;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The state in words.
    pub status: Arc<Status>,
}

impl Admin {
    /// Binds the address.
    ///
    /// # Errors
    /// The address can't be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// The listener failed for good.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(exposition))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/", get(page))
            .with_state(self);
        axum::serve(listener, router).await
    }
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
    let code = if admin.status.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, admin.status.state().in_words() + "\n")
}

async fn page(Shared(admin): Shared<Admin>) -> Html<String> {
    let state = admin.status.state();
    let depth = |queue: &str| {
        admin
            .metrics
            .queue_messages
            .with_label_values(&[queue])
            .get()
    };
    let settled = |outcome: &str| {
        admin
            .metrics
            .messages_settled_total
            .with_label_values(&[outcome])
            .get()
    };
    let rows = [
        ("State", state.label().to_owned()),
        ("In words", state.in_words()),
        ("Waiting in the main queue", depth("main").to_string()),
        ("Waiting in the delay queues", depth("retry").to_string()),
        ("Dead letters", depth("dead").to_string()),
        ("In hand", admin.metrics.in_flight.get().to_string()),
        (
            "Pace, calls per second",
            format!("{:.0}", admin.metrics.rate_limit_calls_per_second.get()),
        ),
        ("Deleted since the start", settled("deleted").to_string()),
        ("Already gone since the start", settled("gone").to_string()),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let rows: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}<td>{}", escaped(value)))
        .collect();
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <meta http-equiv=refresh content=5><title>convgroup-deleter: {}</title>\
         <style>body{{font:1rem sans-serif;margin:1rem}}th{{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}}</style>\
         <h1>convgroup-deleter</h1><table>{}</table><p><a href=/metrics>metrics</a> <a href=/readyz>readyz</a> \
         <a href=/livez>livez</a>",
        state.label(),
        rows.concat()
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
