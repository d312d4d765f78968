//! Several processes, one product: what this one does not serve is asked of the member that does.
//!
//! A request runs here first. Where it finds that its execution's shard is elsewhere nothing has happened yet, and the whole
//! request goes to the member that has the shard, signed, and comes back with that one's answer. A command whose owner cannot be asked is left
//! in the inbox of its shard.

pub(crate) mod breakers;
pub(crate) mod controls;
mod forward;
pub(crate) mod inbox;
pub(crate) mod list;
mod refusals;
mod seen;
mod signature;
mod starts;
pub(crate) mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use futures::future::join_all;
use reqwest::Client;
use serde::de::DeserializeOwned;
use troupe_core::ShardId;
use troupe_telemetry::InboxMetrics;

pub(crate) use forward::{IDEMPOTENCY_KEY, forwarded};
use refusals::{Heard, Refusals, heard, unanswered};
use signature::MemberKey;
pub(crate) use signature::Signed;
pub(crate) use starts::start_anywhere;

use crate::app::App;
use crate::auth::Caller;
use crate::dto::PageDto;
use crate::error::ApiError;

/// How long a member may take to accept a connection: all are near each other.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a member may take to answer what only members ask.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// On the answer of a member to another one: it does not take the signature. Answers to `HEAD` have no body that says so.
pub(crate) const NOT_TAKEN: &str = "x-troupe-not-taken";

/// What a member puts round the payload of a start that it sends on, at most: the id of its trigger, as JSON.
const ENVELOPE_BYTES_MAX: usize = 4 << 10;

/// Most bytes of a request's body. What a member puts round a payload does not count: the payload itself has the same limit here as there.
pub(crate) fn body_bytes_max(app: &App, signed: Option<&Signed>) -> usize {
    let envelope = signed.map_or(0, |_| ENVELOPE_BYTES_MAX);
    app.settings.limits.body_bytes + envelope
}

/// On an answer: the shard that is not served here. Nothing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elsewhere(pub(crate) ShardId);

/// How this process talks to the other members.
pub struct Members {
    key: MemberKey,
    /// Signed requests that were let in.
    seen: seen::Seen,
    http: Client,
    /// How long a request may look for the owner of its shard.
    within: Duration,
    /// What became of commands in inboxes.
    inbox: Arc<InboxMetrics>,
    /// Members that do not tell their events.
    refusals: Refusals,
    /// Members that take nothing which this one signs.
    strangers: Refusals,
}

impl Members {
    /// A process that shares `secret` with the others. `lease`: how long a shard stays with an owner that is gone.
    ///
    /// # Errors
    /// When no connections can be made at all.
    pub fn new(secret: &[u8], lease: Duration) -> Result<Self, ApiError> {
        let http = Client::builder().no_proxy().connect_timeout(CONNECT_WITHIN).build();
        Ok(Self {
            key: MemberKey::new(secret),
            seen: seen::Seen::default(),
            http: http.map_err(|error| ApiError::new("INTERNAL", error.to_string()))?,
            within: lease * 3,
            inbox: Arc::new(InboxMetrics::new()),
            refusals: Refusals::default(),
            strangers: Refusals::default(),
        })
    }

    /// What a member answers on a path of its own, in this process's name.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it does not answer, or refuses.
    async fn ask(&self, app: &App, method: Method, address: &str, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let signed = Signed::new(&Caller::member(), &body).meant_for(names_at(app, address));
        let (name, value) = self.key.sign(&method, path, &HeaderMap::new(), app.now(), &signed)?;
        let url = format!("{address}{path}");
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::new(
                "UNAVAILABLE",
                format!("the member at {address} does not answer: {error}"),
            )
        };
        let request = self
            .http
            .request(method, url)
            .header(name, value)
            .timeout(ANSWER_WITHIN);
        let answer = request.body(body).send().await.map_err(|error| failed(&error))?;
        let answer = match heard(answer).await.map_err(|error| failed(&error))? {
            Heard::Answer(answer) => answer,
            Heard::Refusal(why) => return Err(self.refused(address, &why)),
        };
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| failed(&error))?;
        if !status.is_success() {
            let why = String::from_utf8_lossy(&bytes).into_owned();
            return Err(failed(&format!("{status} {why}")));
        }
        Ok(bytes)
    }

    /// What it means that a member does not take the signature of this one. The log is told too: nobody who asks can mend it.
    fn refused(&self, address: &str, why: &str) -> ApiError {
        if self.strangers.is_news(address, Instant::now()) {
            tracing::warn!(
                address,
                why,
                "a member takes nothing that this one signs: requests for its shards wait or fail here"
            );
        }
        unanswered(address, why)
    }

    /// What every other member answers to a `GET` of a list, each its own part of it.
    ///
    /// # Errors
    /// `UNAVAILABLE` when one does not answer, or answers what cannot be read.
    async fn pages<T: DeserializeOwned>(&self, app: &App, path: &str) -> Result<Vec<T>, ApiError> {
        let asked = others(app).map(async |address| self.ask(app, Method::GET, &address, path, Bytes::new()).await);
        let mut all = Vec::new();
        for answer in join_all(asked).await {
            let page: PageDto<T> = serde_json::from_slice(&answer?).map_err(|error| {
                ApiError::new("UNAVAILABLE", format!("a member lists {path} in another way: {error}"))
            })?;
            all.extend(page.items);
        }
        Ok(all)
    }

    pub(crate) fn key(&self) -> &MemberKey {
        &self.key
    }
}

fn others(app: &App) -> impl Iterator<Item = String> {
    let own = app.engine.name().to_owned();
    let members = app.engine.members().into_iter();
    members
        .filter(move |member| member.name != own)
        .map(|member| member.address)
}

/// Names of those that are reached at an address, between commas: one that died there may be known for a while beside its successor.
fn names_at(app: &App, address: &str) -> String {
    let members = app.engine.members().into_iter();
    let there = members.filter(|member| member.address == address);
    let names: Vec<String> = there.map(|member| member.name).collect();
    names.join(",")
}
