//! In which format a shard is written, and snapshots in each format. Records, archives and chunks of spools say theirs themselves.
//!
//! ```text
//! snapshot of the first format = state (CBOR)
//! snapshot of a later one      = format u8 (below 32), what that format makes of the state
//! ```
//! CBOR writes no list or map with a first byte below 32, so the first format needs no mark.

pub(crate) mod packed;
pub(crate) mod trial;

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use troupe_core::{FormatRange, StateFormat};

/// Formats below this can be the first byte of a snapshot.
const FORMATS_MAX: u8 = 32;

/// Why bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// They are of a format that is not read here.
    #[error("it is of format {0}, which is not read here")]
    Newer(StateFormat),
    /// They do not make sense.
    #[error("{0}")]
    Damaged(String),
}

impl Unreadable {
    pub(crate) fn damaged(why: impl ToString) -> Self {
        Self::Damaged(why.to_string())
    }

    /// Checks a format that bytes say they are of.
    pub(crate) fn unless(reads: FormatRange, format: StateFormat) -> Result<(), Self> {
        if reads.reads(format) {
            Ok(())
        } else {
            Err(Self::Newer(format))
        }
    }
}

/// The format in which a shard is written now. It never names one that the store has not been told of; see
/// [`troupe_ports::StateStore::set_format`].
#[derive(Debug)]
pub struct WrittenFormat(AtomicU8);

impl Default for WrittenFormat {
    fn default() -> Self {
        Self::new(StateFormat::FIRST)
    }
}

impl WrittenFormat {
    /// A shard that is written in `format`.
    #[must_use]
    pub fn new(format: StateFormat) -> Self {
        Self(AtomicU8::new(format.0))
    }

    /// What is begun now is of this format.
    #[must_use]
    pub fn now(&self) -> StateFormat {
        StateFormat(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, format: StateFormat) {
        self.0.store(format.0, Ordering::Release);
    }
}

/// A snapshot of an encoded state.
#[must_use]
pub fn snapshot_of(state: &Bytes, format: StateFormat) -> Bytes {
    if format == StateFormat::FIRST {
        return state.clone();
    }
    let mut sealed = vec![format.0];
    sealed.extend_from_slice(&trial::checksum(state).to_le_bytes());
    sealed.extend_from_slice(state);
    sealed.into()
}

/// The format of a snapshot.
#[must_use]
pub fn format_of_snapshot(snapshot: &[u8]) -> StateFormat {
    snapshot
        .first()
        .filter(|first| **first < FORMATS_MAX)
        .map_or(StateFormat::FIRST, |first| StateFormat(*first))
}

/// The encoded state of a snapshot.
///
/// # Errors
/// [`Unreadable`].
pub fn state_of(snapshot: &Bytes, reads: FormatRange) -> Result<Bytes, Unreadable> {
    let format = format_of_snapshot(snapshot);
    Unreadable::unless(reads, format)?;
    if format == StateFormat::FIRST {
        return Ok(snapshot.clone());
    }
    let head = snapshot.get(1..).and_then(|rest| rest.first_chunk::<4>());
    let sum = u32::from_le_bytes(*head.ok_or_else(|| Unreadable::damaged("a state is cut short"))?);
    let state = snapshot.slice(5..);
    if trial::checksum(&state) != sum {
        return Err(Unreadable::damaged("the checksum of a state is wrong"));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_snapshot_comes_back_in_each_format_and_a_damaged_one_is_noticed() {
        let state = Bytes::from_static(&[0x83, 1, 2, 3]);
        let first = snapshot_of(&state, StateFormat::FIRST);
        assert_eq!(first, state, "the first format is the state itself");
        assert_eq!(state_of(&first, FormatRange::RELEASE).unwrap(), state);
        let next = snapshot_of(&state, StateFormat::TRIAL);
        assert_ne!(next, state);
        assert_eq!(format_of_snapshot(&next), StateFormat::TRIAL);
        assert_eq!(state_of(&next, FormatRange::WITH_TRIAL).unwrap(), state);
        for at in 1..next.len() {
            let mut damaged = next.to_vec();
            damaged[at] ^= 0x10;
            let read = state_of(&damaged.into(), FormatRange::WITH_TRIAL);
            assert!(matches!(read, Err(Unreadable::Damaged(_))), "byte {at}: {read:?}");
            assert!(
                state_of(&next.slice(..at), FormatRange::WITH_TRIAL).is_err(),
                "{at} bytes"
            );
        }
    }

    #[test]
    fn a_format_that_is_not_read_is_no_damage() {
        let state = Bytes::from_static(&[0x80]);
        for unknown in [StateFormat::TRIAL, StateFormat(9)] {
            let snapshot = snapshot_of(&state, unknown);
            assert_eq!(
                state_of(&snapshot, FormatRange::RELEASE),
                Err(Unreadable::Newer(unknown))
            );
        }
        let late = FormatRange {
            oldest: StateFormat(2),
            newest: StateFormat(3),
        };
        assert_eq!(state_of(&state, late), Err(Unreadable::Newer(StateFormat::FIRST)));
    }
}
