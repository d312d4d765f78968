//! What callers ask of the engine and what they get.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;
use troupe_core::control::{Clocks, ControlKey, Scope, Setting};
use troupe_core::execution::{ExecutionState, Remedy, Repeated, Status};
use troupe_core::plan::Plan;
use troupe_core::{BlobRef, CommandId, ExecutionId, Json, NodeIx, Principal, Run, Seq, ShardId, Timestamp, WorkflowId};
use troupe_telemetry::StartCause;

use crate::attempt::AttemptWait;
use crate::blobs::Contents;
use crate::gauges::{Backlog, Lists};

/// A start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The workflow to start.
    pub workflow: WorkflowId,
    /// Its version; none means the latest.
    pub version: Option<u32>,
    /// The start payload.
    pub input: Json,
    /// Variables; they override the definition's defaults.
    pub variables: Vec<(String, Json)>,
    /// Custom metadata, a JSON object.
    pub metadata: Option<Json>,
    /// Id of the trigger node that fires.
    pub trigger: Option<String>,
    /// Business key.
    pub execution_key: Option<String>,
    /// What another execution of the same business key means.
    pub key_policy: KeyPolicy,
    /// Request key: the same key always gives the same execution.
    pub request_key: Option<String>,
    /// Priority 0–9; none means the definition's.
    pub priority: Option<u8>,
    /// Who asks.
    pub principal: Option<Principal>,
    /// W3C trace context (`traceparent`) of whoever asks.
    pub trace_parent: Option<String>,
    /// What it counts as; none: the kind of trigger that it names, else a call of the API.
    pub cause: Option<StartCause>,
}

impl StartRequest {
    /// Starts the latest version of `workflow` with `input` and nothing else.
    #[must_use]
    pub fn new(workflow: impl Into<WorkflowId>, input: Json) -> Self {
        Self {
            workflow: workflow.into(),
            version: None,
            input,
            variables: Vec::new(),
            metadata: None,
            trigger: None,
            execution_key: None,
            key_policy: KeyPolicy::default(),
            request_key: None,
            priority: None,
            principal: None,
            trace_parent: None,
            cause: None,
        }
    }
}

/// What another execution of the same business key means for a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyPolicy {
    /// If it is open.
    pub on_open: OnOpen,
    /// If it has ended.
    pub on_closed: OnClosed,
}

/// What an open execution of the same business key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOpen {
    /// The start is refused.
    #[default]
    Fail,
    /// The start returns it.
    UseExisting,
    /// It is canceled at once, in the record that starts the new one.
    TerminateExisting,
}

/// What an ended execution of the same business key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClosed {
    /// The next one may start.
    #[default]
    Allow,
    /// The next one may start unless the last one completed.
    AllowFailedOnly,
    /// Nothing starts under this key again.
    Reject,
}

/// A start that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartOutcome {
    /// The execution.
    pub id: ExecutionId,
    /// Seq of an entry of it that is durable: 1 for a new one.
    pub seq: Seq,
    /// Whether the execution was there before.
    pub existing: bool,
    /// Whether a new one waits: as many of its workflow as may run at once do.
    pub pending: bool,
}

/// A rerun: a new execution that takes over what another one gave, up to a node.
#[derive(Clone, Debug, Default)]
pub struct RerunRequest {
    /// Id of the node from which it runs.
    pub from: String,
    /// What that node receives instead of what its edges carry; of a root the start payload.
    pub input: Option<Json>,
    /// Version of the workflow; none means that of the other execution.
    pub version: Option<u32>,
    /// Variables; they override those of the other execution.
    pub variables: Vec<(String, Json)>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Request key: the same key of the same execution always gives the same rerun.
    pub request_key: Option<String>,
    /// Who asks.
    pub principal: Option<Principal>,
    /// Only tells what would run again.
    pub dry_run: bool,
}

/// A rerun that is durable, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerunOutcome {
    /// The new execution; none of a dry run.
    pub started: Option<StartOutcome>,
    /// What it runs.
    pub workflow: WorkflowId,
    /// In which version.
    pub version: u32,
    /// The nodes that have run and run again, in definition order.
    pub repeated: Vec<Repeated>,
}

/// A retry of failed nodes, or a skip of one.
#[derive(Clone, Debug)]
pub struct ReopenRequest {
    /// Ids of the nodes; none means every one whose failure nothing handled.
    pub nodes: Vec<String>,
    /// What becomes of them.
    pub remedy: Remedy,
    /// Only tells what would run again.
    pub dry_run: bool,
}

/// A retry or a skip that is durable, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReopenOutcome {
    /// The command; none of a dry run.
    pub command: Option<CommandOutcome>,
    /// The run that goes on, or would.
    pub run: Run,
    /// The nodes that have run and run again, in definition order.
    pub repeated: Vec<Repeated>,
}

/// Who commands, and under which id: the same id is applied once.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Who asks.
    pub principal: Option<Principal>,
    /// Identifies the command.
    pub command: Option<CommandId>,
    /// Why, for people (cancel, retry, skip of a failed node).
    pub reason: Option<String>,
    /// How long running attempts may take to stop, in milliseconds (cancel).
    pub grace_ms: Option<u64>,
    /// What timers and deadlines do meanwhile (pause).
    pub clocks: Clocks,
}

