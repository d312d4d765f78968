//! Commands of operators, deadlines, and the crash of an engine.

use crate::control::Clocks;
use crate::id::{NodeIx, Timestamp};
use crate::value::ErrorInfo;

use super::effect::ChildCommand;
use super::event::AttemptFailure;
use super::state::{AttemptRecord, CutOff, Deadline, Ending, ExecutionState, Phase, Status, Stop};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// How often crashes may interrupt one attempt before it fails.
const INTERRUPTIONS_MAX: usize = 10;

/// The earliest deadline in force: none of what is held, only the grace while canceling.
pub(super) fn earliest(state: &ExecutionState) -> Option<(Timestamp, Deadline)> {
    match state.status {
        Status::Canceling { until, .. } => Some((until, Deadline::CancelGrace)),
        Status::Running | Status::Failing if !state.is_held() => {
            let whole = state.execution_deadline.map(|at| (at, Deadline::Execution));
            let of_node = state.first_of_nodes();
            whole.into_iter().chain(of_node).min()
        }
        // The execution's own timeout has done what it could.
        Status::Compensating(_) if !state.is_held() => state.first_of_nodes(),
        Status::Pending | Status::Running | Status::Failing | Status::Compensating(_) | Status::Reporting => None,
        Status::Completed { .. } | Status::Failed | Status::Canceled { .. } => None,
    }
}

