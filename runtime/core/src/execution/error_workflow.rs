//! The workflow that is started when an execution fails: `settings.errorWorkflow`. See ADR 0020.

use minicbor::{Decode, Encode};
use serde_json::{Value as JsonValue, json};

use crate::id::{ExecutionId, NodeIx, Visit, WorkflowId};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Value};

use super::effect::Effect;
use super::state::{ExecutionState, Failure, NodeState, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// What became of an error workflow.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ErrorWorkflow {
    /// It was started: its execution.
    #[n(0)]
    Began(#[n(0)] ExecutionId),
    /// It cannot be started.
    #[n(1)]
    Refused(#[n(0)] ErrorInfo),
}

/// An error workflow to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartErrorWorkflow {
    /// Which workflow, in its latest version.
    pub workflow: WorkflowId,
    /// Its start payload.
    pub input: Value,
}

/// A visit in which a node failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FailedVisit {
    /// Its number.
    #[n(0)]
    pub visit: Visit,
    /// Attempts that ended by themselves.
    #[n(1)]
    pub attempts: u32,
    /// What the node received.
    #[n(2)]
    pub input: Value,
}

impl Tx<'_> {
    /// Why the execution fails: a node as it stands, or the execution itself.
    pub(super) fn failure_of(&self, node: Option<NodeIx>, error: ErrorInfo) -> Failure {
        let visit = node.filter(|_| self.has_to_report());
        let visit = visit.map(|ix| Box::new(self.state.visit_of(self.plan, ix)));
        Failure { node, error, visit }
    }

    /// An execution that handles a failure itself starts no error workflow, nor does a child of one: so their number is bounded.
    pub(super) fn has_to_report(&self) -> bool {
        self.plan.settings.error_workflow.is_some() && self.state.handles_failure_of.is_none()
    }

    /// The execution has failed, and ends when its error workflow has begun.
    pub(super) fn start_reporting(&mut self) -> Result<(), StepError> {
        self.set_status(Status::Reporting);
        let Some(start) = self.state.error_workflow_to_start(self.plan) else {
            return Err(StepError::Corrupt("there is no error workflow to start"));
        };
        self.carry_out(Effect::StartErrorWorkflow(start));
        Ok(())
    }

    pub(super) fn reported(&mut self, outcome: &ErrorWorkflow) -> Result<(), StepError> {
        if self.state.status != Status::Reporting {
            return Err(StepError::Stale);
        }
        self.set_error_workflow(outcome.clone());
        self.end(Status::Failed, Verb::ExecutionFailed);
        Ok(())
    }
}

impl ExecutionState {
    /// The error workflow that is being started, also again.
    #[must_use]
    pub fn error_workflow_to_start(&self, plan: &Plan) -> Option<StartErrorWorkflow> {
        let workflow = plan.settings.error_workflow.clone();
        let workflow = workflow.filter(|_| self.status == Status::Reporting)?;
        let input = self.failure_report(plan);
        Some(StartErrorWorkflow { workflow, input })
    }

    /// `{execution, error, node, input, compensations}`: what an error workflow receives.
    fn failure_report(&self, plan: &Plan) -> Value {
        let failure = self.failure.as_deref();
        let execution = Value::from(self.execution_report());
        let error = failure.map_or_else(Value::null, |failure| Value::Inline(failure.error.to_json()));
        let node = failure.and_then(|failure| failure.node);
        let node = node.map_or_else(Value::null, |ix| {
            let visit = failure.and_then(|failure| failure.visit.as_deref().cloned());
            self.node_report(plan, ix, visit.unwrap_or_else(|| self.visit_of(plan, ix)))
        });
        let compensations = plan.settings.compensates;
        let compensations = compensations.then(|| Value::from(self.compensation_report(plan)));
        let members = [
            ("execution", &execution),
            ("error", &error),
            ("node", &node),
            ("input", &self.input),
        ];
        let compensations = compensations.as_ref().map(|report| ("compensations", report));
        Value::object(members.into_iter().chain(compensations))
    }

    /// A node in its latest visit.
    fn visit_of(&self, plan: &Plan, ix: NodeIx) -> FailedVisit {
        let node = &self.nodes[ix.at()];
        FailedVisit {
            visit: node.visit,
            attempts: attempts(node),
            input: self.input_of(plan, ix),
        }
    }

    fn node_report(&self, plan: &Plan, ix: NodeIx, failed: FailedVisit) -> Value {
        let planned = plan.node(ix);
        let described = [
            ("id", json!(planned.key.as_str())),
            ("type", json!(planned.kind.as_str())),
            ("visit", json!(failed.visit.0)),
            ("attempts", json!(failed.attempts)),
        ]
        .map(|(name, value)| (name, Value::from(value)));
        let members = described.iter().map(|(name, value)| (*name, value));
        Value::object(members.chain([("input", &failed.input)]))
    }

    fn execution_report(&self) -> JsonValue {
        let started = chrono::DateTime::from_timestamp_millis(self.started_at.0);
        let mut execution = json!({
            "id": self.id.to_string(),
            "workflowId": self.workflow.as_str(),
            "version": self.version,
            "run": self.run.0,
            "startTime": started.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        });
        if let Some(key) = &self.execution_key {
            execution["executionKey"] = key.as_str().into();
        }
        if let Some(parent) = self.parent {
            execution["parent"] = parent.execution.to_string().into();
        }
        execution
    }

    /// What was undone, in the order in which that was tried.
    fn compensation_report(&self, plan: &Plan) -> JsonValue {
        let visits = self.compensations.iter().flat_map(|all| all.visits.iter().rev());
        let reports = visits.filter_map(|visit| {
            let compensation = visit.compensation.as_ref()?;
            let mut report = json!({
                "nodeId": plan.node(visit.node).key.as_str(),
                "visit": visit.visit.0,
                "status": compensation.phase.name(),
            });
            if let Some(failure) = &compensation.failure {
                report["error"] = json!({"code": failure.error.code, "message": failure.error.message});
            }
            Some(report)
        });
        reports.collect()
    }
}

/// Attempts that ended by themselves.
fn attempts(node: &NodeState) -> u32 {
    let ended = node.attempts.iter().filter(|record| !record.was_interrupted());
    u32::try_from(ended.count()).unwrap_or(u32::MAX)
}
