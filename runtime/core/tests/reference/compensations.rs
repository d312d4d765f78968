//! §6 and ADR 0020: what completed is undone when the execution fails or is canceled.

use serde_json::{Map, Value, json};
use troupe_core::definition::Node;

use super::deadlines::Deadline;
use super::definition::{field, milliseconds, node, text};
use super::interpreter::{INTERRUPTIONS_MAX, expression_error, failure};
use super::language::{self, Thrown};
use super::retries::{self, Failure};
use super::scope::mapped;
use super::state::{Did, NodeState, Phase, Reference, Refusal, Status};

/// Behind the id of a node it names what undoes that.
pub const UNDOES: char = '^';

/// How an execution ends once everything is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Failed,
    Canceled,
}

/// A visit that completed and can be undone.
#[derive(Clone, Debug)]
pub struct Done {
    pub node: String,
    pub visit: u32,
    pub input: Value,
    pub output: Value,
    /// Once its turn has come.
    pub undoing: Option<NodeState>,
}

/// What undoes a node, as a node.
fn compensation(written: &Node) -> Option<Node> {
    let compensation = field(written, "compensation")?.as_object()?;
    let data = compensation.get("data").and_then(Value::as_object);
    Some(Node {
        id: format!("{}{UNDOES}", written.id),
        node_type: compensation.get("type")?.as_str()?.to_owned(),
        data: data.cloned().unwrap_or_default(),
        ..Node::default()
    })
}

impl Reference {
    pub(super) fn compensates(&self) -> bool {
        self.definition.settings.get("compensate") == Some(&Value::Bool(true))
    }

    /// A node has completed by itself: one that was skipped with an output has not.
    pub(super) fn note_completion(&mut self, id: &str) {
        if !self.compensates() || compensation(node(&self.definition, id)).is_none() {
            return;
        }
        let state = &self.nodes[id];
        let done = Done {
            node: id.to_owned(),
            visit: state.visit,
            input: state.input.clone(),
            output: state.output.clone().unwrap_or_default(),
            undoing: None,
        };
        self.done.push(done);
        self.left += 1;
    }

    /// Whether something was undone, or given up being undone.
    pub(super) fn has_undone(&self) -> bool {
        self.left < self.done.len()
    }

    /// The visit that is being undone.
    pub fn under_way(&self) -> Option<&NodeState> {
        let undoing = self.done.get(self.left)?.undoing.as_ref()?;
        (!undoing.phase.is_terminal()).then_some(undoing)
    }

    pub(super) fn current(&mut self) -> &mut NodeState {
        let done = self.done.get_mut(self.left);
        let undoing = done.and_then(|done| done.undoing.as_mut());
        undoing.expect("a compensation is under way")
    }

    fn current_written(&self) -> Node {
        let written = node(&self.definition, &self.done[self.left].node);
        compensation(written).expect("it was noted because it has one")
    }

    /// One after the other, in reverse order of the completions; after the last one the execution ends.
    pub(super) fn go_on_undoing(&mut self) {
        while let Status::Undoing(ending) = self.status {
            if self.under_way().is_some() {
                break;
            }
            if self.left == 0 {
                return self.end_as(ending);
            }
            self.undo_next();
        }
        if let (false, Some(Phase::Ready)) = (self.is_held_whole(), self.under_way().map(|undoing| undoing.phase)) {
            let id = self.current_written().id;
            let state = self.current();
            (state.phase, state.ran) = (Phase::Running, true);
            let start = Did::Start {
                node: id,
                visit: state.visit,
                attempt: state.failed.len() as u32 + 1,
                input: state.input.clone(),
                data: state.data.clone(),
            };
            self.did.push(start);
        }
    }

    fn undo_next(&mut self) {
        self.left -= 1;
        let at = self.at;
        let Done {
            visit, input, output, ..
        } = self.done[self.left].clone();
        let mut state = NodeState::new(visit, None);
        state.input = json!({"input": input, "output": output});
        state.phase = Phase::Ready;
        self.done[self.left].undoing = Some(state);
        let written = self.current_written();
        match self.prepared(&written, &input, &output) {
            Err(Thrown) => return self.fail_undoing(expression_error()),
            Ok((mapped, data)) => {
                let state = self.current();
                state.input = mapped.unwrap_or_else(|| state.input.clone());
                state.data = Value::Object(data);
            }
        }
        let input = self.current().input.clone();
        if field(&written, "inputSchema").is_some_and(|schema| !language::meets(schema, &input)) {
            return self.fail_undoing(failure("SCHEMA_VIOLATION").error());
        }
        if !self.has_key(&written, None, &input) {
            return self.fail_undoing(expression_error());
        }
        self.current().ready_at = Some(at);
    }

