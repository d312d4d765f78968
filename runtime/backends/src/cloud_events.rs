//! Events as the outside sees them: CloudEvents 1.0 in JSON. The only place that renders them.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use troupe_core::lifecycle::{LifecycleEvent, Payload, SystemEvent};
use troupe_core::{Json, Timestamp};

/// Media type of one event.
pub const EVENT: &str = "application/cloudevents+json";
/// Media type of several events, a JSON array.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// One event with the attributes of CloudEvents 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// The same event has the same one, however often it is published: `<execution>:<seq>.<n>`, or a command's id.
    pub id: String,
    /// `troupe.<entity>.<verb>.v1`.
    pub kind: String,
    /// `/workflows/<id>/executions/<id>`, or `/system`; a URI reference.
    pub source: String,
    /// The node's id.
    pub subject: Option<String>,
    /// When it happened.
    pub time: Timestamp,
    /// Sorts the events of one source as text: the entry's seq and the event's place in it, each of a fixed width.
    pub sequence: Option<String>,
    /// Whether it is about what undoes a node.
    pub compensates: bool,
    /// W3C trace context of the start of its execution.
    pub trace_parent: Option<Arc<str>>,
    /// Why there is no payload as its workflow's template asks for.
    pub payload_error: Option<Arc<str>>,
    /// More about it: a JSON object, or whatever its workflow's template gives.
    pub data: Json,
}

impl CloudEvent {
    /// The event of an execution or of one of its nodes.
    #[must_use]
    pub fn of_lifecycle(event: &LifecycleEvent) -> Self {
        let execution = event.execution;
        let outward = event.outward.as_ref();
        let (data, payload_error) = match outward.and_then(|outward| outward.payload.as_ref()) {
            None => (event.data.clone(), None),
            Some(Payload::Made(payload)) => (payload.clone(), None),
            Some(Payload::Failed(why)) => (event.data.clone(), Some(Arc::clone(why))),
        };
        Self {
            id: format!("{execution}:{}.{}", event.seq, event.part),
            kind: format!("troupe.{}.{}.v1", event.verb.entity(), event.verb.word()),
            source: format!(
                "/workflows/{}/executions/{execution}",
                path_segment(event.workflow.as_str())
            ),
            subject: event.node.as_ref().map(|(key, _)| key.as_str().to_owned()),
            time: event.at,
            sequence: Some(sequence(event.seq.0, event.part)),
            compensates: event.compensates,
            trace_parent: outward.and_then(|outward| outward.trace_parent.clone()),
            payload_error,
            data,
        }
    }

    /// The event of the system.
    #[must_use]
    pub fn of_system(event: &SystemEvent) -> Self {
        Self {
            id: event.command.as_str().to_owned(),
            kind: format!("troupe.{}.{}.v1", event.entity, event.verb),
            source: "/system".to_owned(),
            subject: None,
            time: event.at,
            sequence: None,
            compensates: false,
            trace_parent: None,
            payload_error: None,
            data: event.data.clone(),
        }
    }

    /// The event in the JSON format of CloudEvents.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = String::with_capacity(320 + self.data.bytes());
        text.push_str(r#"{"specversion":"1.0""#);
        let mut member = |name: &str, value: &str| {
            text.push_str(",\"");
            text.push_str(name);
            text.push_str("\":");
            push_quoted(&mut text, value);
        };
        member("id", &self.id);
        member("source", &self.source);
        member("type", &self.kind);
        if let Some(subject) = &self.subject {
            member("subject", subject);
        }
        if let Some(time) = date(self.time) {
            member("time", &time);
        }
        if let Some(sequence) = &self.sequence {
            member("sequence", sequence);
        }
        if let Some(trace_parent) = &self.trace_parent {
            member("traceparent", trace_parent);
        }
        if let Some(why) = &self.payload_error {
            member("payloaderror", why);
        }
        member("datacontenttype", "application/json");
        if self.compensates {
            text.push_str(",\"compensates\":true");
        }
        text.push_str(",\"data\":");
        text.push_str(self.data.as_str());
        text.push('}');
        text
    }
}

