//! §6 and ADR 0019: a new execution takes over what another one gave, and runs from one of its nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use troupe_core::definition::{WorkflowDefinition, WorkflowEdge};

use super::definition::{edge_type, field, node, outgoing, owner};
use super::state::{Did, Edge, NodeState, Phase, Reference, Refusal, Status};

/// What an execution takes over from another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Rerun {
    /// The node from which it runs.
    pub from: String,
    /// What that one receives instead of what its edges carry.
    pub input: Option<Value>,
    /// The nodes that do not run.
    pub reused: Vec<Reused>,
    /// The trigger that its start names.
    pub trigger: Option<String>,
}

/// The result of a node in another execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Reused {
    pub node: String,
    pub result: ReusedResult,
    /// Places in the definition of its edges that were taken; the others are dead.
    pub taken: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReusedResult {
    Completed(Value),
    /// With a failure that an edge handled, and what its edges carry.
    Failed {
        error: Value,
        payload: Value,
    },
    Skipped,
    Canceled,
}

impl Reference {
    /// What a rerun of this execution from a node takes over, perhaps in another version.
    pub fn rerun(&self, definition: &WorkflowDefinition, from: &str, has_input: bool) -> Result<Rerun, Refusal> {
        let other = Self::new(definition);
        if other.head(from) != from {
            return Err(Refusal::Refused("RERUN_IN_LOOP"));
        }
        let again = self.repeats(&other, from);
        let mut reused = Vec::new();
        for id in other.ids().into_iter().filter(|id| !again.contains(id)) {
            reused.push(self.reused(&other, &id)?);
        }
        let leads_there = |edge: &usize| other.way(*edge).target == from;
        let is_led_to = reused.iter().any(|one| one.taken.iter().any(leads_there));
        if !has_input && !is_led_to && !other.is_root(from) {
            return Err(Refusal::Refused("RERUN_WITHOUT_INPUT"));
        }
        Ok(Rerun {
            from: from.to_owned(),
            input: None,
            reused,
            trigger: self.trigger.clone().filter(|id| other.may_name(id)),
        })
    }

    /// It begins so. What it is started with is given like at any start.
    pub fn start_over(
        &mut self,
        at: i64,
        input: Value,
        variables: &[(String, Value)],
        rerun: &Rerun,
    ) -> Result<Vec<Did>, Refusal> {
        let trigger = rerun.trigger.as_deref();
        self.create(at, trigger, input, variables)?;
        self.begin_running();
        self.take_over(rerun);
        self.begin_from(rerun);
        self.fire_roots(trigger)
    }

    /// The start payload.
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// The execution that this one shares its shard with begins under the same controls.
    pub fn under_controls_of(&mut self, other: &Self) {
        self.share_controls(other);
    }

    /// The header of the outermost loop around a node, or the node itself.
    fn head(&self, id: &str) -> String {
        let outermost = self.loops.iter().rev().find(|the| the.body.contains(id));
        outermost.map_or_else(|| id.to_owned(), |the| the.header.clone())
    }

    /// The node, what has no result, and all that follows from either; of a loop everything or nothing.
    fn repeats(&self, other: &Self, from: &str) -> BTreeSet<String> {
        let has_none = |id: &String| id == from || !self.has_result(id);
        let mut again: BTreeSet<String> = other.ids().into_iter().filter(has_none).collect();
        loop {
            let before = again.len();
            for the in &other.loops {
                if !the.body.is_disjoint(&again) {
                    again.extend(the.body.iter().cloned());
                }
            }
            for edge in &other.definition.edges {
                if again.contains(&edge.source) {
                    again.insert(edge.target.clone());
                }
            }
            if again.len() == before {
                return again;
            }
        }
    }

    /// Whether a node has ended in a way that still counts.
    fn has_result(&self, id: &str) -> bool {
        let Some(state) = self.nodes.get(id) else {
            return false;
        };
        match state.phase {
            Phase::Completed => !self.is_undone(id, state.visit),
            Phase::Failed => state.handled,
            Phase::Skipped | Phase::Canceled => !state.cut_off,
            Phase::Pending
            | Phase::Ready
            | Phase::Running
            | Phase::Backoff { .. }
            | Phase::Delaying { .. }
            | Phase::Waiting { .. }
            | Phase::Parenting
            | Phase::Canceling => false,
        }
    }

    fn is_undone(&self, id: &str, visit: u32) -> bool {
        let of_visit = self.done.iter().find(|done| done.node == id && done.visit == visit);
        let undoing = of_visit.and_then(|done| done.undoing.as_ref());
        undoing.is_some_and(|undoing| undoing.phase == Phase::Completed)
    }

