//! What an operator may tune, with the limits that every queue and retry has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use troupe_core::definition::NodeKind;
use troupe_core::plan::CoreMutants;
use troupe_core::{FormatRange, FormatTerms, ShardId, StateFormat};

use crate::breakers::BreakerSettings;
use crate::resume::ResumeLinks;

/// Options of an engine. The defaults suit one small machine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Names this engine in leases.
    pub owner: String,
    /// Where other members reach this one's API; see [`troupe_ports::Member`].
    pub address: String,
    /// The release that runs, for people.
    pub release: String,
    /// Formats of the state that it reads. Another one than [`FormatRange::RELEASE`] is for tests only.
    pub reads: FormatRange,
    /// Nobody is to write a newer format than this; none: the newest one that all members read is written.
    pub format_at_most: Option<StateFormat>,
    /// How long a shard's lease lasts; it is renewed every third of it.
    pub lease: Duration,
    /// Most executions with a live actor that starts may bring about; beyond it starts are refused as overloaded.
    pub executions_max: usize,
    /// Most attempts that run at once.
    pub attempts_max: usize,
    /// Most attempts that run at once of a node type; those that are not here have no limit of their own.
    pub attempts_max_of: BTreeMap<NodeKind, usize>,
    /// When breakers open and close; none: nothing opens one by itself.
    pub breakers: Option<BreakerSettings>,
    /// Most bytes of log, over all shards, before a checkpoint.
    pub checkpoint_bytes: usize,
    /// Longest time between an entry and the checkpoint that holds it.
    pub checkpoint_interval: Duration,
    /// How long a tombstone outlives its archive, in milliseconds: for so long more the request key of its start gives it.
    pub tombstone_ms: u64,
    /// How long archives are kept where the workflow does not say, in milliseconds.
    pub retention_ms: u64,
    /// Largest start payload, variables and metadata together, in bytes.
    pub input_bytes_max: usize,
    /// Largest output of an attempt, in bytes; a larger one fails the node.
    pub output_bytes_max: usize,
    /// All large values of an execution and its children together, in bytes.
    pub blob_bytes_max: u64,
    /// Most outputs that are kept for reuse (`data.cache`).
    pub cached_outputs_max: u64,
    /// Most bytes of all outputs kept for reuse.
    pub cached_bytes_max: u64,
    /// Most timers of waiting executions in memory, per shard.
    pub timers_max: usize,
    /// An execution whose deadline is closer than this keeps its actor, in milliseconds.
    pub passivate_after_ms: u64,
    /// How long an aborted attempt may take to stop before its future is dropped, in milliseconds.
    pub abort_grace_ms: u64,
    /// Most compiled workflow versions in memory.
    pub plans_max: usize,
    /// For how long the latest version of a workflow may be remembered, in milliseconds.
    pub latest_ttl_ms: u64,
    /// Most executions that recovery loads at once.
    pub recovery_max: usize,
    /// How far visibility may lag before it is written, in milliseconds.
    pub visibility_ms: u64,
    /// Rounds of sandbox evaluations one event may need before it fails.
    pub evaluation_rounds_max: u32,
    /// How often archives are looked for that have expired.
    pub expire_every: Duration,
    /// Bytes of log a shard that may wait for a bus before a checkpoint moves them to the bus's spool.
    pub spool_above_bytes: u64,
    /// When what waits for a bus is too much.
    pub backlog: BacklogMarks,
    /// Shards that open although records of their log cannot be read: what those held is lost, the operator says so.
    pub accept_loss: Vec<ShardId>,
    /// What `resumeUrls` in expressions gives; none: they fail.
    pub resume_links: Option<Arc<ResumeLinks>>,
    /// Faults to plant. Tests only.
    pub mutants: Mutants,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            owner: format!("engine-{}", std::process::id()),
            address: String::new(),
            release: String::new(),
            reads: FormatRange::RELEASE,
            format_at_most: None,
            lease: Duration::from_secs(5),
            executions_max: 20_000,
            attempts_max: 1_024,
            attempts_max_of: BTreeMap::new(),
            breakers: None,
            checkpoint_bytes: 2 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(5),
            tombstone_ms: 24 * 3_600_000,
            retention_ms: 7 * 24 * 3_600_000,
            input_bytes_max: 16 * 1024 * 1024,
            output_bytes_max: 16 * 1024 * 1024,
            blob_bytes_max: 1024 * 1024 * 1024,
            cached_outputs_max: 100_000,
            cached_bytes_max: 256 * 1024 * 1024,
            timers_max: 1_024,
            passivate_after_ms: 250,
            abort_grace_ms: 1_000,
            plans_max: 1_024,
            latest_ttl_ms: 1_000,
            recovery_max: 64,
            visibility_ms: 100,
            evaluation_rounds_max: 1_000,
            expire_every: Duration::from_secs(60),
            spool_above_bytes: 8 * 1024 * 1024,
            backlog: BacklogMarks::default(),
            accept_loss: Vec::new(),
            resume_links: None,
            mutants: Mutants::default(),
        }
    }
}

