//! The attempts' shell: waits for leave to run, the lease and its turn, takes effect, and reports sooner or later, or never.

use std::sync::Arc;

use troupe_actors::attempt::machine::Turn;
use troupe_actors::controls::ShardControls;
use troupe_actors::execution::machine::Dispatch;
use troupe_core::execution::{AttemptClosed, AttemptFailure, AttemptOutcome};
use troupe_core::{BlobRef, ErrorInfo, Json, Token};
use troupe_ports::StateStore;

use super::awaited::Awaited;
use super::breakers::Guarded;
use super::limits::Place;
use super::process::{ActorNo, Attempt, ExecutionMessage, ProcessNo, Stage};
use super::schedule::{Ending, Timed};
use super::{World, at_once, drawn};
use crate::crash::Record;
use crate::crash::checkers::key_of;

/// Pause before a lease that has lapsed is looked at again.
const LEASE_POLL_MS: u64 = 20;
/// How long an aborted attempt may take to stop.
const ABORT_GRACE_MS: u64 = 1_000;
/// Bytes of an output that makes snapshots become due.
const LARGE_BYTES: usize = 6_000;

impl World {
    pub(super) fn spawn_attempt(&mut self, process: ProcessNo, actor: ActorNo, dispatch: Dispatch) {
        let (number, now) = (self.number(), self.now);
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get_mut(&actor) else {
            return;
        };
        let Some(machine) = &execution.machine else { return };
        let token = dispatch.start.token;
        let planned = machine.compiled().plan.node(token.node);
        let data = |name: &str| planned.data.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let root = machine.state().blob_root();
        let content = |blob: &BlobRef| at_once(self.store.blob(root?, blob.hash)).ok().flatten();
        let input = match dispatch.start.input.document(&content) {
            Ok(input) => input.as_str().to_owned(),
            Err(missing) => {
                let (id, node) = (execution.id, planned.key.to_string());
                return self.trouble(format!("{id}: {node} is given a value that is nowhere: {missing:?}"));
            }
        };
        let attempt = Attempt {
            actor,
            id: execution.id,
            token,
            node: key_of(&machine.compiled().plan, token.node),
            handler: planned
                .data
                .get("handlerId")
                .and_then(|id| id.as_str())
                .unwrap_or_default()
                .to_owned(),
            sleep_ms: data("sleepMs"),
            fail_first: data("failFirst"),
            fail_odds: data("failOdds"),
            timeout_ms: planned.attempt_timeout_ms,
            input,
            gate: Default::default(),
            guarded: Guarded::of(planned),
            plan: Arc::clone(&machine.compiled().plan),
            door: None,
            place: Place::of(&machine.compiled().plan, machine.state(), token.node),
            stage: Stage::Queued,
            canceled: false,
            notified: false,
        };
        execution.attempts.push((token, number, now));
        state.attempts.insert(number, attempt);
        self.count("attempts");
        self.begin_queue(process, number);
    }

    /// Attempts of an execution that truly run.
    pub(super) fn running_attempts(&self, process: ProcessNo, actor: ActorNo) -> u32 {
        let Some(state) = self.processes.get(&process) else {
            return 0;
        };
        let running = state
            .attempts
            .values()
            .filter(|attempt| attempt.actor == actor && attempt.gate.runs());
        u32::try_from(running.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn abort_attempt(&mut self, process: ProcessNo, actor: ActorNo, token: Token) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(execution) = state.executions.get(&actor) else {
            return;
        };
        let aborted: Vec<u64> = execution
            .attempts
            .iter()
            .filter(|(known, ..)| *known == token)
            .map(|(_, number, _)| *number)
            .collect();
        for number in aborted {
            let Some(state) = self.processes.get_mut(&process) else {
                return;
            };
            let Some(attempt) = state.attempts.get_mut(&number) else {
                continue;
            };
            attempt.gate.abort();
            attempt.canceled = true;
            attempt.notified = true;
            if let Stage::Running(_) = attempt.stage {
                // Some handlers stop when asked, the others when they are done or when the grace is over.
                let wait_ms = if self.random.once_in(2) {
                    self.random.below(5)
                } else {
                    ABORT_GRACE_MS
                };
                self.after(wait_ms, Timed::AttemptEnds(process, number, Ending::Canceled));
            }
        }
    }

    pub(super) fn drop_attempts(&mut self, process: ProcessNo, actor: ActorNo) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.attempts.retain(|_, attempt| attempt.actor != actor);
    }

