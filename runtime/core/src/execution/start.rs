//! The first entry: which roots fire, and with what.

use crate::id::NodeIx;
use crate::plan::Trigger;
use crate::value::ErrorInfo;

use super::event::{Answer, Started};
use super::scope::Question;
use super::state::Status;
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

impl Tx<'_> {
    /// Creates and starts the execution. The caller replaces the state by a new one if this is refused.
    pub(super) fn started(&mut self, started: &Started) -> Result<(), StepError> {
        if self.state.seq.0 != 0 || self.state.status != Status::Pending || self.state.id != started.id {
            return Err(StepError::Corrupt("only a pending execution can start"));
        }
        if started.workflow != self.plan.workflow || started.version != self.plan.version {
            return Err(StepError::Corrupt("the plan is of another workflow version"));
        }
        let fires = self.firing_roots(started)?;
        let (settings, at) = (&self.plan.settings, self.at);
        let state = &mut *self.state;
        state.started_at = at;
        state.input = started.input.clone();
        state.metadata.clone_from(&started.metadata);
        state.execution_key.clone_from(&started.execution_key);
        state.request_key.clone_from(&started.request_key);
        state.key_ordinal = started.key_ordinal;
        state.priority = started.priority.unwrap_or(settings.priority);
        state.execution_deadline = settings.timeout_ms.map(|ms| at.plus_ms(ms));
        state.variables.clone_from(&settings.variables);
        state.variables.extend(started.variables.iter().cloned());
        if settings.input_schema.is_some()
            && let Answer::Threw(error) = self.ask(Question::StartSchema, Some(&started.input), None, None)?
        {
            return Err(StepError::Refused(error));
        }
        self.set_status(Status::Running);
        self.changed(Verb::ExecutionCreated);
        self.changed(Verb::ExecutionStarted);
        for ix in self.plan.roots.clone() {
            // A root's failure may already have ended the others.
            if self.node(ix).phase.is_terminal() {
                continue;
            }
            if fires.contains(&ix) {
                self.ready(ix)?;
            } else {
                self.skip(ix);
            }
        }
        Ok(())
    }

    /// A start that names a trigger fires it and every root that is none; one that names none fires all roots but those
    /// that something else fires, and all where that leaves nothing.
    fn firing_roots(&self, started: &Started) -> Result<Vec<NodeIx>, StepError> {
        let roots = &self.plan.roots;
        if let Some(name) = &started.trigger {
            let named = self
                .plan
                .node_ix(name)
                .filter(|ix| roots.contains(ix) && self.planned(*ix).trigger.is_some());
            let Some(named) = named else {
                let message = format!("the workflow has no trigger `{name}`");
                return Err(StepError::Refused(Box::new(ErrorInfo::new("UNKNOWN_TRIGGER", message))));
            };
            let fires = |ix: &NodeIx| *ix == named || self.planned(*ix).trigger.is_none();
            return Ok(roots.iter().copied().filter(fires).collect());
        }
        let fires = |ix: &NodeIx| match self.planned(*ix).trigger {
            None | Some(Trigger::Manual | Trigger::Api) => true,
            Some(Trigger::Scheduled | Trigger::Event | Trigger::Webhook) => false,
        };
        let chosen: Vec<NodeIx> = roots.iter().copied().filter(fires).collect();
        Ok(if chosen.is_empty() { roots.clone() } else { chosen })
    }
}
