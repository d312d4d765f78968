//! How nodes become ready, end and set one another going.

use serde_json::Value;

use super::children::has_children;
use super::deadlines::Deadline;
use super::definition::{has_attempts, node, outgoing};
use super::interpreter::failure;
use super::joins::{self, Verdict};
use super::retries::{self, Failure};
use super::state::{Did, Edge, Phase, Reference, Refusal, Status};

impl Reference {
    pub(super) fn apply_due(&mut self) {
        while let Some((_, what, place)) = self.due(self.at) {
            self.apply_deadline(what, place);
            self.settle();
        }
    }

    fn apply_deadline(&mut self, what: Deadline, place: usize) {
        if matches!(self.status, Status::Undoing(_)) {
            return self.apply_undoing_deadline(what);
        }
        let id = self.definition.nodes[place].id.clone();
        match what {
            Deadline::Execution => self.time_out(),
            Deadline::CancelGrace => self.ids().iter().for_each(|id| {
                if self.nodes[id].phase == Phase::Canceling {
                    self.did.push(Did::Abort { node: id.clone() });
                    self.cancel_node(id);
                }
            }),
            Deadline::Join => self.decide_join(&id, joins::at_deadline(self, &id)),
            Deadline::Delay => {
                let input = self.nodes[&id].input.clone();
                self.complete(&id, input);
            }
            Deadline::Retry => self.hold(&id),
            Deadline::Wait => self.wait_ended(&id),
            Deadline::NodeTotal => {
                if self.nodes[&id].phase == Phase::Running {
                    self.did.push(Did::Abort { node: id.clone() });
                }
                let input = self.nodes[&id].input.clone();
                self.fail(&id, failure("TIMEOUT").error(), input);
            }
        }
    }

    pub(super) fn fail_attempt(&mut self, id: &str, failure: Failure) {
        let at = self.at;
        self.set(id).failed.push(failure.code.clone());
        self.set(id).interruptions_of_attempt = 0;
        let state = &self.nodes[id];
        match retries::next(node(&self.definition, id), &state.failed, &failure) {
            Some((least, most)) => {
                self.set(id).phase = Phase::Backoff {
                    earliest: at + least,
                    latest: at + most,
                };
            }
            None => {
                let input = state.input.clone();
                self.fail(id, failure.error(), input);
            }
        }
    }

    pub(super) fn hold(&mut self, id: &str) {
        self.set(id).phase = Phase::Ready;
        self.waiting.retain(|waiting| waiting != id);
        self.waiting.push_back(id.to_owned());
    }

    /// The node may run: its input is fixed, and what needs no attempt ends here.
    pub(super) fn become_ready(&mut self, id: &str) {
        self.set(id).raw = self.raw_input(id);
        self.begin_with(id);
    }

    /// As [`Self::become_ready`], with the input that it has before it is mapped.
    pub(super) fn begin_with(&mut self, id: &str) {
        let at = self.at;
        let state = self.set(id);
        (state.ready_at, state.input) = (Some(at), state.raw.clone());
        if !self.may_start(id) {
            return self.skip_with_execution(id);
        }
        if self.prepare(id) {
            self.begin(id);
        }
    }

    /// As [`Self::become_ready`], with the input and data that are fixed already.
    pub(super) fn begin_as_prepared(&mut self, id: &str) {
        let at = self.at;
        self.set(id).ready_at = Some(at);
        if !self.may_start(id) {
            return self.skip_with_execution(id);
        }
        if self.check_prepared(id) {
            self.begin(id);
        }
    }

    fn begin(&mut self, id: &str) {
        match node(&self.definition, id).node_type.as_str() {
            "trigger" => self.complete(id, self.payload.clone()),
            "decision" => self.complete(id, self.nodes[id].input.clone()),
            "end" => self.complete(id, self.nodes[id].input.clone()),
            "delay" => self.begin_delay(id),
            "webhook" if self.is_root(id) => self.take_call(id, self.payload.clone()),
            "webhook" => self.begin_wait(id),
            kind if has_children(kind) => self.begin_children(id),
            _ => self.reuse_or_hold(id),
        }
    }

    /// It might have started if the execution did not fail.
    fn skip_with_execution(&mut self, id: &str) {
        self.cut_off(id);
        self.skip(id);
    }

