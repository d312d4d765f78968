//! What one simulated engine process holds: the machines and, around each, what its actor's shell would hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use troupe_actors::EngineError;
use troupe_actors::attempt::leave::Limits;
use troupe_actors::attempt::machine::AttemptGate;
use troupe_actors::checkpointer::Pending;
use troupe_actors::committer::machine::Append;
use troupe_actors::controls::ControlRequest;
use troupe_actors::evaluation::Job;
use troupe_actors::execution::machine::{Action, CommandInput, ExecutionMachine, Input};
use troupe_actors::rooms::machine::Rooms;
use troupe_actors::shard::machine::FailureMachine;
use troupe_core::execution::{
    AttemptClosed, ChildId, ChildOutcome, ChildReport, ErrorWorkflow, Parent, StartChild, Started,
};
use troupe_core::plan::Plan;
use troupe_core::{Epoch, ExecutionId, Seq, ShardId, Timestamp, Token};
use troupe_ports::ExecutionCursor;

use super::awaited::Awaited;
use super::breakers::{Guarded, Guards};
use super::controls::{Controls, Spreading};
use super::family::Starter;
use super::limits::Place;
pub(super) use super::services::{
    Checkpointer, CheckpointerMessage, Committer, CommitterMessage, EventSink, Lists, ListsMessage, SinkMessage,
    Timers, TimersMessage, Writer, WriterStage,
};

/// How long a shard's lease lasts.
pub(super) const LEASE_MS: u64 = 300;

/// Tells processes apart; a restarted one has another number.
pub(super) type ProcessNo = u32;
/// Tells actors of a process apart.
pub(super) type ActorNo = u64;

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Respond {
    /// To a client's request.
    Client(usize, u64),
    /// To a start under a business key, which looks at the key's latest execution; see [`super::keys`].
    Key(usize, u64, u64),
    /// To a rerun that a client asks for.
    Rerun(usize, u64),
    /// To the task that starts a child, and its which try this was.
    Starter(u64, u64),
    /// To nobody.
    Nobody,
}

/// What an execution's actor hears.
#[derive(Debug)]
pub(super) enum ExecutionMessage {
    Start {
        started: Box<Started>,
        fresh: bool,
        reply: Respond,
    },
    /// End, and let the next execution of the key begin.
    Supersede {
        started: Box<Started>,
        reply: Respond,
    },
    /// Go on with a machine that has stepped already.
    Adopt(Box<ExecutionMachine<Respond>>, Vec<Action<Respond>>),
    Command(Box<CommandInput>, Respond),
    Read(Respond),
    Wake,
    Recover,
    ChildReported(Box<ChildReport>),
    /// A child is there, under this id.
    ChildAlive(ChildId, ExecutionId),
    /// Its parent, if it is this one, was built again: what that told it last may be lost.
    AskParent(ExecutionId),
    /// It waited for room, and may run.
    Admitted,
    /// What became of its error workflow.
    ErrorWorkflow(Box<ErrorWorkflow>),
    Durable(Seq),
    Report(Box<AttemptClosed>),
    NodeGone(Token),
}

impl ExecutionMessage {
    /// Whether it is counted: the actor retires only when it has received everything that was routed.
    pub(super) fn is_routed(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Supersede { .. }
            | Self::Adopt(..)
            | Self::Command(..)
            | Self::Read(_)
            | Self::Wake
            | Self::Recover
            | Self::ChildReported(_)
            | Self::ChildAlive(..)
            | Self::AskParent(_)
            | Self::Admitted
            | Self::ErrorWorkflow(_) => true,
            Self::Durable(_) | Self::Report(_) | Self::NodeGone(_) => false,
        }
    }

    /// Whether nobody would ask again if it were refused.
    pub(super) fn is_patient(&self) -> bool {
        matches!(
            self,
            Self::Wake
                | Self::Recover
                | Self::ChildReported(_)
                | Self::ChildAlive(..)
                | Self::AskParent(_)
                | Self::Admitted
                | Self::ErrorWorkflow(_)
                | Self::Command(_, Respond::Nobody)
        )
    }

    pub(super) fn reply(&self) -> Respond {
        match self {
            Self::Start { reply, .. } | Self::Supersede { reply, .. } | Self::Command(_, reply) | Self::Read(reply) => {
                *reply
            }
            Self::Adopt(..)
            | Self::Wake
            | Self::Recover
            | Self::ChildReported(_)
            | Self::ChildAlive(..)
            | Self::AskParent(_)
            | Self::Admitted
            | Self::ErrorWorkflow(_)
            | Self::Durable(_)
            | Self::Report(_)
            | Self::NodeGone(_) => Respond::Nobody,
        }
    }
}

