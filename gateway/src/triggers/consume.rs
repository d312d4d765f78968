//! Takes the messages of one trigger: each starts an execution, is left out, or is set aside.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::task::JoinSet;
use troupe_actors::{StartCause, StartRequest};
use troupe_core::{Json, Principal};
use troupe_ports::source::{EventSource, Incoming, SourceError};
use troupe_telemetry::{MessageEnd, MessageInHand, TriggerMetrics};

use super::message::{self, Event};
use super::trigger::{Start, Trigger, Unfit};
use crate::app::App;
use crate::error::ApiError;
use crate::members::start_anywhere;
use crate::wiring::Planted;

/// Pause before a message that could not be handled is tried again; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Refusals that say something of the message: it would be refused again.
const HOPELESS: [&str; 7] = [
    "SCHEMA_VIOLATION",
    "PAYLOAD_TOO_LARGE",
    "BODY_TOO_LARGE",
    "INVALID_REQUEST",
    "NESTING_TOO_DEEP",
    "TRIGGER_EXPRESSION_FAILED",
    "EXECUTION_TOO_LARGE",
];

/// Takes messages until the source ends. As many are under way as the source gives.
pub(super) async fn consume(
    app: App,
    source: Arc<dyn EventSource>,
    trigger: Arc<RwLock<Arc<Trigger>>>,
    metrics: Arc<TriggerMetrics>,
) {
    let mut under_way = JoinSet::new();
    loop {
        let message = tokio::select! {
            message = source.next() => message,
            Some(ended) = under_way.join_next() => match ended {
                Ok(()) => continue,
                // With the source, what is in hand is given back; the triggers are looked after again soon.
                Err(error) => return tracing::error!(%error, "the messages of a trigger are given back"),
            },
        };
        match message {
            Ok(message) => {
                let in_hand = metrics.taken();
                let one = one(app.clone(), Arc::clone(&source), Arc::clone(&trigger), message, in_hand);
                under_way.spawn(one);
            }
            Err(error) => return tracing::debug!(%error, "no more messages of a trigger"),
        }
    }
}

/// Handles one message, however often that takes; whoever gets it next does so if this process does not.
async fn one(
    app: App,
    source: Arc<dyn EventSource>,
    trigger: Arc<RwLock<Arc<Trigger>>>,
    message: Incoming,
    mut in_hand: MessageInHand,
) {
    // The key of a message without one: it is started once by this process, also if the first answer is lost.
    let own_key = app.engine.fresh_command().as_str().to_owned();
    let mut pause = RETRY_FIRST;
    let (end, settled) = loop {
        // Only one task at a time has a message, however often its connection is lost while it waits.
        if source.is_stale(message.receipt) {
            tracing::debug!(queue = trigger.read().binding.queue, "a message comes again");
            return in_hand.ended(MessageEnd::Again);
        }
        let now = Arc::clone(&trigger.read());
        match handle(&app, &now, &message, &own_key).await {
            Ok(end) => break (end, source.accept(message.receipt).await),
            Err(Refusal::Hopeless(reason)) => {
                let (workflow, node) = (&now.workflow, &now.node);
                tracing::warn!(%workflow, node, reason, "a message starts nothing and is set aside");
                break (MessageEnd::Rejected, source.reject(message.receipt, &reason).await);
            }
            Err(Refusal::Passing(reason)) => {
                tracing::debug!(workflow = %now.workflow, reason, ?pause, "a message waits");
                in_hand.waits(true);
                tokio::time::sleep(pause).await;
                in_hand.waits(false);
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    };
    match settled {
        Ok(()) => in_hand.ended(end),
        // It comes again, under the same key.
        Err(SourceError::Stale | SourceError::Unavailable(_)) => {
            tracing::debug!(queue = trigger.read().binding.queue, "a message comes again");
            in_hand.ended(MessageEnd::Again);
        }
    }
}

enum Refusal {
    /// With the code of what is wrong.
    Hopeless(String),
    Passing(String),
}

async fn handle(app: &App, trigger: &Trigger, message: &Incoming, own_key: &str) -> Result<MessageEnd, Refusal> {
    let told = |error: &ApiError| format!("{}: {}", error.code(), error.detail());
    let events = message::read(message, app.settings.limits.nesting_max);
    let events = events.map_err(|error| Refusal::Hopeless(told(&error)))?;
    let mut end = MessageEnd::Filtered;
    for (place, event) in events.into_iter().enumerate() {
        let Start { input, key } = match trigger.judge(&event.seen, event.id.as_deref(), &*app.sandbox).await {
            Ok(start) => start,
            Err(Unfit::Filtered) => continue,
            Err(Unfit::Failed(why)) => return Err(Refusal::Hopeless(format!("TRIGGER_EXPRESSION_FAILED: {why}"))),
            Err(Unfit::NotNow(why)) => return Err(Refusal::Passing(why)),
        };
        // As the body of a start it nests once more, and whoever has its shard may be asked for it in such a body.
        let nesting_max = app.settings.limits.nesting_max;
        if nesting(input.as_str()) >= nesting_max {
            let why = format!("NESTING_TOO_DEEP: a start payload may nest less than {nesting_max} deep");
            return Err(Refusal::Hopeless(why));
        }
        let key = match app.planted {
            Some(Planted::StartUnderFreshKey) => None,
            _ => key,
        };
        let key = key.unwrap_or_else(|| format!("event:{own_key}.{place}"));
        start(app, trigger, event, input, key).await.map_err(|error| {
            let reason = told(&error);
            if HOPELESS.contains(&error.code()) {
                Refusal::Hopeless(reason)
            } else {
                Refusal::Passing(reason)
            }
        })?;
        end = MessageEnd::Started;
    }
    Ok(end)
}

/// How deep lists and objects nest in a JSON text.
fn nesting(text: &str) -> usize {
    let (mut deepest, mut depth, mut is_text, mut is_escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

async fn start(app: &App, trigger: &Trigger, event: Event, input: Json, key: String) -> Result<(), ApiError> {
    let principal = format!("event:{}", trigger.node);
    let request = StartRequest {
        trigger: Some(trigger.node.clone()),
        request_key: Some(key),
        principal: Some(Principal::from(principal.as_str())),
        cause: Some(StartCause::Event),
        trace_parent: event.trace_parent.filter(|text| crate::trace::is_trace_parent(text)),
        ..StartRequest::new(trigger.workflow.clone(), input)
    };
    if app.planted == Some(Planted::AcceptBeforeStart) {
        let app = app.clone();
        tokio::spawn(async move { start_anywhere(&app, request).await });
        return Ok(());
    }
    start_anywhere(app, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_texts_do_not_nest() {
        for (text, depth) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a": [1, {}], "b": 2}"#, 3),
            (r#"["[[[", "\"[[[", "\\", []]"#, 2),
        ] {
            assert_eq!(nesting(text), depth, "{text}");
        }
    }
}