    pub(super) fn attempt_step(&mut self, process: ProcessNo, number: u64) {
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(attempt) = state.attempts.get_mut(&number) else {
            return;
        };
        attempt.notified = false;
        match attempt.stage {
            Stage::Running(_) => return,
            Stage::Held => return attempt.stage = Stage::Queued,
            Stage::Barred => return self.at_the_door(process, number),
            Stage::Parked => return self.parked_step(process, number),
            Stage::Queued if !attempt.place.comes(&state.limits) => {
                if attempt.canceled {
                    self.never_started(process, number, "CANCELED");
                }
                return;
            }
            Stage::Queued => attempt.stage = Stage::Leasing,
            Stage::Leasing => {}
        }
        let serving = state.shards.get(&attempt.id.shard());
        let Some(serving) = serving.filter(|serving| now < serving.lease_until) else {
            return self.after(LEASE_POLL_MS, Timed::AttemptPoll(process, number));
        };
        if attempt.is_parked(&state.guards.breakers) {
            return self.count("parked");
        }
        let (plan, node) = (&attempt.plan, attempt.token.node);
        let Some(turn) = serving.controls.in_force.enter(plan, node, || attempt.gate.start()) else {
            attempt.bar(&serving.controls.in_force);
            return self.count("held at the door");
        };
        match turn {
            Turn::Start => self.take_effect(process, number),
            Turn::Aborted => self.never_started(process, number, "CANCELED"),
            Turn::Hold => {
                attempt.stage = Stage::Held;
                attempt.place.gives_back();
                attempt.guarded.gives_back();
                self.count("held attempts");
            }
        }
    }

    /// A control held it: it may be let pass now, or was aborted.
    fn at_the_door(&mut self, process: ProcessNo, number: u64) {
        let state = self.processes.get_mut(&process);
        let Some(attempt) = state.and_then(|state| state.attempts.get_mut(&number)) else {
            return;
        };
        if attempt.canceled {
            return self.never_started(process, number, "CANCELED");
        }
        if attempt.door.as_mut().and_then(Awaited::poll).is_some() {
            (attempt.door, attempt.stage) = (None, Stage::Queued);
        }
    }

    pub(super) fn attempt_poll(&mut self, process: ProcessNo, number: u64) {
        let attempt = self
            .processes
            .get_mut(&process)
            .and_then(|state| state.attempts.get_mut(&number));
        if let Some(attempt) = attempt {
            attempt.notified = true;
        }
    }

    fn take_effect(&mut self, process: ProcessNo, number: u64) {
        let now = self.now;
        let Some(attempt) = self
            .processes
            .get_mut(&process)
            .and_then(|state| state.attempts.get_mut(&number))
        else {
            return;
        };
        attempt.stage = Stage::Running(now);
        let (sleep_ms, timeout_ms) = (attempt.sleep_ms, attempt.timeout_ms);
        let token = attempt.token;
        let record = Record::Effect {
            id: attempt.id,
            node: attempt.node.clone(),
            token: [token.run.0, token.visit.0, token.attempt.0, token.nonce],
            input: attempt.input.clone(),
        };
        self.record(record);
        self.count("effects");
        self.count_together(process, number);
        self.expect_free(process, number);
        self.expect_closed(process, number);
        let (wait_ms, ending) = match self.random.below(300) {
            0 => (timeout_ms, Ending::TimedOut),
            1..=4 => (self.random.below(sleep_ms + 3), Ending::Lost),
            5..=30 => (sleep_ms + self.random.below(60), Ending::Settled),
            _ => (sleep_ms + self.random.below(4), Ending::Settled),
        };
        self.after(wait_ms, Timed::AttemptEnds(process, number, ending));
    }

