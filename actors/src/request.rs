//! What callers ask of the engine and what they get.

use std::sync::Arc;

use tokio::sync::oneshot;
use troupe_core::execution::ExecutionState;
use troupe_core::plan::Plan;
use troupe_core::{CommandId, ExecutionId, Json, Principal, Seq, ShardId, WorkflowId};
use troupe_telemetry::StartCause;

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
}

/// Who commands, and under which id: the same id is applied once.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Who asks.
    pub principal: Option<Principal>,
    /// Identifies the command.
    pub command: Option<CommandId>,
    /// Why, for people (cancel).
    pub reason: Option<String>,
    /// How long running attempts may take to stop, in milliseconds (cancel).
    pub grace_ms: Option<u64>,
}

/// A command that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandOutcome {
    /// Seq of the entry that applied it, or of the latest one if nothing had to change.
    pub seq: Seq,
    /// Attempts that still run.
    pub draining: u32,
    /// Whether the execution stood there already.
    pub unchanged: bool,
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
    /// Executions with a live actor.
    pub active: usize,
    /// Executions that recovery has still to resume.
    pub recovering: u64,
    /// Executions set aside.
    pub quarantined: u64,
    /// Executions that ended since the engine started.
    pub ended: u64,
    /// Entries committed since the engine started.
    pub entries: u64,
    /// Commits since the engine started.
    pub commits: u64,
    /// Commits refused because another owner held the shard.
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