/// A command that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Seq of the entry that applied it or keeps its id; of the latest one where it came again, or changed nothing and has no id.
    pub seq: Seq,
    /// Attempts that still run.
    pub draining: u32,
    /// Whether the execution stood there already.
    pub unchanged: bool,
}

/// A control that is durable and in force in every shard that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlOutcome {
    /// Whether it stood there already.
    pub unchanged: bool,
    /// Whether it is in force now; a later command may have lifted it.
    pub in_force: bool,
    /// In how many shards it is, of [`ControlOutcome::shards_all`]: those that are halted learn of it when they are served again.
    pub shards: u16,
    /// See `shards`.
    pub shards_all: u16,
    /// Attempts in its scope that still run.
    pub draining: u32,
}

/// What became of a control in the shards of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The shards in which it is in force.
    pub shards: Vec<ShardId>,
    /// Whether one of them learned something.
    pub changed: bool,
    /// Attempts in its scope that still run.
    pub draining: u32,
}

/// A control in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlView {
    /// What is controlled.
    pub key: ControlKey,
    /// What it is set to.
    pub setting: Setting,
    /// When the command was given.
    pub at: Timestamp,
    /// Who gave it.
    pub principal: Option<Principal>,
    /// Why, for people.
    pub reason: Option<String>,
    /// The command.
    pub command: CommandId,
    /// In how many shards it is, of [`ControlView::shards_all`].
    pub shards: u16,
    /// See `shards`.
    pub shards_all: u16,
    /// Attempts in its scope that still run.
    pub draining: u32,
}

/// An execution at a durable entry.
#[derive(Clone, Debug)]
pub struct ExecutionView {
    /// Its state.
    pub state: ExecutionState,
    /// The version it runs.
    pub plan: Arc<Plan>,
    /// Why it is set aside, if it is.
    pub quarantined: Option<String>,
    /// What attempts wait for before they start, by node, where they wait for more than the execution itself.
    pub waits: Vec<(NodeIx, AttemptWait)>,
    /// Pauses and stops of a wider scope that hold it, or a node of it that has not ended.
    pub held: Vec<Held>,
    /// Large values that were loaded for it; see [`crate::EngineHandle::load_values`].
    pub contents: Contents,
}

impl ExecutionView {
    /// References to its large values, each once: those of its output first, then of its input, its variables and its nodes.
    pub(crate) fn blobs(&self) -> Vec<BlobRef> {
        let state = &self.state;
        let output = match &state.status {
            Status::Completed { output } => Some(output),
            _ => None,
        };
        let nodes = state.nodes.iter().flat_map(|node| {
            let ended = node.ended.iter().flat_map(|ended| ended.output.iter());
            node.output.iter().chain(ended)
        });
        let attempts = state.nodes.iter().flat_map(|node| &node.attempts);
        let attempts = attempts.filter_map(|attempt| attempt.output.as_ref());
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for value in output
            .into_iter()
            .chain([&state.input])
            .chain(state.variables.values())
            .chain(nodes)
            .chain(attempts)
        {
            value.blobs(&mut |blob| {
                if seen.insert(*blob) {
                    found.push(*blob);
                }
            });
        }
        found
    }
}

/// A pause or a stop of a wider scope that holds an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whether it is a stop.
    pub is_stop: bool,
    /// Its scope.
    pub scope: Scope,
    /// When the command was given.
    pub at: Timestamp,
    /// Who gave it.
    pub principal: Option<Principal>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// An execution that ended, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The execution.
    pub id: ExecutionId,
    /// Seq of its last entry.
    pub seq: Seq,
    /// `completed`, `failed` or `canceled`.
    pub status: &'static str,
}

/// Resolves when an execution has ended durably; to none when the engine stopped before.
#[derive(Debug)]
pub struct EndWatch(pub(crate) oneshot::Receiver<Ended>);

impl EndWatch {
    /// Waits for the end. Cancel-safe.
    pub async fn ended(self) -> Option<Ended> {
        self.0.await.ok()
    }
}

/// How an engine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Whether every shard serves that is not halted, and at least one does.
    pub ready: bool,
    /// Shards of the deployment, and how many of them this engine serves.
    pub shards: u16,
    /// See `shards`.
    pub shards_served: u16,
    /// Shards that an operator must look at, and why.
    pub halted: Vec<(ShardId, String)>,
    /// Shards that a newer release wrote and no member reads, and why.
    pub unreadable: Vec<(ShardId, String)>,
    /// Executions with a live actor.
    pub active: usize,
    /// Executions that recovery has still to resume.
    pub recovering: u64,
    /// Executions set aside.
    pub quarantined: u64,
    /// What waits for the event buses.
    pub backlog: Backlog,
    /// How far lists are behind.
    pub lists: Lists,
    /// Executions that ended since the engine started.
    pub ended: u64,
    /// Entries committed since the engine started.
    pub entries: u64,
    /// Commits since the engine started.
    pub commits: u64,
    /// Shards lost to another owner: it was named, or a write or a renewal of the lease was refused. Once a loss.
    pub fenced_commits: u64,
    /// Node actors spawned since the engine started.
    pub node_actors: u64,
    /// Attempts that run now.
    pub attempts_running: u64,
    /// Reports that came too late.
    pub stale_reports: u64,
    /// Panics of execution actors.
    pub panics: u64,
    /// Bytes of log that no checkpoint holds yet.
    pub uncheckpointed_bytes: u64,
}
