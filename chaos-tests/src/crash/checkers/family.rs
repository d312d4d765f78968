//! C2, C4 and C6 between parents and children: each child stands once for an entry of its parent's log, with what the reference
//! gives it, and what a parent's log tells of a child's end is how the child's own log ended.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_core::execution::{ChildId, ChildOutcome, ChildReport, ExecutionState, Parent, Status};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId};

use super::contents::Contents;
use super::semantics::normal;
use super::{Evidence, Findings};

/// Codes with which a child cannot be started at all.
const REFUSALS: [&str; 8] = [
    "WORKFLOW_NOT_FOUND",
    "WORKFLOW_ARCHIVED",
    "VERSION_NOT_FOUND",
    "NODE_TYPE_UNSUPPORTED",
    "NOT_EXECUTABLE",
    "SCHEMA_VIOLATION",
    "INPUT_TOO_LARGE",
    "PAYLOAD_TOO_LARGE",
];

/// The children of one execution, as its log and the reference have them.
#[derive(Debug, Default)]
pub(super) struct Family {
    /// Each child that was begun.
    pub begun: BTreeMap<ChildId, Birth>,
    /// What the log tells of them, where it counted.
    pub heard: BTreeMap<ChildId, ChildOutcome>,
}

impl Family {
    /// Reports count where they are awaited, each child's first one.
    pub(super) fn hear(&mut self, state: &ExecutionState, reports: &[ChildReport]) {
        for report in reports.iter().filter(|report| state.awaits(report.child)) {
            self.heard.entry(report.child).or_insert_with(|| report.outcome.clone());
        }
    }
}

/// How a child is begun.
#[derive(Debug)]
pub(super) struct Birth {
    /// Its start payload.
    pub input: JsonValue,
    /// Whether its end is awaited.
    pub attached: bool,
}

/// Every child against its parent, and every parent against its children.
pub(super) fn agree(evidence: &Evidence, families: &BTreeMap<ExecutionId, Family>, findings: &mut Findings) {
    let mut children: BTreeMap<(ExecutionId, ChildId), Vec<ExecutionId>> = BTreeMap::new();
    for (id, (state, ..)) in &evidence.executions {
        let Some(parent) = state.parent else { continue };
        children.entry((parent.execution, parent.child)).or_default().push(*id);
        let Some((of, plan, _)) = evidence.executions.get(&parent.execution) else {
            findings.expect(false, "C4", || {
                format!("{id} is a child of {}, which is not in the log", parent.execution)
            });
            continue;
        };
        // Of a parent that already disagreed nothing more is said.
        let Some(family) = families.get(&parent.execution) else {
            continue;
        };
        let why = is_as_begun(state, parent, of, plan, family, &evidence.contents).err();
        findings.expect(why.is_none(), "C4", || {
            format!("{id}, a child of {}: {}", parent.execution, why.unwrap_or_default())
        });
    }
    for (id, family) in families {
        for child in family.begun.keys() {
            let there = children.get(&(*id, *child)).map_or([].as_slice(), Vec::as_slice);
            findings.expect(there.len() <= 1, "C2", || {
                format!("{id}: its child {child:?} exists {} times: {there:?}", there.len())
            });
            // One of which nothing was heard may have been given up before it began.
            let Some(heard) = family.heard.get(child) else { continue };
            let own = there.first().and_then(|child| evidence.executions.get(child));
            let is_forgotten = there.first().is_some_and(|child| evidence.forgotten.contains(child));
            if is_forgotten && matches!(heard, ChildOutcome::Failed(error) if error.code == "CHILD_FORGOTTEN") {
                continue;
            }
            let why = is_as_heard(heard, own.map(|(state, ..)| state), &evidence.contents).err();
            findings.expect(why.is_none(), "C2", || {
                format!(
                    "{id}: its log tells of child {child:?} {heard:?}, {}",
                    why.unwrap_or_default()
                )
            });
        }
    }
}

/// A child is what its parent's log began.
fn is_as_begun(
    state: &ExecutionState,
    parent: Parent,
    of: &ExecutionState,
    plan: &Plan,
    family: &Family,
    contents: &Contents,
) -> Result<(), String> {
    let Some(birth) = family.begun.get(&parent.child) else {
        return Err(format!("no entry of its parent begins {:?}", parent.child));
    };
    let input = normal(&contents.parsed(&state.input));
    if input != normal(&birth.input) {
        return Err(format!("it was given {input}, the reference gives it {}", birth.input));
    }
    if parent.attached != birth.attached {
        return Err(format!(
            "attached: {}, by the reference {}",
            parent.attached, birth.attached
        ));
    }
    let depth = of.parent.map_or(0, |above| above.depth) + 1;
    if parent.depth != depth {
        return Err(format!("{} executions above it, not {depth}", parent.depth));
    }
    let node = plan.node(parent.child.node);
    let named = node.data.get("workflowId").and_then(JsonValue::as_str);
    let expected = named.map_or_else(|| format!("{}#{}", of.workflow, node.key), str::to_owned);
    let is_template = expected.contains("{{");
    if !is_template && state.workflow.as_str() != expected {
        return Err(format!("it runs {}, not {expected}", state.workflow));
    }
    if named.is_none() && state.version != of.version {
        return Err(format!("its body is of version {}, not {}", state.version, of.version));
    }
    Ok(())
}

/// A child ended as its parent's log says.
fn is_as_heard(heard: &ChildOutcome, own: Option<&ExecutionState>, contents: &Contents) -> Result<(), String> {
    let Some(own) = own else {
        let has_no_key =
            |error: &ErrorInfo| error.code == "EXPRESSION_ERROR" && error.message.contains("settings.concurrency.key");
        let refused = matches!(
            heard,
            ChildOutcome::Failed(error) if REFUSALS.contains(&error.code.as_str()) || has_no_key(error)
        );
        return if refused {
            Ok(())
        } else {
            Err("which does not exist".into())
        };
    };
    let holds = match (heard, &own.status) {
        (ChildOutcome::Began(id), _) => *id == own.id,
        (ChildOutcome::Completed(output), Status::Completed { output: own }) => {
            normal(&contents.parsed(output)) == normal(&contents.parsed(own))
        }
        (ChildOutcome::Failed(error), Status::Failed) => own
            .failure
            .as_ref()
            .is_some_and(|failure| failure.error.code == error.code),
        (ChildOutcome::Failed(error), Status::Canceled { .. }) => error.code == "CANCELED",
        _ => false,
    };
    if holds {
        Ok(())
    } else {
        Err(format!("its own log ends {:?}, failure {:?}", own.status, own.failure))
    }
}
