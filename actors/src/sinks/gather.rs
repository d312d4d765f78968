//! What an event sink sends next: while one call of the bus is on its way, what is committed gathers for the next one.

use std::collections::VecDeque;

use troupe_core::LogPosition;

use super::machine::CursorMachine;

/// A record that has not been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent<T> {
    /// Where it stands.
    pub position: LogPosition,
    /// Its entries.
    pub entries: usize,
    /// Bytes of memory it holds, about.
    pub bytes: usize,
    /// It does not go with those before it.
    pub alone: bool,
    /// What is sent of it.
    pub content: T,
}

/// Limits of one call of the bus. A record is never split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Entries beyond which no further record is taken along.
    pub entries_max: usize,
    /// Bytes beyond which no further record is taken along.
    pub bytes_max: usize,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Everything is sent.
    Nothing,
    /// Send these, in order.
    Send(Vec<Unsent<T>>),
    /// Records from here on were not offered: read them.
    Read(LogPosition),
}

/// A sink's place in the log, and what it has taken of what follows: in order, without a gap.
#[derive(Debug)]
pub struct GatherMachine<T> {
    cursor: CursorMachine,
    limits: CallLimits,
    /// The last record that was taken.
    reached: LogPosition,
    gathered: VecDeque<Unsent<T>>,
    behind: bool,
}

impl<T> GatherMachine<T> {
    /// A sink that has sent everything up to `sent`; its cursor is worth saving after so many records.
    #[must_use]
    pub fn new(sent: LogPosition, save_after: u64, limits: CallLimits) -> Self {
        Self {
            cursor: CursorMachine::new(sent, save_after),
            limits,
            reached: sent,
            gathered: VecDeque::new(),
            behind: false,
        }
    }

    /// A record was committed. Gives it back where it is not taken: it was taken before, or records before it are missing,
    /// and then it is read with them.
    pub fn offered(&mut self, record: Unsent<T>) -> Option<Unsent<T>> {
        if record.position == self.reached.next() {
            self.take(record);
            return None;
        }
        self.behind |= record.position > self.reached;
        Some(record)
    }

    /// Records are there that were not offered.
    pub fn behind(&mut self) {
        self.behind = true;
    }

    /// These were read, in order, from where [`Next::Read`] said; none: there are no more. Those that were offered meanwhile are
    /// left out. Where the first ones are gone, those are that nobody keeps for this sink any more.
    pub fn read(&mut self, records: Vec<Unsent<T>>) {
        self.behind |= !records.is_empty();
        for record in records {
            if record.position > self.reached {
                self.take(record);
            }
        }
    }

    fn take(&mut self, record: Unsent<T>) {
        self.reached = record.position;
        self.gathered.push_back(record);
    }

    /// What to do next. What is to be sent is sent, or tried again, before this is asked again.
    pub fn next_step(&mut self) -> Next<T> {
        if !self.gathered.is_empty() {
            return Next::Send(self.call());
        }
        if std::mem::take(&mut self.behind) {
            return Next::Read(self.reached.next());
        }
        Next::Nothing
    }

    fn call(&mut self) -> Vec<Unsent<T>> {
        let mut call: Vec<Unsent<T>> = Vec::new();
        let (mut entries, mut bytes) = (0, 0);
        while let Some(first) = self.gathered.front() {
            entries += first.entries;
            bytes += first.bytes;
            let too_much = first.alone || entries > self.limits.entries_max || bytes > self.limits.bytes_max;
            if too_much && !call.is_empty() {
                break;
            }
            call.extend(self.gathered.pop_front());
        }
        call
    }