impl Tx<'_> {
    pub(super) fn pause_with_parent(&mut self, clocks: Clocks) -> Result<(), StepError> {
        let with_parent = self.state.paused_with_parent;
        if self.state.paused && !with_parent {
            // The operator's own pause stays what it is.
            return Err(StepError::Unchanged);
        }
        if with_parent && self.state.clocks_of_pause() == clocks {
            return Err(StepError::Unchanged);
        }
        self.pause(clocks)?;
        self.set_paused_with_parent(true);
        Ok(())
    }

    pub(super) fn resume_with_parent(&mut self) -> Result<(), StepError> {
        if !self.state.paused_with_parent {
            return Err(StepError::Unchanged);
        }
        self.resume()
    }

    /// Pauses, or changes what the clocks do during the pause that is there.
    pub(super) fn pause(&mut self, clocks: Clocks) -> Result<(), StepError> {
        let runs = matches!(
            self.state.status,
            Status::Pending | Status::Running | Status::Failing | Status::Compensating(_)
        );
        let stands_there = self.state.paused && self.state.clocks_of_pause() == clocks;
        // From now on it is the operator's pause.
        let takes_over = self.state.paused_with_parent;
        if !runs || stands_there && !takes_over {
            return Err(StepError::Unchanged);
        }
        self.set_paused_with_parent(false);
        if stands_there {
            return Ok(());
        }
        match clocks {
            Clocks::Run => self.thaw(),
            Clocks::Freeze => self.freeze(),
        }
        if !self.state.paused {
            self.set_paused(true);
            self.changed(Verb::ExecutionPaused);
        }
        let command = self.state.command_of_pause();
        self.tell_open_children(command);
        Ok(())
    }

    /// What fell due while paused is applied before anything is dispatched.
    pub(super) fn resume(&mut self) -> Result<(), StepError> {
        if !self.state.paused {
            return Err(StepError::Unchanged);
        }
        self.thaw();
        self.set_paused(false);
        self.set_paused_with_parent(false);
        self.changed(Verb::ExecutionResumed);
        self.apply_due()?;
        self.tell_open_children(ChildCommand::Resume);
        self.begin_held_children()
    }

    /// Applies deadlines in due order; refused when none is due.
    pub(super) fn deadline_reached(&mut self) -> Result<(), StepError> {
        match earliest(self.state) {
            Some((due, _)) if due <= self.at => self.apply_due(),
            _ => Err(StepError::NotDue),
        }
    }

    pub(super) fn apply_due(&mut self) -> Result<(), StepError> {
        while let Some((due, deadline)) = earliest(self.state) {
            // Where no node is open the execution is over: its own timeout, due later, does not fail it after all.
            if due > self.at || self.state.open_nodes == 0 {
                break;
            }
            if matches!(deadline, Deadline::Turn(_)) && !self.may_turn() {
                break;
            }
            self.apply_deadline(deadline)?;
            self.settle()?;
        }
        Ok(())
    }

    fn apply_deadline(&mut self, deadline: Deadline) -> Result<(), StepError> {
        match deadline {
            Deadline::Execution => {
                self.note_failure(
                    None,
                    ErrorInfo::new("EXECUTION_TIMEOUT", "the execution's timeout passed"),
                );
                self.end_everything();
                self.end_as(Ending::Failed)
            }
            Deadline::CancelGrace => {
                self.end_everything();
                self.end_canceled()
            }
            Deadline::Join(ix) => match self.planned(ix).join.timeout {
                Some((_, then)) => self.join_timed_out(ix, then),
                None => Err(StepError::Corrupt("a join without a timeout was due")),
            },
            Deadline::Delay(ix) => self.complete_delay(ix),
            Deadline::Retry(ix) => {
                self.hold(ix);
                Ok(())
            }
            Deadline::Turn(ix) => self.turn(ix),
            Deadline::Wait(ix) => self.waited_long_enough(ix),
            Deadline::NodeTotal(ix) => {
                if let Phase::Running { token } = self.node(ix).phase {
                    self.abort_attempt(token);
                }
                self.cancel_children(ix);
                self.fail(ix, ErrorInfo::new("TIMEOUT", "the node's total timeout passed"))
            }
        }
    }

    /// Cancels: what runs is asked to stop and has the grace to do so.
    pub(super) fn cancel(&mut self, reason: Option<&str>, grace_ms: u64, at_once: bool) -> Result<(), StepError> {
        let reason = reason.map(str::to_owned);
        match (&self.state.status, at_once) {
            // It is meant to end, and whoever would resume it may be gone: a parent that waits for it no longer.
            (Status::Compensating(_), false) if self.state.paused => return self.resume(),
            (Status::Canceling { .. } | Status::Compensating(_) | Status::Reporting, false) => {
                return Err(StepError::Unchanged);
            }
            (Status::Reporting, true) => {
                self.end(Status::Failed, Verb::ExecutionFailed);
                return Ok(());
            }
            _ => {}
        }
        self.set_status(Status::Canceling {
            until: self.at.plus_ms(grace_ms),
            reason,
        });
        if at_once {
            self.give_up_compensating();
            self.end_everything();
        } else {
            for ix in self.every_open_node() {
                match self.node(ix).phase {
                    Phase::Running { token } => {
                        self.abort_attempt(token);
                        self.update(ix, |node| {
                            node.phase = Phase::Canceling { token };
                            node.cut_off = Some(CutOff::WithExecution);
                            node.total_deadline = None;
                        });
                    }
                    _ => self.end_open_node(ix),
                }
            }
        }
        Ok(())
    }

    /// Ends every open node: the execution ends with them. Their edges are dead.
    pub(super) fn end_everything(&mut self) {
        for ix in self.every_open_node() {
            self.end_open_node(ix);
        }
    }

    /// Ends a node with its execution: what never started is skipped, what ran is canceled.
    pub(super) fn end_open_node(&mut self, ix: NodeIx) {
        self.cut_off(ix);
        let node = self.node(ix);
        match node.phase {
            Phase::Pending => self.skip(ix),
            Phase::Ready if node.attempts.is_empty() => self.skip(ix),
            _ => self.cancel_node(ix),
        }
    }

    /// Remembers of a node that ends now that it might have gone on.
    pub(super) fn cut_off(&mut self, ix: NodeIx) {
        self.update(ix, |node| node.cut_off = Some(CutOff::WithExecution));
    }

    fn every_open_node(&self) -> Vec<NodeIx> {
        let nodes = self
            .state
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.phase.is_terminal());
        nodes
            .map(|(place, _)| NodeIx(u32::try_from(place).unwrap_or(u32::MAX)))
            .collect()
    }

    pub(super) fn end_canceled(&mut self) -> Result<(), StepError> {
        let reason = match &self.state.status {
            Status::Canceling { reason, .. } => reason.clone(),
            _ => None,
        };
        self.end_as(Ending::Canceled { reason })
    }

    /// The execution ends so; before, what it completed is undone, and after a failure its error workflow started.
    pub(super) fn end_as(&mut self, ending: Ending) -> Result<(), StepError> {
        if self.has_to_compensate() {
            self.start_compensating(ending);
            return Ok(());
        }
        match ending {
            Ending::Failed if self.has_to_report() => self.start_reporting(),
            Ending::Failed => {
                self.end(Status::Failed, Verb::ExecutionFailed);
                Ok(())
            }
            Ending::Canceled { reason } => {
                self.end(Status::Canceled { reason }, Verb::ExecutionCanceled);
                Ok(())
            }
        }
    }

    /// The execution is over.
    pub(super) fn end(&mut self, status: Status, verb: Verb) {
        self.set_status(status);
        if self.state.paused {
            self.set_paused(false);
            self.set_paused_with_parent(false);
        }
        self.set_ended();
        self.changed(verb);
        self.finish();
    }

    /// The engine that ran the outstanding attempts is gone. The same attempts are dispatched again; one that crashes
    /// interrupted too often has failed, and its policy decides.
    pub(super) fn interrupted(&mut self, stop: Stop) -> Result<(), StepError> {
        let running: Vec<NodeIx> = self.state.running.iter().copied().collect();
        if running.is_empty() {
            return Err(StepError::Unchanged);
        }
        for ix in running {
            // An earlier interruption of this step may have failed the execution fast and canceled this node.
            if self.node(ix).phase.is_terminal() {
                continue;
            }
            let message = match stop {
                Stop::Crash => "the engine stopped while the attempt ran",
                Stop::Planned => "the engine was shut down while the attempt ran",
            };
            let error = ErrorInfo::new("INTERRUPTED", message);
            let (node, at) = (self.node(ix), self.at);
            let is_canceling = matches!(node.phase, Phase::Canceling { .. });
            let is_too_often = !is_canceling && stop == Stop::Crash && node.crashes_of_attempt() >= INTERRUPTIONS_MAX;
            let record = AttemptRecord {
                attempt: node.next_attempt(),
                started_at: node.dispatched_at.unwrap_or(at),
                ended_at: at,
                error: Some(Box::new(error.clone())),
                output: None,
                cut_short: (!is_too_often).then_some(stop),
            };
            self.update(ix, |node| {
                node.attempts.push(record);
                node.interruptions += u32::from(stop == Stop::Crash);
            });
            self.changed_node(Verb::NodeInterrupted, ix);
            if is_canceling {
                self.end_canceled_node(ix);
            } else if is_too_often {
                let failure = AttemptFailure {
                    error,
                    retryable: true,
                    retry_after_ms: None,
                };
                self.attempt_failed(ix, &failure)?;
            } else {
                self.hold(ix);
            }
        }
        Ok(())
    }
}