    pub(super) fn attempt_ends(&mut self, process: ProcessNo, number: u64, ending: Ending) {
        let Some(attempt) = self
            .processes
            .get(&process)
            .and_then(|state| state.attempts.get(&number))
        else {
            return;
        };
        let is_unwell = self.is_unwell(attempt);
        let fails = u64::from(attempt.token.attempt.0) <= attempt.fail_first;
        let (token, actor, odds) = (attempt.token, attempt.actor, attempt.fail_odds);
        let workflow = self.workflows.get(&attempt.id);
        let is_drawn = workflow.is_some_and(|workflow| workflow.starts_with(drawn::PREFIX));
        let breaks = odds > 0 && self.random.once_in(odds);
        let outcome = match ending {
            Ending::Settled if is_unwell => failed("DOWN", "the handler is unwell", true),
            Ending::Settled if fails => failed("FLAKY", &format!("failure {number}"), true),
            Ending::Settled if breaks => failed("E1", &format!("failure {number}"), false),
            Ending::Settled if is_drawn && self.random.once_in(5) => {
                let code = if self.random.once_in(2) { "E1" } else { "E2" };
                failed(code, &format!("failure {number}"), !self.random.once_in(4))
            }
            Ending::Settled => self.output(is_drawn),
            Ending::TimedOut => {
                self.count("timeouts");
                failed("TIMEOUT", "the attempt ran too long", true)
            }
            Ending::Canceled => canceled(),
            Ending::Lost => {
                self.count("lost attempts");
                self.free(process, number);
                let state = self.processes.get_mut(&process);
                if let Some(execution) = state.and_then(|state| state.executions.get_mut(&actor)) {
                    execution.inbox.push_back(ExecutionMessage::NodeGone(token));
                }
                return;
            }
        };
        self.judge_target(process, number, &outcome);
        self.report(process, number, outcome, true);
    }

    /// Every output is unlike any other, so that a repeated attempt cannot pass for the first one.
    fn output(&mut self, drawn: bool) -> AttemptOutcome {
        let padding = if self.scenario.large { LARGE_BYTES } else { 0 };
        let (unique, ok) = (self.random.next(), !self.random.once_in(4));
        let padding = ".".repeat(padding);
        let text = if drawn {
            format!("{{\"ok\":{ok},\"u\":\"{unique:016x}{padding}\"}}")
        } else {
            format!("\"{unique:016x}{padding}\"")
        };
        AttemptOutcome::Completed(Json::from_trusted(text).into())
    }

    /// An attempt is given up before its turn came.
    pub(super) fn never_started(&mut self, process: ProcessNo, number: u64, code: &str) {
        self.report(process, number, failed(code, "the attempt never started", false), false);
    }

    fn report(&mut self, process: ProcessNo, number: u64, outcome: AttemptOutcome, ran: bool) {
        let Some(attempt) = self.free(process, number) else {
            return;
        };
        attempt.gate.report();
        let started_at = if let Stage::Running(since) = attempt.stage {
            since
        } else {
            self.now
        };
        let report = AttemptClosed {
            token: attempt.token,
            started_at,
            outcome,
            logs: None,
        };
        if ran && self.random.once_in(5) {
            let late_ms = self.random.below(80);
            self.after(late_ms, Timed::Redelivered(attempt.id, Box::new(report.clone())));
        }
        let state = self.processes.get_mut(&process);
        if let Some(execution) = state.and_then(|state| state.executions.get_mut(&attempt.actor)) {
            execution.inbox.push_back(ExecutionMessage::Report(Box::new(report)));
        }
    }

    fn free(&mut self, process: ProcessNo, number: u64) -> Option<Attempt> {
        let state = self.processes.get_mut(&process)?;
        state.attempts.remove(&number)
    }
}

impl Attempt {
    /// Others may have its leave, until no control holds it.
    fn bar(&mut self, controls: &Arc<ShardControls>) {
        self.place.gives_back();
        self.guarded.gives_back();
        let (controls, plan, node) = (Arc::clone(controls), Arc::clone(&self.plan), self.token.node);
        self.door = Some(Awaited::new(async move { controls.let_pass(&plan, node).await }));
        self.stage = Stage::Barred;
    }
}

fn failed(code: &str, message: &str, retryable: bool) -> AttemptOutcome {
    let error = ErrorInfo::new(code, message);
    AttemptOutcome::Failed(Box::new(AttemptFailure {
        error,
        retryable,
        retry_after_ms: None,
    }))
}

fn canceled() -> AttemptOutcome {
    failed("CANCELED", "the attempt was aborted", false)
}