/// What an execution's actor waits for before it hears the next message.
#[derive(Debug)]
pub(super) enum Waiting {
    /// For nothing.
    No,
    /// For the checkpointer to say what the log alone holds.
    Lookup,
    /// For its turn to read the store, with the checkpointer's answer.
    Load(Option<Box<Pending>>),
    /// For the store to come back.
    Pause,
    /// For answers of the sandbox.
    Evaluation,
}

/// An execution's actor.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) id: ExecutionId,
    pub(super) machine: Option<Box<ExecutionMachine<Respond>>>,
    pub(super) inbox: VecDeque<ExecutionMessage>,
    pub(super) todo: VecDeque<Action<Respond>>,
    pub(super) appends: Vec<Append<ActorNo>>,
    pub(super) jobs: Option<Vec<Job>>,
    /// Children that could not begin in the record of the batch.
    pub(super) unborn: Vec<StartChild>,
    /// What becomes of its error workflow, once the entries of the batch are handed over.
    pub(super) reported: Option<Input<Respond>>,
    /// It has ended: its parent is told behind the entries of the batch.
    pub(super) ended: Option<(Parent, ChildOutcome)>,
    pub(super) waiting: Waiting,
    /// What it is given once it knows of the controls that are in force.
    pub(super) next: Option<Input<Respond>>,
    /// Version of its shard's controls that it saw last.
    pub(super) controls: u64,
    /// When it was given what it does now, and looked at the controls: all of it happens then.
    pub(super) given_at: Timestamp,
    /// The message for which it was loaded.
    pub(super) then: Option<ExecutionMessage>,
    pub(super) attempts: Vec<(Token, u64, Timestamp)>,
    pub(super) routed: u64,
    pub(super) received: u64,
    /// It panicked and was not replaced yet.
    pub(super) dead: bool,
}

impl Execution {
    pub(super) fn new(id: ExecutionId) -> Self {
        Self {
            id,
            machine: None,
            inbox: VecDeque::new(),
            todo: VecDeque::new(),
            appends: Vec::new(),
            jobs: None,
            unborn: Vec::new(),
            reported: None,
            ended: None,
            waiting: Waiting::No,
            next: None,
            controls: 0,
            given_at: Timestamp(0),
            then: None,
            attempts: Vec::new(),
            routed: 0,
            received: 0,
            dead: false,
        }
    }

    /// Whether it lives and has carried out everything that its machine decided.
    pub(super) fn is_between_messages(&self) -> bool {
        let has_more = !self.unborn.is_empty() || self.ended.is_some() || self.reported.is_some();
        !self.dead && self.next.is_none() && self.todo.is_empty() && self.appends.is_empty() && !has_more
    }

    fn is_runnable(&self) -> bool {
        if self.dead {
            return false;
        }
        match self.waiting {
            Waiting::No => {
                !self.todo.is_empty() || self.next.is_some() || self.then.is_some() || !self.inbox.is_empty()
            }
            Waiting::Load(_) => true,
            Waiting::Lookup | Waiting::Pause | Waiting::Evaluation => !self.todo.is_empty(),
        }
    }
}