/// Adds a JSON string. Source: RFC 8259, section 7: quotes, backslashes and control characters are escaped.
fn push_quoted(text: &mut String, value: &str) {
    let is_plain = |byte| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

/// `<seq>.<part>`, as many digits for the one in every event, and for the other.
fn sequence(seq: u64, part: u32) -> String {
    let mut text = String::with_capacity(20);
    push_wide(&mut text, seq, 12);
    text.push('.');
    push_wide(&mut text, u64::from(part), 6);
    text
}

/// Adds a number with at least so many digits; the formatter's padding takes several times as long.
fn push_wide(text: &mut String, number: u64, width: usize) {
    let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    text.extend(std::iter::repeat_n('0', width.saturating_sub(digits)));
    text.push_str(&number.to_string());
}

/// RFC 3339 to the millisecond; none where no calendar has the instant.
fn date(at: Timestamp) -> Option<String> {
    let date = DateTime::from_timestamp_millis(at.0)?;
    Some(date.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The text as one segment of a URI's path. Source: RFC 3986, section 2.3: what is not unreserved is percent-encoded.
fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use troupe_core::execution::Verb;
    use troupe_core::lifecycle::Outward;
    use troupe_core::{CommandId, ExecutionId, NodeKey, Seq};

    use super::*;

    fn event(workflow: &str, seq: u64, part: u32) -> LifecycleEvent {
        LifecycleEvent {
            execution: ExecutionId([7; 16]),
            workflow: workflow.into(),
            seq: Seq(seq),
            part,
            at: Timestamp(1_790_000_000_123),
            verb: Verb::NodeCompleted,
            node: Some((NodeKey::from("pay \"now\""), "http")),
            compensates: false,
            data: Json::from_trusted(r#"{"attempt":1,"output":{"ok":true}}"#),
            outward: Some(Outward::default()),
        }
    }

    fn parsed(event: &CloudEvent) -> Value {
        serde_json::from_str(&event.to_json()).unwrap()
    }

    #[test]
    fn an_event_of_a_node_has_every_attribute() {
        let id = "07".repeat(16);
        assert_eq!(
            parsed(&CloudEvent::of_lifecycle(&event("orders/é 1", 12, 3))),
            json!({
                "specversion": "1.0",
                "id": format!("{id}:12.3"),
                "source": format!("/workflows/orders%2F%C3%A9%201/executions/{id}"),
                "type": "troupe.node.completed.v1",
                "subject": "pay \"now\"",
                "time": "2026-09-21T14:13:20.123Z",
                "sequence": "000000000012.000003",
                "datacontenttype": "application/json",
                "data": {"attempt": 1, "output": {"ok": true}},
            })
        );
    }

    #[test]
    fn texts_are_quoted_as_json() {
        for text in ["", "plain", "é ☃ \u{7f}", "a\"b", "a\\b", "a\nb", "\u{0}\u{1f}"] {
            let mut quoted = String::new();
            push_quoted(&mut quoted, text);
            assert_eq!(quoted, serde_json::to_string(text).unwrap());
        }
    }

    #[test]
    fn undoing_says_so_and_executions_have_no_subject() {
        let mut event = event("w", 1, 0);
        event.compensates = true;
        assert_eq!(parsed(&CloudEvent::of_lifecycle(&event))["compensates"], true);
        event.node = None;
        event.verb = Verb::ExecutionFailed;
        let parsed = parsed(&CloudEvent::of_lifecycle(&event));
        assert_eq!(parsed["type"], "troupe.execution.failed.v1");
        assert_eq!(parsed.get("subject"), None);
    }

    #[test]
    fn a_payload_stands_for_the_data_and_a_failed_one_says_why() {
        let mut event = event("w", 1, 0);
        let outward = |payload| Outward {
            payload: Some(payload),
            trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            ..Outward::default()
        };
        event.outward = Some(outward(Payload::Made(Json::from_trusted("[1]"))));
        let made = parsed(&CloudEvent::of_lifecycle(&event));
        assert_eq!((&made["data"], made.get("payloaderror")), (&json!([1]), None));
        assert_eq!(
            made["traceparent"],
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        );
        event.outward = Some(outward(Payload::Failed("no \"a\"".into())));
        let failed = parsed(&CloudEvent::of_lifecycle(&event));
        assert_eq!(failed["payloaderror"], "no \"a\"");
        assert_eq!(failed["data"], json!({"attempt": 1, "output": {"ok": true}}));
    }

    #[test]
    fn sequences_sort_as_text() {
        let sequence = |seq, part| CloudEvent::of_lifecycle(&event("w", seq, part)).sequence.unwrap();
        let sorted = [sequence(9, 11), sequence(10, 2), sequence(10, 10), sequence(123_456, 0)];
        assert!(sorted.is_sorted(), "{sorted:?}");
        for (seq, part) in [(0, 0), (9, 10), (999_999_999_999, 999_999), (u64::MAX, u32::MAX)] {
            assert_eq!(sequence(seq, part), format!("{seq:012}.{part:06}"));
        }
    }

    #[test]
    fn events_of_the_system_are_named_by_their_command() {
        let event = SystemEvent {
            command: CommandId::from("c-1"),
            at: Timestamp(0),
            entity: "breaker",
            verb: "overridden",
            data: Json::from_trusted(r#"{"target":"a"}"#),
        };
        assert_eq!(
            parsed(&CloudEvent::of_system(&event)),
            json!({
                "specversion": "1.0", "id": "c-1", "source": "/system", "type": "troupe.breaker.overridden.v1",
                "time": "1970-01-01T00:00:00.000Z", "datacontenttype": "application/json", "data": {"target": "a"},
            })
        );
    }
}
