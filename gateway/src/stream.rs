//! Server-sent events: an execution's history as it grows, and the coming and going of executions.
//!
//! The history is the truth and the bus only the alarm clock: whatever the bus loses, the next look at the history finds.

mod position;
pub(crate) mod reader;

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response, Sse as SseResponse};
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{ExecutionId, Seq};

use crate::app::{App, StreamPermit};
use crate::auth::Caller;
use crate::dto::{HistoryEntryDto, date, entry, verb_name};
use crate::error::ApiError;
use crate::members::Signed;
use crate::members::streams::{HERE_ONLY, follow_others};
use crate::routes::execution_id;
use crate::wiring::{EventFilter, Subscription, SubscriptionError, SystemSubscription};
use position::Position;

/// Silence after which a ping is sent.
const PING: Duration = Duration::from_secs(15);
/// Entries read from the history at once.
const ENTRIES_MAX: usize = 200;
/// Topics of one stream.
const TOPICS_MAX: usize = 16;

/// What a stream follows.
#[derive(Default)]
struct Topics {
    /// The coming and going of all executions.
    all: bool,
    /// What happens to the system.
    system: bool,
    /// Executions, each once, in the order asked for.
    executions: Vec<ExecutionId>,
}

/// An event before it has its id, which tells how far the *whole* stream was sent.
struct Event {
    event: Sse,
    /// With this event, all entries of that execution up to this one were sent.
    sent: Option<(ExecutionId, Seq)>,
}

pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    signed: Option<Extension<Signed>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let here_only = headers.contains_key(HERE_ONLY);
    let topics = topics(&uri)?;
    let last = last_event_id(&headers, &topics)?;
    let permit = if is_counted_elsewhere(&topics, here_only, signed.as_deref()) {
        None
    } else {
        Some(app.stream_permit()?)
    };
    let mut followed: Vec<BoxStream<'static, Event>> = Vec::new();
    if topics.all {
        followed.push(executions(&app, last.is_some()));
        followed.extend(elsewhere(&app, "executions", here_only));
    }
    if topics.system {
        followed.push(system(&app, last.is_some()));
        followed.extend(elsewhere(&app, "system", here_only));
    }
    let mut position = last.unwrap_or_else(|| Position::start(&topics.executions));
    for id in topics.executions {
        let feed = ExecutionFeed::open(&app, id, position.of(id)).await?;
        followed.push(stream::unfold(feed, ExecutionFeed::next).flat_map(stream::iter).boxed());
    }
    let closing = app.closing.clone();
    // Who may not ask any more hears no more either.
    let refused = app.gate.clone().until_refused(caller);
    let events = stream::select_all(followed)
        .take_until(closing.cancelled_owned())
        .take_until(Box::pin(refused));
    let events = events.map(move |Event { event, sent }| match sent {
        None => event,
        Some((execution, seq)) => {
            position.set(execution, seq);
            event.id(position.to_string())
        }
    });
    let events = Holding {
        events: events.boxed(),
        _permit: permit,
    }
    .map(Ok::<_, Infallible>);
    Ok(SseResponse::new(events)
        .keep_alive(KeepAlive::new().interval(PING).text("ping"))
        .into_response())
}

/// Whether another member follows it for a reader of its own, who has a place there. One that was sent on to the owner of its execution has none.
fn is_counted_elsewhere(topics: &Topics, here_only: bool, signed: Option<&Signed>) -> bool {
    here_only && signed.is_some() && topics.executions.is_empty()
}

/// Keeps the permit, if it has one, for as long as the stream is read.
struct Holding {
    events: BoxStream<'static, Sse>,
    _permit: Option<StreamPermit>,
}

impl stream::Stream for Holding {
    type Item = Sse;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Sse>> {
        self.events.poll_next_unpin(context)
    }
}

