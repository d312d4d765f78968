//! The format of what a shard's log and checkpoints hold, and which one is written where several processes share them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The form of everything that is written into a shard: records, segments, snapshots, archives and spools. Numbers rise; what an
/// older release can pass over, such as a further field, is no new format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateFormat(pub u8);

impl StateFormat {
    /// The first one: what is written without saying so is of it.
    pub const FIRST: Self = Self(1);
    /// The newest one that this release writes.
    pub const CURRENT: Self = Self(1);
    /// The next one, with which tests prove that there can be one. No release writes it.
    pub const TRIAL: Self = Self(Self::CURRENT.0 + 1);
}

impl Default for StateFormat {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for StateFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The formats that a process reads: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRange {
    /// The oldest one.
    pub oldest: StateFormat,
    /// The newest one; no process writes one that it does not read.
    pub newest: StateFormat,
}

impl FormatRange {
    /// What this release reads.
    pub const RELEASE: Self = Self {
        oldest: StateFormat::FIRST,
        newest: StateFormat::CURRENT,
    };
    /// That, and the one for tests.
    pub const WITH_TRIAL: Self = Self {
        oldest: StateFormat::FIRST,
        newest: StateFormat::TRIAL,
    };
    /// What a release reads that does not say what it reads.
    pub const UNSAID: Self = Self {
        oldest: StateFormat::FIRST,
        newest: StateFormat::FIRST,
    };

    /// Whether `format` is among them.
    #[must_use]
    pub fn reads(self, format: StateFormat) -> bool {
        (self.oldest..=self.newest).contains(&format)
    }
}

impl fmt::Display for FormatRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            self.oldest.fmt(out)
        } else {
            write!(out, "{} to {}", self.oldest, self.newest)
        }
    }
}

/// What a process says of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatTerms {
    /// What it reads.
    pub reads: FormatRange,
    /// It wants nobody to write a newer one than this.
    pub at_most: Option<StateFormat>,
}

impl FormatTerms {
    fn newest(self) -> StateFormat {
        self.at_most
            .map_or(self.reads.newest, |most| most.min(self.reads.newest))
    }
}

/// The format that a process writes: the newest one that it and everybody else reads and allows, and never an older one than it can
/// write.
#[must_use]
pub fn agreed(own: FormatTerms, others: impl IntoIterator<Item = FormatTerms>) -> StateFormat {
    let others = others.into_iter().map(FormatTerms::newest);
    let newest = others.fold(own.newest(), StateFormat::min);
    newest.max(own.reads.oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(oldest: u8, newest: u8, at_most: Option<u8>) -> FormatTerms {
        FormatTerms {
            reads: FormatRange {
                oldest: StateFormat(oldest),
                newest: StateFormat(newest),
            },
            at_most: at_most.map(StateFormat),
        }
    }

    #[test]
    fn the_newest_format_that_everybody_reads_is_written() {
        let own = terms(1, 3, None);
        for (others, wanted) in [
            (vec![], 3),
            (vec![terms(1, 3, None), terms(2, 4, None)], 3),
            (vec![terms(1, 3, None), terms(1, 2, None)], 2),
            (vec![terms(1, 1, None), terms(1, 2, None)], 1),
            (vec![terms(1, 3, Some(2))], 2),
            (vec![terms(1, 3, Some(9))], 3),
        ] {
            assert_eq!(agreed(own, others.clone()), StateFormat(wanted), "{others:?}");
        }
        assert_eq!(agreed(terms(1, 3, Some(1)), [terms(1, 3, None)]), StateFormat(1));
        // One that is too old for the others cannot make them write what they no longer know.
        assert_eq!(agreed(terms(2, 3, None), [terms(1, 1, None)]), StateFormat(2));
        assert_eq!(agreed(terms(2, 3, Some(1)), []), StateFormat(2));
    }

    #[test]
    fn a_range_reads_what_lies_in_it() {
        let FormatTerms { reads, .. } = terms(2, 3, None);
        assert_eq!(
            [1, 2, 3, 4].map(|format| reads.reads(StateFormat(format))),
            [false, true, true, false]
        );
        assert!(FormatRange::WITH_TRIAL.reads(StateFormat::TRIAL) && !FormatRange::RELEASE.reads(StateFormat::TRIAL));
    }
}
