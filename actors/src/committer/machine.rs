//! What the committer decides: one append in flight, positions, commit ids, and what an unknown outcome means.

use std::sync::Arc;

use bytes::Bytes;
use troupe_core::control::ControlEntry;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId};
use troupe_ports::{AppendError, CommitId, LogRecord, StoreError};

use super::kept::Kept;
use crate::execution::machine::Draft;
use crate::format::WrittenFormat;
use crate::options::Mutants;
use crate::record::{RecordItem, RecordWriter};

/// First pause before an append is repeated, in milliseconds; it doubles up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 10;
/// Longest pause before an append is repeated, in milliseconds.
const RETRY_MAX_MS: u64 = 1_000;

/// An entry to commit; `T` is whatever is told once it is durable.
#[derive(Debug)]
pub struct Append<T> {
    /// The execution.
    pub id: ExecutionId,
    /// The entry and what belongs to it.
    pub draft: Box<Draft>,
    /// Who is told.
    pub notify: T,
}

/// A batch that is durable.
#[derive(Debug)]
pub struct Batch<T, C = ()> {
    /// Where its record stands.
    pub position: LogPosition,
    /// The record.
    pub record: Bytes,
    /// Places of the entries in the record, in the order of `appends` and then of `controls`.
    pub items: Vec<RecordItem>,
    /// What was committed.
    pub appends: Vec<Append<T>>,
    /// Controls that were committed, and who is told.
    pub controls: Vec<(ControlEntry, C)>,
}

/// What the shell does next.
#[derive(Debug)]
pub enum Action<T, C = ()> {
    /// Nothing until something is gathered.
    Idle,
    /// Append this record; then [`CommitterMachine::appended`].
    Append {
        /// Where.
        position: LogPosition,
        /// Which commit.
        commit: CommitId,
        /// What.
        record: Bytes,
    },
    /// Read which commit wrote this position; then [`CommitterMachine::probed`].
    Probe(LogPosition),
    /// Wait this long, then [`CommitterMachine::retry`].
    Wait(u64),
    /// The batch is durable: release everything that waited for it.
    Committed(Batch<T, C>),
    /// Another owner has the shard: drop everything at once.
    Fenced,
    /// The log ends before what this owner has committed: everything in memory may be ahead of it.
    WentBack(String),
    /// The store is damaged: stop, an operator must look.
    Halt(String),
}

#[derive(Debug)]
struct InFlight<T, C> {
    commit: CommitId,
    batch: Batch<T, C>,
    retry_ms: u64,
    /// It may have been appended, and seen, without an answer.
    is_doubtful: bool,
}

impl<T, C> InFlight<T, C> {
    fn record(&self) -> LogRecord {
        LogRecord {
            position: self.batch.position,
            commit: self.commit,
            bytes: self.batch.record.clone(),
        }
    }
}

/// The committer of one shard under one epoch.
#[derive(Debug)]
pub struct CommitterMachine<T, C = ()> {
    shard: ShardId,
    epoch: Epoch,
    next: LogPosition,
    commits: u64,
    writer: RecordWriter,
    gathered: Vec<Append<T>>,
    controls: Vec<(ControlEntry, C)>,
    /// A call of [`Self::begin`] is on its way.
    asked: bool,
    in_flight: Option<InFlight<T, C>>,
    /// None where the store never comes back older.
    kept: Option<Kept>,
    mutants: Mutants,
    format: Arc<WrittenFormat>,
}

impl<T, C> CommitterMachine<T, C> {
    /// A committer that appends at `next` first.
    #[must_use]
    pub fn new(shard: ShardId, epoch: Epoch, next: LogPosition) -> Self {
        let writer = RecordWriter::default();
        Self {
            shard,
            epoch,
            next,
            commits: 0,
            writer,
            gathered: Vec::new(),
            asked: false,
            controls: Vec::new(),
            in_flight: None,
            kept: None,
            mutants: Mutants::default(),
            format: Arc::default(),
        }
    }

    /// Writes in this format, which may change.
    #[must_use]
    pub fn writing(self, format: Arc<WrittenFormat>) -> Self {
        Self { format, ..self }
    }

