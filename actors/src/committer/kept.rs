//! What an owner keeps of the latest records, those that it read when it began among them: what the last checkpoint but one does not hold, and
//! so many bytes whatever checkpoints hold. A store that comes back older, as after a failover to a replica that lagged, is given them again:
//! as long as nobody else was named, the owner is the only one who has written there.

use std::collections::VecDeque;

use bytes::Bytes;
use troupe_core::LogPosition;
use troupe_ports::CommitId;

/// Bytes of records that are kept although checkpoints hold them: at full speed those follow each other within fractions of a second, and a
/// replica that lags lacks the checkpoints too.
const KEPT_BYTES_MIN: usize = 2 * 1024 * 1024;
/// Bytes of records that are kept, however long no checkpoint can be written.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Which commit.
    pub commit: CommitId,
    /// What.
    pub record: Bytes,
}

/// What a log that goes on somewhere is given next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Append the record of this position; then [`Kept::lacks`].
    Append(LogPosition),
    /// The log has every record of this owner.
    Whole,
    /// The log lacks records that are kept no more; why, for people.
    Lost(String),
}

/// The latest records, without a gap.
#[derive(Debug, Default)]
pub struct Kept {
    first: LogPosition,
    records: VecDeque<KeptRecord>,
    bytes: usize,
    /// How far the latest checkpoint reaches, and the one before.
    checkpoints: (LogPosition, LogPosition),
}

impl Kept {
    /// A record is durable.
    pub fn committed(&mut self, position: LogPosition, commit: CommitId, record: Bytes) {
        if self.records.is_empty() {
            self.first = position;
        }
        self.bytes += record.len();
        self.records.push_back(KeptRecord { commit, record });
        self.forget();
    }

    /// A checkpoint reaches up to there.
    pub fn checkpointed(&mut self, reached: LogPosition) {
        if reached > self.checkpoints.0 {
            self.checkpoints = (reached, self.checkpoints.0);
        }
    }

    fn forget(&mut self) {
        while let Some(first) = self.records.front() {
            let is_held = self.first <= self.checkpoints.1 && self.bytes - first.record.len() >= KEPT_BYTES_MIN;
            if !is_held && self.bytes <= KEPT_BYTES_MAX {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.record.len();
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

    fn last(&self) -> LogPosition {
        LogPosition((self.first.0 + self.records.len() as u64).saturating_sub(1))
    }

    /// The record of a position, if it is kept.
    #[must_use]
    pub fn get(&self, position: LogPosition) -> Option<&KeptRecord> {
        let place = position.0.checked_sub(self.first.0)?;
        self.records.get(usize::try_from(place).ok()?)
    }

    /// The last record, if one is kept.
    #[must_use]
    pub fn newest(&self) -> Option<(LogPosition, &KeptRecord)> {
        Some((self.last(), self.records.back()?))
    }

    /// What a log lacks that goes on at `next`.
    #[must_use]
    pub fn lacks(&self, next: LogPosition) -> Restore {
        if next > self.last() {
            Restore::Whole
        } else if self.get(next).is_some() {
            Restore::Append(next)
        } else {
            Restore::Lost(format!(
                "its log goes on at {next}, and this owner has kept its records from {} on",
                self.first
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn kept(first: u64, count: u64) -> Kept {
        let mut kept = Kept::default();
        for position in first..first + count {
            kept.committed(
                LogPosition(position),
                CommitId(u128::from(position)),
                Bytes::from_static(b"record"),
            );
        }
        kept
    }

    /// Gives a log that goes on at `next` what it lacks.
    fn restored(kept: &Kept, mut next: u64) -> (Vec<u64>, Restore) {
        let mut appended = Vec::new();
        loop {
            match kept.lacks(LogPosition(next)) {
                Restore::Append(position) => appended.push(position.0),
                step => return (appended, step),
            }
            next += 1;
        }
    }

    #[test]
    fn a_log_gets_exactly_what_it_lacks() {
        let kept = kept(5, 4);
        assert_eq!(restored(&kept, 5), (vec![5, 6, 7, 8], Restore::Whole));
        assert_eq!(restored(&kept, 7), (vec![7, 8], Restore::Whole));
        assert_eq!(restored(&kept, 8), (vec![8], Restore::Whole));
        assert_eq!(restored(&kept, 9), (vec![], Restore::Whole));
        assert_eq!(restored(&kept, 10), (vec![], Restore::Whole));
        let (appended, lost) = restored(&kept, 4);
        assert!(
            appended.is_empty() && matches!(&lost, Restore::Lost(why) if why.contains("from 5 on")),
            "{lost:?}"
        );
        let none = Kept::from(LogPosition(5));
        assert_eq!(none.lacks(LogPosition(5)), Restore::Whole);
        assert!(matches!(none.lacks(LogPosition(4)), Restore::Lost(_)));
    }

    #[test]
    fn records_are_kept_until_the_checkpoint_after_the_one_that_holds_them() {
        let mut kept = Kept::default();
        let mut last = LogPosition(0);
        let mut commit = |kept: &mut Kept| {
            last = last.next();
            kept.committed(last, CommitId(0), Bytes::from(vec![0; KEPT_BYTES_MIN]));
        };
        (0..3).for_each(|_| commit(&mut kept));
        kept.checkpointed(LogPosition(2));
        kept.checkpointed(LogPosition(2));
        commit(&mut kept);
        assert!(kept.get(LogPosition(1)).is_some(), "the same checkpoint came twice");
        kept.checkpointed(LogPosition(4));
        commit(&mut kept);
        assert!(kept.get(LogPosition(2)).is_none() && kept.get(LogPosition(3)).is_some());
        kept.checkpointed(LogPosition(5));
        kept.checkpointed(LogPosition(6));
        commit(&mut kept);
        assert_eq!(
            (kept.first, kept.bytes),
            (LogPosition(6), KEPT_BYTES_MIN),
            "so many bytes stay"
        );
        assert_eq!(kept.newest().map(|(position, _)| position), Some(LogPosition(6)));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut kept = Kept::default();
        let large = Bytes::from(vec![0; KEPT_BYTES_MAX / 2]);
        for position in 1..=3 {
            kept.committed(LogPosition(position), CommitId(0), large.clone());
        }
        assert_eq!(kept.get(LogPosition(1)), None);
        assert!(kept.get(LogPosition(2)).is_some() && kept.bytes <= KEPT_BYTES_MAX);
    }
}
