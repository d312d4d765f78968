//! How an execution ends: when every node has, at its timeout, or by an `end` node.

use serde_json::{Map, Value, json};

use super::definition::{field, node, outgoing};
use super::interpreter::{expression_error, failure};
use super::language::{self, Thrown};
use super::state::{Did, Phase, Reference, Status};

impl Reference {
    /// `settings.timeout`: everything ends at once.
    pub(super) fn time_out(&mut self) {
        self.end_everything();
        self.failure.get_or_insert((None, failure("EXECUTION_TIMEOUT").error()));
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
        let by_node = |error: Value| (Some(id.to_owned()), error);
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
                        self.failure = Some(by_node(json!({"message": error["message"], "code": code})));
                    }
                    None => _ = self.failure.get_or_insert(by_node(failure("ENDED").error())),
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
        (self.paused, self.paused_with_parent) = (false, false);
        if let Some(verdict) = self.verdict.take() {
            self.status = verdict;
        } else if matches!(self.status, Status::Canceling { .. }) {
            self.status = Status::Canceled;
        } else if self.failure.is_some() {
            self.status = Status::Failed;
        } else {
            self.status = match self.execution_output() {
                Ok(output) => Status::Completed(output),
                Err(Thrown) => {
                    self.failure = Some((None, expression_error()));
                    Status::Failed
                }
            };
        }
    }

    /// What never started is skipped, what ran is canceled.
    fn end_everything(&mut self) {
        for id in self.ids() {
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
