//! The control API: JSON over HTTP on a unix socket that belongs to the daemon's user. `docs/migd-openapi.json` describes it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::outgoing::{Refused, Start};
use super::store::bytes_of;
use super::{Destination, Entry, Kept, Migration, Reason, Running};
use crate::events::Event;
use crate::failure::Failure;
use crate::wire::hello::{agent, is_vm_name};

type Daemon = State<Arc<Running>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "migd",
        description = "The control API of migd, on its unix socket. Paths are the daemon's, from the root on.",
        license(name = "Apache-2.0 OR BSD-3-Clause")
    ),
    components(schemas(Event))
)]
struct Document;

/// An answer that is an error.
#[derive(Debug)]
struct Refusal(StatusCode, Reason);

impl Refusal {
    fn new(status: StatusCode, failure: Failure, message: impl Into<String>) -> Self {
        Refusal(status, Reason { failure, message: message.into() })
    }

    fn wrong(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, Failure::Usage, message)
    }

    fn unknown(what: &str) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, Failure::Usage, format!("there is no {what}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, Reason::of(&error))
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong(message) => Refusal::wrong(message),
            Refused::Active(message) => Refusal::new(StatusCode::CONFLICT, Failure::Usage, message),
            Refused::Full(message) => Refusal::new(StatusCode::TOO_MANY_REQUESTS, Failure::Failed, message),
            Refused::Draining => {
                let message = "this daemon is about to stop";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Failure::Failed, message)
            }
        }
    }
}

/// A request's body, if it came whole and is not too large.
type Received = Result<Bytes, BytesRejection>;

/// A body, or what is wrong with it.
fn read<T: DeserializeOwned>(body: Received) -> Result<T, Refusal> {
    let body =
        body.map_err(|rejection| Refusal::new(rejection.status(), Failure::Usage, rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Refusal::wrong(error.to_string()))
}

/// Does what may take long, such as removing a large file or looking at one that is far away.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let bug = |error: tokio::task::JoinError| anyhow::Error::msg(error.to_string());
    Ok(tokio::task::spawn_blocking(work).await.map_err(bug)?)
}

/// What is kept for later.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct References {
    /// Bytes that are kept.
    pub bytes: u64,
    /// Bytes that may be.
    pub limit: u64,
    /// The files, the least recently used first.
    pub kept: Vec<Kept>,
}

/// The daemon.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Program and version.
    pub agent: String,
    /// Where migrations come in.
    pub address: String,
    /// Since the start.
    pub seconds: u64,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Migrations that may run at once.
    pub slots: usize,
    /// Migrations that run.
    pub running: usize,
    /// Migrations that wait.
    pub queued: usize,
    /// How GPUs are used: `auto`, `off` or `require`.
    pub gpu: String,
}

/// Begin to send a VM
#[utoipa::path(post, path = "/v1/migrations", request_body = Start, responses(
    (status = CREATED, body = Migration),
    (status = BAD_REQUEST, body = Reason), (status = CONFLICT, body = Reason),
    (status = PAYLOAD_TOO_LARGE, body = Reason),
    (status = TOO_MANY_REQUESTS, body = Reason), (status = SERVICE_UNAVAILABLE, body = Reason),
))]
async fn start(State(running): Daemon, body: Received) -> Result<(StatusCode, Json<Migration>), Refusal> {
    let start = read(body)?;
    let entry = blocking(move || running.daemon().begin(start)).await??;
    Ok((StatusCode::CREATED, Json(entry.migration())))
}

/// List migrations: those that run or wait, and the latest of those that are over
#[utoipa::path(get, path = "/v1/migrations", responses((status = OK, body = Vec<Migration>)))]
async fn list(State(running): Daemon) -> Json<Vec<Migration>> {
    Json(running.daemon().migrations.all())
}

fn find(running: &Running, id: &str) -> Result<Arc<Entry>, Refusal> {
    running.daemon().migrations.find(id).ok_or_else(|| Refusal::unknown(&format!("migration {id:?}")))
}

/// Show a migration
#[utoipa::path(get, path = "/v1/migrations/{id}", params(("id" = String, Path)), responses(
    (status = OK, body = Migration), (status = NOT_FOUND, body = Reason),
))]
async fn show(State(running): Daemon, Path(id): Path<String>) -> Result<Json<Migration>, Refusal> {
    Ok(Json(find(&running, &id)?.migration()))
}

/// Cancel a migration; it is over when its state says so
#[utoipa::path(delete, path = "/v1/migrations/{id}", params(("id" = String, Path)), responses(
    (status = ACCEPTED, body = Migration), (status = NOT_FOUND, body = Reason),
))]
async fn cancel(
    State(running): Daemon,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Migration>), Refusal> {
    let entry = find(&running, &id)?;
    entry.cancel.cancel();
    Ok((StatusCode::ACCEPTED, Json(entry.migration())))
}

