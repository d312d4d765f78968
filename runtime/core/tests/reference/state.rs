//! The state of an execution.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use troupe_core::definition::{WorkflowDefinition, WorkflowEdge};

use super::children::{Children, Tell};
use super::compensations::{Done, Ending};
use super::controls::{Controls, Told};
use super::definition::incoming;
use super::loops::{Loop, loops};
use super::retries::Failure;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Running,
    Failing,
    Canceling {
        until: i64,
    },
    /// Nothing runs but what undoes what completed; then it ends so.
    Undoing(Ending),
    /// It has failed, and its error workflow is being started; then it ends so.
    Reporting,
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
    /// For a call, and so long at most.
    Waiting {
        until: Option<i64>,
        heartbeat_by: Option<i64>,
    },
    /// For its child executions.
    Parenting,
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

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending | Self::Ready => "pending",
            Self::Running
            | Self::Backoff { .. }
            | Self::Delaying { .. }
            | Self::Waiting { .. }
            | Self::Parenting
            | Self::Canceling => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Canceled => "canceled",
        }
    }
}

/// What is known of the current visit of a node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// From 1.
    pub visit: u32,
    /// The visit before, which has ended.
    pub ended: Option<EndedVisit>,
    pub phase: Phase,
    /// Before it was mapped.
    pub raw: Value,
    pub input: Value,
    /// Whether the input is what `inputMapping` gave.
    pub mapped: bool,
    pub output: Option<Value>,
    /// `{message, code, details}`, once failed.
    pub error: Option<Value>,
    pub failed_at: Option<i64>,
    /// Whether a failure edge was taken when it failed.
    pub handled: bool,
    /// It is the header of a loop that went round too often.
    pub exceeded: bool,
    /// It ended only because the execution did.
    pub cut_off: bool,
    /// What its edges carry after a failure.
    pub payload: Option<Value>,
    /// What back edges brought: the input of a header in a later generation.
    pub brought: Option<Value>,
    /// Codes of its failed attempts, oldest first.
    pub failed: Vec<String>,
    /// Data with templates resolved.
    pub data: Value,
    /// Attempts that ended by themselves.
    pub attempts: u32,
    pub interruptions: u32,
    /// Of its outstanding attempt alone.
    pub interruptions_of_attempt: u32,
    /// Whether an attempt of it was ever started.
    pub ran: bool,
    pub first_arrival_at: Option<i64>,
    pub ready_at: Option<i64>,
    /// While it waits for them.
    pub children: Option<Children>,
}

/// What remains of a visit that another one followed.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedVisit {
    pub visit: u32,
    pub phase: Phase,
    pub output: Option<Value>,
    pub error: Option<Value>,
}

impl NodeState {
    pub(super) fn new(visit: u32, ended: Option<EndedVisit>) -> Self {
        Self {
            visit,
            ended,
            phase: Phase::Pending,
            raw: Value::Null,
            input: Value::Null,
            mapped: false,
            output: None,
            error: None,
            failed_at: None,
            handled: false,
            exceeded: false,
            cut_off: false,
            payload: None,
            brought: None,
            failed: Vec::new(),
            data: Value::Null,
            attempts: 0,
            interruptions: 0,
            interruptions_of_attempt: 0,
            ran: false,
            first_arrival_at: None,
            ready_at: None,
            children: None,
        }
    }

    /// The latest visit that has ended; the current one where none has.
    pub(super) fn latest(&self) -> EndedVisit {
        match &self.ended {
            Some(ended) if !self.phase.is_terminal() => ended.clone(),
            _ => EndedVisit {
                visit: self.visit,
                phase: self.phase,
                output: self.output.clone(),
                error: self.error.clone(),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Open,
    /// Decided (true: taken), but a loop that it leaves or leads back in has not ended its generation.
    Held(bool),
    /// Its message has arrived.
    Resolved(bool),
}

/// Where a loop stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// From 1.
    pub iteration: u32,
    /// Whether the loop has ended.
    pub finished: bool,
    /// Whether clean-up started it.
    pub cleanup: bool,
    /// Back edges that would have been taken if the loop had not ended.
    pub dropped: Vec<usize>,
}

impl Generation {
    pub(super) fn first() -> Self {
        Self {
            iteration: 1,
            finished: false,
            cleanup: false,
            dropped: Vec::new(),
        }
    }
}

/// Why a stimulus was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Ended,
    Unchanged,
    NotDue,
    /// It tells of what is over.
    Stale,
    /// With this error code.
    Refused(&'static str),
}

/// What a stimulus had done.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    Start {
        node: String,
        visit: u32,
        attempt: u32,
        input: Value,
        data: Value,
    },
    Abort {
        node: String,
    },
    /// A child execution.
    Begin {
        node: String,
        visit: u32,
        index: usize,
        input: Value,
        attached: bool,
    },
    /// What an open child is told.
    Tell {
        node: String,
        visit: u32,
        index: usize,
        what: Tell,
    },
    /// The error workflow is started with this payload.
    Report {
        workflow: String,
        input: Value,
    },
    Finish,
}