    /// Its mapping and templates see what the node received and gave, and why the execution ends.
    fn prepared(
        &self,
        written: &Node,
        input: &Value,
        output: &Value,
    ) -> Result<(Option<Value>, Map<String, Value>), Thrown> {
        let canceled = json!({"message": "", "code": "CANCELED"});
        let error = match (&self.status, &self.failure) {
            (Status::Undoing(Ending::Failed), Some((_, error))) => error,
            _ => &canceled,
        };
        let scope = self.scope(None, &[("input", input), ("output", output), ("error", error)]);
        let mapping = field(written, "inputMapping").and_then(Value::as_object);
        let values = mapping.map(|mapping| mapped(mapping, &scope)).transpose()?;
        let mut data = Map::new();
        for (name, value) in &written.data {
            if let Some(template) = value.as_str().filter(|text| text.starts_with("{{")) {
                data.insert(name.clone(), language::template(template, &scope)?);
            }
        }
        Ok((values.map(Value::Object), data))
    }

    /// An attempt to undo something ended.
    pub(super) fn undoing_reported(&mut self, outcome: Result<Value, Failure>) -> Result<Vec<Did>, Refusal> {
        match outcome {
            Err(failure) => self.fail_undoing_attempt(failure),
            Ok(output) => match self.undone(output) {
                Ok(()) => {}
                Err(error) => self.fail_undoing(error),
            },
        }
        self.conclude()
    }

    fn undone(&mut self, raw: Value) -> Result<(), Value> {
        let written = self.current_written();
        let input = self.current().input.clone();
        let threw = |Thrown| expression_error();
        let mut output = raw;
        if field(&written, "outputSchema").is_some_and(|schema| !language::meets(schema, &output)) {
            return Err(failure("SCHEMA_VIOLATION").error());
        }
        if let Some(expression) = text(&written, "output") {
            let scope = self.scope(None, &[("input", &input), ("output", &output)]);
            output = language::evaluate(expression, &scope).map_err(threw)?;
        }
        if let Some(mapping) = field(&written, "outputMapping").and_then(Value::as_object) {
            let scope = self.scope(None, &[("input", &input), ("output", &output)]);
            let values = mapped(mapping, &scope).map_err(threw)?;
            self.variables.extend(values);
        }
        let state = self.current();
        (state.phase, state.output) = (Phase::Completed, Some(output));
        Ok(())
    }

    fn fail_undoing_attempt(&mut self, failure: Failure) {
        let (written, at) = (self.current_written(), self.at);
        let state = self.current();
        state.failed.push(failure.code.clone());
        state.interruptions_of_attempt = 0;
        match retries::next(&written, &state.failed, &failure) {
            None => self.fail_undoing(failure.error()),
            Some((least, most)) => {
                state.phase = Phase::Backoff {
                    earliest: at + least,
                    latest: at + most,
                };
            }
        }
    }

    /// That is recorded, and the next one goes on.
    fn fail_undoing(&mut self, error: Value) {
        let state = self.current();
        (state.phase, state.error) = (Phase::Failed, Some(error));
    }

    /// The engine is gone that ran the attempt that is under way.
    pub(super) fn interrupt_undoing(&mut self, counts: bool) {
        if self.under_way().is_none_or(|undoing| undoing.phase != Phase::Running) {
            return;
        }
        let state = self.current();
        state.interruptions += u32::from(counts);
        state.interruptions_of_attempt += u32::from(counts);
        if state.interruptions_of_attempt > INTERRUPTIONS_MAX {
            self.fail_undoing_attempt(failure("INTERRUPTED"));
        } else {
            state.phase = Phase::Ready;
        }
    }

    /// The execution ends at once: what was not undone yet stays.
    pub(super) fn give_up_undoing(&mut self) {
        if let Some(phase) = self.under_way().map(|undoing| undoing.phase) {
            if phase == Phase::Running {
                let node = self.current_written().id;
                self.did.push(Did::Abort { node });
            }
            self.current().phase = Phase::Canceled;
        }
        self.left = 0;
    }

    /// When its next attempt starts, and when all of them together must be over.
    pub(super) fn undoing_due(&self) -> (Option<i64>, Option<i64>) {
        let Some(undoing) = self.under_way() else {
            return (None, None);
        };
        let retry = match undoing.phase {
            Phase::Backoff { earliest, .. } => Some(earliest),
            _ => None,
        };
        let resolved = undoing.data.get("totalTimeout").and_then(Value::as_i64);
        let timeout = resolved.or_else(|| milliseconds(&self.current_written(), "totalTimeout"));
        (retry, undoing.ready_at.zip(timeout).map(|(from, ms)| from + ms))
    }

    pub(super) fn apply_undoing_deadline(&mut self, what: Deadline) {
        match what {
            Deadline::Retry => self.current().phase = Phase::Ready,
            Deadline::NodeTotal => self.undoing_timed_out(),
            other => panic!("{other:?} is none of a compensation"),
        }
    }

    fn undoing_timed_out(&mut self) {
        if self.current().phase == Phase::Running {
            let node = self.current_written().id;
            self.did.push(Did::Abort { node });
        }
        self.fail_undoing(failure("TIMEOUT").error());
    }

    /// As [`Self::settle_backoff`].
    pub fn settle_undoing_backoff(&mut self, until: i64) -> bool {
        if self.under_way().is_none() {
            return false;
        }
        let state = self.current();
        let Phase::Backoff { earliest, latest } = state.phase else {
            return false;
        };
        let lawful = (earliest..=latest).contains(&until);
        state.phase = Phase::Backoff {
            earliest: until,
            latest: until,
        };
        lawful
    }
}
