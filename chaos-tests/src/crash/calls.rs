//! Clients that know an execution's family: they call what waits for a call, and find children to interfere with.

use std::time::Duration;

use troupe_actors::execution::family::child_id;
use troupe_actors::{EngineError, EngineHandle, ExecutionView};
use troupe_core::execution::Decision;
use troupe_core::{ExecutionId, Json};

use super::child::random;
use super::clients::{acknowledged, named};
use super::record::Record;
use super::workload::{self, waits};

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
pub(super) async fn answer_waits(engine: &EngineHandle, id: ExecutionId) {
    for _ in 0..LOOKS {
        let Some(view) = seen(engine, id, false).await else {
            return;
        };
        // Where children wait, so does their parent.
        if waits(&view.plan).next().is_none() {
            return;
        }
        call_some(engine, &view).await;
        for child in open_children(&view) {
            if let Some(view) = seen(engine, child, true).await {
                call_some(engine, &view).await;
            }
        }
        if view.state.status.is_terminal() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(random() % LOOKS_WITHIN_MS)).await;
    }
}

/// The execution itself, or one of its children.
pub(super) async fn one_of_the_family(engine: &EngineHandle, id: ExecutionId) -> ExecutionId {
    if random().is_multiple_of(2) {
        return id;
    }
    let children = seen(engine, id, false).await.map(|view| open_children(&view));
    let children = children.unwrap_or_default();
    // One that is being started may not be there yet.
    let place = random() % (children.len() as u64 + 1);
    let child = usize::try_from(place).ok().and_then(|place| children.get(place));
    match child {
        Some(child) if seen(engine, *child, true).await.is_some() => *child,
        Some(_) | None => id,
    }
}

/// Ids of the children that an execution waits for.
pub(super) fn open_children(view: &ExecutionView) -> Vec<ExecutionId> {
    let open = view.state.open_children().into_iter();
    open.map(|child| child_id(view.state.id, &view.plan, child)).collect()
}

/// The execution, if it can be read now; one that `may_be_missing` is no trouble if it is.
async fn seen(engine: &EngineHandle, id: ExecutionId, may_be_missing: bool) -> Option<ExecutionView> {
    match engine.get(id).await {
        Ok(view) => Some(view),
        Err(EngineError::NotFound(_)) if may_be_missing => None,
        Err(error) if error.retry_after_ms().is_some() => None,
        Err(error) => {
            let what = format!("look at {id}: {error}");
            Record::Trouble { what }.emit();
            None
        }
    }
}

async fn call_some(engine: &EngineHandle, view: &ExecutionView) {
    for node in waits(&view.plan) {
        if random().is_multiple_of(2) {
            call(engine, view.state.id, node, &call_of(view.state.workflow.as_str())).await;
        }
    }
}

/// A call as a hook hands it on.
fn call_of(workflow: &str) -> Json {
    let padding = if workload::is_large(workflow) && random().is_multiple_of(LARGE_ONE_IN) {
        LARGE_BYTES
    } else {
        0
    };
    let text = format!("{:016x}{}", random(), ".".repeat(padding));
    Json::of(&serde_json::json!({"body": text, "headers": {}, "query": {}, "method": "POST"}))
}

/// Calls a node, or decides in the call's place; that the node or its execution has ended is no trouble.
async fn call(engine: &EngineHandle, id: ExecutionId, node: &str, call: &Json) {
    let decides = random().is_multiple_of(DECIDED_ONE_IN);
    let verb = if decides { "complete" } else { "call" };
    let (name, given) = named(verb);
    let answer = if decides {
        let decision = Decision::Complete(call.clone().into());
        engine.decide(id, node, decision, given).await
    } else {
        engine.signal(id, node, call.clone(), given).await
    };
    match answer {
        Ok(outcome) => acknowledged(verb, id, name, outcome),
        Err(EngineError::Ended(_)) => {}
        Err(EngineError::Refused(why)) if why.code == "NODE_NOT_WAITING" => {}
        Err(error) if error.retry_after_ms().is_some() => {}
        Err(error) => {
            let what = format!("{verb} of {node} of {id}: {error}");
            Record::Trouble { what }.emit();
        }
    }
}
