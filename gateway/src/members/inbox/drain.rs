//! The side that owns: runs what was left in the inbox of a shard, in order, and removes it once that is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use tokio::time::Instant;
use tower::ServiceExt;
use troupe_core::{Epoch, ShardId};
use troupe_ports::{Clock, InboxId, InboxItem, StateStore, StoreError};
use troupe_telemetry::{InboxEnd, InboxMetrics};

use super::Verdict;
use super::letter::Letter;
use crate::app::App;
use crate::error::ProblemCode;
use crate::members::signature::MemberKey;
use crate::routes::router;

/// Bytes of one look into an inbox.
const PAGE_BYTES: usize = 1 << 20;
/// Looks into the inbox of each shard that is served, a lease.
const LOOKS_A_LEASE: u32 = 4;
/// How often a command may fail before it is dropped.
const TRIES_MAX: u32 = 5;
/// Pause after what did not go the first time; it doubles, up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Serves the inboxes of the shards that this member has, until it shuts down.
pub(crate) fn serve(app: &App) {
    let Some(members) = &app.members else { return };
    let router = router(app.clone());
    let every = app.settings.cluster.lease / LOOKS_A_LEASE;
    for shard in (0..app.state.shards()).map(ShardId) {
        let drain = Drain {
            shard,
            state: Arc::clone(&app.state),
            clock: Arc::clone(&app.clock),
            router: router.clone(),
            key: members.key().clone(),
            name: app.engine.name().to_owned(),
            within: members.within,
            pause: PAUSE,
            metrics: Arc::clone(&members.inbox),
            delayed: BTreeMap::new(),
            depth: 0,
        };
        tokio::spawn(drain.run(app.clone(), every));
    }
}

/// The inbox of one shard.
struct Drain {
    shard: ShardId,
    state: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    router: Router,
    key: MemberKey,
    /// This member's.
    name: String,
    /// How long a command may take.
    within: Duration,
    pause: Duration,
    metrics: Arc<InboxMetrics>,
    delayed: BTreeMap<InboxId, Delayed>,
    /// Commands that were there at the last look.
    depth: usize,
}

/// A command that did not go here.
struct Delayed {
    /// How often it has failed.
    failures: u32,
    pause: Duration,
    not_before: Instant,
}

/// What is to become of a command.
enum Dealt {
    /// It goes.
    Done(InboxEnd),
    /// It is tried again later.
    Waits,
    /// The shard is not here any more, or nothing can be run now.
    NotHere,
}

impl Drain {
    async fn run(mut self, app: App, every: Duration) {
        loop {
            let epoch = app.engine.epoch(self.shard);
            match epoch {
                Some(epoch) => self.pass(epoch).await,
                None => self.holds(0),
            }
            tokio::select! {
                () = tokio::time::sleep(every), if epoch.is_some() => {}
                () = app.engine.epoch_changed(self.shard, epoch) => {}
                () = app.closing.cancelled() => return,
            }
        }
    }

    fn holds(&mut self, now: usize) {
        self.metrics.depth(self.depth, now);
        self.depth = now;
    }

    /// Goes through the inbox once, for the owner under this epoch. What cannot be done now is passed over, with what came later for the same
    /// execution.
    async fn pass(&mut self, epoch: Epoch) {
        let (mut after, mut waiting) = (0, BTreeSet::new());
        let mut held = BTreeSet::new();
        loop {
            let items = match self.state.inbox_read(self.shard, after, PAGE_BYTES).await {
                Ok(items) => items,
                Err(error) => return self.unanswered(&error, "the inbox cannot be read"),
            };
            let Some(last) = items.last() else { break };
            after = last.arrival;
            self.holds(waiting.len() + items.len());
            for item in items {
                let end = match self.deal_with(&item, &mut held).await {
                    Dealt::Done(end) => end,
                    Dealt::Waits => {
                        waiting.insert(item.id);
                        continue;
                    }
                    Dealt::NotHere => return,
                };
                if let Err(error) = self.state.inbox_remove(self.shard, epoch, &[item.id]).await {
                    // Whoever runs it again finds its id where it was applied.
                    return self.unanswered(&error, "a command that is done stays in the inbox");
                }
                self.metrics.ended(end);
            }
        }
        self.delayed.retain(|id, _| waiting.contains(id));
        self.holds(waiting.len());
    }