/// The events of a topic at the other members, if there may be some.
fn elsewhere(app: &App, topic: &'static str, here_only: bool) -> Option<BoxStream<'static, Event>> {
    if here_only || app.members.is_none() {
        return None;
    }
    let events = follow_others(app.clone(), topic);
    let shown = events.map(|received| {
        let event = Sse::default().event(received.name).data(received.data.to_string());
        Event { event, sent: None }
    });
    Some(shown.boxed())
}

fn topics(uri: &Uri) -> Result<Topics, ApiError> {
    let wrong = |detail: String| ApiError::new("INVALID_PARAMETER", detail);
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| wrong(error.to_string()))?;
    let mut topics = Topics::default();
    for (name, value) in &query.0 {
        if name != "topics" {
            return Err(wrong(format!("there is no parameter `{name}` here (one of: topics)")));
        }
        for topic in value.split(',').map(str::trim).filter(|topic| !topic.is_empty()) {
            match topic.strip_prefix("execution:").map(execution_id).transpose()? {
                Some(id) if topics.executions.contains(&id) => {}
                Some(id) => topics.executions.push(id),
                None if topic == "executions" => topics.all = true,
                None if topic == "system" => topics.system = true,
                None => {
                    let detail = format!("`{topic}` is no topic (execution:ID, executions or system)");
                    return Err(wrong(detail));
                }
            }
        }
    }
    let wide = usize::from(topics.all) + usize::from(topics.system);
    if !(1..=TOPICS_MAX).contains(&(topics.executions.len() + wide)) {
        return Err(wrong(format!(
            "`topics` takes 1 to {TOPICS_MAX} topics, such as topics=executions"
        )));
    }
    Ok(topics)
}

fn last_event_id(headers: &HeaderMap, topics: &Topics) -> Result<Option<Position>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let start = Position::start(&topics.executions);
    let position = value.to_str().ok().and_then(|text| start.moved_to(text));
    let wrong = || {
        ApiError::new(
            "INVALID_PARAMETER",
            "Last-Event-ID takes the id of an event of this stream, or 0 for its start",
        )
    };
    position.map(Some).ok_or_else(wrong)
}

/// Follows one execution.
struct ExecutionFeed {
    app: App,
    id: ExecutionId,
    sent: Seq,
    bell: Subscription,
    /// A first look at the history needs no bell.
    fresh: bool,
    reset: bool,
}

impl ExecutionFeed {
    async fn open(app: &App, id: ExecutionId, last: Seq) -> Result<Self, ApiError> {
        // Listening before looking leaves no gap.
        let bell = app.live.subscribe(EventFilter::Execution(id));
        let view = app.engine.get(id).await?;
        let ahead = last > view.state.seq;
        Ok(Self {
            app: app.clone(),
            id,
            sent: last.min(view.state.seq),
            bell,
            fresh: true,
            reset: ahead,
        })
    }

    /// The next events, at least one; none when there will be no more.
    async fn next(mut self) -> Option<(Vec<Event>, Self)> {
        if std::mem::take(&mut self.reset) {
            let reset = Event {
                event: reset(self.id),
                sent: Some((self.id, self.sent)),
            };
            return Some((vec![reset], self));
        }
        loop {
            if !std::mem::take(&mut self.fresh) {
                match self.bell.next().await {
                    Ok(_) | Err(SubscriptionError::Lagged { .. }) => {}
                    Err(SubscriptionError::Closed) => return None,
                }
            }
            let events = self.grown().await?;
            if !events.is_empty() {
                return Some((events, self));
            }
        }
    }

    async fn grown(&mut self) -> Option<Vec<Event>> {
        let view = self.app.engine.get(self.id).await.ok()?;
        let entries = self.app.engine.history(self.id, self.sent, ENTRIES_MAX).await.ok()?;
        self.fresh = entries.len() == ENTRIES_MAX;
        let mut events = Vec::new();
        for found in &entries {
            self.sent = found.seq;
            let shown = of_entry(self.id, view.state.workflow.as_str(), &entry(found, &view.plan));
            events.extend(shown.into_iter().map(|event| Event { event, sent: None }));
            // Only the last event of an entry counts it as sent, so that a resumed stream never skips the rest of it.
            if let Some(last) = events.last_mut() {
                last.sent = Some((self.id, found.seq));
            }
        }
        Some(events)
    }
}

