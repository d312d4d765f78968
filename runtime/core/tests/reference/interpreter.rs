//! The stimuli that move an execution.

use serde_json::{Value, json};
use troupe_core::definition::Node;

use super::children::Tell;
use super::compensations::UNDOES;
use super::definition::{firing_roots, is_trigger};
use super::language;
use super::loops::roots;
use super::retries::Failure;
use super::state::{Did, NodeState, Phase, Reference, Refusal, Status};

/// Past so many interruptions an attempt fails (§4).
pub(super) const INTERRUPTIONS_MAX: u32 = 10;

impl Reference {
    pub fn start(
        &mut self,
        at: i64,
        trigger: Option<&str>,
        input: Value,
        variables: &[(String, Value)],
    ) -> Result<Vec<Did>, Refusal> {
        self.create(at, trigger, input, variables)?;
        self.begin_running();
        self.fire_roots(trigger)
    }

    /// It waits until it may run (`settings.concurrency`).
    pub fn queue(
        &mut self,
        at: i64,
        trigger: Option<&str>,
        input: Value,
        variables: &[(String, Value)],
    ) -> Result<Vec<Did>, Refusal> {
        self.create(at, trigger, input, variables)?;
        let limit = self.definition.settings.get("concurrency");
        if let Some(key) = limit.and_then(|limit| limit["key"].as_str()) {
            let scope = self.scope(None, &[("input", &self.payload)]);
            if language::evaluate(key, &scope).is_ok_and(|key| !key.is_null()) {
                self.queued = Some(trigger.map(str::to_owned));
                return Ok(Vec::new());
            }
            return Err(Refusal::Refused("EXPRESSION_ERROR"));
        }
        self.queued = Some(trigger.map(str::to_owned));
        Ok(Vec::new())
    }

    /// It may run, and its timeout begins.
    pub fn admitted(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let Some(trigger) = self.queued.take().filter(|_| self.status == Status::Pending) else {
            return Err(Refusal::Unchanged);
        };
        self.begin_running();
        self.fire_roots(trigger.as_deref())
    }

    /// Whether a start may name the node as its trigger.
    pub(super) fn may_name(&self, id: &str) -> bool {
        let named = |node: &&Node| node.id == id;
        let node = self.definition.nodes.iter().find(named);
        node.is_some_and(|node| is_trigger(&self.definition, node))
    }

    pub(super) fn create(
        &mut self,
        at: i64,
        trigger: Option<&str>,
        input: Value,
        variables: &[(String, Value)],
    ) -> Result<(), Refusal> {
        let schema = self
            .definition
            .settings
            .get("inputSchema")
            .cloned()
            .unwrap_or(Value::Null);
        if trigger.is_some_and(|id| !self.may_name(id)) {
            return Err(Refusal::Refused("UNKNOWN_TRIGGER"));
        }
        if !language::meets(&schema, &input) {
            return Err(Refusal::Refused("SCHEMA_VIOLATION"));
        }
        let defaults = self
            .definition
            .settings
            .get("variables")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        self.variables = defaults.into_iter().chain(variables.iter().cloned()).collect();
        (self.at, self.created_at, self.payload) = (at, at, input);
        self.trigger = trigger.map(str::to_owned);
        self.begin_clocks(self.in_force());
        Ok(())
    }

    pub(super) fn fire_roots(&mut self, trigger: Option<&str>) -> Result<Vec<Did>, Refusal> {
        let firing = firing_roots(&self.definition, trigger);
        for id in roots(&self.definition) {
            // A root before it may have canceled it or ended the execution; a rerun may have taken it over or begun with it.
            if self.nodes[&id].phase != Phase::Pending {
                continue;
            }
            if firing.contains(&id) {
                self.become_ready(&id);
            } else {
                self.skip(&id);
            }
        }
        self.conclude()
    }

