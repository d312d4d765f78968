//! Clients that know an execution's family: they call what waits for a call, and find children to interfere with.

use std::time::Duration;

use troupe_actors::ExecutionView;
use troupe_actors::execution::family::child_id;
use troupe_core::{ExecutionId, Json};

use super::child::random;
use super::clients::{acknowledged, named, trouble};
use super::door::{Answer, Ask, Door, Seen, Verb};
use super::workload;

/// How often a client looks for what waits.
const LOOKS: u64 = 3;
/// Longest time between two looks, in milliseconds: longer than some waits last.
const LOOKS_WITHIN_MS: u64 = 120;
/// One call in so many is the decision of an operator.
const DECIDED_ONE_IN: u64 = 4;
/// One call in so many of those to workflows with large values is large.
const LARGE_ONE_IN: u64 = 2;
/// Bytes of the body of a large call.
const LARGE_BYTES: usize = 66_000;

/// Calls the nodes that wait in an execution and in its children, or will: some before they wait, some twice, some never.
pub(super) async fn answer_waits(door: &Door, id: ExecutionId) {
    for _ in 0..LOOKS {
        let Some(view) = seen(door, id, false).await else {
            return;
        };
        // Where children wait, so does their parent.
        if view.waits.is_empty() {
            return;
        }
        call_some(door, id, &view).await;
        for child in view.children {
            if let Some(view) = seen(door, child, true).await {
                call_some(door, child, &view).await;
            }
        }
        if view.has_ended {
            return;
        }
        tokio::time::sleep(Duration::from_millis(random() % LOOKS_WITHIN_MS)).await;
    }
}

/// The execution itself, or one of its children.
pub(super) async fn one_of_the_family(door: &Door, id: ExecutionId) -> ExecutionId {
    if random().is_multiple_of(2) {
        return id;
    }
    let children = seen(door, id, false).await.map(|view| view.children);
    let children = children.unwrap_or_default();
    // One that is being started may not be there yet.
    let place = random() % (children.len() as u64 + 1);
    let child = usize::try_from(place).ok().and_then(|place| children.get(place));
    match child {
        Some(child) if seen(door, *child, true).await.is_some() => *child,
        Some(_) | None => id,
    }
}

/// Ids of the children that an execution waits for.
pub(super) fn open_children(view: &ExecutionView) -> Vec<ExecutionId> {
    let open = view.state.open_children().into_iter();
    open.map(|child| child_id(view.state.id, &view.plan, child)).collect()
}

/// The execution, if it can be read now; one that `may_be_missing` is no trouble if it is.
async fn seen(door: &Door, id: ExecutionId, may_be_missing: bool) -> Option<Seen> {
    match door.ask(&Ask::Look { id }).await {
        Ok(Answer::Seen(seen)) => Some(seen),
        Err(why) if why.code == "EXECUTION_NOT_FOUND" && may_be_missing => None,
        other => {
            trouble(&format!("look at {id}"), other);
            None
        }
    }
}

async fn call_some(door: &Door, id: ExecutionId, view: &Seen) {
    for node in &view.waits {
        if random().is_multiple_of(2) {
            call(door, id, node, call_of(&view.workflow)).await;
        }
    }
}

/// A call as a hook hands it on.
fn call_of(workflow: &str) -> String {
    let padding = if workload::is_large(workflow) && random().is_multiple_of(LARGE_ONE_IN) {
        LARGE_BYTES
    } else {
        0
    };
    let text = format!("{:016x}{}", random(), ".".repeat(padding));
    let call = serde_json::json!({"body": text, "headers": {}, "query": {}, "method": "POST"});
    Json::of(&call).as_str().to_owned()
}

/// Calls a node, or decides in the call's place; that the node or its execution has ended is no trouble.
async fn call(door: &Door, id: ExecutionId, node: &str, call: String) {
    let node = node.to_owned();
    let verb = if random().is_multiple_of(DECIDED_ONE_IN) {
        Verb::Complete { node, output: call }
    } else {
        Verb::Call { node, call }
    };
    let name = verb.name();
    let command = named(name);
    let ask = Ask::Do {
        verb,
        id,
        command: command.clone(),
    };
    match door.ask(&ask).await {
        Ok(Answer::Done { draining, unchanged }) => acknowledged(name, id, command, draining, unchanged),
        Err(why) if ["EXECUTION_ENDED", "NODE_NOT_WAITING"].contains(&why.code.as_str()) => {}
        other => trouble(&format!("{name} of {id}"), other),
    }
}