/// Where an attempt's actor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for leave to run.
    Queued,
    /// It has leave to run and waits for the lease.
    Leasing,
    /// Its execution is paused.
    Held,
    /// A control of a wider scope holds it.
    Barred,
    /// Its target is unwell.
    Parked,
    /// It runs since then.
    Running(Timestamp),
}

/// An attempt's actor.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) actor: ActorNo,
    pub(super) id: ExecutionId,
    pub(super) token: Token,
    pub(super) node: String,
    pub(super) handler: String,
    pub(super) sleep_ms: u64,
    pub(super) fail_first: u64,
    /// It fails for good once in so many times; 0: never.
    pub(super) fail_odds: u64,
    pub(super) timeout_ms: u64,
    pub(super) input: String,
    pub(super) gate: AttemptGate,
    pub(super) place: Place,
    pub(super) guarded: Guarded,
    pub(super) plan: Arc<Plan>,
    /// Until no control holds it.
    pub(super) door: Option<Awaited<()>>,
    pub(super) stage: Stage,
    pub(super) canceled: bool,
    /// It was told to look at its gate again.
    pub(super) notified: bool,
}

/// What a shard hears.
#[derive(Debug)]
pub(super) enum ShardMessage {
    Due(Vec<ExecutionId>),
    Fenced,
    Halt(String),
    Failed(ActorNo),
    Rebuild(ActorNo, ExecutionId),
    /// Set or lift a control, for the word with this number.
    Control(Box<ControlRequest>, u64),
}

/// What recovery has still to resume.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) tail: VecDeque<ExecutionId>,
    /// What the tail says, whatever the checkpoint says.
    pub(super) known: BTreeSet<ExecutionId>,
    pub(super) after: Option<ExecutionId>,
    /// Open children that lists do not show yet, and how far those that they show are listed.
    pub(super) children: VecDeque<ExecutionId>,
    pub(super) sweep: Sweep,
    /// Every child is listed.
    pub(super) swept: bool,
    pub(super) paused: bool,
    pub(super) done: bool,
}

impl Resume {
    /// Whether all that has unfinished work was told to load.
    pub(super) fn has_told_all(&self) -> bool {
        self.sweep != Sweep::NotYet && self.tail.is_empty()
    }

    /// The next child that only waits: those that run went before.
    pub(super) fn next_child(&mut self) -> Option<ExecutionId> {
        if self.sweep == Sweep::NotYet {
            return None;
        }
        let next = self.children.pop_front();
        self.done = self.swept && self.children.is_empty();
        next
    }
}

/// How far recovery has looked for children that only wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    /// What runs comes first.
    NotYet,
    /// It lists them, after this one.
    Listing(Option<ExecutionCursor>),
}

/// A shard that is served.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) epoch: Epoch,
    pub(super) lease_until: Timestamp,
    pub(super) inbox: VecDeque<ShardMessage>,
    pub(super) committer: Committer,
    pub(super) checkpointer: Checkpointer,
    pub(super) timers: Timers,
    pub(super) events: EventSink,
    pub(super) lists: Lists,
    /// What is on its way to executions without an actor, in the order in which it was sent.
    pub(super) mail: BTreeMap<ExecutionId, VecDeque<ExecutionMessage>>,
    pub(super) resume: Resume,
    pub(super) failures: FailureMachine,
    /// Its last owner gave it back.
    pub(super) released: bool,
    /// Executions whose actor failed under this owner: their attempts are not those that the last owner gave up.
    pub(super) failed: BTreeSet<ExecutionId>,
    /// It is about to be given back.
    pub(super) closing: bool,
    /// The store was asked to take it back.
    pub(super) gives_back: bool,
    pub(super) controls: Controls,
}

/// An actor that can take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Shard(ShardId),
    Resume(ShardId),
    Committer(ShardId),
    Checkpointer(ShardId),
    Writer(ShardId),
    Timers(ShardId),
    Events(ShardId),
    Lists(ShardId),
    Execution(ActorNo),
    Attempt(u64),
}