    pub(super) fn skip(&mut self, id: &str) {
        self.set(id).phase = Phase::Skipped;
        self.resolve(id, |_| false);
    }

    pub(super) fn cancel_node(&mut self, id: &str) {
        self.set(id).phase = Phase::Canceled;
        self.resolve(id, |_| false);
    }

    /// The edges out of a node that ended are decided together, each exactly once a generation.
    pub(super) fn resolve(&mut self, id: &str, taken: impl Fn(usize) -> bool) {
        self.ends.push((id.to_owned(), self.nodes[id].phase));
        self.part_with_children(id);
        for edge in outgoing(&self.definition, id) {
            assert_eq!(self.edges[edge], Edge::Open, "edge {edge} is decided once");
            if taken(edge) {
                self.load(edge);
            }
            if self.is_held(edge) {
                self.edges[edge] = Edge::Held(taken(edge));
            } else {
                self.deliver(edge, taken(edge));
            }
        }
        self.note_end_of_generation(id);
    }

    /// An edge resolves: its message arrives.
    pub(super) fn deliver(&mut self, edge: usize, taken: bool) {
        self.edges[edge] = Edge::Resolved(taken);
        let (at, target) = (self.at, self.way(edge).target.clone());
        self.set(&target).first_arrival_at.get_or_insert(at);
        self.arrivals.push_back(target);
    }

    /// Lets the messages that arrived decide, oldest first, and when there are none left, loops end their generations.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(id) = self.arrivals.pop_front() {
                if self.nodes[&id].phase == Phase::Pending && !matches!(self.status, Status::Canceling { .. }) {
                    self.decide_join(&id, joins::verdict(self, &id));
                }
            } else if let Some(header) = self.over.pop_front() {
                self.end_generation(&header);
            } else {
                return;
            }
        }
    }

    fn decide_join(&mut self, id: &str, verdict: Verdict) {
        match verdict {
            Verdict::Wait => {}
            Verdict::Ready => {
                if self.may_start(id) {
                    self.cancel_late_arrivals(id);
                }
                self.become_ready(id);
            }
            Verdict::Skip => self.skip(id),
            Verdict::Fail => self.fail_join(id),
        }
    }

    /// An execution that fails fast starts nothing but clean-up.
    fn may_start(&self, id: &str) -> bool {
        self.status != Status::Failing || self.is_cleanup(id)
    }

    /// A join that never started is skipped where the execution fails anyway (§8.1).
    fn fail_join(&mut self, id: &str) {
        if !self.may_start(id) {
            return self.skip_with_execution(id);
        }
        self.fail(id, failure("JOIN_UNSATISFIED").error(), Value::Null);
    }

    pub(super) fn conclude(&mut self) -> Result<Vec<Did>, Refusal> {
        self.settle();
        if self.status == Status::Pending {
            return Ok(std::mem::take(&mut self.did));
        }
        if self.is_over() || self.status == Status::Reporting {
            return Ok(std::mem::take(&mut self.did));
        }
        if self.all_ended() {
            if !matches!(self.status, Status::Undoing(_)) {
                self.end();
            }
            self.go_on_undoing();
        } else if !self.is_held_whole() {
            self.dispatch();
            self.begin_wanted();
        }
        Ok(std::mem::take(&mut self.did))
    }

    fn dispatch(&mut self) {
        let most = self
            .definition
            .settings
            .get("maxParallelNodes")
            .and_then(Value::as_u64)
            .unwrap_or(u64::MAX);
        self.waiting.retain(|id| self.nodes[id].phase == Phase::Ready);
        while self.nodes.values().filter(|node| node.phase == Phase::Running).count() < most as usize {
            // One that a wider scope holds by itself keeps its place.
            let free = self.waiting.iter().position(|id| !self.is_node_held(id));
            let Some(id) = free.and_then(|place| self.waiting.remove(place)) else {
                return;
            };
            assert!(has_attempts(node(&self.definition, &id)), "{id} has no attempts");
            let state = self.set(&id);
            (state.phase, state.ran) = (Phase::Running, true);
            let start = Did::Start {
                visit: state.visit,
                attempt: state.failed.len() as u32 + 1,
                input: state.input.clone(),
                data: state.data.clone(),
                node: id,
            };
            self.did.push(start);
        }
    }
}