    /// Keeps the latest records from `kept` on, where the store may come back older.
    #[must_use]
    pub fn keeping(self, kept: Option<Kept>) -> Self {
        Self { kept, ..self }
    }

    /// Plants faults. Tests only.
    #[must_use]
    pub fn with(self, mutants: Mutants) -> Self {
        Self { mutants, ..self }
    }

    /// Adds entries to the batch that gathers; all of one call go into one record. True if [`Self::begin`] is to be
    /// called, once whatever else is there has been gathered.
    #[must_use]
    pub fn gather(&mut self, appends: impl IntoIterator<Item = Append<T>>) -> bool {
        self.hold(appends);
        self.go()
    }

    /// Adds entries that may wait for others: whoever hands them over sees to it that [`Self::go`] is called.
    pub fn hold(&mut self, appends: impl IntoIterator<Item = Append<T>>) {
        self.writer.begin(self.format.now());
        for append in appends {
            self.writer.push(append.id, &append.draft.entry, append.draft.mark);
            self.gathered.push(append);
        }
    }

    /// What was held waits no longer. True if [`Self::begin`] is to be called.
    #[must_use]
    pub fn go(&mut self) -> bool {
        !self.is_empty() && !std::mem::replace(&mut self.asked, true)
    }

    /// Adds an entry of the shard's controls to the batch that gathers. True if [`Self::begin`] is to be called.
    #[must_use]
    pub fn gather_control(&mut self, entry: ControlEntry, notify: C) -> bool {
        self.controls.push((entry, notify));
        self.go()
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.controls.is_empty()
    }

    /// Starts the next append, if something gathered and none is in flight.
    pub fn begin(&mut self) -> Action<T, C> {
        self.asked = false;
        if self.in_flight.is_some() || self.is_empty() {
            return Action::Idle;
        }
        self.writer.begin(self.format.now());
        for (entry, _) in &self.controls {
            self.writer.push_control(self.shard, entry);
        }
        self.commits += 1;
        let owner = u128::from(self.shard.0) << 112 | u128::from(self.epoch.0) << 56;
        let commit = CommitId(owner | u128::from(self.commits));
        let (record, items) = self.writer.finish(commit);
        let batch = Batch {
            position: self.next,
            record,
            items,
            appends: std::mem::take(&mut self.gathered),
            controls: std::mem::take(&mut self.controls),
        };
        self.in_flight = Some(InFlight {
            commit,
            batch,
            retry_ms: RETRY_FIRST_MS,
            is_doubtful: false,
        });
        self.append()
    }

    /// The append is to be repeated.
    pub fn retry(&mut self) -> Action<T, C> {
        // An append whose outcome is unknown may have happened: look before repeating it.
        self.in_flight
            .as_ref()
            .map_or(Action::Idle, |flight| Action::Probe(flight.batch.position))
    }

    /// What the append answered.
    pub fn appended(&mut self, answer: Result<(), AppendError>) -> Action<T, C> {
        match answer {
            Ok(()) => self.committed(),
            Err(_) if self.mutants.unknown_append_is_done => self.committed(),
            Err(AppendError::Conflict { next }) => self.conflict(next),
            Err(AppendError::Store(StoreError::Fenced { .. } | StoreError::Held(_))) => Action::Fenced,
            Err(AppendError::Store(StoreError::Unavailable(_))) => self.back_off(),
            Err(AppendError::Store(StoreError::WentBack(why))) => Action::WentBack(why),
            Err(AppendError::Store(StoreError::Damaged(why))) => Action::Halt(why),
        }
    }

    /// Which commit wrote the position that was probed; none if it is still free.
    pub fn probed(&mut self, answer: Result<Option<CommitId>, StoreError>) -> Action<T, C> {
        let Some(flight) = &self.in_flight else {
            return Action::Idle;
        };
        match answer {
            Ok(Some(commit)) if commit == flight.commit => self.committed(),
            Ok(Some(_)) => Action::Fenced,
            Ok(None) => self.append(),
            Err(StoreError::Fenced { .. } | StoreError::Held(_)) => Action::Fenced,
            Err(StoreError::Unavailable(_)) => self.back_off(),
            Err(StoreError::WentBack(why)) => Action::WentBack(why),
            Err(StoreError::Damaged(why)) => Action::Halt(why),
        }
    }

