//! What goes out as the data of an event where its workflow has a template for that.

use serde_json::{Value, json};
use troupe_core::Json;
use troupe_core::lifecycle::{LifecycleEvent, Payload};
use troupe_core::plan::Plan;
use troupe_lang::template::DataTemplate;
use troupe_lang::{Binding, Scope};

/// Evaluation steps that one event's payload may take: nothing else is published meanwhile.
const STEPS_MAX: u64 = 100_000;
/// Bytes of a payload; beyond them the ordinary data goes out.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Characters of a reason that go out with the event.
const REASON_CHARS_MAX: usize = 500;
/// Under this name in the compiled data, so that no field of a payload is taken for one of a node's.
const PAYLOAD: &str = "payload";

/// The compiled `settings.events.payload`.
#[derive(Debug)]
pub(super) struct EventPayload(DataTemplate);

impl EventPayload {
    /// Compiles the template of a plan that has one.
    pub(super) fn compile(plan: &Plan) -> Result<Option<Self>, String> {
        let Some(source) = &plan.settings.events.payload else {
            return Ok(None);
        };
        let compiled = DataTemplate::compile(&json!({ PAYLOAD: source })).map_err(|errors| {
            let told: Vec<String> = errors
                .into_iter()
                .map(|(place, error)| format!("settings.events{place}: {}", error.message))
                .collect();
            told.join("; ")
        })?;
        Ok(Some(Self(compiled)))
    }

    /// What it makes of an event: the same whenever it is asked, since it sees nothing but the event and the plan's names.
    pub(super) fn of(&self, plan: &Plan, event: &LifecycleEvent) -> Payload {
        let failed = |why: String| Payload::Failed(why.chars().take(REASON_CHARS_MAX).collect::<String>().into());
        let seen = seen(plan, event);
        let scope = Scope::new()
            .bind("event", Binding::text(seen.as_str()))
            .with_steps_max(STEPS_MAX);
        let made = match self.0.evaluate(&scope, &[]) {
            Ok(mut made) => Json::of(&made.get_mut(PAYLOAD).map(Value::take).unwrap_or_default()),
            Err(error) => return failed(error.message().to_owned()),
        };
        if made.bytes() > PAYLOAD_BYTES_MAX {
            return failed(format!("the payload has more than {PAYLOAD_BYTES_MAX} bytes"));
        }
        Payload::Made(made)
    }
}

/// The `event` that the template sees.
fn seen(plan: &Plan, event: &LifecycleEvent) -> Json {
    let text = |text: &str| Json::of(&Value::from(text));
    let number = |number: i64| Json::from_trusted(number.to_string());
    let node = event.node.as_ref();
    Json::object([
        ("entity", &text(event.verb.entity())),
        ("verb", &text(event.verb.word())),
        ("workflowId", &text(event.workflow.as_str())),
        ("version", &number(i64::from(plan.version))),
        ("executionId", &text(&event.execution.to_string())),
        ("sequence", &number(i64::try_from(event.seq.0).unwrap_or(i64::MAX))),
        ("node", &node.map_or_else(Json::null, |(key, _)| text(key.as_str()))),
        ("nodeType", &node.map_or_else(Json::null, |(_, kind)| text(kind))),
        ("time", &number(event.at.0)),
        ("data", &event.data),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::execution::Verb;
    use troupe_core::lifecycle::Outward;
    use troupe_core::{ExecutionId, NodeKey, Seq, Timestamp};

    use super::*;

    fn made(payload: &Value) -> Payload {
        let definition = json!({
            "id": "orders", "version": 3, "nodes": [], "edges": [], "settings": {"events": {"payload": payload}},
        });
        let plan = Plan::build(&serde_json::from_value(definition).unwrap()).unwrap();
        let event = LifecycleEvent {
            execution: ExecutionId([7; 16]),
            workflow: "orders".into(),
            seq: Seq(4),
            part: 0,
            at: Timestamp(1_000),
            verb: Verb::NodeCompleted,
            node: Some((NodeKey::from("pay"), "http")),
            compensates: false,
            data: Json::from_trusted(r#"{"attempt":1,"output":{"total":20}}"#),
            outward: Some(Outward::default()),
        };
        EventPayload::compile(&plan).unwrap().unwrap().of(&plan, &event)
    }

    #[test]
    fn a_payload_is_made_of_the_event_alone() {
        // `output` and `filter` are fields of nodes that are no templates; here they are.
        let payload = json!({
            "output": "{{ event.data.output.total * 2 }}", "filter": ["{{ event.node }}/{{ event.verb }}", 1],
            "of": "{{ event.workflowId }}@{{ event.version }}:{{ event.sequence }}", "time": "{{ event.time }}",
        });
        let expected = json!({"output": 40, "filter": ["pay/completed", 1], "of": "orders@3:4", "time": 1_000});
        assert_eq!(made(&payload), Payload::Made(Json::of(&expected)));
        assert_eq!(
            made(&json!("{{ event.data }}")),
            Payload::Made(Json::from_trusted(r#"{"attempt":1,"output":{"total":20}}"#))
        );
    }

    #[test]
    fn what_throws_or_never_ends_says_why() {
        for (payload, part) in [
            (json!("{{ event.data.output.missing.more }}"), "reading 'more'"),
            (json!("{{ (() => 1)() }}"), ""),
            (
                json!("{{ event.verb.repeat(1000000) + event.verb.repeat(1000000) }}"),
                "",
            ),
        ] {
            match made(&payload) {
                Payload::Failed(why) => assert!(why.contains(part) && !why.is_empty(), "{why}"),
                Payload::Made(made) => panic!("{payload}: {}", made.bytes()),
            }
        }
    }
}