/// Watch a migration: its events from the start on, a line of JSON each, until it is over
#[utoipa::path(get, path = "/v1/migrations/{id}/events", params(("id" = String, Path)), responses(
    (status = OK, body = Event, content_type = "application/x-ndjson"), (status = NOT_FOUND, body = Reason),
))]
async fn events(State(running): Daemon, Path(id): Path<String>) -> Result<Response, Refusal> {
    let entry = find(&running, &id)?;
    let changes = entry.changes();
    let lines = stream::unfold(Some((entry, changes, 0)), |watched| async {
        let (entry, mut changes, seen) = watched?;
        loop {
            // What changes from here on is seen next time.
            changes.mark_unchanged();
            let (events, seen, more) = entry.since(seen);
            if !events.is_empty() {
                let line = |event: &Event| serde_json::to_string(event).unwrap_or_default() + "\n";
                let text: String = events.iter().map(line).collect();
                let next = more.then_some((entry, changes, seen));
                return Some((Ok::<_, Infallible>(text), next));
            }
            if !more || changes.changed().await.is_err() {
                return None;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// List destinations that were prepared
#[utoipa::path(get, path = "/v1/destinations", responses((status = OK, body = BTreeMap<String, Destination>)))]
async fn destinations(State(running): Daemon) -> Json<BTreeMap<String, Destination>> {
    Json(running.daemon().vms.prepared())
}

/// Prepare the destination of a VM that is to come in
#[utoipa::path(put, path = "/v1/destinations/{vm}", params(("vm" = String, Path)), request_body = Destination, responses(
    (status = NO_CONTENT), (status = BAD_REQUEST, body = Reason),
    (status = PAYLOAD_TOO_LARGE, body = Reason),
))]
async fn prepare(
    State(running): Daemon,
    Path(vm): Path<String>,
    body: Received,
) -> Result<StatusCode, Refusal> {
    if !is_vm_name(&vm) {
        return Err(Refusal::wrong(format!("{vm:?} is no name of a VM")));
    }
    running.daemon().vms.prepare(&vm, read(body)?)?.map_err(Refusal::wrong)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget a destination that was prepared
#[utoipa::path(delete, path = "/v1/destinations/{vm}", params(("vm" = String, Path)), responses(
    (status = NO_CONTENT), (status = NOT_FOUND, body = Reason),
))]
async fn forget(State(running): Daemon, Path(vm): Path<String>) -> Result<StatusCode, Refusal> {
    if running.daemon().vms.forget(&vm)? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refusal::unknown(&format!("destination prepared for {vm:?}")))
    }
}

/// List what is kept for later: snapshots of VMs, indexes of disks
#[utoipa::path(get, path = "/v1/references", responses((status = OK, body = References)))]
async fn references(State(running): Daemon) -> Result<Json<References>, Refusal> {
    let store = &running.daemon().store;
    let kept = store.list()?;
    Ok(Json(References { bytes: bytes_of(&kept), limit: store.limit(), kept }))
}

/// Remove something that is kept
#[utoipa::path(delete, path = "/v1/references/{folder}/{file}",
    params(("folder" = String, Path), ("file" = String, Path)), responses(
    (status = NO_CONTENT), (status = NOT_FOUND, body = Reason),
))]
async fn remove(
    State(running): Daemon,
    Path((folder, file)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let name = format!("{folder}/{file}");
    let removed = name.clone();
    if blocking(move || running.daemon().store.remove(&removed)).await?? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refusal::unknown(&format!("reference {name:?}")))
    }
}

/// Show the daemon
#[utoipa::path(get, path = "/v1/status", responses((status = OK, body = Status)))]
async fn status(State(running): Daemon) -> Json<Status> {
    let daemon = running.daemon();
    let active: Vec<Migration> = daemon.migrations.active().iter().map(|entry| entry.migration()).collect();
    let count = |wanted| active.iter().filter(|one| one.state == wanted).count();
    Json(Status {
        agent: agent(),
        address: running.address().to_string(),
        seconds: running.since.elapsed().as_secs(),
        draining: daemon.is_draining(),
        slots: daemon.slots.limit(),
        running: count(super::State::Running),
        queued: count(super::State::Queued),
        gpu: daemon.config.gpu().mode.name().to_owned(),
    })
}

fn routed() -> OpenApiRouter<Arc<Running>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(list, start))
        .routes(routes!(show, cancel))
        .routes(routes!(events))
        .routes(routes!(destinations))
        .routes(routes!(prepare, forget))
        .routes(routes!(references))
        .routes(routes!(remove))
        .routes(routes!(status))
}

/// What the control socket serves.
pub fn control(running: Arc<Running>) -> Router {
    let (router, document) = routed().split_for_parts();
    let router = router.route("/v1/openapi.json", get(|| async { Json(document) }));
    let fallback = || async { Refusal::unknown("such path; /v1/openapi.json has those that there are") };
    let wrong_method = || async {
        let message = "that path takes other methods; /v1/openapi.json has them";
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Failure::Usage, message)
    };
    router.fallback(fallback).method_not_allowed_fallback(wrong_method).with_state(running)
}

/// What the API looks like, as OpenAPI.
pub fn document() -> String {
    let (_, document) = routed().split_for_parts();
    // Maps with text keys can be written.
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// What the metrics' address serves.
pub fn observed(running: Arc<Running>) -> Router {
    async fn metrics(State(running): Daemon) -> Result<Response, Refusal> {
        let daemon = running.daemon();
        let text = daemon.metrics.text(daemon);
        let text = text.map_err(|reason| Refusal(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
    }
    async fn ready(State(running): Daemon) -> (StatusCode, &'static str) {
        if running.daemon().is_draining() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else {
            (StatusCode::OK, "ready\n")
        }
    }
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(running)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_openapi_file_is_what_the_api_is() {
        let kept = include_str!("../../../docs/migd-openapi.json");
        assert!(kept == super::document(), "migd --openapi > docs/migd-openapi.json");
    }
}
