//! What an owner keeps of the latest records, those that it read when it began among them: what the last checkpoint but one does not hold, and
//! so many bytes whatever checkpoints hold. A store that comes back older, as after a failover to a replica that lagged, is given them again:
//! as long as nobody else was named, nobody else was told that something is durable there.

use std::collections::{VecDeque, vec_deque};

use troupe_core::LogPosition;
use troupe_ports::{LogEnd, LogRecord};

/// Bytes of records that are kept although checkpoints hold them: at full speed those follow each other within fractions of a second, and a
/// replica that lags lacks the checkpoints too.
const KEPT_BYTES_MIN: usize = 2 * 1024 * 1024;
/// Bytes of records that are kept, however long no checkpoint can be written.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The latest records, without a gap.
#[derive(Debug, Default)]
pub struct Kept {
    first: LogPosition,
    records: VecDeque<LogRecord>,
    bytes: usize,
    /// How far the latest checkpoint reaches, and the one before.
    checkpoints: (LogPosition, LogPosition),
}

impl Kept {
    /// A record is durable.
    pub fn committed(&mut self, record: LogRecord) {
        self.sent(record);
        self.forget();
    }

    /// A record may be durable: none that is makes room for it.
    pub fn sent(&mut self, record: LogRecord) {
        if self.records.is_empty() {
            self.first = record.position;
        }
        self.bytes += record.bytes.len();
        self.records.push_back(record);
    }

    /// A checkpoint reaches up to there.
    pub fn checkpointed(&mut self, reached: LogPosition) {
        if reached > self.checkpoints.0 {
            self.checkpoints = (reached, self.checkpoints.0);
        }
    }

    fn forget(&mut self) {
        while let Some(first) = self.records.front() {
            let is_held = self.first <= self.checkpoints.1 && self.bytes - first.bytes.len() >= KEPT_BYTES_MIN;
            if !is_held && self.bytes <= KEPT_BYTES_MAX {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.bytes.len();
            self.first = self.first.next();
        }
    }

    /// None yet, of a log that goes on at `next`.
    #[must_use]
    pub fn from(next: LogPosition) -> Self {
        Self {
            first: next,
            ..Self::default()
        }
    }

    /// The last record, if one is kept.
    #[must_use]
    pub fn newest(&self) -> Option<&LogRecord> {
        self.records.back()
    }

    /// What a log lacks that ends there.
    ///
    /// # Errors
    /// It does not become whole by that; why, for people. It may end with another owner's record in the place of one of these: whoever was
    /// fenced writes again where the store has forgotten who came later.
    pub fn lacks(&self, LogEnd { next, last }: LogEnd) -> Result<Lacks<'_>, String> {
        let others = || format!("its log goes on at {next}, after a record that is not this owner's");
        let first = self.first;
        let place = next.0.checked_sub(first.0);
        let place = place
            .ok_or_else(|| format!("its log goes on at {next}, and this owner has kept its records from {first} on"))?;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let before = place.checked_sub(1).and_then(|before| self.records.get(before));
        let is_ours = before.zip(last).is_none_or(|(ours, last)| ours.commit == last);
        if place > self.records.len() {
            let newest = self.newest();
            return newest.map(Lacks::NothingBehind).ok_or_else(others);
        }
        if !is_ours {
            return Err(others());
        }
        Ok(Lacks::Records(self.records.range(place..)))
    }
}

