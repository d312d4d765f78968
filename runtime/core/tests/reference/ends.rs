//! How an execution ends: when every node has, at its timeout, or by an `end` node.

use serde_json::{Map, Value, json};

use super::compensations::Ending;
use super::definition::{field, node, outgoing};
use super::interpreter::{expression_error, failure};
use super::language::{self, Thrown};
use super::state::{Did, Phase, Reference, Status};

impl Reference {
    /// `settings.timeout`: everything ends at once.
    pub(super) fn time_out(&mut self) {
        self.end_everything();
        self.blame_first(None, failure("EXECUTION_TIMEOUT").error());
        self.verdict = Some(Status::Failed);
    }

    /// The status that an `end` node asks for; none where that is no status.
    pub(super) fn asked_status(&self, id: &str) -> Option<String> {
        let written = field(node(&self.definition, id), "status");
        let status = self.nodes[id].data.get("status").or(written);
        let status = status.filter(|status| !status.is_null());
        let name = status.map_or(Some("completed"), Value::as_str)?;
        ["completed", "failed", "canceled"]
            .contains(&name)
            .then(|| name.to_owned())
    }

    /// An `end` node has completed; in a clean-up it ends nothing.
    pub(super) fn end_by(&mut self, id: &str) {
        if self.status != Status::Running {
            return;
        }
        self.end_everything();
        self.ended_by = Some(id.to_owned());
        let asked = self.asked_status(id);
        self.verdict = Some(match asked.as_deref() {
            Some("canceled") => {
                self.failure = None;
                Status::Canceled
            }
            Some("failed") => {
                match field(node(&self.definition, id), "error") {
                    Some(error) => {
                        let code = error["code"].as_str().unwrap_or("ENDED");
                        let error = json!({"message": error["message"], "code": code});
                        self.blame(Some(id), error);
                    }
                    None => self.blame_first(Some(id), failure("ENDED").error()),
                }
                Status::Failed
            }
            _ => {
                self.failure = None;
                Status::Completed(self.nodes[id].output.clone().unwrap_or(Value::Null))
            }
        });
    }

    /// Every node has ended.
    pub(super) fn end(&mut self) {
        if let Some(verdict) = self.verdict.take() {
            match verdict {
                Status::Failed => self.end_as(Ending::Failed),
                Status::Canceled => self.end_as(Ending::Canceled),
                other => self.be_over(other),
            }
        } else if matches!(self.status, Status::Canceling { .. }) {
            self.end_as(Ending::Canceled);
        } else if self.failure.is_some() {
            self.end_as(Ending::Failed);
        } else {
            match self.execution_output() {
                Ok(output) => self.be_over(Status::Completed(output)),
                Err(Thrown) => {
                    self.blame(None, expression_error());
                    self.end_as(Ending::Failed);
                }
            }
        }
    }

    /// It does not complete: before it ends, what completed is undone. Who cancels means to end it, and so lifts a pause.
    pub(super) fn end_as(&mut self, ending: Ending) {
        if self.left > 0 {
            if matches!(self.status, Status::Canceling { .. }) {
                (self.paused, self.paused_with_parent) = (false, false);
                self.freeze(false);
            }
            self.status = Status::Undoing(ending);
            return;
        }
        match ending {
            Ending::Failed if self.has_to_report() => self.start_reporting(),
            Ending::Failed => self.be_over(Status::Failed),
            Ending::Canceled => self.be_over(Status::Canceled),
        }
    }

    pub(super) fn be_over(&mut self, status: Status) {
        (self.paused, self.paused_with_parent) = (false, false);
        self.status = status;
        self.did.push(Did::Finish);
    }

    /// Remembers of a node that it ends, if it has not ended, only because the execution does.
    pub(super) fn cut_off(&mut self, id: &str) {
        if !self.nodes[id].phase.is_terminal() {
            self.set(id).cut_off = true;
        }
    }

    /// What never started is skipped, what ran is canceled.
    fn end_everything(&mut self) {
        for id in self.ids() {
            self.cut_off(&id);
            match self.nodes[&id].phase {
                Phase::Pending => self.skip(&id),
                Phase::Ready if !self.nodes[&id].ran => self.skip(&id),
                phase if phase.is_terminal() => {}
                phase => {
                    if phase == Phase::Running {
                        self.did.push(Did::Abort { node: id.clone() });
                    }
                    self.cancel_node(&id);
                }
            }
        }
    }

    fn execution_output(&self) -> Result<Value, Thrown> {
        if let Some(expression) = self.definition.settings.get("output").and_then(Value::as_str) {
            return language::evaluate(expression, &self.scope(None, &[]));
        }
        let mut leaves = Map::new();
        for id in self.ids() {
            if outgoing(&self.definition, &id).is_empty() && self.nodes[&id].phase == Phase::Completed {
                leaves.insert(id.clone(), self.nodes[&id].output.clone().unwrap_or(Value::Null));
            }
        }
        Ok(match leaves.len() {
            0 => Value::Null,
            1 => leaves
                .into_iter()
                .next()
                .map(|(_, output)| output)
                .unwrap_or(Value::Null),
            _ => Value::Object(leaves),
        })
    }
}