    /// A store that is away, or another owner's, is noticed elsewhere.
    fn unanswered(&self, error: &StoreError, what: &str) {
        match error {
            StoreError::Damaged(_) | StoreError::WentBack(_) => tracing::warn!(shard = self.shard.0, %error, "{what}"),
            StoreError::Fenced { .. } | StoreError::Held(_) | StoreError::Unavailable(_) => {
                tracing::debug!(shard = self.shard.0, %error, "{what}");
            }
        }
    }

    async fn deal_with(&mut self, item: &InboxItem, held: &mut BTreeSet<String>) -> Dealt {
        let opened = Letter::open(&item.bytes, &self.key, (self.shard, item.id));
        let opened = opened.and_then(|(letter, signed)| {
            let request = letter.request(&self.key, &signed, &self.name, self.clock.now())?;
            Ok((letter, signed, request))
        });
        let (letter, signed, request) = match opened {
            Ok(opened) => opened,
            // Another secret may have been in force, or a later build have left it; either may come back with the next owner.
            Err(error) if error.code() == "MEMBER_SIGNATURE_INVALID" => {
                if !self.must_wait(item.id) {
                    let (shard, why) = (self.shard.0, error.detail());
                    tracing::warn!(
                        shard,
                        why,
                        "what lies in an inbox has no signature that is good here: it stays until an owner takes it"
                    );
                    self.delay(item.id);
                }
                return Dealt::Waits;
            }
            // Nothing can be signed: it is looked at again later.
            Err(error) if error.code() == "UNAVAILABLE" => return Dealt::NotHere,
            Err(error) => {
                let (shard, code, why) = (self.shard.0, error.code(), error.detail());
                tracing::warn!(
                    shard,
                    code,
                    why,
                    "what lies in an inbox is no command of a member: it is dropped"
                );
                return Dealt::Done(InboxEnd::SetAside);
            }
        };
        let execution = letter.execution();
        if self.must_wait(item.id) || execution.is_some_and(|id| held.contains(id)) {
            held.extend(execution.map(str::to_owned));
            return Dealt::Waits;
        }
        let (verdict, code) = self.ask(request).await;
        let (shard, command, caller) = (self.shard.0, letter.line(), &signed.caller);
        match verdict {
            Verdict::Applied => return Dealt::Done(InboxEnd::Applied),
            Verdict::Refused => {
                tracing::info!(shard, command, caller, code, "a command of an inbox was refused");
                return Dealt::Done(InboxEnd::Refused);
            }
            Verdict::NotHere => return Dealt::NotHere,
            Verdict::Later => {
                self.delay(item.id);
            }
            Verdict::Failed => {
                let tries = self.failed(item.id);
                if tries >= TRIES_MAX {
                    tracing::warn!(
                        shard,
                        command,
                        caller,
                        code,
                        tries,
                        "a command of an inbox fails each time: it is dropped"
                    );
                    return Dealt::Done(InboxEnd::SetAside);
                }
                tracing::warn!(shard, command, caller, code, tries, "a command of an inbox failed");
            }
        }
        held.extend(execution.map(str::to_owned));
        Dealt::Waits
    }

    /// Runs a request here. One that panics fails, one that takes too long is asked again later.
    async fn ask(&self, request: axum::http::Request<axum::body::Body>) -> (Verdict, String) {
        let running = tokio::time::timeout(self.within, self.router.clone().oneshot(request));
        let code = |response: &Response| {
            let code = response.extensions().get::<ProblemCode>();
            code.map_or_else(|| response.status().as_u16().to_string(), |code| code.0.to_string())
        };
        match tokio::spawn(running).await {
            Ok(Ok(Ok(response))) => (Verdict::of(&response), code(&response)),
            Ok(Err(_)) => (Verdict::Later, "no answer in time".to_owned()),
            Err(error) => (Verdict::Failed, error.to_string()),
        }
    }

    fn must_wait(&self, id: InboxId) -> bool {
        let delayed = self.delayed.get(&id);
        delayed.is_some_and(|delayed| Instant::now() < delayed.not_before)
    }

    /// A command is asked for again later, and each time later.
    fn delay(&mut self, id: InboxId) -> &mut Delayed {
        let delayed = self.delayed.entry(id).or_insert(Delayed {
            failures: 0,
            pause: self.pause,
            not_before: Instant::now(),
        });
        delayed.not_before = Instant::now() + delayed.pause;
        delayed.pause = (delayed.pause * 2).min(PAUSE_MAX);
        delayed
    }

    /// Notes a failure; how many there were.
    fn failed(&mut self, id: InboxId) -> u32 {
        let delayed = self.delay(id);
        delayed.failures += 1;
        delayed.failures
    }
}

#[cfg(test)]
mod tests;
