//! The controls by HTTP, on the port of the API.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /sandbox/healthz` | | 200 |
//! | `GET /sandbox/counters` | | [`Counters`] |
//! | `POST /sandbox/counters/reset` | | 204 |
//! | `PUT /sandbox/limit` | `{"calls_per_second":200}`, 0 = off | 204 |
//! | `PUT /sandbox/list-page-size` | `{"list_page_size":100}`, 0 = all on one page | 204 |
//! | `PUT /sandbox/latency` | `{"min_ms":0,"max_ms":50}` | 204 |
//! | `PUT /sandbox/credentials` | `{"secret_key":"…","admins":["…"]}`, either may be left out | 204 |
//! | `POST /sandbox/users` | NDJSON `{"user":"user15","groups":["a","b"]}` | `{"users":1}` |
//! | `DELETE /sandbox/users` | | 204 |
//! | `POST /sandbox/after-list` | `{"user":"user15","groups":["a"],"times":3}`, `times` is 1 where it is left out | 204 |
//! | `GET /sandbox/users/{user}` | | `{"user":"user15","groups":["a"]}` or 404 |
//! | `GET /sandbox/faults` | | a list of [`RuleState`] |
//! | `POST /sandbox/faults` | a [`Rule`] | 201 `{"id":1}` |
//! | `DELETE /sandbox/faults` | | 204 |
//! | `DELETE /sandbox/faults/{id}` | | 204 or 404 |
//!
//! A body that can't be read is answered with 400 and the reason; `Content-Type` does not matter.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::Credentials;
use super::config::Latency;
use super::counters::Counters;
use super::fault::{Rule, RuleState};
use super::seed::Seeder;
use super::shared::Shared;

type App = State<Arc<Shared>>;

/// A status and the reason in words.
type Refused = (StatusCode, String);

/// All under `/sandbox/`; any other path is a 404, any other method a 405.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/sandbox/healthz", get(|| async { "ok\n" }))
        .route("/sandbox/counters", get(counters))
        .route("/sandbox/counters/reset", post(reset_counters))
        .route("/sandbox/limit", put(set_limit))
        .route("/sandbox/list-page-size", put(set_list_page_size))
        .route("/sandbox/latency", put(set_latency))
        .route("/sandbox/credentials", put(set_credentials))
        .route("/sandbox/users", post(add_users).delete(clear_users))
        .route("/sandbox/users/{user}", get(user))
        .route("/sandbox/after-list", post(add_after_list))
        .route(
            "/sandbox/faults",
            get(faults).post(add_fault).delete(clear_faults),
        )
        .route("/sandbox/faults/{id}", delete(remove_fault))
        .with_state(shared)
}

async fn counters(State(shared): App) -> Json<Counters> {
    Json(shared.api().counters.clone())
}

async fn reset_counters(State(shared): App) -> StatusCode {
    shared.api().reset_counters();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    calls_per_second: u32,
}

async fn set_limit(State(shared): App, body: Bytes) -> Result<StatusCode, Refused> {
    shared.api().calls_per_second = read::<Limit>(&body)?.calls_per_second;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListPageSize {
    list_page_size: u32,
}

async fn set_list_page_size(State(shared): App, body: Bytes) -> Result<StatusCode, Refused> {
    shared.api().list_page_size = read::<ListPageSize>(&body)?.list_page_size;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_latency(State(shared): App, body: Bytes) -> Result<StatusCode, Refused> {
    shared.api().latency = read::<Latency>(&body)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_credentials(State(shared): App, body: Bytes) -> Result<StatusCode, Refused> {
    shared
        .api()
        .access
        .set_credentials(read::<Credentials>(&body)?);
    Ok(StatusCode::NO_CONTENT)
}

async fn add_users(State(shared): App, body: Body) -> Result<Json<Value>, Refused> {
    let mut chunks = body.into_data_stream();
    let mut seeder = Seeder::default();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(refuse)?;
        seeder
            .push(&chunk, &mut shared.api().store)
            .map_err(refuse)?;
    }
    let users = seeder.finish(&mut shared.api().store).map_err(refuse)?;
    Ok(Json(json!({ "users": users })))
}

async fn clear_users(State(shared): App) -> StatusCode {
    shared.api().store.clear();
    StatusCode::NO_CONTENT
}

async fn user(State(shared): App, Path(user): Path<String>) -> Result<Json<Value>, StatusCode> {
    let groups = shared
        .api()
        .store
        .groups(&user)
        .ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(json!({ "user": user, "groups": groups })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AfterList {
    user: String,
    groups: Vec<String>,
    #[serde(default = "once")]
    times: u64,
}

const fn once() -> u64 {
    1
}

async fn add_after_list(State(shared): App, body: Bytes) -> Result<StatusCode, Refused> {
    let AfterList {
        user,
        groups,
        times,
    } = read(&body)?;
    let added = shared.api().store.add_after_list(&user, &groups, times);
    added.map_err(refuse)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn faults(State(shared): App) -> Json<Vec<RuleState>> {
    Json(shared.api().faults.list())
}

async fn add_fault(State(shared): App, body: Bytes) -> Result<(StatusCode, Json<Value>), Refused> {
    let rule: Rule = read(&body)?;
    if let Some(why) = rule.contradiction() {
        return Err((StatusCode::BAD_REQUEST, format!("{why}\n")));
    }
    let id = shared.api().faults.add(rule);
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

async fn clear_faults(State(shared): App) -> StatusCode {
    shared.api().faults.clear();
    StatusCode::NO_CONTENT
}

async fn remove_fault(State(shared): App, Path(id): Path<u64>) -> StatusCode {
    if shared.api().faults.remove(id) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(refuse)
}

fn refuse(error: impl std::error::Error) -> Refused {
    (StatusCode::BAD_REQUEST, format!("{error}\n"))
}
