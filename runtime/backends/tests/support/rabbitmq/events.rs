//! Events to publish.

use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Outward};
use troupe_core::{ExecutionId, Json, NodeKey, Seq, ShardId, Timestamp};

pub(crate) fn id(number: u64) -> ExecutionId {
    ExecutionId::fresh(ShardId(0), Timestamp(1_790_000_000_000), number)
}

pub(crate) fn event(execution: u64, seq: u64, verb: Verb) -> LifecycleEvent {
    let node = (verb.entity() == "node").then(|| (NodeKey::from("pay"), "http"));
    LifecycleEvent {
        execution: id(execution),
        workflow: "orders".into(),
        seq: Seq(seq),
        part: 0,
        at: Timestamp(1_790_000_000_123),
        verb,
        node,
        compensates: false,
        data: Json::from_trusted(format!(r#"{{"attempt":{seq}}}"#)),
        outward: Some(Outward::default()),
    }
}

/// Events `from..to` of an execution, whose kinds change from one to the next.
pub(crate) fn events(execution: u64, from: u64, to: u64) -> Vec<LifecycleEvent> {
    let verbs = [Verb::NodeScheduled, Verb::NodeStarted, Verb::NodeCompleted];
    (from..to)
        .map(|seq| event(execution, seq, verbs[seq as usize % verbs.len()]))
        .collect()
}

pub(crate) fn event_id(execution: u64, seq: u64) -> String {
    format!("{}:{seq}.0", id(execution))
}
