//! Why the engine refused or failed. Variants follow what the caller does next; codes are stable.

use troupe_core::control::Scope;
use troupe_core::{ErrorInfo, ExecutionId, FormatRange, ShardId, StateFormat};
use troupe_ports::{DefinitionError, StoreError};

/// What an operator can do about a shard that a newer release wrote.
pub const NEWER_FORMAT_HINT: &str = "start the newer release again; to go back from it, let it write the older format first: \
     `engine.format`; see docs/errors/STATE_FORMAT_NEWER.md";

/// Why a request was not carried out. Nothing happened unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such execution.
    #[error("there is no execution {0}")]
    NotFound(ExecutionId),
    /// The version that the execution runs has no such node.
    #[error("execution {id} has no node `{node}`")]
    NodeNotFound {
        /// The execution.
        id: ExecutionId,
        /// The node asked for.
        node: String,
    },
    /// The execution has no large value with that hash.
    #[error("execution {0} has no such value")]
    ValueNotFound(ExecutionId),
    /// The execution is over; nothing can happen to it any more.
    #[error("execution {0} has ended")]
    Ended(ExecutionId),
    /// There is no such workflow.
    #[error("there is no workflow {0}")]
    WorkflowNotFound(String),
    /// The workflow has no such version.
    #[error("workflow {workflow} has no version {version}")]
    VersionNotFound {
        /// The workflow.
        workflow: String,
        /// The version asked for.
        version: u32,
    },
    /// The workflow is archived: it starts nothing.
    #[error("workflow {0} is archived")]
    WorkflowArchived(String),
    /// An emergency stop refuses starts.
    #[error("{scope} is stopped{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Stopped {
        /// What is stopped.
        scope: Scope,
        /// Why, for people.
        reason: Option<String>,
    },
    /// The stored definition cannot be executed by this release.
    #[error("workflow {workflow} cannot be executed: {reason}")]
    NotExecutable {
        /// The workflow.
        workflow: String,
        /// Why.
        reason: String,
    },
    /// An execution with this business key stands in the way.
    #[error("the execution key belongs to {existing}")]
    KeyConflict {
        /// The execution that has the key.
        existing: ExecutionId,
    },
    /// The request itself is wrong: an input that violates its schema, an unknown trigger.
    #[error("{}: {}", .0.code, .0.message)]
    Refused(Box<ErrorInfo>),
    /// A payload is larger than allowed.
    #[error("{what} has {bytes} bytes, more than {bytes_max}")]
    PayloadTooLarge {
        /// Which payload.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many executions are active; try again later.
    #[error("too many executions are active")]
    Overloaded {
        /// When another try makes sense, in milliseconds.
        retry_after_ms: u64,
    },
    /// Too many bytes wait for an event bus or for the lists; try again when they are back.
    #[error("{bytes} bytes wait for the event bus or for the lists: nothing starts until they are taken")]
    BacklogFull {
        /// How many bytes wait.
        bytes: u64,
        /// When another try makes sense, in milliseconds.
        retry_after_ms: u64,
    },
    /// The execution is set aside because it cannot be processed; `resume` tries it again.
    #[error("execution {id} is quarantined: {reason}")]
    Quarantined {
        /// The execution.
        id: ExecutionId,
        /// Why.
        reason: String,
    },
    /// The execution's shard is not served by this engine: another member has it, or nobody does for a moment. Nothing happened.
    #[error("shard {0} is not served here")]
    Elsewhere(ShardId),
    /// The shard, the store or the engine cannot serve now. Whether the request took effect is unknown: repeat it with
    /// the same request key or command id.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Another owner took the shard. As with [`EngineError::Unavailable`], the outcome is unknown.
    #[error("another owner holds the shard")]
    Fenced,
    /// A newer release wrote the shard, and no member reads its format. Nothing happened, and nothing was touched.
    #[error("shard {shard} holds state of format {holds}, and this process reads format {reads}")]
    NewerFormat {
        /// The shard.
        shard: ShardId,
        /// The newest format that it holds something of.
        holds: StateFormat,
        /// What this engine reads.
        reads: FormatRange,
    },
    /// What the store holds does not make sense; an operator must look.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl EngineError {
    /// The stable code; each has a page under `docs/errors`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NotFound(_) => "EXECUTION_NOT_FOUND",
            Self::NodeNotFound { .. } => "NODE_NOT_FOUND",
            Self::ValueNotFound(_) => "VALUE_NOT_FOUND",
            Self::Ended(_) => "EXECUTION_ENDED",
            Self::WorkflowNotFound(_) => "WORKFLOW_NOT_FOUND",
            Self::VersionNotFound { .. } => "VERSION_NOT_FOUND",
            Self::WorkflowArchived(_) => "WORKFLOW_ARCHIVED",
            Self::Stopped { .. } => "STOPPED",
            Self::NotExecutable { .. } => "NOT_EXECUTABLE",
            Self::KeyConflict { .. } => "KEY_CONFLICT",
            Self::Refused(error) => &error.code,
            Self::PayloadTooLarge { .. } => "PAYLOAD_TOO_LARGE",
            Self::Overloaded { .. } => "OVERLOADED",
            Self::BacklogFull { .. } => "BACKLOG_FULL",
            Self::Quarantined { .. } => "QUARANTINED",
            Self::Elsewhere(_) | Self::Unavailable(_) => "UNAVAILABLE",
            Self::Fenced => "FENCED",
            Self::NewerFormat { .. } => "STATE_FORMAT_NEWER",
            Self::Damaged(_) => "DAMAGED",
        }
    }

    /// Whether a start that must happen is to be repeated until something else comes of it.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::Elsewhere(_)
                | Self::Unavailable(_)
                | Self::Fenced
                | Self::NewerFormat { .. }
                | Self::Overloaded { .. }
                | Self::BacklogFull { .. }
                | Self::Quarantined { .. }
        )
    }

    /// When another try makes sense, in milliseconds; none when a repetition cannot help.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Overloaded { retry_after_ms } | Self::BacklogFull { retry_after_ms, .. } => Some(*retry_after_ms),
            Self::Elsewhere(_) | Self::Unavailable(_) | Self::Fenced | Self::NewerFormat { .. } => Some(1_000),
            Self::NotFound(_)
            | Self::NodeNotFound { .. }
            | Self::ValueNotFound(_)
            | Self::Ended(_)
            | Self::WorkflowNotFound(_)
            | Self::VersionNotFound { .. }
            | Self::WorkflowArchived(_)
            | Self::Stopped { .. }
            | Self::NotExecutable { .. }
            | Self::KeyConflict { .. }
            | Self::Refused(_)
            | Self::PayloadTooLarge { .. }
            | Self::Quarantined { .. }
            | Self::Damaged(_) => None,
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Fenced,
            // Its owner gives a store that went back what that lacks, or halts the shard.
            StoreError::Held(why) | StoreError::Unavailable(why) | StoreError::WentBack(why) => Self::Unavailable(why),
            StoreError::Damaged(why) => Self::Damaged(why),
        }
    }
}

impl From<DefinitionError> for EngineError {
    fn from(error: DefinitionError) -> Self {
        match error {
            DefinitionError::Conflict { .. } | DefinitionError::Unavailable(_) => Self::Unavailable(error.to_string()),
            DefinitionError::Refused(why) => Self::Refused(Box::new(ErrorInfo::new("INVALID_DEFINITION", why))),
            DefinitionError::Damaged(why) => Self::Damaged(why),
        }
    }
}
