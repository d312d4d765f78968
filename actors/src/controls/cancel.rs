//! An emergency stop may cancel what is under way: by the lists, until they show nothing more.

use std::sync::Arc;
use std::time::Duration;

use troupe_core::control::{ControlKey, ControlSet, Scope, Setting};
use troupe_core::execution::Event;
use troupe_core::{ShardId, WorkflowId};
use troupe_ports::{ExecutionQuery, ExecutionSummary};

use crate::context::ShardContext;
use crate::execution::machine::{CommandInput, Wanted};
use crate::execution::{ExecutionMessage, Respond};
use crate::shard::deliver;

/// Pause between two looks at the lists: they follow the log by less.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks that must find nothing before the work is done.
pub const CLEAN_LOOKS: u32 = 2;
/// Executions listed at once.
const LIST_ROWS: usize = 1_000;
/// Grace of the cancellations, in milliseconds.
const CANCEL_GRACE_MS: u64 = 10_000;

/// Cancels executions of one shard that a stop wants canceled, until none is left or the stop is lifted. Whoever takes the shard
/// after a crash goes on with it.
pub(crate) async fn cancel_stopped(shard: Arc<ShardContext>) {
    let mut clean = 0;
    while clean < CLEAN_LOOKS && !shard.gate.is_closed() {
        let scopes = stopped(&shard.controls.set());
        if scopes.is_empty() {
            return;
        }
        let mut found = 0;
        for scope in &scopes {
            match cancel_in(&shard, scope).await {
                Ok(canceled) => found += canceled,
                Err(error) => {
                    tracing::warn!(shard = shard.shard.0, %error, "a stop waits for the lists");
                    found += 1;
                }
            }
        }
        clean = if found == 0 { clean + 1 } else { 0 };
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Scopes whose executions are to be canceled.
#[must_use]
pub fn stopped(set: &ControlSet) -> Vec<Scope> {
    let scopes = set.in_force().filter_map(|(key, _, setting)| match (key, setting) {
        (ControlKey::Stop(scope), Setting::Stopped { cancel_running: true }) => Some(scope.clone()),
        _ => None,
    });
    scopes.collect()
}

/// The list of a shard's executions of which some may be in a scope.
#[must_use]
pub fn open_executions(shard: ShardId, scope: &Scope) -> ExecutionQuery {
    ExecutionQuery {
        workflow_id: match scope {
            Scope::Workflow(workflow) => Some(workflow.as_str().to_owned()),
            Scope::All | Scope::Node { .. } | Scope::NodeType(_) => None,
        },
        status: Some("running".to_owned()),
        id_prefix: Some(format!("{:04x}", shard.0)),
        limit: LIST_ROWS,
        ..ExecutionQuery::default()
    }
}

/// What a listed execution is told, if the stop of a scope is about it.
#[must_use]
pub fn cancellation(scope: &Scope, listed: &ExecutionSummary) -> Option<CommandInput> {
    let is_in = scope.covers(&WorkflowId::from(listed.workflow_id.as_str()));
    is_in.then(|| CommandInput {
        wanted: Wanted::Event(Event::CancelRequested {
            reason: Some(format!("an emergency stop of {scope}")),
            grace_ms: CANCEL_GRACE_MS,
            at_once: false,
        }),
        principal: None,
        command: None,
    })
}

async fn cancel_in(shard: &Arc<ShardContext>, scope: &Scope) -> Result<usize, troupe_ports::StoreError> {
    let mut query = open_executions(shard.shard, scope);
    let mut found = 0;
    loop {
        let page = shard.engine.parts.visibility.list(query.clone()).await?;
        for item in page.items {
            if let Some(input) = cancellation(scope, &item) {
                found += 1;
                let message = ExecutionMessage::Command(Box::new(input), Respond::Nobody);
                deliver(shard, item.id, message).await;
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(found),
        }
    }
}
