//! What the log holds since the last checkpoint, by execution. Memory is bounded by when checkpoints begin.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use troupe_core::{ExecutionId, LogPosition, Seq, Timestamp};

use crate::execution::machine::EndMark;
use crate::options::Mutants;
use crate::record::{Mark, RecordItem};

/// A durable entry and what belongs to it.
#[derive(Debug)]
pub struct CheckpointItem {
    /// Its place in the record.
    pub item: RecordItem,
    /// The state at this entry, if a snapshot was due.
    pub snapshot: Option<Bytes>,
    /// The end, on the last entry.
    pub end: Option<Box<EndMark>>,
    /// Business key's derived id and ordinal, on the first entry of a keyed execution.
    pub head: Option<(ExecutionId, u64)>,
}

/// What the log alone holds of one execution.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Frames, oldest first.
    pub frames: SmallVec<[(Seq, Bytes); 2]>,
    /// How it stands after the last one.
    pub mark: Mark,
    /// The latest snapshot among them.
    pub snapshot: Option<(Seq, Bytes)>,
    /// The end, if this engine saw it; recovery finds only the mark.
    pub end: Option<Box<EndMark>>,
    /// Whether one of them reopened the execution: what the store holds may be an archive.
    pub reopens: bool,
}

impl Pending {
    /// Seq of the last entry.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.frames.last().map_or(Seq(0), |(seq, _)| *seq)
    }

    fn append(&mut self, later: Self) {
        self.frames.extend(later.frames);
        self.mark = later.mark;
        self.snapshot = later.snapshot.or(self.snapshot.take());
        // An end before a later entry is none any more.
        self.end = later.end;
        self.reopens |= later.reopens;
    }
}

/// What one checkpoint writes.
#[derive(Debug, Default)]
pub struct Generation {
    /// Executions that have new entries.
    pub executions: HashMap<ExecutionId, Pending>,
    /// Latest ordinals of business keys.
    pub heads: HashMap<ExecutionId, u64>,
    /// The last record in it.
    pub reached: LogPosition,
    /// Bytes of log in it.
    pub bytes: usize,
    /// How many more executions began, or were reopened, than ended in it.
    pub live: i64,
    /// When its first entry came.
    pub since: Option<Timestamp>,
}

/// The checkpointer of one shard.
#[derive(Debug)]
pub struct CheckpointerMachine {
    gathering: Generation,
    writing: Option<Arc<Generation>>,
    bytes_max: usize,
    interval_ms: u64,
    mutants: Mutants,
}

impl CheckpointerMachine {
    /// Nothing gathered; a checkpoint is due after so many bytes or so long.
    #[must_use]
    pub fn new(bytes_max: usize, interval_ms: u64) -> Self {
        Self {
            gathering: Generation::default(),
            writing: None,
            bytes_max,
            interval_ms,
            mutants: Mutants::default(),
        }
    }

    /// Plants faults. Tests only.
    #[must_use]
    pub fn with(self, mutants: Mutants) -> Self {
        Self { mutants, ..self }
    }

    /// Takes a durable record in; how many more executions began than ended with it.
    pub fn committed(
        &mut self,
        position: LogPosition,
        record: &Bytes,
        items: Vec<CheckpointItem>,
        now: Timestamp,
    ) -> i64 {
        let mut live = 0;
        let gathering = &mut self.gathering;
        gathering.reached = gathering.reached.max(position);
        gathering.bytes += record.len();
        gathering.since.get_or_insert(now);
        for CheckpointItem {
            item,
            snapshot,
            end,
            head,
        } in items
        {
            gathering.heads.extend(head);
            if !item.id.is_controls() {
                live += i64::from(item.seq == Seq(1) || item.reopens) - i64::from(item.mark == Mark::Ended);
            }
            let mut frames = SmallVec::new();
            frames.push((item.seq, record.slice(item.frame)));
            let snapshot = snapshot.map(|bytes| (item.seq, bytes));
            let later = Pending {
                frames,
                mark: item.mark,
                snapshot,
                end,
                reopens: item.reopens,
            };
            match gathering.executions.entry(item.id) {
                std::collections::hash_map::Entry::Occupied(mut known) => known.get_mut().append(later),
                std::collections::hash_map::Entry::Vacant(vacant) => drop(vacant.insert(later)),
            }
        }
        gathering.live += live;
        live
    }

    /// How many more executions began than ended since the last checkpoint began.
    #[must_use]
    pub fn live(&self) -> i64 {
        self.gathering.live
    }