impl EngineOptions {
    /// What this engine says of formats.
    #[must_use]
    pub fn terms(&self) -> FormatTerms {
        FormatTerms {
            reads: self.reads,
            at_most: self.format_at_most,
        }
    }
}

/// High-water marks of what waits for a bus or for the lists, in bytes of log and spool a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogMarks {
    /// Beyond it no execution starts.
    pub refuse_bytes: u64,
    /// Beyond it no attempt starts either.
    pub hold_bytes: u64,
}

impl Default for BacklogMarks {
    fn default() -> Self {
        Self {
            refuse_bytes: 64 * 1024 * 1024,
            hold_bytes: 128 * 1024 * 1024,
        }
    }
}

/// Faults that the crash test plants to prove that it would notice them. All off, always, outside of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutants {
    /// Starts and commands are acknowledged before their entry is durable.
    pub acknowledge_before_commit: bool,
    /// A report is applied although its token is not the current one.
    pub no_completion_dedupe: bool,
    /// The count of a join is not saved with the completion that moved it: a takeover finds it one short.
    pub non_atomic_join_counter: bool,
    /// Timers are durable nowhere: a crash before the entry that fires one loses it.
    pub timer_removed_before_commit: bool,
    /// Effects are released before their entry is durable.
    pub effect_before_commit: bool,
    /// Reads show states that are not durable.
    pub read_before_commit: bool,
    /// The events' cursor moves before the bus has confirmed what it passes.
    pub cursor_before_confirm: bool,
    /// What is moved from the log to the spool of a bus is left out.
    pub spools_nothing: bool,
    /// Events are published before the entries that they tell of are durable.
    pub publish_before_commit: bool,
    /// The engine's core takes a quorum for reached, or a delay for over, too early.
    pub core: CoreMutants,
    /// Nobody is set aside, however often its actor fails.
    pub never_sets_aside: bool,
    /// An append of which the outcome is unknown counts as done.
    pub unknown_append_is_done: bool,
    /// What a checkpoint is writing is forgotten before it is written.
    pub forgets_what_is_written: bool,
    /// Timers of executions that give up their actor are left to the store, which may not have them yet.
    pub timers_left_to_store: bool,
    /// Large values are said to be durable before the store has them.
    pub values_after_entries: bool,
    /// A takeover does not look after the children of what it resumes.
    pub children_not_resumed: bool,
    /// Controls of a wider scope reach executions when they wake, and nobody at the door.
    pub no_door: bool,
    /// Attempts go on although the breaker of their target is open.
    pub nobody_is_parked: bool,
    /// One attempt more than its limit allows has a slot of its key.
    pub one_slot_too_many: bool,
    /// Every report of an attempt is delivered again, late. No fault of its own: dedupe makes it harmless.
    pub redeliver_reports: bool,
}
