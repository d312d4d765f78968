//! A whole deployment in one thread: engine processes, a store, clients and a clock, all driven from one seed.
//!
//! The machines are the engine's own (`troupe_actors`), and so is the folding of recovery; the world plays the part of
//! their shells. Every actor handles one message or performs one action at a time; which of those that can go next does,
//! how long every call takes, and what breaks when, is drawn from the seed. So a process may die between any two actions.
//! Order is kept where the shells guarantee it (messages from one actor to another) and nowhere else.
//!
//! A world is of one of two kinds. *Embedded*: one process with its store; a death may take the power with it, and then
//! only what was synced survives. *Remote*: two processes and a store of their own; calls are delayed, lost or answered
//! into the void, a process may freeze and find its shard taken when it thaws.

mod attempts;
mod awaited;
pub mod breakers;
mod checkpoints;
mod clients;
mod commits;
mod controls;
pub mod coverage;
pub(crate) mod drawn;
mod events;
mod evidence;
mod executions;
mod family;
mod faults;
mod forget;
mod hand_over;
mod holding;
mod keys;
mod language;
mod limits;
mod lists;
mod lost_word;
pub mod operators;
mod parts;
mod process;
pub(crate) mod random;
mod reruns;
mod rooms;
pub mod scenario;
mod schedule;
mod services;
mod shards;
mod stops;
pub mod store;
mod supersede;
mod timing;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Arguments, Write as _};
use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use serde::Deserialize;
use troupe_actors::Mutants;
use troupe_actors::context::EngineContext;
use troupe_actors::evaluation::CompiledPlan;
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{ExecutionId, ShardId, Timestamp};

use crate::crash::{Evidence, Record, Violation};
use clients::Client;
use language::Translation;
use lists::SimulatedLists;
use process::{Address, Process, ProcessNo};
use random::Random;
use scenario::Scenario;
use schedule::{Schedule, Timed};
use store::{SimulatedClock, SimulatedStore};

/// Shards of a world.
const SHARDS: u16 = 2;
/// For how long faults happen.
const FAULTS_MS: u64 = 1_500;
/// How long a healed world may take to end everything: longer than all attempts of a node that never report.
const HEALED_MS: u64 = 600_000;
/// Steps after which a world that does not come to rest is stopped.
const STEPS_MAX: u64 = 2_000_000;
/// When a world begins.
const BEGINNING: Timestamp = Timestamp(1_790_000_000_000);

/// What a run is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Faults planted in the machines.
    pub mutants: Mutants,
    /// A fault planted in the store: an append is answered before it is synced.
    pub answers_unsynced: bool,
    /// A fault planted in the store: an append is not asked for its epoch.
    pub no_epoch_check: bool,
    /// A fault planted in the store: the log is trimmed whatever sinks have sent.
    pub trims_unsent: bool,
    /// Whether every step is printed.
    pub trace: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often a feature was in use when a fault hit.
    pub coverage: BTreeMap<(&'static str, &'static str), u64>,
    /// Hash of every step in order: equal for equal seeds.
    pub trace_hash: u64,
}

/// Runs the world of a seed to its end and checks what it left behind.
#[must_use]
pub fn run(seed: u64, options: Options) -> Outcome {
    play(&Scenario::of(seed), options)
}

/// Plays a scenario to its end and checks what it left behind.
#[must_use]
pub fn play(scenario: &Scenario, options: Options) -> Outcome {
    let mut world = World::new(scenario.clone(), options);
    world.begin();
    world.live();
    world.judge()
}

/// The workflows of every world.
fn constant() -> impl Iterator<Item = &'static Arc<WorkflowDefinition>> {
    workflows::KNOWN.iter().chain(workflows::LIMITED.iter())
}

/// Those that a scenario has beside.
fn own(scenario: &Scenario) -> impl Iterator<Item = WorkflowDefinition> {
    let own = scenario.definitions.iter();
    own.map(|own| WorkflowDefinition::deserialize(own).expect("a scenario's definitions can be read"))
}

/// The constant ones as the engine is given them: translated once for ten thousand worlds.
static TRANSLATED: LazyLock<(Translation, Vec<Arc<WorkflowDefinition>>)> = LazyLock::new(|| {
    let mut translation = Translation::default();
    let written = constant().map(|definition| Arc::new(translation.for_engine(definition)));
    let written = written.collect();
    (translation, written)
});