    /// Whether something is to be done.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.behind || !self.gathered.is_empty()
    }

    /// The last record that was taken.
    #[must_use]
    pub fn reached(&self) -> LogPosition {
        self.reached
    }

    /// Everything up to `position` was sent. True if the cursor is worth saving now.
    pub fn sent(&mut self, position: LogPosition) -> bool {
        self.reached = self.reached.max(position);
        self.cursor.sent(position)
    }

    /// Where the sink stands.
    #[must_use]
    pub fn cursor(&self) -> &CursorMachine {
        &self.cursor
    }

    /// The cursor was saved.
    pub fn saved(&mut self, position: LogPosition) {
        self.cursor.saved(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CallLimits = CallLimits {
        entries_max: 4,
        bytes_max: 100,
    };

    fn record(position: u64, entries: usize, bytes: usize) -> Unsent<()> {
        Unsent {
            position: LogPosition(position),
            entries,
            bytes,
            alone: false,
            content: (),
        }
    }

    fn positions(next: Next<()>) -> Vec<u64> {
        match next {
            Next::Send(records) => records.iter().map(|record| record.position.0).collect(),
            Next::Nothing | Next::Read(_) => Vec::new(),
        }
    }

    #[test]
    fn what_gathers_goes_in_one_call_within_limits() {
        let mut sink = GatherMachine::new(LogPosition(4), 100, LIMITS);
        for (position, entries, bytes) in [(5, 1, 10), (6, 2, 10), (7, 2, 10), (8, 1, 99), (9, 9, 999), (10, 1, 1)] {
            assert_eq!(sink.offered(record(position, entries, bytes)), None);
        }
        assert_eq!(positions(sink.next_step()), [5, 6]);
        assert_eq!(positions(sink.next_step()), [7]);
        assert_eq!(positions(sink.next_step()), [8]);
        assert_eq!(positions(sink.next_step()), [9], "what is too large goes alone");
        assert_eq!(positions(sink.next_step()), [10]);
        assert_eq!(sink.next_step(), Next::Nothing);
    }

    #[test]
    fn what_does_not_go_with_others_begins_a_call() {
        let mut sink = GatherMachine::new(LogPosition(0), 100, LIMITS);
        sink.offered(record(1, 1, 1));
        sink.offered(Unsent {
            alone: true,
            ..record(2, 1, 1)
        });
        sink.offered(record(3, 1, 1));
        assert_eq!(positions(sink.next_step()), [1]);
        assert_eq!(positions(sink.next_step()), [2, 3]);
    }

    #[test]
    fn a_gap_is_read_and_what_comes_meanwhile_is_not_taken_twice() {
        let mut sink = GatherMachine::new(LogPosition(4), 100, LIMITS);
        assert_eq!(sink.offered(record(4, 1, 1)), Some(record(4, 1, 1)), "sent before");
        assert_eq!(sink.next_step(), Next::Nothing);
        assert_eq!(sink.offered(record(7, 1, 1)), Some(record(7, 1, 1)));
        assert_eq!(sink.next_step(), Next::Read(LogPosition(5)));
        sink.read(vec![record(5, 1, 1), record(6, 1, 1), record(7, 1, 1)]);
        assert_eq!(sink.offered(record(8, 1, 1)), None);
        assert_eq!(positions(sink.next_step()), [5, 6, 7, 8]);
        assert_eq!(sink.next_step(), Next::Read(LogPosition(9)), "there may be more");
        assert_eq!(sink.offered(record(9, 1, 1)), None, "it came while the log was read");
        sink.read(vec![record(9, 1, 1), record(10, 1, 1)]);
        assert_eq!(positions(sink.next_step()), [9, 10]);
        assert_eq!(sink.next_step(), Next::Read(LogPosition(11)));
        sink.read(Vec::new());
        assert_eq!(sink.next_step(), Next::Nothing);
    }

    #[test]
    fn what_nobody_keeps_any_more_is_no_gap() {
        let mut sink = GatherMachine::new(LogPosition(4), 100, LIMITS);
        sink.behind();
        assert_eq!(sink.next_step(), Next::Read(LogPosition(5)));
        sink.read(vec![record(9, 1, 1)]);
        assert_eq!(positions(sink.next_step()), [9]);
        sink.sent(LogPosition(9));
        assert_eq!(sink.cursor().unsaved(), Some(LogPosition(9)));
    }
}