/// The events of one entry, at least one.
fn of_entry(id: ExecutionId, workflow: &str, entry: &HistoryEntryDto) -> Vec<Sse> {
    let mut events: Vec<Sse> = entry
        .changes
        .iter()
        .map(|change| {
            let mut data = json!({
                "execution": id.to_string(),
                "workflowId": workflow,
                "sequence": entry.seq,
                "time": entry.time,
                "type": change.kind,
            });
            let own = change.node_id == entry.node_id || change.node_id.is_none();
            for (name, value) in [
                ("nodeId", change.node_id.clone().map(Into::into)),
                ("attempt", entry.attempt.filter(|_| own).map(Into::into)),
                (
                    "error",
                    entry
                        .error
                        .as_ref()
                        .filter(|_| own)
                        .and_then(|error| serde_json::to_value(error).ok()),
                ),
            ] {
                if let (Some(value), Some(fields)) = (value, data.as_object_mut()) {
                    fields.insert(name.into(), value);
                }
            }
            Sse::default().event(&change.kind).data(data.to_string())
        })
        .collect();
    if events.is_empty() {
        events.push(
            Sse::default()
                .event("entry")
                .data(json!({"sequence": entry.seq, "type": entry.event}).to_string()),
        );
    }
    events
}

fn reset(id: ExecutionId) -> Sse {
    Sse::default()
        .event("reset")
        .data(json!({"execution": id.to_string()}).to_string())
}

/// Every execution's own events, without ids. There is no history over all of them: a resumed stream begins with a reset.
fn executions(app: &App, resumed: bool) -> BoxStream<'static, Event> {
    let bell = app.live.subscribe(EventFilter::All);
    let all_reset = || Sse::default().event("reset").data("{}");
    let first = stream::iter(resumed.then(all_reset));
    let rest = stream::unfold(bell, move |mut bell| async move {
        let events: Vec<Sse> = match bell.next().await {
            Ok(batch) => batch
                .iter()
                .filter(|event| event.node.is_none())
                .map(of_lifecycle)
                .collect(),
            Err(SubscriptionError::Lagged { .. }) => vec![Sse::default().event("reset").data("{}")],
            Err(SubscriptionError::Closed) => return None,
        };
        Some((events, bell))
    });
    let events = first.chain(rest.flat_map(stream::iter));
    events.map(|event| Event { event, sent: None }).boxed()
}

/// What happens to the system, without ids; a resumed stream begins with a reset.
fn system(app: &App, resumed: bool) -> BoxStream<'static, Event> {
    let bell = app.live.subscribe_system();
    let reset = || Sse::default().event("reset").data("{}");
    let first = stream::iter(resumed.then(reset));
    let rest = stream::unfold(bell, move |mut bell: SystemSubscription| async move {
        let event = match bell.next().await {
            Ok(event) => of_system(&event),
            Err(SubscriptionError::Lagged { .. }) => reset(),
            Err(SubscriptionError::Closed) => return None,
        };
        Some((event, bell))
    });
    let events = first.chain(rest);
    events.map(|event| Event { event, sent: None }).boxed()
}

fn of_system(event: &SystemEvent) -> Sse {
    let kind = format!("system.{}.{}", event.entity, event.verb);
    let data = json!({"command": event.command.as_str(), "time": date(event.at), "type": kind, "data": event.data});
    Sse::default().event(kind).data(data.to_string())
}

fn of_lifecycle(event: &LifecycleEvent) -> Sse {
    let kind = verb_name(event.verb);
    let data = json!({
        "execution": event.execution.to_string(),
        "workflowId": event.workflow.as_str(),
        "sequence": event.seq.0,
        "time": date(event.at),
        "type": kind,
        "ended": event.verb.ends_execution(),
    });
    Sse::default().event(kind).data(data.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_a_member_follows_for_its_reader_is_counted_elsewhere() {
        let asked = |query: &str| topics(&format!("/api/v1/stream?topics={query}").parse().unwrap()).unwrap();
        let signed = Signed::new(&Caller::member(), b"");
        for query in ["executions", "system"] {
            assert!(is_counted_elsewhere(&asked(query), true, Some(&signed)), "{query}");
            // Anybody can say so.
            assert!(!is_counted_elsewhere(&asked(query), true, None), "{query}");
            assert!(!is_counted_elsewhere(&asked(query), false, Some(&signed)), "{query}");
        }
        // A request that is sent on takes along what its client says.
        let sent_on = asked("executions,execution:00000000000000000000000000000001");
        assert!(!is_counted_elsewhere(&sent_on, true, Some(&signed)));
    }
}
