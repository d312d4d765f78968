//! What an execution's actor hears, and where its answers go.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use troupe_core::execution::{AttemptClosed, ChildId, ChildReport, ErrorWorkflow, ExecutionState, Started};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, NodeIx, Principal, Seq, Token};
use troupe_telemetry::StartCause;

use super::machine::{Action, CommandInput, ExecutionMachine};
use crate::attempt::AttemptWait;
use crate::committer::HeldCommit;
use crate::context::ShardContext;
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::request::{CommandOutcome, ReopenOutcome, StartOutcome};

/// A durable state with its plan.
#[derive(Debug)]
pub struct Viewed {
    /// The state.
    pub state: Box<ExecutionState>,
    /// The version it runs.
    pub plan: Arc<Plan>,
    /// What attempts wait for before they start, by node.
    pub waits: Vec<(NodeIx, AttemptWait)>,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Respond {
    /// To whoever started; what the start counts as.
    Start(oneshot::Sender<Result<StartOutcome, EngineError>>, StartCause),
    /// To whoever commanded.
    Command(oneshot::Sender<Result<CommandOutcome, EngineError>>),
    /// To whoever retried or skipped failed nodes.
    Reopen(oneshot::Sender<Result<ReopenOutcome, EngineError>>),
    /// To whoever reads.
    View(oneshot::Sender<Result<Viewed, EngineError>>),
    /// To nobody.
    Nobody,
}

impl Respond {
    /// Refuses. Whoever asked may be gone; nothing depends on the answer.
    pub fn refuse(self, error: EngineError) {
        match self {
            Self::Start(reply, _) => drop(reply.send(Err(error))),
            Self::Command(reply) => drop(reply.send(Err(error))),
            Self::Reopen(reply) => drop(reply.send(Err(error))),
            Self::View(reply) => drop(reply.send(Err(error))),
            Self::Nobody => {}
        }
    }
}

/// What an execution's actor hears. The first group is routed and counted; the second comes from beside it.
#[derive(Debug)]
pub enum ExecutionMessage {
    /// Begin to exist, unless it exists (`fresh`: it cannot).
    Start(Box<StartInput>, Respond),
    /// End this execution and begin another one, in one record.
    Supersede(Box<StartInput>, Respond),
    /// Go on with a machine that has stepped already.
    Adopt(Box<ExecutionMachine<Respond>>, Vec<Action<Respond>>),
    /// A command.
    Command(Box<CommandInput>, Respond),
    /// A read.
    Read(Respond),
    /// A deadline may be due.
    Wake,
    /// Recovery resumes it; the permit bounds how many load at once.
    Recover(OwnedSemaphorePermit),
    /// What became of a child of it, whose last entry may be held for the one that this causes.
    ChildReported(Box<ChildReport>, Option<HeldCommit>),
    /// A child of it has begun, or goes on after its owner was lost.
    ChildAlive(ChildId, ExecutionId),
    /// The actor of this execution was lost: if that is its parent, it asks what that wants of it.
    AskParent(ExecutionId),
    /// What became of its error workflow.
    ErrorWorkflow(Box<ErrorWorkflow>),

    /// It may run beside others of its workflow.
    Admitted,

    /// Everything up to this seq is durable.
    Durable(Seq),
    /// An attempt ended.
    Report(Box<AttemptClosed>),
    /// An attempt's actor ended without a report; queues behind one that was under way.
    NodeGone(Token, String),
}

impl ExecutionMessage {
    pub(super) fn is_routed(&self) -> bool {
        match self {
            Self::Start(..)
            | Self::Supersede(..)
            | Self::Adopt(..)
            | Self::Command(..)
            | Self::Read(_)
            | Self::Wake
            | Self::Recover(_)
            | Self::ChildReported(..)
            | Self::ChildAlive(..)
            | Self::AskParent(_)
            | Self::Admitted
            | Self::ErrorWorkflow(_) => true,
            Self::Durable(_) | Self::Report(_) | Self::NodeGone(..) => false,
        }
    }

    /// Refuses what expects an answer.
    pub fn refuse(self, error: EngineError) {
        match self {
            Self::Start(_, reply) | Self::Supersede(_, reply) | Self::Command(_, reply) | Self::Read(reply) => {
                reply.refuse(error);
            }
            Self::Adopt(..)
            | Self::Wake
            | Self::Recover(_)
            | Self::ChildReported(..)
            | Self::ChildAlive(..)
            | Self::AskParent(_)
            | Self::Admitted
            | Self::ErrorWorkflow(_)
            | Self::Durable(_)
            | Self::Report(_)
            | Self::NodeGone(..) => {}
        }
    }
}

/// A start, ready to step.
#[derive(Debug)]
pub struct StartInput {
    /// The first event.
    pub started: Started,
    /// Who.
    pub principal: Option<Principal>,
    /// The version it runs.
    pub compiled: Arc<CompiledPlan>,
    /// Whether the id is new, so that the store need not be asked.
    pub fresh: bool,
}

/// What an execution's actor is made of.
#[derive(Debug)]
pub struct ExecutionArguments {
    /// The execution.
    pub id: ExecutionId,
    /// Its shard.
    pub shard: Arc<ShardContext>,
    /// Counts the routed messages that it has received.
    pub received: Arc<AtomicU64>,
}
