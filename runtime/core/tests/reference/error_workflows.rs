//! §6 and ADR 0020: a failed execution starts the workflow that tells somebody, and ends when that has begun.

use serde_json::{Value, json};

use super::definition::node;
use super::retries::Failure;
use super::state::{Did, Reference, Refusal, Status};

impl Reference {
    /// What runs on behalf of a failure reports none of its own.
    pub(super) fn has_to_report(&self) -> bool {
        !self.handles_failure && self.error_workflow().is_some()
    }

    /// It has failed, and what it completed is undone: it ends when its error workflow has begun.
    pub(super) fn start_reporting(&mut self) {
        self.status = Status::Reporting;
        let workflow = self.error_workflow().expect("it has to report").to_owned();
        let input = self.failure_report();
        self.did.push(Did::Report { workflow, input });
    }

    /// The error workflow began, as this execution, or could not be started.
    pub fn reported(&mut self, at: i64, outcome: Result<String, Failure>) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if self.status != Status::Reporting {
            return Err(Refusal::Stale);
        }
        self.told_of_failure = Some(outcome);
        self.be_over(Status::Failed);
        self.conclude()
    }

    fn error_workflow(&self) -> Option<&str> {
        self.definition.settings.get("errorWorkflow").and_then(Value::as_str)
    }

    /// The execution fails because of a node as it stands, or by itself.
    pub(super) fn blame(&mut self, id: Option<&str>, error: Value) {
        self.blamed = id.map_or(Value::Null, |id| {
            let state = &self.nodes[id];
            json!({
                "id": id,
                "type": node(&self.definition, id).node_type,
                "visit": state.visit,
                "attempts": state.attempts,
                "input": state.input,
            })
        });
        self.failure = Some((id.map(str::to_owned), error));
    }

    /// As [`Self::blame`], unless something failed before.
    pub(super) fn blame_first(&mut self, id: Option<&str>, error: Value) {
        if self.failure.is_none() {
            self.blame(id, error);
        }
    }

    fn failure_report(&self) -> Value {
        let started = chrono::DateTime::from_timestamp_millis(self.created_at).expect("a time of the tests");
        let mut execution = json!({
            "id": self.id,
            "workflowId": self.definition.id,
            "version": self.definition.version,
            "run": self.run,
            "startTime": started.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        });
        if let Some(key) = &self.execution_key {
            execution["executionKey"] = json!(key);
        }
        if let Some(parent) = &self.parent {
            execution["parent"] = json!(parent);
        }
        let error = self.failure.as_ref().map(|(_, error)| error);
        let mut report = json!({
            "execution": execution,
            "error": error,
            "node": self.blamed,
            "input": self.payload,
        });
        if self.compensates() {
            report["compensations"] = self.compensation_report();
        }
        report
    }

    /// In the order in which they ran, which is that of the completions backwards.
    fn compensation_report(&self) -> Value {
        let tried = self.done.iter().rev().filter_map(|done| {
            let undoing = done.undoing.as_ref()?;
            let mut report = json!({
                "nodeId": done.node,
                "visit": done.visit,
                "status": undoing.phase.name(),
            });
            if let Some(error) = &undoing.error {
                report["error"] = json!({"code": error["code"], "message": error["message"]});
            }
            Some(report)
        });
        tried.collect()
    }
}
