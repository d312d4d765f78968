//! The state of an execution and the stimuli that move it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};
use troupe_core::definition::WorkflowDefinition;

use super::deadlines::Deadline;
use super::definition::{edge_type, firing_roots, has_attempts, incoming, node, outgoing};
use super::joins::{self, Verdict};
use super::language;
use super::retries::{self, Failure};

/// Past so many interruptions an attempt fails (§4).
const INTERRUPTIONS_MAX: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Running,
    Failing,
    Canceling { until: i64 },
    Completed(Value),
    Failed,
    Canceled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Ready,
    Running,
    /// The next attempt starts between these instants.
    Backoff {
        earliest: i64,
        latest: i64,
    },
    Delaying {
        until: i64,
    },
    Canceling,
    Completed,
    Failed,
    Skipped,
    Canceled,
}

impl Phase {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Skipped | Self::Canceled)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending | Self::Ready => "pending",
            Self::Running | Self::Backoff { .. } | Self::Delaying { .. } | Self::Canceling => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Canceled => "canceled",
        }
    }
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct NodeState {
    pub phase: Phase,
    pub input: Value,
    pub output: Option<Value>,
    /// `{message, code, details}`, once failed.
    pub error: Option<Value>,
    /// What its edges carry after a failure.
    pub payload: Option<Value>,
    /// Codes of its failed attempts, oldest first.
    pub failed: Vec<String>,
    /// Data with templates resolved.
    pub data: Value,
    pub interruptions: u32,
    /// Of its outstanding attempt alone.
    pub interruptions_of_attempt: u32,
    /// Whether an attempt of it was ever started.
    pub ran: bool,
    pub first_arrival_at: Option<i64>,
    pub ready_at: Option<i64>,
}

/// Why a stimulus was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Ended,
    Unchanged,
    NotDue,
    Refused,
}

/// What a stimulus had done.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    Start {
        node: String,
        attempt: u32,
        input: Value,
        data: Value,
    },
    Abort {
        node: String,
    },
    Finish,
}

/// One execution.
#[derive(Clone, Debug)]
pub struct Reference {
    pub definition: WorkflowDefinition,
    pub status: Status,
    pub paused: bool,
    pub started_at: i64,
    pub variables: BTreeMap<String, Value>,
    pub nodes: BTreeMap<String, NodeState>,
    /// By place in the definition: none is open, else whether it was taken.
    pub edges: Vec<Option<bool>>,
    /// The first unhandled failure: node and error.
    pub failure: Option<(Option<String>, Value)>,
    pub(super) payload: Value,
    pub(super) at: i64,
    held: VecDeque<String>,
    pub(super) arrivals: VecDeque<String>,
    did: Vec<Did>,
}

impl Reference {
    pub fn new(definition: &WorkflowDefinition) -> Self {
        let state = NodeState {
            phase: Phase::Pending,
            input: Value::Null,
            output: None,
            error: None,
            payload: None,
            failed: Vec::new(),
            data: Value::Null,
            interruptions: 0,
            interruptions_of_attempt: 0,
            ran: false,
            first_arrival_at: None,
            ready_at: None,
        };
        Self {
            definition: definition.clone(),
            status: Status::Pending,
            paused: false,
            started_at: 0,
            variables: BTreeMap::new(),
            nodes: definition
                .nodes
                .iter()
                .map(|node| (node.id.clone(), state.clone()))
                .collect(),
            edges: vec![None; definition.edges.len()],
            failure: None,
            payload: Value::Null,
            at: 0,
            held: VecDeque::new(),
            arrivals: VecDeque::new(),
            did: Vec::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.status, Status::Completed(_) | Status::Failed | Status::Canceled)
    }