/// One execution.
#[derive(Clone, Debug)]
pub struct Reference {
    pub definition: WorkflowDefinition,
    /// As its error workflow hears of it.
    pub id: String,
    /// The id of its parent, likewise.
    pub parent: Option<String>,
    /// It runs on behalf of another one's failure.
    pub handles_failure: bool,
    pub status: Status,
    pub paused: bool,
    /// It is paused because its parent is, not because an operator said so.
    pub paused_with_parent: bool,
    /// How many executions are above it.
    pub depth: u32,
    /// Whether its parent, if it has one, waits for it.
    pub attached: bool,
    /// From 1.
    pub run: u32,
    pub(super) created_at: i64,
    /// From when the execution's timeout counts.
    pub(super) timed_from: i64,
    pub variables: BTreeMap<String, Value>,
    pub nodes: BTreeMap<String, NodeState>,
    /// By place in the definition.
    pub edges: Vec<Edge>,
    /// What each carried when it was last decided as taken.
    pub(super) carries: Vec<Value>,
    /// By header.
    pub generations: BTreeMap<String, Generation>,
    /// The first unhandled failure: node and error.
    pub failure: Option<(Option<String>, Value)>,
    /// That node as it failed, for the error workflow.
    pub(super) blamed: Value,
    /// The execution of the error workflow, or why there is none.
    pub told_of_failure: Option<Result<String, Failure>>,
    /// Inner ones first.
    pub(super) loops: Vec<Loop>,
    pub(super) payload: Value,
    /// That its start named.
    pub(super) trigger: Option<String>,
    /// The trigger that it was started with, while it waits until it may run.
    pub(super) queued: Option<Option<String>>,
    /// Calls that came before their node waited, oldest first.
    pub(super) calls: BTreeMap<String, VecDeque<Value>>,
    pub(super) at: i64,
    /// Ready nodes in the order in which they wait for their attempt.
    pub(super) waiting: VecDeque<String>,
    pub(super) arrivals: VecDeque<String>,
    /// Headers of loops whose generation is over, in the order in which that came about.
    pub(super) over: VecDeque<String>,
    pub(super) controls: Controls,
    /// What it knows of controls.
    pub told: Told,
    /// Visits that can be undone, in the order of their completions.
    pub done: Vec<Done>,
    /// How many of them, the first ones, were not looked at yet.
    pub left: usize,
    /// How the execution ends, where something ended it at once.
    pub(super) verdict: Option<Status>,
    /// The `end` node that ended the execution.
    pub(super) ended_by: Option<String>,
    pub(super) did: Vec<Did>,
    /// Every visit that ended, and how, until somebody takes them.
    pub ends: Vec<(String, Phase)>,
    /// What the store was asked for and knew, by node, where nobody has used it yet.
    pub(super) found: BTreeMap<String, VecDeque<Option<Value>>>,
}

impl Reference {
    pub fn new(definition: &WorkflowDefinition) -> Self {
        let loops = loops(definition);
        Self {
            definition: definition.clone(),
            id: String::new(),
            parent: None,
            handles_failure: false,
            status: Status::Pending,
            paused: false,
            paused_with_parent: false,
            depth: 0,
            attached: true,
            run: 1,
            created_at: 0,
            timed_from: 0,
            variables: BTreeMap::new(),
            nodes: definition
                .nodes
                .iter()
                .map(|node| (node.id.clone(), NodeState::new(1, None)))
                .collect(),
            edges: vec![Edge::Open; definition.edges.len()],
            carries: vec![Value::Null; definition.edges.len()],
            generations: loops
                .iter()
                .map(|the| (the.header.clone(), Generation::first()))
                .collect(),
            failure: None,
            blamed: Value::Null,
            told_of_failure: None,
            loops,
            payload: Value::Null,
            trigger: None,
            queued: None,
            calls: BTreeMap::new(),
            at: 0,
            waiting: VecDeque::new(),
            arrivals: VecDeque::new(),
            over: VecDeque::new(),
            controls: Controls::default(),
            told: Told::default(),
            done: Vec::new(),
            left: 0,
            verdict: None,
            ended_by: None,
            did: Vec::new(),
            ends: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.status, Status::Completed(_) | Status::Failed | Status::Canceled)
    }

    pub(super) fn all_ended(&self) -> bool {
        self.nodes.values().all(|node| node.phase.is_terminal())
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.definition.nodes.iter().map(|node| node.id.clone()).collect()
    }

    pub(super) fn set(&mut self, id: &str) -> &mut NodeState {
        self.nodes.get_mut(id).expect("the definition is valid")
    }

    pub(super) fn way(&self, edge: usize) -> &WorkflowEdge {
        &self.definition.edges[edge]
    }

    /// The edges that a node joins: back edges are none of them.
    pub(super) fn entries(&self, id: &str) -> Vec<usize> {
        let mut edges = incoming(&self.definition, id);
        edges.retain(|&edge| !self.is_back_edge(edge));
        edges
    }

    pub(super) fn is_back_edge(&self, edge: usize) -> bool {
        self.loops.iter().any(|the| the.is_back_edge(self.way(edge)))
    }

    /// Back edges make no other node of a root (§8.6).
    pub(super) fn is_root(&self, id: &str) -> bool {
        self.entries(id).is_empty()
    }

    /// The innermost loop of a node.
    pub(super) fn loop_of(&self, id: &str) -> Option<&Loop> {
        self.loops.iter().find(|the| the.body.contains(id))
    }
}