    /// How long until a checkpoint is due, if anything gathered and none is being written.
    #[must_use]
    pub fn due_in_ms(&self, now: Timestamp) -> Option<u64> {
        if self.writing.is_some() {
            return None;
        }
        let since = self.gathering.since?;
        let full = self.gathering.bytes >= self.bytes_max;
        Some(if full {
            0
        } else {
            self.interval_ms.saturating_sub(now.since_ms(since))
        })
    }

    /// Begins a checkpoint of everything gathered, unless one is being written.
    pub fn begin(&mut self) -> Option<Arc<Generation>> {
        if self.writing.is_some() || self.gathering.since.is_none() {
            return None;
        }
        let generation = Arc::new(std::mem::take(&mut self.gathering));
        self.gathering.reached = generation.reached;
        self.writing = Some(Arc::clone(&generation));
        Some(generation)
    }

    /// The checkpoint was written: the store has it now. Its bytes of log.
    pub fn written(&mut self) -> usize {
        self.writing.take().map_or(0, |generation| generation.bytes)
    }

    /// Whether everything is in the store.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.writing.is_none() && self.gathering.since.is_none()
    }

    /// What the store may lack of an execution.
    #[must_use]
    pub fn pending(&self, id: ExecutionId) -> Option<Pending> {
        let writing = self
            .writing
            .as_ref()
            .filter(|_| !self.mutants.forgets_what_is_written)
            .and_then(|generation| generation.executions.get(&id))
            .cloned();
        let gathering = self.gathering.executions.get(&id).cloned();
        match (writing, gathering) {
            (Some(mut first), Some(later)) => {
                first.append(later);
                Some(first)
            }
            (first, later) => first.or(later),
        }
    }

    /// Whether the store may lack something of an execution.
    #[must_use]
    pub fn holds(&self, id: ExecutionId) -> bool {
        let written = self.writing.as_ref();
        self.gathering.executions.contains_key(&id)
            || written.is_some_and(|generation| generation.executions.contains_key(&id))
    }

    /// The latest ordinal of a business key, if the store may lack it.
    #[must_use]
    pub fn head(&self, key: ExecutionId) -> Option<u64> {
        let writing = self.writing.as_ref().and_then(|generation| generation.heads.get(&key));
        self.gathering.heads.get(&key).or(writing).copied()
    }

    /// How every execution stands that the log alone holds something of.
    pub fn marks(&self) -> impl Iterator<Item = (ExecutionId, Mark)> + '_ {
        self.gathering
            .executions
            .iter()
            .map(|(id, pending)| (*id, pending.mark))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::ShardId;

    fn id() -> ExecutionId {
        ExecutionId::fresh(ShardId(0), Timestamp(0), 1)
    }

    fn item(seq: u64, mark: Mark) -> CheckpointItem {
        let item = RecordItem {
            id: id(),
            seq: Seq(seq),
            mark,
            reopens: false,
            frame: 0..4,
        };
        CheckpointItem {
            item,
            snapshot: None,
            end: None,
            head: None,
        }
    }

    fn seqs(machine: &CheckpointerMachine) -> Vec<u64> {
        machine.pending(id()).map_or(Vec::new(), |pending| {
            pending.frames.iter().map(|(seq, _)| seq.0).collect()
        })
    }

    #[test]
    fn what_is_being_written_stays_visible_until_it_is_written() {
        let mut machine = CheckpointerMachine::new(100, 1_000);
        let record = Bytes::from_static(&[0; 60]);
        machine.committed(LogPosition(1), &record, vec![item(1, Mark::Running)], Timestamp(0));
        assert_eq!(machine.due_in_ms(Timestamp(400)), Some(600));
        let generation = machine.begin().unwrap();
        assert_eq!((generation.reached, generation.bytes), (LogPosition(1), 60));
        machine.committed(LogPosition(2), &record, vec![item(2, Mark::Running)], Timestamp(5));
        machine.committed(LogPosition(3), &record, vec![item(3, Mark::Message)], Timestamp(6));
        assert!(machine.begin().is_none(), "one at a time");
        assert_eq!(machine.due_in_ms(Timestamp(9_999)), None);
        assert_eq!(seqs(&machine), [1, 2, 3]);
        assert_eq!(machine.written(), 60);
        assert_eq!(seqs(&machine), [2, 3]);
        assert_eq!(machine.due_in_ms(Timestamp(7)), Some(0), "120 bytes are more than 100");
        assert_eq!(machine.begin().unwrap().reached, LogPosition(3));
        machine.written();
        assert!(machine.is_clean());
        assert!(seqs(&machine).is_empty());
    }
}