    pub fn start(
        &mut self,
        at: i64,
        trigger: Option<&str>,
        input: Value,
        variables: &[(String, Value)],
    ) -> Result<Vec<Did>, Refusal> {
        let schema = self
            .definition
            .settings
            .get("inputSchema")
            .cloned()
            .unwrap_or(Value::Null);
        let known = |id: &str| {
            self.definition
                .nodes
                .iter()
                .any(|node| node.id == id && matches!(node.node_type.as_str(), "trigger" | "webhook"))
        };
        if !language::meets(&schema, &input) || trigger.is_some_and(|id| !known(id)) {
            return Err(Refusal::Refused);
        }
        let defaults = self
            .definition
            .settings
            .get("variables")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        self.variables = defaults.into_iter().chain(variables.iter().cloned()).collect();
        (self.at, self.started_at, self.payload, self.status) = (at, at, input, Status::Running);
        let firing = firing_roots(&self.definition, trigger);
        for id in self.ids() {
            if !incoming(&self.definition, &id).is_empty() {
                continue;
            }
            if firing.contains(&id) && self.status == Status::Running {
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
        self.alive(at)?;
        if self.paused || matches!(self.status, Status::Canceling { .. }) {
            return Err(Refusal::Unchanged);
        }
        self.paused = true;
        self.conclude()
    }

    pub fn resume(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if !self.paused {
            return Err(Refusal::Unchanged);
        }
        self.apply_due();
        self.paused = false;
        self.conclude()
    }

    pub fn cancel(&mut self, at: i64, grace_ms: i64, at_once: bool) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if matches!(self.status, Status::Canceling { .. }) && !at_once {
            return Err(Refusal::Unchanged);
        }
        self.status = Status::Canceling { until: at + grace_ms };
        for id in self.ids() {
            match self.nodes[&id].phase {
                Phase::Pending => self.skip(&id),
                Phase::Ready if !self.nodes[&id].ran => self.skip(&id),
                Phase::Ready | Phase::Backoff { .. } | Phase::Delaying { .. } => self.cancel_node(&id),
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
        if !self
            .nodes
            .values()
            .any(|node| matches!(node.phase, Phase::Running | Phase::Canceling))
        {
            return Err(Refusal::Unchanged);
        }
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

    fn alive(&mut self, at: i64) -> Result<(), Refusal> {
        self.at = at;
        if self.is_over() { Err(Refusal::Ended) } else { Ok(()) }
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.definition.nodes.iter().map(|node| node.id.clone()).collect()
    }

    pub(super) fn set(&mut self, id: &str) -> &mut NodeState {
        self.nodes.get_mut(id).expect("the definition is valid")
    }

    fn apply_due(&mut self) {
        while let Some((_, what, place)) = self.due(self.at) {
            self.apply_deadline(what, place);
            self.settle();
        }
    }

    fn apply_deadline(&mut self, what: Deadline, place: usize) {
        let id = self.definition.nodes[place].id.clone();
        match what {
            Deadline::Execution => self.time_out(),
            Deadline::CancelGrace => self.ids().iter().for_each(|id| {
                if self.nodes[id].phase == Phase::Canceling {
                    self.did.push(Did::Abort { node: id.clone() });
                    self.cancel_node(id);
                }
            }),
            Deadline::Join => match joins::at_deadline(&self.definition, &id, &self.edges) {
                Verdict::Ready => self.become_ready(&id),
                Verdict::Skip => self.skip(&id),
                Verdict::Fail | Verdict::Wait => self.fail_join(&id),
            },
            Deadline::Delay => {
                let input = self.nodes[&id].input.clone();
                self.complete(&id, input);
            }
            Deadline::Retry => self.hold(&id),
            Deadline::NodeTotal => {
                if self.nodes[&id].phase == Phase::Running {
                    self.did.push(Did::Abort { node: id.clone() });
                }
                let input = self.nodes[&id].input.clone();
                self.fail(&id, failure("TIMEOUT").error(), input);
            }
        }
    }

    /// `settings.timeout`: everything ends at once.
    fn time_out(&mut self) {
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
        self.failure.get_or_insert((None, failure("EXECUTION_TIMEOUT").error()));
        self.status = Status::Failing;
    }

    fn fail_attempt(&mut self, id: &str, failure: Failure) {
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
        self.held.push_back(id.to_owned());
    }

    /// The node may run: its input is fixed, and what needs no attempt ends here.
    pub(super) fn become_ready(&mut self, id: &str) {
        if self.status == Status::Failing && !self.is_cleanup(id) {
            return self.skip(id);
        }
        let at = self.at;
        self.set(id).ready_at = Some(at);
        if self.prepare(id) {
            match node(&self.definition, id).node_type.as_str() {
                "trigger" => self.complete(id, self.payload.clone()),
                "decision" => self.complete(id, self.nodes[id].input.clone()),
                "delay" => self.begin_delay(id),
                _ => self.hold(id),
            }
        }
    }

    pub(super) fn skip(&mut self, id: &str) {
        self.set(id).phase = Phase::Skipped;
        self.resolve(id, |_| false);
    }

    pub(super) fn cancel_node(&mut self, id: &str) {
        self.set(id).phase = Phase::Canceled;
        self.resolve(id, |_| false);
    }

    /// §6, failFast: what is not clean-up stops.
    pub(super) fn stop_all_but_cleanup(&mut self) {
        self.status = Status::Failing;
        for id in self.ids() {
            let phase = self.nodes[&id].phase;
            if phase == Phase::Pending || phase.is_terminal() || self.is_cleanup(&id) {
                continue;
            }
            if phase == Phase::Ready && !self.nodes[&id].ran {
                self.skip(&id);
                continue;
            }
            if phase == Phase::Running {
                self.did.push(Did::Abort { node: id.clone() });
            }
            self.cancel_node(&id);
        }
    }

    /// §8.1: everything reached through any taken `always` edge, transitively.
    fn is_cleanup(&self, id: &str) -> bool {
        let mut reached = BTreeSet::new();
        loop {
            let before = reached.len();
            for (way, taken) in self.definition.edges.iter().zip(&self.edges) {
                if *taken == Some(true) && (edge_type(way) == "always" || reached.contains(&way.source)) {
                    reached.insert(way.target.clone());
                }
            }
            if reached.len() == before {
                return reached.contains(id);
            }
        }
    }

    /// The edges out of a node that ended resolve together, each exactly once.
    pub(super) fn resolve(&mut self, id: &str, taken: impl Fn(usize) -> bool) {
        for edge in outgoing(&self.definition, id) {
            assert_eq!(self.edges[edge], None, "edge {edge} resolves once");
            self.edges[edge] = Some(taken(edge));
            let target = self.definition.edges[edge].target.clone();
            let at = self.at;
            self.set(&target).first_arrival_at.get_or_insert(at);
            self.arrivals.push_back(target);
        }
    }

    /// Lets the messages that arrived decide, oldest first.
    fn settle(&mut self) {
        while let Some(id) = self.arrivals.pop_front() {
            if self.nodes[&id].phase != Phase::Pending || matches!(self.status, Status::Canceling { .. }) {
                continue;
            }
            match joins::verdict(&self.definition, &id, &self.edges) {
                Verdict::Wait => {}
                Verdict::Ready => self.become_ready(&id),
                Verdict::Skip => self.skip(&id),
                Verdict::Fail => self.fail_join(&id),
            }
        }
    }

    /// A join that never started is skipped where the execution fails anyway (§8.1).
    fn fail_join(&mut self, id: &str) {
        if self.status == Status::Failing && !self.is_cleanup(id) {
            return self.skip(id);
        }
        self.fail(id, failure("JOIN_UNSATISFIED").error(), Value::Null);
    }

    fn conclude(&mut self) -> Result<Vec<Did>, Refusal> {
        self.settle();
        if self.nodes.values().all(|node| node.phase.is_terminal()) {
            self.end();
            self.did.push(Did::Finish);
        } else if !self.paused {
            self.dispatch();
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
        self.held.retain(|id| self.nodes[id].phase == Phase::Ready);
        while self.nodes.values().filter(|node| node.phase == Phase::Running).count() < most as usize {
            let Some(id) = self.held.pop_front() else { return };
            assert!(has_attempts(node(&self.definition, &id)), "{id} has no attempts");
            let state = self.set(&id);
            (state.phase, state.ran) = (Phase::Running, true);
            let (attempt, input, data) = (state.failed.len() as u32 + 1, state.input.clone(), state.data.clone());
            self.did.push(Did::Start {
                node: id,
                attempt,
                input,
                data,
            });
        }
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
