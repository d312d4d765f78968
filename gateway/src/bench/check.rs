//! C1 and C2 of the durability contract, on what the store says after a run.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use troupe_actors::{EngineError, Whereabouts};
use troupe_core::execution::{ExecutionState, Phase, Verb, replay};
use troupe_core::{ExecutionId, NodeIx, Seq};

use super::BenchError;
use crate::app::App;

/// Executions read at once.
const READS: usize = 32;
/// Entries read at once.
const ENTRIES_MAX: usize = 1_000;

/// How every execution must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Completed,
    Open,
}

/// Checks every acknowledged execution.
pub(super) async fn all(
    apps: &[App],
    acknowledged: impl Iterator<Item = &ExecutionId>,
    expected: Expected,
) -> Result<(), BenchError> {
    let ids: Vec<ExecutionId> = acknowledged.copied().collect();
    let owner = |id: ExecutionId| {
        let has = |app: &&App| app.engine.whereabouts(id.shard()) == Whereabouts::Here;
        apps.iter().find(has).unwrap_or(&apps[0])
    };
    stream::iter(ids.into_iter().map(|id| one(owner(id), id, expected)))
        .buffer_unordered(READS)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

fn violated(invariant: &'static str, what: String) -> BenchError {
    BenchError::Violated { invariant, what }
}

async fn one(app: &App, id: ExecutionId, expected: Expected) -> Result<(), BenchError> {
    let view = match app.engine.get(id).await {
        Ok(view) => view,
        Err(EngineError::NotFound(_)) => return Err(violated("C1", format!("{id} was acknowledged and is gone"))),
        Err(error) => return Err(error.into()),
    };
    let status = view.state.status.name();
    let as_expected = match expected {
        Expected::Completed => status == "completed",
        Expected::Open => status == "running",
    };
    if !as_expected {
        return Err(violated("C1", format!("{id} is {status}, not {expected:?}")));
    }
    let plan = &*view.plan;
    let mut folded = ExecutionState::new(plan, id);
    let mut ends: BTreeMap<(NodeIx, u32), u32> = BTreeMap::new();
    while folded.seq < view.state.seq {
        let entries = app.engine.history(id, folded.seq, ENTRIES_MAX).await?;
        if entries.is_empty() {
            return Err(violated(
                "C2",
                format!("the history of {id} ends at {}, not {}", folded.seq, view.state.seq),
            ));
        }
        for entry in &entries {
            let next = Seq(folded.seq.0 + 1);
            if entry.seq != next {
                return Err(violated(
                    "C2",
                    format!("after {} the history of {id} goes on with {}", folded.seq, entry.seq),
                ));
            }
            replay(plan, &mut folded, entry).map_err(|error| violated("C2", format!("{id} at {next}: {error}")))?;
            for change in &entry.transitions {
                if let (Some(verb), Some(node)) = (change.verb(), change.node_ix())
                    && ends_node(verb)
                {
                    *ends.entry((node, folded.nodes[node.at()].visit.0)).or_default() += 1;
                }
            }
        }
    }
    if folded.fingerprint() != view.state.fingerprint() {
        return Err(violated(
            "C2",
            format!("folding the history of {id} gives another state than its snapshot"),
        ));
    }
    for (at, node) in folded.nodes.iter().enumerate() {
        let ix = NodeIx(u32::try_from(at).unwrap_or(u32::MAX));
        let ended = ends.get(&(ix, node.visit.0)).copied().unwrap_or(0);
        let due = u32::from(matches!(
            node.phase,
            Phase::Completed | Phase::Failed | Phase::Skipped | Phase::Canceled
        ));
        if ended != due {
            return Err(violated(
                "C2",
                format!("node {} of {id} ended {ended} times, not {due}", plan.node(ix).key),
            ));
        }
    }
    Ok(())
}

fn ends_node(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::NodeCompleted | Verb::NodeFailed | Verb::NodeSkipped | Verb::NodeCanceled
    )
}
