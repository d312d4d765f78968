//! What an engine process can be told at run time: where to die or to panic, what its clock shows, which fault is planted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use troupe_core::{Epoch, ExecutionId, ShardId, Timestamp};
use troupe_ports::{Clock, SystemClock, Task};

use super::child::Fault;
use super::record::Record;
use super::workload;

/// A named place in an engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// A shard was taken and is not served yet.
    Acquired,
    /// A lease is about to be renewed.
    Renewing,
    /// A record is about to be appended.
    Appending,
    /// The store has answered an append; nobody knows.
    Appended,
    /// A part of a checkpoint is about to be written.
    Checkpointing,
    /// A part of a checkpoint was written.
    Checkpointed,
    /// The log is about to be trimmed.
    Trimming,
    /// The log was trimmed.
    Trimmed,
    /// The cursor of a sink is about to be saved.
    MovingCursor,
    /// Large values were written, the entry that refers to them was not.
    KeptValues,
    /// Events are about to be published.
    Publishing,
    /// The bus has confirmed events; the cursor has not moved.
    Published,
    /// An attempt begins.
    Attempting,
}

impl Moment {
    /// Every moment at which an engine can be killed.
    pub const ALL: [Self; 13] = [
        Self::Acquired,
        Self::Renewing,
        Self::Appending,
        Self::Appended,
        Self::Checkpointing,
        Self::Checkpointed,
        Self::Trimming,
        Self::Trimmed,
        Self::MovingCursor,
        Self::KeptValues,
        Self::Publishing,
        Self::Published,
        Self::Attempting,
    ];
}

/// What happens when a moment comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// The process ends at once: no destructor, no flush.
    Die,
    /// The actor that is there panics, once.
    Panic,
}

/// What is counted when a moment has come and something happened.
#[must_use]
pub fn came(act: Act, moment: Moment) -> String {
    format!("{act:?} at {moment:?}")
}

/// What is counted when somebody asks what time it is while the clock shows something else.
pub const WRONG_CLOCK: &str = "looks at a wrong clock";
/// What is counted when the actor of an execution panics.
pub const EXECUTION_PANICS: &str = "panics of executions";

/// The switches of one process.
#[derive(Debug, Default)]
pub struct Switches {
    armed: Mutex<Vec<(Moment, Act)>>,
    clock_ms: AtomicI64,
    /// How often the clock was looked at while it was wrong.
    wrong_looks: AtomicU64,
    /// Milliseconds that every attempt takes longer.
    slow_ms: AtomicU64,
    /// Whether the actors of poisoned executions panic.
    poisons: AtomicBool,
    /// How often an execution that stumbles came to where it may.
    stumbles: AtomicU64,
    poisoned: Mutex<Poisoned>,
    pub(super) appends_without_epoch: bool,
    pub(crate) renews_without_compare: bool,
    /// Owners keep no records in memory: they would give back what a planted fault loses.
    pub(crate) keeps_no_records: bool,
    pub(super) trims_before_confirm: bool,
    pub(crate) takes_without_epoch: bool,
    pub(crate) admits_without_count: bool,
    pub(crate) keeps_tickets: bool,
}

/// What is known of the executions whose actors may panic.
#[derive(Debug, Default)]
struct Poisoned {
    /// The epoch under which each shard was taken last.
    epochs: BTreeMap<ShardId, Epoch>,
    /// The epoch under which the node of each was dispatched last.
    dispatched: BTreeMap<ExecutionId, Epoch>,
}

impl Poisoned {
    /// Whether a dispatch says that its execution was built again by the same owner, under which epoch: what was interrupted is
    /// dispatched once more.
    fn is_restart(&mut self, id: ExecutionId, is_again: bool) -> Option<Epoch> {
        let epoch = self.epochs.get(&id.shard()).copied()?;
        let before = self.dispatched.insert(id, epoch);
        (is_again && before == Some(epoch)).then_some(epoch)
    }
}

impl Switches {
    /// With this fault planted, if it is one of those that are planted between the engine and its store.
    #[must_use]
    pub fn with(fault: Option<Fault>) -> Self {
        Self {
            appends_without_epoch: fault == Some(Fault::NoEpochCheck),
            renews_without_compare: fault == Some(Fault::RenewWithoutCompare),
            keeps_no_records: fault == Some(Fault::RedirectedIsDone),
            trims_before_confirm: fault == Some(Fault::TrimBeforeConfirm),
            takes_without_epoch: fault == Some(Fault::TakeWithoutEpoch),
            admits_without_count: fault == Some(Fault::AdmitWithoutCount),
            keeps_tickets: fault == Some(Fault::KeepTickets),
            ..Self::default()
        }
    }

    /// When `moment` comes next, `act` happens.
    pub fn arm(&self, moment: Moment, act: Act) {
        self.armed().push((moment, act));
    }

    /// The clock shows so much more than the machine's. What was looked at while it was wrong is counted when it is right again.
    pub fn step_clock(&self, by_ms: i64) {
        self.clock_ms.store(by_ms, Ordering::Relaxed);
        let times = self.wrong_looks.swap(0, Ordering::Relaxed);
        if times > 0 {
            let what = WRONG_CLOCK.to_owned();
            Record::Counted { what, times }.emit();
        }
    }

    /// Attempts take so much longer.
    pub fn slow_attempts(&self, by_ms: u64) {
        self.slow_ms.store(by_ms, Ordering::Relaxed);
    }

