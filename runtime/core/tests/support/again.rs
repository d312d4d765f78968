//! Reruns of random executions: another one takes over what one gave, perhaps in another version.

use serde_json::{Value as JsonValue, json};
use troupe_core::definition::{Limits, Severity, WorkflowDefinition, validate};
use troupe_core::execution::{Rerun, Started, rerun};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, ShardId, Timestamp, Value};

use super::choices::Choices;
use super::duo::{Disagreement, Duo, EPOCH, Stimulus};
use crate::reference::Refusal;

/// What is wrong with a graph, whatever its nodes do.
pub const OF_GRAPHS: [&str; 6] = [
    "UNREACHABLE_NODE",
    "IRREDUCIBLE_CYCLE",
    "LOOP_WITHOUT_EXIT",
    "UNKNOWN_NODE",
    "INVALID_VALUE",
    "DECISION_EDGE_UNMATCHED",
];

/// A rerun that may start, and the start.
pub type Begin = (Duo, Stimulus);

impl Duo {
    /// What core and reference make of a rerun in this version: both refuse it, with this code, or both would begin so.
    pub fn rerun(
        &self,
        definition: &JsonValue,
        from: &str,
        input: Option<&JsonValue>,
    ) -> Result<Result<Begin, String>, Disagreement> {
        let mut other = Self::new(definition);
        let ix = other.plan.node_ix(from).expect("a node of the plan");
        let core = rerun(&self.plan, &self.state, &other.plan, ix, input.is_some());
        let expected = self.reference.rerun(&other.reference.definition, from, input.is_some());
        let (core, mut expected) = match (core, expected) {
            (Ok(core), Ok(expected)) => (core, expected),
            (Err(error), Err(Refusal::Refused(code))) if error.code == code => return Ok(Err(error.code)),
            (core, expected) => {
                return Err(format!(
                    "a rerun from {from}: the core {:?}, the reference {:?}",
                    core.err().map(|error| error.code),
                    expected.err()
                ));
            }
        };
        let is_root = other.plan.node(ix).entries == 0;
        let edited = |wanted: bool| input.filter(|_| wanted).cloned();
        expected.input = edited(!is_root);
        let rerun = Rerun {
            input: edited(!is_root).map(Value::from),
            ..core.rerun
        };
        let id = ExecutionId::fresh(ShardId(3), Timestamp(EPOCH), 1_000 + u64::from(self.generation));
        other.become_another(self, id);
        let started = Started {
            variables: self.state.variables.clone().into_iter().collect(),
            trigger: core.trigger,
            rerun: Some(Box::new(rerun)),
            ..Started::of(
                id,
                &other.plan,
                edited(is_root).map_or_else(|| self.state.input.clone(), Value::from),
            )
        };
        let payload = edited(is_root).unwrap_or_else(|| self.reference.payload().clone());
        let start = Stimulus::StartOver {
            started: Box::new(started),
            input: payload,
            variables: self.reference.variables.clone().into_iter().collect(),
            rerun: Box::new(expected),
        };
        Ok(Ok((other, start)))
    }
}

/// The same definition, or another version of it: with an edge less, other conditions, new nodes.
pub fn another_version(definition: &JsonValue, choices: &mut Choices<'_>) -> JsonValue {
    let mut changed = definition.clone();
    for _ in 0..*choices.pick(&[0, 1, 0, 2]) {
        change(&mut changed, choices);
    }
    if changed == *definition || !is_valid(&changed) {
        return definition.clone();
    }
    let version = definition["version"].as_u64().unwrap_or_default() + 1;
    changed["version"] = json!(version);
    changed
}

fn change(definition: &mut JsonValue, choices: &mut Choices<'_>) {
    let nodes = definition["nodes"].as_array().map_or(0, Vec::len);
    let any = format!("n{}", choices.below(nodes));
    let new = format!("new{nodes}");
    let node = json!({"id": new, "type": "function", "data": {"retryPolicy": {"maxAttempts": 1}}});
    let (nodes, edges) = match definition {
        JsonValue::Object(fields) => {
            let nodes = fields["nodes"].as_array().cloned().unwrap_or_default();
            (nodes, fields["edges"].as_array().cloned().unwrap_or_default())
        }
        _ => return,
    };
    let (mut nodes, mut edges) = (nodes, edges);
    let place = choices.below(edges.len());
    match choices.below(7) {
        0 if !edges.is_empty() => drop(edges.remove(place)),
        1 if !edges.is_empty() => edges[place]["condition"] = json!(choices.pick(&["true", "input.ok"])),
        2 if !edges.is_empty() => edges[place]["id"] = json!("renamed"),
        3 if !edges.is_empty() => edges[place]["type"] = json!(choices.pick(&["always", "failure", "success"])),
        4 => {
            edges.push(json!({"id": format!("to {new}"), "source": new, "target": any}));
            nodes.push(node);
        }
        5 => {
            edges.push(json!({"id": format!("to {new}"), "source": any, "target": new}));
            nodes.insert(0, node);
        }
        _ => nodes.push(node),
    }
    definition["nodes"] = json!(nodes);
    definition["edges"] = json!(edges);
}

fn is_valid(definition: &JsonValue) -> bool {
    let Ok(definition) = serde_json::from_value::<WorkflowDefinition>(definition.clone()) else {
        return false;
    };
    let found = validate(&definition, None, &Limits::default());
    let is_wrong = found
        .iter()
        .any(|found| found.severity == Severity::Error && OF_GRAPHS.contains(&found.code));
    !is_wrong && Plan::build(&definition).is_ok()
}