    /// What is being appended and may never become durable.
    pub fn in_flight(&self) -> &[Append<T>] {
        self.in_flight.as_ref().map_or(&[], |flight| &flight.batch.appends)
    }

    fn append(&self) -> Action<T, C> {
        self.in_flight.as_ref().map_or(Action::Idle, |flight| Action::Append {
            position: flight.batch.position,
            commit: flight.commit,
            record: flight.batch.record.clone(),
        })
    }

    fn conflict(&mut self, next: LogPosition) -> Action<T, C> {
        match &mut self.in_flight {
            Some(flight) if next > flight.batch.position => {
                flight.is_doubtful = true;
                Action::Probe(flight.batch.position)
            }
            Some(flight) => {
                let ours = flight.batch.position;
                Action::WentBack(format!(
                    "shard {} went back: its next position is {next}, not {ours}",
                    self.shard
                ))
            }
            None => Action::Idle,
        }
    }

    fn back_off(&mut self) -> Action<T, C> {
        let Some(flight) = &mut self.in_flight else {
            return Action::Idle;
        };
        flight.is_doubtful = true;
        let wait_ms = flight.retry_ms;
        flight.retry_ms = (wait_ms * 2).min(RETRY_MAX_MS);
        Action::Wait(wait_ms)
    }

    fn committed(&mut self) -> Action<T, C> {
        let Some(flight) = self.in_flight.take() else {
            return Action::Idle;
        };
        self.next = flight.batch.position.next();
        if let Some(kept) = &mut self.kept {
            kept.committed(flight.record());
        }
        Action::Committed(flight.batch)
    }

    /// A checkpoint reaches up to there.
    pub fn checkpointed(&mut self, reached: LogPosition) {
        if let Some(kept) = &mut self.kept {
            kept.checkpointed(reached);
        }
    }

    /// Nothing is appended any more. What was under way without an answer is kept with what is durable, for it may have been seen; what was
    /// refused is not, since whoever waits for it hears that it did not happen.
    pub fn end(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Some(flight) = self.in_flight.take_if(|flight| flight.is_doubtful)
        {
            kept.sent(flight.record());
        }
    }

    /// The latest records that were committed, if they are kept.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::kept::Lacks;
    use super::*;
    use crate::record::Mark;
    use troupe_core::execution::{Entry, Event};
    use troupe_core::{Seq, Timestamp};
    use troupe_ports::LogEnd;

    fn append(n: u64) -> Append<u64> {
        let entry = Entry {
            seq: Seq(n),
            at: Timestamp(0),
            event: Event::Paused,
            answers: Vec::new(),
            transitions: Vec::new(),
            principal: None,
            command: None,
        };
        let draft = Draft {
            entry,
            mark: Mark::Running,
            snapshot: None,
            summary: None,
            end: None,
            head: None,
        };
        Append {
            id: ExecutionId::fresh(ShardId(0), Timestamp(0), n),
            draft: Box::new(draft),
            notify: n,
        }
    }

    fn machine() -> CommitterMachine<u64> {
        CommitterMachine::new(ShardId(3), Epoch(2), LogPosition(7))
    }

    fn unavailable() -> Result<(), AppendError> {
        Err(AppendError::Store(StoreError::Unavailable("down".into())))
    }

    fn appending(action: Action<u64>) -> (LogPosition, CommitId) {
        let Action::Append { position, commit, .. } = action else {
            panic!("{action:?}")
        };
        (position, commit)
    }

    fn committed(action: Action<u64>) -> Vec<u64> {
        let Action::Committed(batch) = action else {
            panic!("{action:?}")
        };
        batch.appends.iter().map(|append| append.notify).collect()
    }

    #[test]
    fn the_next_batch_gathers_while_one_is_in_flight() {
        let mut machine = machine();
        assert!(matches!(machine.begin(), Action::Idle));
        assert!(machine.gather([append(1)]));
        let (first, _) = appending(machine.begin());
        assert!(machine.gather([append(2)]));
        assert!(!machine.gather([append(3)]));
        assert!(matches!(machine.begin(), Action::Idle), "one append at a time");
        assert!(machine.go(), "the call that found one in flight did not take them");
        assert_eq!(committed(machine.appended(Ok(()))), [1]);
        let (second, _) = appending(machine.begin());
        assert_eq!((first, second), (LogPosition(7), LogPosition(8)));
        assert_eq!(committed(machine.appended(Ok(()))), [2, 3]);
    }