/// What a log lacks.
#[derive(Debug)]
pub enum Lacks<'a> {
    /// These, in order; none if it is whole.
    Records(vec_deque::Iter<'a, LogRecord>),
    /// It reaches beyond everything that this owner has sent: it is whole if this one is in its place, the last of all.
    NothingBehind(&'a LogRecord),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use troupe_ports::CommitId;

    fn record(position: u64, bytes: impl Into<Bytes>) -> LogRecord {
        LogRecord {
            position: LogPosition(position),
            commit: CommitId(position.into()),
            bytes: bytes.into(),
        }
    }

    fn kept(first: u64, count: u64) -> Kept {
        let mut kept = Kept::from(LogPosition(first));
        for position in first..first + count {
            kept.committed(record(position, "record"));
        }
        kept
    }

    fn has(kept: &Kept, position: u64) -> bool {
        kept.records.iter().any(|record| record.position.0 == position)
    }

    /// What a log lacks that goes on at `next`, after a record of that commit.
    fn lacked(kept: &Kept, next: u64, last: Option<u64>) -> Result<Vec<u64>, String> {
        let last = last.map(|commit| CommitId(commit.into()));
        let next = LogPosition(next);
        match kept.lacks(LogEnd { next, last })? {
            Lacks::Records(lacking) => Ok(lacking.map(|record| record.position.0).collect()),
            Lacks::NothingBehind(newest) => Err(format!("{} is the last one", newest.position)),
        }
    }

    #[test]
    fn a_log_gets_exactly_what_it_lacks() {
        let kept = kept(5, 4);
        assert_eq!(lacked(&kept, 5, Some(4)).unwrap(), [5, 6, 7, 8]);
        assert_eq!(lacked(&kept, 7, Some(6)).unwrap(), [7, 8]);
        assert_eq!(lacked(&kept, 8, Some(7)).unwrap(), [8]);
        assert_eq!(lacked(&kept, 9, Some(8)).unwrap(), [] as [u64; 0], "it is whole");
        assert_eq!(lacked(&kept, 9, None).unwrap(), [] as [u64; 0], "it is trimmed");
        let lost = lacked(&kept, 4, Some(3)).unwrap_err();
        assert!(lost.contains("from 5 on"), "{lost}");
        let none = Kept::from(LogPosition(5));
        assert_eq!(lacked(&none, 5, Some(4)).unwrap(), [] as [u64; 0]);
        lacked(&none, 4, Some(3)).unwrap_err();
    }

    #[test]
    fn a_log_that_somebody_else_wrote_to_is_not_whole() {
        let kept = kept(5, 4);
        for (next, last) in [(7, 66), (9, 88)] {
            let other = lacked(&kept, next, Some(last)).unwrap_err();
            assert!(other.contains("not this owner's"), "{next}: {other}");
        }
        for (next, last) in [(10, 9), (20, 19)] {
            assert_eq!(lacked(&kept, next, Some(last)).unwrap_err(), "8 is the last one");
        }
        let none = lacked(&Kept::from(LogPosition(5)), 6, Some(5)).unwrap_err();
        assert!(
            none.contains("not this owner's"),
            "nothing proves what came before: {none}"
        );
    }

    #[test]
    fn what_was_under_way_comes_after_what_is_durable() {
        let mut kept = kept(5, 2);
        kept.sent(record(7, vec![0_u8; KEPT_BYTES_MAX]));
        assert_eq!(lacked(&kept, 6, Some(5)).unwrap(), [6, 7]);
        assert_eq!(lacked(&kept, 8, Some(7)).unwrap(), [] as [u64; 0], "it was durable");
    }

    #[test]
    fn records_are_kept_until_the_checkpoint_after_the_one_that_holds_them() {
        let mut kept = Kept::default();
        let mut last = 0;
        let mut commit = |kept: &mut Kept| {
            last += 1;
            kept.committed(record(last, vec![0_u8; KEPT_BYTES_MIN]));
        };
        (0..3).for_each(|_| commit(&mut kept));
        kept.checkpointed(LogPosition(2));
        kept.checkpointed(LogPosition(2));
        commit(&mut kept);
        assert!(has(&kept, 1), "the same checkpoint came twice");
        kept.checkpointed(LogPosition(4));
        commit(&mut kept);
        assert!(!has(&kept, 2) && has(&kept, 3));
        kept.checkpointed(LogPosition(5));
        kept.checkpointed(LogPosition(6));
        commit(&mut kept);
        assert_eq!(
            (kept.first, kept.bytes),
            (LogPosition(6), KEPT_BYTES_MIN),
            "so many bytes stay"
        );
        assert_eq!(kept.newest().map(|record| record.position), Some(LogPosition(6)));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut kept = Kept::default();
        let large = Bytes::from(vec![0_u8; KEPT_BYTES_MAX / 2]);
        for position in 1..=3 {
            kept.committed(record(position, large.clone()));
        }
        assert!(!has(&kept, 1) && has(&kept, 2) && kept.bytes <= KEPT_BYTES_MAX);
    }
}
