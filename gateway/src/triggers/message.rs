//! What expressions of a trigger see of a message: CloudEvents of both modes, or any other message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use troupe_core::Json;
use troupe_ports::source::Incoming;

use crate::body;
use crate::error::ApiError;

/// Prefixes of headers with attributes of CloudEvents. Source: CloudEvents, AMQP protocol binding, section 3.1.3.
const ATTRIBUTES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
const ONE: &str = "application/cloudevents+json";
const SEVERAL: &str = "application/cloudevents-batch+json";

/// An event of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The id that its sender gave it, made unique where events have a source.
    pub(super) id: Option<String>,
    /// W3C trace context.
    pub(super) trace_parent: Option<String>,
    /// `{id, type, source, subject, time, key, headers, data}`; null where it has none.
    pub(super) seen: Json,
}

/// The events of a message: one, unless it is a batch.
///
/// # Errors
/// Why nobody can read it.
pub(super) fn read(message: &Incoming, nesting_max: usize) -> Result<Vec<Event>, ApiError> {
    let media_type = message.media_type.as_deref().unwrap_or_default();
    let media_type = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let parsed = || body::parse(&message.body, nesting_max).map(Option::unwrap_or_default);
    match media_type.as_str() {
        ONE => Ok(vec![structured(message, parsed()?)?]),
        SEVERAL => match parsed()? {
            Value::Array(events) => events.into_iter().map(|event| structured(message, event)).collect(),
            _ => Err(invalid("a batch of events is a list")),
        },
        _ => Ok(vec![plain(message, &media_type, nesting_max)?]),
    }
}

fn invalid(why: &str) -> ApiError {
    ApiError::new("TRIGGER_MESSAGE_INVALID", why)
}

fn structured(message: &Incoming, event: Value) -> Result<Event, ApiError> {
    let Value::Object(mut event) = event else {
        return Err(invalid("an event is an object"));
    };
    let data = event.remove("data").or_else(|| event.remove("data_base64"));
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    if text("id").is_none_or(str::is_empty) || text("source").is_none_or(str::is_empty) {
        return Err(invalid("an event has an `id` and a `source`"));
    }
    Ok(seen(message, &event, data.unwrap_or_default()))
}

/// A message whose body is the data; its headers may hold attributes.
fn plain(message: &Incoming, media_type: &str, nesting_max: usize) -> Result<Event, ApiError> {
    let parse = || body::parse(&message.body, nesting_max).map(Option::unwrap_or_default);
    let text = || std::str::from_utf8(&message.body).ok().map(Value::from);
    let data = if media_type == "application/json" || media_type.ends_with("+json") {
        parse()?
    } else if media_type.is_empty() {
        // Many senders do not say.
        parse()
            .ok()
            .or_else(text)
            .unwrap_or_else(|| Value::from(STANDARD.encode(&message.body)))
    } else if media_type.starts_with("text/") {
        text().ok_or_else(|| invalid("the text is not UTF-8"))?
    } else {
        Value::from(STANDARD.encode(&message.body))
    };
    let attributes = message.headers.iter().filter_map(|(name, value)| {
        let name = ATTRIBUTES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        Some((name.to_owned(), Value::from(value.as_str())))
    });
    Ok(seen(message, &attributes.collect(), data))
}

fn seen(message: &Incoming, attributes: &Map<String, Value>, data: Value) -> Event {
    let attribute = |name: &str| attributes.get(name).cloned().unwrap_or_default();
    let text = |name: &str| attributes.get(name).and_then(Value::as_str);
    let headers: Map<String, Value> = message
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    // Two sources may give the same id to different events.
    let id = match (text("id"), text("source")) {
        (Some(id), Some(source)) => Some(format!("{source} {id}")),
        (Some(id), None) => Some(id.to_owned()),
        (None, _) => message.id.clone().filter(|id| !id.is_empty()),
    };
    let trace_parent = text("traceparent").or_else(|| header("traceparent")).map(str::to_owned);
    let shown_id = text("id").map(str::to_owned).or_else(|| message.id.clone());
    let seen = json!({
        "id": shown_id, "type": attribute("type"), "source": attribute("source"), "subject": attribute("subject"),
        "time": attribute("time"), "key": message.key, "headers": headers, "data": data,
    });
    Event {
        id,
        trace_parent,
        seen: Json::of(&seen),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use troupe_ports::source::Receipt;

    use super::*;

    fn message(media_type: Option<&str>, headers: &[(&str, &str)], body: &str) -> Incoming {
        Incoming {
            receipt: Receipt {
                connection: 0,
                number: 1,
            },
            id: Some("m-1".to_owned()),
            key: "orders.paid".to_owned(),
            media_type: media_type.map(str::to_owned),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            again: false,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn both_modes_of_cloud_events_and_plain_messages_are_read() {
        let whole = r#"{"specversion":"1.0","id":"1","source":"/s","type":"paid","traceparent":"00-a","data":{"n":1}}"#;
        let [event] = &read(&message(Some(ONE), &[], whole), 10).unwrap()[..] else {
            panic!()
        };
        assert_eq!(
            (event.id.as_deref(), event.trace_parent.as_deref()),
            (Some("/s 1"), Some("00-a"))
        );
        let seen = event.seen.to_value().unwrap();
        assert_eq!(
            (&seen["type"], &seen["data"], &seen["key"]),
            (&json!("paid"), &json!({"n": 1}), &json!("orders.paid"))
        );
        let headers = [
            ("cloudEvents:id", "2"),
            ("cloudEvents_source", "/t"),
            ("traceparent", "00-b"),
        ];
        let [event] = &read(&message(Some("application/json"), &headers, "[7]"), 10).unwrap()[..] else {
            panic!()
        };
        assert_eq!(
            (event.id.as_deref(), event.trace_parent.as_deref()),
            (Some("/t 2"), Some("00-b"))
        );
        assert_eq!(event.seen.to_value().unwrap()["data"], json!([7]));
        for (media_type, body, data) in [
            (None, "{\"a\":1}", json!({"a": 1})),
            (None, "hello", json!("hello")),
            (Some("text/plain"), "hello", json!("hello")),
            (Some("image/png"), "hello", json!("aGVsbG8=")),
        ] {
            let [event] = &read(&message(media_type, &[], body), 10).unwrap()[..] else {
                panic!()
            };
            assert_eq!(event.seen.to_value().unwrap()["data"], data, "{media_type:?}");
            assert_eq!(event.id.as_deref(), Some("m-1"));
        }
    }

    #[test]
    fn a_batch_is_several_events() {
        let batch = r#"[{"id":"1","source":"/s"},{"id":"2","source":"/s"}]"#;
        let ids = read(&message(Some(SEVERAL), &[], batch), 10).unwrap();
        let ids: Vec<_> = ids.into_iter().map(|event| event.id.unwrap()).collect();
        assert_eq!(ids, ["/s 1", "/s 2"]);
    }

    #[test]
    fn what_nobody_can_read_is_told() {
        for (media_type, body, code) in [
            ("application/json", "{", "INVALID_JSON"),
            ("application/json", "[[[[1]]]]", "NESTING_TOO_DEEP"),
            (ONE, "[]", "TRIGGER_MESSAGE_INVALID"),
            (ONE, r#"{"id":"1"}"#, "TRIGGER_MESSAGE_INVALID"),
            (SEVERAL, "{}", "TRIGGER_MESSAGE_INVALID"),
        ] {
            let error = read(&message(Some(media_type), &[], body), 3).unwrap_err();
            assert_eq!(error.code(), code, "{media_type} {body}");
        }
    }
}