/// An engine process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) owner: String,
    pub(super) frozen: bool,
    pub(super) partitioned: bool,
    /// It was told to stop, and starts again so many milliseconds after it has.
    pub(super) stopping: Option<u64>,
    pub(super) shards: BTreeMap<ShardId, Serving>,
    pub(super) executions: BTreeMap<ActorNo, Execution>,
    pub(super) directory: BTreeMap<ExecutionId, ActorNo>,
    pub(super) attempts: BTreeMap<u64, Attempt>,
    /// How many attempts may run at once.
    pub(super) limits: Arc<Limits>,
    pub(super) guards: Guards,
    /// Tasks that start children.
    pub(super) starters: BTreeMap<u64, Starter>,
    /// Who runs and who waits where only so many may.
    pub(super) rooms: Rooms,
    pub(super) polls_rooms: bool,
    /// Words that are on their way to its shards.
    pub(super) spreading: BTreeMap<u64, Spreading>,
    pub(super) quarantine: BTreeMap<ExecutionId, EngineError>,
    /// Archives that are about to go.
    pub(super) expiring: BTreeSet<ExecutionId>,
    /// What happened while it was frozen.
    pub(super) deferred: Vec<super::schedule::Timed>,
}

impl Process {
    pub(super) fn new(owner: String, limits: Limits, guards: Guards) -> Self {
        Self {
            owner,
            frozen: false,
            partitioned: false,
            stopping: None,
            shards: BTreeMap::new(),
            executions: BTreeMap::new(),
            directory: BTreeMap::new(),
            attempts: BTreeMap::new(),
            limits: Arc::new(limits),
            guards,
            starters: BTreeMap::new(),
            rooms: Rooms::default(),
            polls_rooms: false,
            spreading: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            expiring: BTreeSet::new(),
            deferred: Vec::new(),
        }
    }

    /// Every actor that can take a step, in a fixed order.
    pub(super) fn runnable(&self, out: &mut Vec<Address>) {
        if self.frozen {
            return;
        }
        for (shard, serving) in &self.shards {
            let mut offer = |ready: bool, address: Address| {
                if ready {
                    out.push(address);
                }
            };
            offer(!serving.inbox.is_empty(), Address::Shard(*shard));
            offer(!serving.resume.done && !serving.resume.paused, Address::Resume(*shard));
            let committer = &serving.committer;
            offer(
                !committer.busy && !committer.stopped && !committer.inbox.is_empty(),
                Address::Committer(*shard),
            );
            offer(!serving.checkpointer.inbox.is_empty(), Address::Checkpointer(*shard));
            offer(
                serving.checkpointer.writer.as_ref().is_some_and(|writer| !writer.busy),
                Address::Writer(*shard),
            );
            offer(!serving.timers.inbox.is_empty(), Address::Timers(*shard));
            offer(
                !serving.events.busy && serving.events.can_go_on(),
                Address::Events(*shard),
            );
            offer(
                !serving.lists.busy && !serving.lists.inbox.is_empty(),
                Address::Lists(*shard),
            );
        }
        let ready = self.executions.iter().filter(|(_, execution)| execution.is_runnable());
        out.extend(ready.map(|(actor, _)| Address::Execution(*actor)));
        for (number, attempt) in &self.attempts {
            let ready = match attempt.stage {
                Stage::Queued => attempt.place.may_move() || attempt.canceled,
                Stage::Held => attempt.notified,
                Stage::Barred => attempt.canceled || attempt.door.as_ref().is_some_and(Awaited::is_woken),
                Stage::Leasing => attempt.notified,
                Stage::Parked => attempt.canceled || attempt.guarded.may_move(),
                Stage::Running(_) => false,
            };
            if ready {
                out.push(Address::Attempt(*number));
            }
        }
    }
}