    /// How much longer an attempt takes.
    #[must_use]
    pub fn attempts_take_longer(&self) -> Duration {
        Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))
    }

    /// The actors of poisoned executions panic from now on, or do no more.
    pub fn poison(&self, is_on: bool) {
        self.poisons.store(is_on, Ordering::Relaxed);
    }

    /// The actor of an execution steps with what only the sandbox can tell.
    ///
    /// # Panics
    /// Where its execution is poisoned.
    pub(crate) fn steps(&self, workflow: &str) {
        let panics = match workflow {
            _ if !self.poisons.load(Ordering::Relaxed) => false,
            workload::POISONED => true,
            workload::STUMBLING => self.stumbles.fetch_add(1, Ordering::Relaxed).is_multiple_of(2),
            _ => false,
        };
        if panics {
            let what = EXECUTION_PANICS.to_owned();
            Record::Counted { what, times: 1 }.emit();
            panic!("{workflow}: as it was told");
        }
    }

    /// This process has a shard.
    pub(super) fn has_taken(&self, shard: ShardId, epoch: Epoch) {
        self.poisoned().epochs.insert(shard, epoch);
    }

    /// An attempt is dispatched: that of a poisoned execution tells whether its actor was built again.
    pub(crate) fn dispatches(&self, task: &Task) {
        if !workload::may_be_poisoned(task.plan.workflow.as_str()) || task.node().key.as_str() != workload::POISON {
            return;
        }
        let id = task.execution;
        if let Some(epoch) = self.poisoned().is_restart(id, task.token.nonce > 0) {
            let (epoch, at) = (epoch.0, self.now());
            Record::Restarted { id, epoch, at }.emit();
        }
    }

    /// A moment has come.
    ///
    /// # Panics
    /// Where that is what was asked for.
    pub fn reached(&self, moment: Moment) {
        self.acts(moment, None);
    }

    /// A moment has come in a task of a shard that cannot go on without it.
    ///
    /// # Panics
    /// Where that is what was asked for; then somebody must open the shard anew.
    pub(crate) fn reached_in(&self, moment: Moment, shard: ShardId) {
        self.acts(moment, Some(shard));
    }

    fn acts(&self, moment: Moment, shard: Option<ShardId>) {
        let act = {
            let mut armed = self.armed();
            if armed.is_empty() {
                return;
            }
            let place = armed.iter().position(|(at, _)| *at == moment);
            place.map(|place| armed.swap_remove(place).1)
        };
        let Some(act) = act else { return };
        let what = came(act, moment);
        Record::Counted { what, times: 1 }.emit();
        match act {
            Act::Die => std::process::abort(),
            Act::Panic => {
                if let Some(ShardId(shard)) = shard {
                    Record::Panicked { shard }.emit();
                }
                panic!("{moment:?}: as it was told");
            }
        }
    }

    fn poisoned(&self) -> std::sync::MutexGuard<'_, Poisoned> {
        self.poisoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn armed(&self) -> std::sync::MutexGuard<'_, Vec<(Moment, Act)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Switches {
    fn now(&self) -> Timestamp {
        let by_ms = self.clock_ms.load(Ordering::Relaxed);
        if by_ms != 0 {
            self.wrong_looks.fetch_add(1, Ordering::Relaxed);
        }
        Timestamp(SystemClock.now().0.saturating_add(by_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn whoever_is_dispatched_again_by_the_same_owner_was_built_again() {
        let id = ExecutionId::fresh(ShardId(3), Timestamp(0), 1);
        let mut poisoned = Poisoned::default();
        assert_eq!(poisoned.is_restart(id, true), None, "nobody has its shard");
        poisoned.epochs.insert(ShardId(3), Epoch(1));
        assert_eq!(poisoned.is_restart(id, false), None);
        assert_eq!(poisoned.is_restart(id, true), Some(Epoch(1)));
        poisoned.epochs.insert(ShardId(3), Epoch(2));
        assert_eq!(poisoned.is_restart(id, true), None, "another owner has taken it over");
        assert_eq!(poisoned.is_restart(id, true), Some(Epoch(2)));
    }

    #[test]
    fn what_is_armed_happens_once_at_its_moment() {
        let switches = Switches::default();
        let panics = |moment| catch_unwind(|| switches.reached_in(moment, ShardId(1))).is_err();
        assert!(!panics(Moment::Renewing), "nobody has told it to");
        switches.arm(Moment::Renewing, Act::Panic);
        assert!(!panics(Moment::Checkpointing));
        assert_eq!([panics(Moment::Renewing), panics(Moment::Renewing)], [true, false]);
    }

    #[test]
    fn only_what_is_poisoned_panics_and_only_while_that_is_on() {
        let switches = Switches::default();
        let panics = |workflow: &str| catch_unwind(|| switches.steps(workflow)).is_err();
        assert!(!panics(workload::POISONED), "nobody has told it to");
        switches.poison(true);
        assert!(!panics("chain"));
        assert!(panics(workload::POISONED) && panics(workload::POISONED));
        let stumbles = [(); 4].map(|()| panics(workload::STUMBLING));
        assert_eq!(stumbles, [true, false, true, false]);
        switches.poison(false);
        assert!(!panics(workload::POISONED) && !panics(workload::STUMBLING));
    }
}
