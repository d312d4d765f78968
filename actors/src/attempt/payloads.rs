//! Large payloads of an attempt: loaded before it starts, kept apart before it reports.

use std::sync::Arc;

use troupe_core::definition::NodeKind;
use troupe_core::execution::{AttemptFailure, AttemptOutcome};
use troupe_core::{ErrorInfo, ExecutionId, Value};
use troupe_ports::{Executed, Task};

use crate::context::ShardContext;

/// Puts the documents themselves where a task has references.
///
/// # Errors
/// `DAMAGED` when one is not what it was.
pub(super) async fn load_payloads(shard: &ShardContext, root: ExecutionId, task: &mut Task) -> Result<(), ErrorInfo> {
    load(shard, root, &mut task.input).await?;
    if let Some(data) = &mut task.data {
        load(shard, root, data).await?;
    }
    let is_large = |value: &Value| value.as_inline().is_none();
    if sees_variables(task.node().kind) && task.variables.values().any(is_large) {
        for value in Arc::make_mut(&mut task.variables).values_mut() {
            load(shard, root, value).await?;
        }
    }
    Ok(())
}

/// Other node types see variables in templates only, which are resolved by then.
fn sees_variables(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::Function | NodeKind::Transformation | NodeKind::Custom)
}

async fn load(shard: &ShardContext, root: ExecutionId, value: &mut Value) -> Result<(), ErrorInfo> {
    if value.as_inline().is_none() {
        let document = shard.engine.blobs.document(shard, root, value).await;
        *value = document
            .map_err(|error| ErrorInfo::new(error.code(), error.to_string()))?
            .into();
    }
    Ok(())
}

/// What is reported is durable, so that no entry can refer to something that is not.
pub(super) async fn keep_output(shard: &ShardContext, root: ExecutionId, mut executed: Executed) -> Executed {
    if let AttemptOutcome::Completed(Value::Inline(output)) = &executed.outcome {
        let kept = shard.engine.blobs.keep_patiently(shard, root, output.clone()).await;
        executed.outcome = match kept {
            Ok(kept) => AttemptOutcome::Completed(kept),
            Err(error) => AttemptOutcome::Failed(Box::new(AttemptFailure {
                error,
                retryable: false,
                retry_after_ms: None,
            })),
        };
    }
    executed
}
