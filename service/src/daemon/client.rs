//! The other end of the control socket: what `mig send --daemon` uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mig_engine::Cancel;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::{Migration, Reason, Start};
use crate::events::{Event, OnEvent, Summary};
use crate::failure::Failure;
use crate::problem::Problem;

/// How often a watch looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// A daemon's control socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// For the daemon with this socket. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot wait for a daemon")?;
        Ok(Client { socket: socket.to_owned(), runtime })
    }

    /// Sends a VM, and tells what happens until it is over. `cancel` stops it there.
    ///
    /// # Errors
    ///
    /// [`Problem::Daemon`] for what the daemon refuses and how the migration failed; what the socket says.
    pub fn send(&self, start: &Start, cancel: &Cancel, on: OnEvent<'_>) -> Result<Summary> {
        self.runtime.block_on(self.follow(start, cancel, on))
    }

    async fn follow(&self, start: &Start, cancel: &Cancel, on: OnEvent<'_>) -> Result<Summary> {
        let body = serde_json::to_vec(start).context("cannot ask a daemon")?;
        let migration: Migration = self.ask(Method::POST, "/v1/migrations", body).await?;
        let path = format!("/v1/migrations/{}", migration.id);
        let mut events = self.request(Method::GET, &format!("{path}/events"), Vec::new()).await?;
        let (mut text, mut asked_to_stop) = (Vec::new(), false);
        loop {
            let frame = tokio::select! {
                frame = events.body_mut().frame() => frame,
                () = tokio::time::sleep(LOOK) => {
                    if cancel.is_cancelled() && !asked_to_stop {
                        asked_to_stop = true;
                        let _: Migration = self.ask(Method::DELETE, &path, Vec::new()).await?;
                    }
                    continue;
                }
            };
            let Some(frame) = frame else { break };
            let Ok(bytes) = frame.context("the daemon went away; see there what became of it")?.into_data()
            else {
                continue;
            };
            text.extend_from_slice(&bytes);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line)
                    .context("the daemon says what this program does not know")?
                {
                    Event::Failed { failure, message } => {
                        return Err(Problem::Daemon { failure, message }.into());
                    }
                    event => {
                        on(&event);
                        if let Event::Done(summary) = event {
                            return Ok(*summary);
                        }
                    }
                }
            }
        }
        let message = "the daemon said no more; see there what became of the migration".into();
        Err(Problem::Daemon { failure: Failure::Unconfirmed, message }.into())
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T> {
        let answer = self.request(method, path, body).await?;
        let bytes = answer.into_body().collect().await.context("cannot read a daemon's answer")?.to_bytes();
        serde_json::from_slice(&bytes).context("cannot read a daemon's answer")
    }

    async fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let context = || format!("cannot reach a daemon at {}", self.socket.display());
        let socket = UnixStream::connect(&self.socket).await.with_context(context)?;
        let io = TokioIo::new(socket);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.with_context(context)?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "migd");
        let request = request.body(Full::new(Bytes::from(body))).with_context(context)?;
        let answer = sender.send_request(request).await.with_context(context)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = answer.into_body().collect().await.with_context(context)?.to_bytes();
        let reason: Reason = serde_json::from_slice(&bytes)
            .with_context(|| format!("a daemon refused with {status}, and this program can't read why"))?;
        Err(Problem::Daemon { failure: reason.failure, message: reason.message }.into())
    }
}