    /// The outstanding attempt of a node completed with a value or failed.
    pub fn report(&mut self, at: i64, id: &str, outcome: Result<Value, Failure>) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if id.ends_with(UNDOES) {
            return self.undoing_reported(outcome);
        }
        self.set(id).attempts += 1;
        match (self.nodes[id].phase, outcome) {
            (Phase::Canceling, outcome) => {
                self.set(id).failed.extend(outcome.err().map(|failure| failure.code));
                self.cancel_node(id);
            }
            (Phase::Running, Ok(output)) => self.complete(id, output),
            (Phase::Running, Err(failure)) => self.fail_attempt(id, failure),
            (phase, _) => panic!("{id} is {phase:?}: no attempt to report of"),
        }
        self.conclude()
    }

    /// Applies every deadline that is due, in due order.
    pub fn deadline(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if self.next_deadline().is_none_or(|due| due > at) {
            return Err(Refusal::NotDue);
        }
        self.apply_due();
        self.conclude()
    }

    pub fn pause(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.pause_with(at, false)
    }

    /// Pauses, and clocks stand still.
    pub fn pause_and_freeze(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.pause_with(at, true)
    }

    /// Pauses, or changes what clocks do during the pause that is there.
    pub(super) fn pause_with(&mut self, at: i64, freezes: bool) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let stands_there = self.paused && self.is_frozen_by_itself() == freezes;
        if matches!(self.status, Status::Canceling { .. } | Status::Reporting)
            || (stands_there && !self.paused_with_parent)
        {
            return Err(Refusal::Unchanged);
        }
        (self.paused, self.paused_with_parent) = (true, false);
        if !stands_there {
            self.freeze(freezes);
            self.tell_children(if freezes { Tell::Freeze } else { Tell::Pause });
        }
        self.conclude()
    }

    pub fn resume(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if !self.paused {
            return Err(Refusal::Unchanged);
        }
        (self.paused, self.paused_with_parent) = (false, false);
        self.freeze(false);
        self.apply_due();
        self.tell_children(Tell::Resume);
        self.look_after_all();
        self.conclude()
    }

    pub fn cancel(&mut self, at: i64, grace_ms: i64, at_once: bool) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if matches!(self.status, Status::Undoing(_)) && !at_once && self.paused {
            return self.resume(at);
        }
        if matches!(
            self.status,
            Status::Canceling { .. } | Status::Undoing(_) | Status::Reporting
        ) && !at_once
        {
            return Err(Refusal::Unchanged);
        }
        if self.status == Status::Reporting {
            self.be_over(Status::Failed);
            return self.conclude();
        }
        if at_once {
            self.give_up_undoing();
        }
        self.status = Status::Canceling { until: at + grace_ms };
        for id in self.ids() {
            self.cut_off(&id);
            match self.nodes[&id].phase {
                Phase::Pending => self.skip(&id),
                Phase::Ready if !self.nodes[&id].ran => self.skip(&id),
                Phase::Ready
                | Phase::Backoff { .. }
                | Phase::Delaying { .. }
                | Phase::Waiting { .. }
                | Phase::Parenting => self.cancel_node(&id),
                Phase::Running => {
                    self.did.push(Did::Abort { node: id.clone() });
                    self.set(&id).phase = Phase::Canceling;
                }
                Phase::Canceling => self.did.push(Did::Abort { node: id.clone() }),
                Phase::Completed | Phase::Failed | Phase::Skipped | Phase::Canceled => {}
            }
            if at_once && self.nodes[&id].phase == Phase::Canceling {
                self.cancel_node(&id);
            }
        }
        self.conclude()
    }

    /// The engine that ran the outstanding attempts is gone; a planned stop does not count.
    pub fn interrupted(&mut self, at: i64, counts: bool) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let runs = |node: &NodeState| matches!(node.phase, Phase::Running | Phase::Canceling);
        if !self.nodes.values().chain(self.under_way()).any(runs) {
            return Err(Refusal::Unchanged);
        }
        self.interrupt_undoing(counts);
        for id in self.ids() {
            match self.nodes[&id].phase {
                Phase::Canceling => {
                    self.set(&id).interruptions += u32::from(counts);
                    self.cancel_node(&id);
                }
                Phase::Running => {
                    self.set(&id).interruptions += u32::from(counts);
                    self.set(&id).interruptions_of_attempt += u32::from(counts);
                    if self.nodes[&id].interruptions_of_attempt > INTERRUPTIONS_MAX {
                        self.set(&id).attempts += 1;
                        self.fail_attempt(&id, failure("INTERRUPTED"));
                    } else {
                        self.hold(&id);
                    }
                }
                _ => {}
            }
        }
        self.conclude()
    }

    /// Fixes when the next attempt of a node starts; false if that is not lawful.
    pub fn settle_backoff(&mut self, id: &str, until: i64) -> bool {
        let Phase::Backoff { earliest, latest } = self.nodes[id].phase else {
            return false;
        };
        let lawful = (earliest..=latest).contains(&until);
        self.set(id).phase = Phase::Backoff {
            earliest: until,
            latest: until,
        };
        lawful
    }

    pub(super) fn alive(&mut self, at: i64) -> Result<(), Refusal> {
        self.at = at;
        if self.is_over() {
            return Err(Refusal::Ended);
        }
        self.account();
        Ok(())
    }
}

/// A failure that the engine itself finds; what it says of it for people is its own affair.
pub(super) fn failure(code: &str) -> Failure {
    Failure {
        code: code.into(),
        message: String::new(),
        details: None,
        retryable: true,
        retry_after_ms: None,
    }
}

/// The error of an expression that threw.
pub(super) fn expression_error() -> Value {
    json!({"message": language::THROWN, "code": "EXPRESSION_ERROR"})
}
