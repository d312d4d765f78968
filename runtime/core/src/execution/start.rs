//! The first entry: which roots fire, and with what.

use crate::id::NodeIx;
use crate::plan::Trigger;
use crate::value::{ErrorInfo, Json, Value};

use super::effect::Effect;
use super::event::{Answer, Started};
use super::rerun::{Rerun, RerunOf};
use super::scope::Question;
use super::state::{Phase, Room, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Length of what `settings.concurrency.key` may give, as JSON.
const ROOM_KEY_BYTES_MAX: usize = 1_024;

impl Tx<'_> {
    /// Creates and starts the execution. The caller replaces the state by a new one if this is refused.
    pub(super) fn started(&mut self, started: &Started) -> Result<(), StepError> {
        self.create(started)?;
        self.fire_roots(started.trigger.as_deref(), started.rerun.as_deref())
    }

    /// Creates the execution, which waits until it may run. The caller replaces the state by a new one if this is refused.
    pub(super) fn queued(&mut self, started: &Started) -> Result<(), StepError> {
        if started.rerun.is_some() {
            return Err(StepError::Corrupt("a rerun does not wait"));
        }
        self.create(started)?;
        let key = self.room_key(&started.input)?;
        let trigger = started.trigger.clone();
        self.state.room = Some(Box::new(Room { key, trigger }));
        self.carry_out(Effect::AskForRoom);
        Ok(())
    }

    /// It may run.
    pub(super) fn admitted(&mut self) -> Result<(), StepError> {
        if self.state.status != Status::Pending {
            return Err(StepError::Unchanged);
        }
        let trigger = self.state.room.as_ref().and_then(|room| room.trigger.clone());
        self.fire_roots(trigger.as_deref(), None)
    }

    fn create(&mut self, started: &Started) -> Result<(), StepError> {
        if self.state.seq.0 != 0 || self.state.status != Status::Pending || self.state.id != started.id {
            return Err(StepError::Corrupt("only a pending execution can start"));
        }
        if started.workflow != self.plan.workflow || started.version != self.plan.version {
            return Err(StepError::Corrupt("the plan is of another workflow version"));
        }
        self.firing_roots(started.trigger.as_deref())?;
        let (settings, at) = (&self.plan.settings, self.at);
        let state = &mut *self.state;
        state.started_at = at;
        state.input = started.input.clone();
        state.metadata.clone_from(&started.metadata);
        state.execution_key.clone_from(&started.execution_key);
        state.request_key.clone_from(&started.request_key);
        state.key_ordinal = started.key_ordinal;
        state.parent = started.parent;
        state.trigger.clone_from(&started.trigger);
        state.trace_parent.clone_from(&started.trace_parent);
        state.rerun_of = started.rerun.as_ref().map(|rerun| {
            Box::new(RerunOf {
                execution: rerun.of,
                from: rerun.from,
                input: None,
            })
        });
        state.handles_failure_of = started.handles_failure_of;
        state.priority = started.priority.unwrap_or(settings.priority);
        state.variables.clone_from(&settings.variables);
        state.variables.extend(started.variables.iter().cloned());
        if let Some(controls) = &started.controls {
            self.begin_under(controls);
        }
        if settings.input_schema.is_some()
            && let Answer::Threw(error) = self.ask(Question::StartSchema, Some(&started.input), None, None)?
        {
            return Err(StepError::Refused(error));
        }
        self.changed(Verb::ExecutionCreated);
        Ok(())
    }

    /// A start whose key cannot be told is refused: it would run beside those that it must not.
    fn room_key(&mut self, input: &Value) -> Result<Json, StepError> {
        let limit = self.plan.settings.concurrency.as_ref();
        if limit.is_none_or(|limit| limit.key.is_none()) {
            return Ok(Json::null());
        }
        let refused = |what: &str| {
            let message = format!("`settings.concurrency.key` gave {what}");
            Err(StepError::Refused(Box::new(ErrorInfo::new(
                "EXPRESSION_ERROR",
                message,
            ))))
        };
        match self.ask_value(Question::RoomKey, Some(input), None)? {
            Err(error) => Err(StepError::Refused(Box::new(error))),
            Ok(Value::Inline(key)) if key.as_str() == "null" => refused("nothing"),
            Ok(Value::Inline(key)) if key.bytes() <= ROOM_KEY_BYTES_MAX => Ok(key),
            Ok(Value::Inline(_) | Value::Blob(_) | Value::Composed(_)) => {
                refused(&format!("more than {ROOM_KEY_BYTES_MAX} bytes"))
            }
        }
    }

    /// The execution runs from now on.
    fn fire_roots(&mut self, trigger: Option<&str>, rerun: Option<&Rerun>) -> Result<(), StepError> {
        let fires = self.firing_roots(trigger)?;
        // By its own clock: it may stand already when the execution is admitted.
        let deadline = self.plan.settings.timeout_ms.map(|ms| self.clock().plus_ms(ms));
        self.set_execution_deadline(deadline);
        self.set_status(Status::Running);
        self.changed(Verb::ExecutionStarted);
        if let Some(rerun) = rerun {
            self.take_over(rerun)?;
            self.run_from(rerun)?;
        }
        for ix in self.plan.roots.clone() {
            // A root's failure may already have ended the others.
            if self.node(ix).phase != Phase::Pending {
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
    fn firing_roots(&self, trigger: Option<&str>) -> Result<Vec<NodeIx>, StepError> {
        let roots = &self.plan.roots;
        if let Some(name) = trigger {
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
