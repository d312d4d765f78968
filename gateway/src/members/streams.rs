//! Events of the other members' executions.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::json;
use tokio::sync::mpsc;

use super::forward::NOT_HERE;
use super::{Signed, names_at};
use crate::app::App;
use crate::auth::Caller;
use crate::stream::reader::{Reader, Received};

/// On a request for a stream: only what happens at that member.
pub(crate) const HERE_ONLY: &str = "x-troupe-here-only";
/// How often is looked whether somebody has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Events that a slow reader may be behind before the members wait for it.
const PENDING_MAX: usize = 1_024;
/// What happens at every other member, also at those that come later. Where something may have been missed, it says `reset`.
pub(crate) fn follow_others(app: App, topic: &'static str) -> BoxStream<'static, Received> {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    tokio::spawn(follow_all(app, topic, sender));
    stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    })
    .boxed()
}

async fn follow_all(app: App, topic: &'static str, events: mpsc::Sender<Received>) {
    let (mut followed, mut is_first) = (BTreeSet::new(), true);
    let (ended, mut has_ended) = mpsc::unbounded_channel::<String>();
    loop {
        while let Ok(address) = has_ended.try_recv() {
            followed.remove(&address);
        }
        let own = app.engine.name();
        for member in app.engine.members().iter().filter(|member| member.name != own) {
            if !followed.insert(member.address.clone()) {
                continue;
            }
            let (app, address, events, ended) = (app.clone(), member.address.clone(), events.clone(), ended.clone());
            // What one that came later did before is not known.
            let is_new = !is_first;
            tokio::spawn(async move {
                follow(&app, &address, topic, &events, is_new).await;
                // Whoever followed may be gone.
                ended.send(address).ok();
            });
        }
        is_first = false;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = events.closed() => return,
            () = app.closing.cancelled() => return,
        }
    }
}

/// Follows one member until it ends, or nobody listens.
async fn follow(app: &App, address: &str, topic: &str, events: &mpsc::Sender<Received>, is_new: bool) {
    let Some(members) = &app.members else { return };
    let path = format!("/api/v1/stream?topics={topic}");
    let signed = Signed::new(&Caller::member(), b"").meant_for(names_at(app, address));
    let signature = members
        .key()
        .sign(&Method::GET, &path, &HeaderMap::new(), app.now(), &signed);
    let Ok((name, value)) = signature else { return };
    let request = members
        .http
        .get(format!("{address}{path}"))
        .header(name, value)
        .header(HERE_ONLY, "1");
    let Ok(mut response) = request.send().await else { return };
    // Another one has its address now.
    if response.headers().contains_key(NOT_HERE) {
        return;
    }
    if !response.status().is_success() {
        if members.refusals.is_news(address, Instant::now()) {
            tracing::warn!(
                address,
                topic,
                status = %response.status(),
                "a member does not tell its events: streams that are read here are without them until it does"
            );
        }
        return;
    }
    let reset = || Received {
        name: "reset".to_owned(),
        data: json!({}),
    };
    if is_new && events.send(reset()).await.is_err() {
        return;
    }
    let mut reader = Reader::default();
    loop {
        let chunk = tokio::select! {
            chunk = response.chunk() => chunk,
            () = events.closed() => return,
            () = app.closing.cancelled() => return,
        };
        let Ok(Some(bytes)) = chunk else { break };
        if reader.feed(&bytes).is_err() {
            break;
        }
        while let Some(event) = reader.next() {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
    // What it did last may not have come.
    events.send(reset()).await.ok();
}
