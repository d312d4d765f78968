//! What the tests of executors share: tasks made of a node's JSON.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as JsonValue, json};
use tokio_util::sync::CancellationToken;
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{AttemptFailure, AttemptOutcome};
use troupe_core::plan::Plan;
use troupe_core::{Attempt, ExecutionId, Json, NodeIx, Run, ShardId, Timestamp, Token, Value, Visit};
use troupe_ports::{Clock, Executed, NodeExecutor, SystemClock, Task};

/// A task for one node of `kind` with `data`, in a workflow of its own name.
pub fn task_of(workflow: &str, kind: &str, data: &JsonValue, input: &JsonValue) -> Task {
    let definition = json!({
        "id": workflow, "name": workflow, "description": "", "version": 1,
        "nodes": [{"id": "n", "type": kind, "name": "n", "version": 1, "data": data}],
        "edges": [], "metadata": {"tags": []},
    });
    let definition: WorkflowDefinition = serde_json::from_value(definition).unwrap();
    let execution = ExecutionId::fresh(ShardId(0), Timestamp(1_700_000_000_000), 7);
    Task {
        execution,
        token: Token {
            run: Run(1),
            node: NodeIx(0),
            visit: Visit(1),
            attempt: Attempt(1),
            nonce: 1,
        },
        plan: Arc::new(Plan::build(&definition).unwrap()),
        data: None,
        input: Value::Inline(Json::of(input)),
        variables: Arc::new(BTreeMap::new()),
        scope: None,
        trace_parent: None,
        deadline: SystemClock.now().plus_ms(10_000),
    }
}

/// Runs the task.
pub async fn run(executor: &dyn NodeExecutor, task: Task) -> Executed {
    executor.execute(task, CancellationToken::new()).await
}

/// The output of an attempt that must have completed.
#[track_caller]
pub fn output(executed: &Executed) -> JsonValue {
    match &executed.outcome {
        AttemptOutcome::Completed(Value::Inline(json)) => json.to_value().unwrap(),
        other => panic!("not completed: {other:?}"),
    }
}

/// The failure of an attempt that must have failed.
#[track_caller]
pub fn failure(executed: &Executed) -> &AttemptFailure {
    match &executed.outcome {
        AttemptOutcome::Failed(failure) => failure,
        other => panic!("did not fail: {other:?}"),
    }
}