    #[test]
    fn what_is_held_goes_with_what_comes_behind_it() {
        let mut machine = machine();
        machine.hold([append(1)]);
        assert!(machine.gather([append(2)]), "held entries do not ask for themselves");
        assert!(!machine.go(), "it is asked already");
        appending(machine.begin());
        assert_eq!(committed(machine.appended(Ok(()))), [1, 2]);
        assert!(!machine.go(), "nothing is left");
        machine.hold([append(3)]);
        assert!(machine.go());
        appending(machine.begin());
        assert_eq!(committed(machine.appended(Ok(()))), [3]);
    }

    #[test]
    fn an_unknown_outcome_is_settled_by_the_commit_id() {
        let mut machine = machine();
        assert!(machine.gather([append(1)]));
        let (position, commit) = appending(machine.begin());
        assert!(matches!(machine.appended(unavailable()), Action::Wait(10)));
        assert!(matches!(machine.retry(), Action::Probe(at) if at == position));
        assert_eq!(
            appending(machine.probed(Ok(None))),
            (position, commit),
            "nothing there: the same commit again"
        );
        assert!(matches!(machine.appended(unavailable()), Action::Wait(20)));
        machine.retry();
        assert_eq!(committed(machine.probed(Ok(Some(commit)))), [1], "it had happened");
        assert!(machine.gather([append(2)]));
        assert_eq!(appending(machine.begin()).0, position.next());
    }

    #[test]
    fn a_record_of_somebody_else_fences() {
        let mut machine = machine();
        assert!(machine.gather([append(1)]));
        let (position, _) = appending(machine.begin());
        let conflict = AppendError::Conflict { next: position.next() };
        assert!(matches!(machine.appended(Err(conflict)), Action::Probe(at) if at == position));
        assert!(matches!(machine.probed(Ok(Some(CommitId(9)))), Action::Fenced));
    }

    #[test]
    fn a_store_that_went_back_ends_the_owner() {
        let mut machine = machine();
        assert!(machine.gather([append(1)]));
        machine.begin();
        let answer = machine.appended(Err(AppendError::Conflict { next: LogPosition(3) }));
        assert!(matches!(answer, Action::WentBack(_)));
    }

    /// One record is durable, one is under way when the log turns out to have gone back; what it is given, and the second one's commit.
    fn given_back(meanwhile: impl FnOnce(&mut CommitterMachine<u64>)) -> (Vec<CommitId>, CommitId) {
        let mut machine = machine().keeping(Some(Kept::from(LogPosition(7))));
        assert!(machine.gather([append(1)]));
        appending(machine.begin());
        assert_eq!(committed(machine.appended(Ok(()))), [1]);
        assert!(machine.gather([append(2)]));
        let (_, commit) = appending(machine.begin());
        meanwhile(&mut machine);
        let answer = machine.appended(Err(AppendError::Conflict { next: LogPosition(7) }));
        assert!(matches!(answer, Action::WentBack(_)));
        machine.end();
        machine.end();
        let end = LogEnd {
            next: LogPosition(7),
            last: None,
        };
        let Ok(Lacks::Records(lacking)) = machine.kept().unwrap().lacks(end) else {
            panic!("it is all ours")
        };
        (lacking.map(|record| record.commit).collect(), commit)
    }

    #[test]
    fn what_may_have_been_seen_is_given_back_as_it_was_sent() {
        let (given, commit) = given_back(|machine| {
            let lost = StoreError::Unavailable("no answer".to_owned());
            assert!(matches!(
                machine.appended(Err(AppendError::Store(lost))),
                Action::Wait(_)
            ));
            assert!(matches!(machine.retry(), Action::Probe(_)));
            appending(machine.probed(Ok(None)));
        });
        assert_eq!((given.len(), given.last()), (2, Some(&commit)));
    }

    #[test]
    fn what_was_refused_is_not_given_back() {
        let (given, commit) = given_back(|_| ());
        assert!(given.len() == 1 && !given.contains(&commit));
    }
}
