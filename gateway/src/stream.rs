//! Server-sent events: an execution's history as it grows, and the coming and going of executions.
//!
//! The history is the truth and the bus only the alarm clock: whatever the bus loses, the next look at the history finds.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response, Sse as SseResponse};
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use troupe_core::lifecycle::LifecycleEvent;
use troupe_core::{ExecutionId, Seq};

use crate::app::{App, StreamPermit};
use crate::dto::{HistoryEntryDto, date, entry, verb_name};
use crate::error::ApiError;
use crate::routes::execution_id;
use crate::wiring::{EventFilter, Subscription, SubscriptionError};

/// Silence after which a ping is sent.
const PING: Duration = Duration::from_secs(15);
/// Entries read from the history at once.
const ENTRIES_MAX: usize = 200;
/// Topics of one stream.
const TOPICS_MAX: usize = 16;

enum Topic {
    Executions,
    Execution(ExecutionId),
}

pub(crate) async fn stream(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let topics = topics(&uri)?;
    let last = last_event_id(&headers)?;
    let permit = app.stream_permit()?;
    let mut followed: Vec<BoxStream<'static, Sse>> = Vec::new();
    for topic in topics {
        followed.push(match topic {
            Topic::Executions => executions(&app, last.is_some()),
            Topic::Execution(id) => {
                let feed = ExecutionFeed::open(&app, id, last).await?;
                stream::unfold(feed, ExecutionFeed::next).flat_map(stream::iter).boxed()
            }
        });
    }
    let closing = app.closing.clone();
    let events = stream::select_all(followed).take_until(closing.cancelled_owned());
    let events = Holding {
        events: events.boxed(),
        _permit: permit,
    }
    .map(Ok::<_, Infallible>);
    Ok(SseResponse::new(events)
        .keep_alive(KeepAlive::new().interval(PING).text("ping"))
        .into_response())
}

/// Keeps the permit for as long as the stream is read.
struct Holding {
    events: BoxStream<'static, Sse>,
    _permit: StreamPermit,
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

fn topics(uri: &Uri) -> Result<Vec<Topic>, ApiError> {
    let wrong = |detail: String| ApiError::new("INVALID_PARAMETER", detail);
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| wrong(error.to_string()))?;
    let mut topics = Vec::new();
    for (name, value) in &query.0 {
        if name != "topics" {
            return Err(wrong(format!("there is no parameter `{name}` here (one of: topics)")));
        }
        for topic in value.split(',').map(str::trim).filter(|topic| !topic.is_empty()) {
            topics.push(match topic.strip_prefix("execution:") {
                Some(id) => Topic::Execution(execution_id(id)?),
                None if topic == "executions" => Topic::Executions,
                None => return Err(wrong(format!("`{topic}` is no topic (execution:ID or executions)"))),
            });
        }
    }
    if topics.is_empty() || topics.len() > TOPICS_MAX {
        return Err(wrong(format!(
            "`topics` takes 1 to {TOPICS_MAX} topics, such as topics=executions"
        )));
    }
    Ok(topics)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Seq>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || {
        ApiError::new(
            "INVALID_PARAMETER",
            "Last-Event-ID takes the id of an event of this stream",
        )
    };
    seq.map(|seq| Some(Seq(seq))).ok_or_else(wrong)
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
    async fn open(app: &App, id: ExecutionId, last: Option<Seq>) -> Result<Self, ApiError> {
        // Listening before looking leaves no gap.
        let bell = app.live.subscribe(EventFilter::Execution(id));
        let view = app.engine.get(id).await?;
        let ahead = last.is_some_and(|last| last > view.state.seq);
        let sent = if ahead {
            view.state.seq
        } else {
            last.unwrap_or_default()
        };
        Ok(Self {
            app: app.clone(),
            id,
            sent,
            bell,
            fresh: true,
            reset: ahead,
        })
    }

    /// The next events, at least one; none when there will be no more.
    async fn next(mut self) -> Option<(Vec<Sse>, Self)> {
        if std::mem::take(&mut self.reset) {
            return Some((vec![reset(self.id)], self));
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

    async fn grown(&mut self) -> Option<Vec<Sse>> {
        let view = self.app.engine.get(self.id).await.ok()?;
        let entries = self.app.engine.history(self.id, self.sent, ENTRIES_MAX).await.ok()?;
        self.fresh = entries.len() == ENTRIES_MAX;
        let mut events = Vec::new();
        for found in &entries {
            self.sent = found.seq;
            events.extend(of_entry(
                self.id,
                view.state.workflow.as_str(),
                &entry(found, &view.plan),
            ));
        }
        Some(events)
    }
}

/// The events of one entry. Only the last one carries the id, so that a resumed stream never skips the rest of an entry.
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
    if let Some(last) = events.pop() {
        events.push(last.id(entry.seq.to_string()));
    }
    events
}

fn reset(id: ExecutionId) -> Sse {
    Sse::default()
        .event("reset")
        .data(json!({"execution": id.to_string()}).to_string())
}

/// Every execution's own events. There is no history over all of them: a resumed stream begins with a reset.
fn executions(app: &App, resumed: bool) -> BoxStream<'static, Sse> {
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
    first.chain(rest.flat_map(stream::iter)).boxed()
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