struct World {
    options: Options,
    random: Random,
    now: Timestamp,
    clock: Arc<SimulatedClock>,
    store: Arc<SimulatedStore>,
    lists: Arc<SimulatedLists>,
    context: EngineContext,
    /// What the engine is given for what the reference interpreter reads.
    translation: Translation,
    scenario: Scenario,
    schedule: Schedule,
    processes: BTreeMap<ProcessNo, Process>,
    clients: Vec<Client>,
    operators: Vec<operators::Operator>,
    holding: holding::Holding,
    numbers: u64,
    store_up: bool,
    healed: bool,
    unhealthy_since: Option<Timestamp>,
    evidence: Evidence,
    counts: BTreeMap<&'static str, u64>,
    coverage: BTreeMap<(&'static str, &'static str), u64>,
    parked: coverage::Parked,
    open: BTreeSet<ExecutionId>,
    /// What executions run that somebody asked for.
    workflows: BTreeMap<ExecutionId, String>,
    /// Executions that panic whenever they hear something.
    poisoned: BTreeSet<ExecutionId>,
    /// Executions whose actor is gone or that are set aside, and since when.
    sick: BTreeMap<ExecutionId, Timestamp>,
    /// What clients were told is not there, and when.
    forgotten: Vec<(ExecutionId, Timestamp)>,
    seen: Vec<usize>,
    hash: u64,
    line: String,
}

impl World {
    fn new(scenario: Scenario, options: Options) -> Self {
        let random = Random::new(scenario.seed);
        let clock = Arc::new(SimulatedClock::new(BEGINNING));
        let store = Arc::new(SimulatedStore::new(SHARDS, Arc::clone(&clock)));
        if options.trims_unsent {
            store.trims_unsent();
        }
        let mut engine_options = parts::options();
        engine_options.mutants = options.mutants;
        if let Some(retention_ms) = scenario.retention_ms {
            engine_options.retention_ms = retention_ms;
        }
        let lists = Arc::new(SimulatedLists::new());
        let (mut translation, mut definitions) = TRANSLATED.clone();
        definitions.extend(own(&scenario).map(|definition| Arc::new(translation.for_engine(&definition))));
        let context = parts::context(&store, &clock, &lists, definitions, engine_options);
        Self {
            options,
            random,
            now: BEGINNING,
            clock,
            store,
            lists,
            context,
            translation,
            scenario,
            schedule: Schedule::default(),
            processes: BTreeMap::new(),
            clients: Vec::new(),
            operators: Vec::new(),
            holding: holding::Holding::default(),
            numbers: 0,
            store_up: true,
            healed: false,
            unhealthy_since: Some(BEGINNING),
            evidence: Evidence::default(),
            counts: BTreeMap::new(),
            coverage: BTreeMap::new(),
            parked: BTreeMap::new(),
            open: BTreeSet::new(),
            workflows: BTreeMap::new(),
            poisoned: BTreeSet::new(),
            sick: BTreeMap::new(),
            forgotten: Vec::new(),
            seen: vec![0; usize::from(SHARDS)],
            hash: 0xCBF2_9CE4_8422_2325,
            line: String::new(),
        }
    }

    fn begin(&mut self) {
        for host in 0..if self.scenario.remote { 2 } else { 1 } {
            self.start_process(format!("host-{host}"));
        }
        for (number, plan) in self.scenario.clients.clone().iter().enumerate() {
            self.clients.push(Client::new(plan));
            self.after(plan.begins_ms, Timed::Client(number));
        }
        self.begin_operators();
        for fault in self.scenario.faults.clone() {
            self.after(fault.at_ms, Timed::Fault(fault));
        }
        self.after(FAULTS_MS, Timed::Heal);
    }

    fn live(&mut self) {
        let mut runnable: Vec<(ProcessNo, Address)> = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..STEPS_MAX {
            self.observe_health();
            self.set_alarms();
            runnable.clear();
            for (number, process) in &self.processes {
                process.runnable(&mut ready);
                runnable.extend(ready.drain(..).map(|address| (*number, address)));
            }
            let next_at = self.schedule.next_at();
            let due = next_at.is_some_and(|at| at <= self.now);
            if due && (runnable.is_empty() || self.random.once_in(2)) {
                if let Some(event) = self.schedule.pop() {
                    self.happen(event);
                }
            } else if !runnable.is_empty() {
                if self.random.once_in(12) {
                    self.advance(self.now.plus_ms(1));
                } else {
                    let (process, address) = runnable[self.random.place(runnable.len())];
                    self.step(process, address);
                }
            } else {
                let Some(at) = next_at.filter(|_| !self.is_over()) else {
                    return;
                };
                self.advance(at);
            }
        }
        let what = format!("the world did not come to rest within {STEPS_MAX} steps");
        self.evidence.records.push(Record::Trouble { what });
    }

    fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
        self.clock.set(self.now);
    }

    fn step(&mut self, process: ProcessNo, address: Address) {
        self.note(format_args!("{process} {address:?}"));
        match address {
            Address::Shard(shard) => self.shard_step(process, shard),
            Address::Resume(shard) => self.resume_step(process, shard),
            Address::Committer(shard) => self.committer_step(process, shard),
            Address::Checkpointer(shard) => self.checkpointer_step(process, shard),
            Address::Writer(shard) => self.writer_step(process, shard),
            Address::Timers(shard) => self.timers_step(process, shard),
            Address::Events(shard) => self.events_step(process, shard),
            Address::Lists(shard) => self.lists_step(process, shard),
            Address::Execution(actor) => self.execution_step(process, actor),
            Address::Attempt(attempt) => self.attempt_step(process, attempt),
        }
    }

    fn happen(&mut self, event: Timed) {
        self.note(format_args!("{} {:?}", event.name(), event.process()));
        if let Some(number) = event.process() {
            let Some(process) = self.processes.get_mut(&number) else {
                return;
            };
            if process.frozen {
                return process.deferred.push(event);
            }
        }
        match event {
            Timed::Arrive { caller, call, answered } => self.arrive(caller, call, answered),
            Timed::Synced { caller, answered } => self.synced(caller, answered),
            Timed::Answered(caller, answer) => self.answered(caller, answer),
            Timed::Publish {
                caller,
                events,
                confirmed,
            } => self.publish_arrives(caller, events, confirmed),
            Timed::Confirmed(caller, confirmed) => self.confirmed(caller, confirmed),
            Timed::SinkRetry(caller) => self.sink_retry(caller),
            Timed::SinkTick(caller) => self.sink_tick(caller),
            Timed::ListsTick(caller) => self.lists_tick(caller),
            Timed::Forget(caller, look) => self.forget(caller, look),
            Timed::AskChildren(caller, parent, after) => self.ask_listed(caller, parent, after),
            Timed::CommitterRetry(caller) => self.committer_retry(caller),
            Timed::Go(caller) => self.go(caller),
            Timed::Mail(caller, id) => self.mail(caller, id),
            Timed::WriterRetry(caller) => self.writer_retry(caller),
            Timed::CheckpointTick(caller) => self.checkpoint_tick(caller),
            Timed::TimersTick(caller) => self.timers_tick(caller),
            Timed::RenewTick(caller) => self.renew(caller),
            Timed::ResumeRetry(caller) => self.resume_retry(caller),
            Timed::Acquire(process, shard) => self.acquire(process, shard),
            Timed::LoadRetry(process, actor) => self.load_retry(process, actor),
            Timed::Deliver(process, id, message) => self.deliver(process, id, message),
            Timed::StartAgain(process, number, tries) => self.try_start(process, number, tries),
            Timed::AttemptEnds(process, attempt, ending) => self.attempt_ends(process, attempt, ending),
            Timed::QueueTimeout(process, attempt) => self.queue_timeout(process, attempt),
            Timed::AttemptPoll(process, attempt) => self.attempt_poll(process, attempt),
            Timed::Redelivered(id, report) => self.redelivered(id, report),
            Timed::RoomsPoll(process) => self.poll_rooms(process),
            Timed::Evaluated(process, actor) => self.evaluated(process, actor),
            Timed::Operator(operator) => self.operator_acts(operator),
            Timed::OperatorGivesUp(operator, request) => self.operator_gives_up(operator, request),
            Timed::Ask(process, asked) => self.asked(process, *asked),
            Timed::InForce(caller, told) => self.in_force(caller, told),
            Timed::CancelStopped(caller, clean) => self.cancel_stopped(caller, clean),
            Timed::LiftAll => self.lift_all(),
            Timed::BreakerDue(process, target) => self.breaker_due(process, &target),
            Timed::Client(client) => self.client_acts(client),
            Timed::GiveUp(client, request) => self.client_gives_up(client, request),
            Timed::Fault(fault) => self.fault(fault),
            Timed::Repair(repair) => self.repair(repair),
            Timed::SaveQuarantine(process, id) => self.save_quarantine(process, id),
            Timed::Heal => self.heal(),
            Timed::Release => self.take_back(),
            Timed::Nudge => self.nudge(),
        }
    }

    /// Something happens in so many milliseconds.
    fn after(&mut self, ms: u64, event: Timed) {
        self.schedule.at(self.now.plus_ms(ms), event, &mut self.random);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn record(&mut self, record: Record) {
        self.note(format_args!("{record:?}"));
        self.evidence.records.push(record);
    }

    fn trouble(&mut self, what: String) {
        self.record(Record::Trouble { what });
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Adds a line to the trace.
    fn note(&mut self, line: Arguments<'_>) {
        self.line.clear();
        let at_ms = self.now.since_ms(BEGINNING);
        // Writing to a string cannot fail.
        write!(self.line, "{at_ms} {line}").ok();
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.options.trace {
            println!("{}", self.line);
        }
    }

    fn plan(&self, workflow: &str) -> Arc<CompiledPlan> {
        at_once(self.context.plans.version(workflow, 1)).expect("the workload's definitions compile")
    }
}

/// The answer of a future that cannot wait: everything below it is in memory.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the simulated store answers at once")
}

/// Every shard.
fn shards() -> impl Iterator<Item = ShardId> {
    (0..SHARDS).map(ShardId)
}