    fn reused(&self, other: &Self, id: &str) -> Result<Reused, Refusal> {
        let state = &self.nodes[id];
        let given = |value: &Option<Value>| value.clone().unwrap_or_default();
        let result = match state.phase {
            Phase::Completed => ReusedResult::Completed(given(&state.output)),
            Phase::Failed => ReusedResult::Failed {
                error: given(&state.error),
                payload: given(&state.payload),
            },
            Phase::Canceled => ReusedResult::Canceled,
            _ => ReusedResult::Skipped,
        };
        let mut taken = Vec::new();
        for edge in outgoing(&other.definition, id) {
            let known = self.same_way(other, other.way(edge));
            let known = known.ok_or(Refusal::Refused("RERUN_EDGES_CHANGED"))?;
            if matches!(self.edges[known], Edge::Resolved(true) | Edge::Held(true)) {
                taken.push(edge);
            }
        }
        Ok(Reused {
            node: id.to_owned(),
            result,
            taken,
        })
    }

    /// Where an edge leads and when it is taken.
    fn says(&self, edge: &WorkflowEdge) -> Value {
        let source = node(&self.definition, &edge.source);
        let decides = source.node_type == "decision" && !matches!(edge_type(edge), "failure" | "always");
        let conditions = field(source, "conditions")
            .filter(|_| decides)
            .and_then(Value::as_array);
        let conditions = conditions.map_or(&[][..], Vec::as_slice);
        let ids: Vec<&str> = conditions
            .iter()
            .filter_map(|condition| condition["id"].as_str())
            .collect();
        // What names a condition is no expression of its own.
        let own = edge
            .condition
            .as_deref()
            .filter(|own| !own.is_empty() && !ids.contains(own));
        let belongs_to = owner(edge, &ids);
        let belongs_to = conditions
            .iter()
            .find(|condition| belongs_to.is_some() && belongs_to == condition["id"].as_str());
        json!({
            "from": edge.source,
            "to": edge.target,
            "type": edge_type(edge),
            "condition": own,
            "of the decision": belongs_to.map(|condition| &condition["expression"]),
            "errors": edge.errors.clone().unwrap_or_default(),
        })
    }

    /// The edge that says the same here: by its id where there are several.
    fn same_way(&self, other: &Self, wanted: &WorkflowEdge) -> Option<usize> {
        let same = |place: &usize| self.says(self.way(*place)) == other.says(wanted);
        let all: Vec<usize> = (0..self.edges.len()).filter(same).collect();
        let named = all.iter().copied().find(|place| self.way(*place).id == wanted.id);
        named.or_else(|| all.first().copied().filter(|_| all.len() == 1))
    }

    /// What the other one gave is there before anything runs.
    fn take_over(&mut self, rerun: &Rerun) {
        for reused in &rerun.reused {
            let mut state = NodeState::new(0, None);
            match &reused.result {
                ReusedResult::Completed(output) => {
                    (state.phase, state.output) = (Phase::Completed, Some(output.clone()));
                }
                ReusedResult::Failed { error, payload } => {
                    (state.phase, state.handled) = (Phase::Failed, true);
                    (state.error, state.payload) = (Some(error.clone()), Some(payload.clone()));
                }
                ReusedResult::Skipped => state.phase = Phase::Skipped,
                ReusedResult::Canceled => state.phase = Phase::Canceled,
            }
            self.nodes.insert(reused.node.clone(), state);
        }
        for reused in &rerun.reused {
            for edge in outgoing(&self.definition, &reused.node) {
                if self.is_back_edge(edge) {
                    self.edges[edge] = Edge::Resolved(false);
                    continue;
                }
                let taken = reused.taken.contains(&edge);
                if taken {
                    self.load(edge);
                }
                self.deliver(edge, taken);
            }
        }
        for header in self.generations.keys().cloned().collect::<Vec<_>>() {
            if self.nodes[&header].phase.is_terminal() {
                self.generations.get_mut(&header).expect("every loop has one").finished = true;
            }
        }
    }

    /// The node starts at once, whatever its join says.
    fn begin_from(&mut self, rerun: &Rerun) {
        let id = rerun.from.as_str();
        let edited = rerun.input.clone().filter(|_| !self.is_root(id));
        let raw = edited.unwrap_or_else(|| self.raw_input(id));
        self.set(id).raw = raw;
        self.begin_with(id);
    }

    pub(super) fn begin_running(&mut self) {
        (self.timed_from, self.status) = (self.at, Status::Running);
    }
}
