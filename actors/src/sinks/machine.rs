//! What sinks decide: where they stand in the log, and which summary of an execution is the latest.

use std::collections::HashMap;

use troupe_core::{ExecutionId, LogPosition};
use troupe_ports::ExecutionSummary;

/// A sink's place in the log.
#[derive(Debug)]
pub struct CursorMachine {
    sent: LogPosition,
    saved: LogPosition,
    save_after: u64,
}

impl CursorMachine {
    /// A sink that has sent everything up to `sent`; its cursor is worth saving after so many records.
    #[must_use]
    pub fn new(sent: LogPosition, save_after: u64) -> Self {
        Self {
            sent,
            saved: sent,
            save_after,
        }
    }

    /// Everything up to here was sent.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.sent
    }

    /// Everything up to `position` was sent. True if the cursor is worth saving now.
    pub fn sent(&mut self, position: LogPosition) -> bool {
        self.sent = self.sent.max(position);
        self.sent.0 - self.saved.0 >= self.save_after
    }

    /// The cursor to save, if it moved.
    #[must_use]
    pub fn unsaved(&self) -> Option<LogPosition> {
        (self.sent > self.saved).then_some(self.sent)
    }

    /// The cursor was saved.
    pub fn saved(&mut self, position: LogPosition) {
        self.saved = self.saved.max(position);
    }
}

/// Summaries to write, one an execution: what started and ended meanwhile is one row.
#[derive(Debug, Default)]
pub struct ProjectionMachine {
    changed: HashMap<ExecutionId, ExecutionSummary>,
    up_to: LogPosition,
}

impl ProjectionMachine {
    /// Takes summaries of one record in. True if nothing had waited before.
    pub fn changed(&mut self, position: LogPosition, summaries: Vec<ExecutionSummary>) -> bool {
        let first = self.changed.is_empty();
        self.up_to = self.up_to.max(position);
        for summary in summaries {
            let newer = self
                .changed
                .get(&summary.id)
                .is_none_or(|known| known.seq < summary.seq);
            if newer {
                self.changed.insert(summary.id, summary);
            }
        }
        first && !self.changed.is_empty()
    }

    /// Everything up to `position` was offered.
    pub fn reached(&mut self, position: LogPosition) {
        self.up_to = self.up_to.max(position);
    }

    /// What to write, and how far the log is projected then.
    pub fn take(&mut self) -> (Vec<ExecutionSummary>, LogPosition) {
        (std::mem::take(&mut self.changed).into_values().collect(), self.up_to)
    }

    /// The write failed: it is to be repeated, unless something newer came.
    pub fn put_back(&mut self, summaries: Vec<ExecutionSummary>) {
        self.changed(LogPosition(0), summaries);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::{Seq, ShardId, Timestamp};

    fn summary(n: u64, seq: u64, status: &str) -> ExecutionSummary {
        ExecutionSummary {
            id: ExecutionId::fresh(ShardId(0), Timestamp(0), n),
            workflow_id: "w".into(),
            version: 1,
            status: status.into(),
            paused: false,
            started_at: Timestamp(0),
            ended_at: None,
            error_code: None,
            error_message: None,
            execution_key: None,
            workflow_name: String::new(),
            tags: Vec::new(),
            parent: None,
            seq: Seq(seq),
        }
    }

    #[test]
    fn what_started_and_ended_meanwhile_is_one_row() {
        let mut projection = ProjectionMachine::default();
        assert!(projection.changed(LogPosition(1), vec![summary(1, 1, "running"), summary(2, 1, "running")]));
        assert!(!projection.changed(LogPosition(2), vec![summary(1, 9, "completed")]));
        let (mut rows, up_to) = projection.take();
        rows.sort_by_key(|row| row.id);
        assert_eq!(
            (rows, up_to),
            (
                vec![summary(1, 9, "completed"), summary(2, 1, "running")],
                LogPosition(2)
            )
        );
    }

    #[test]
    fn a_repeated_write_never_overwrites_something_newer() {
        let mut projection = ProjectionMachine::default();
        projection.changed(LogPosition(1), vec![summary(1, 1, "running")]);
        let (rows, _) = projection.take();
        projection.changed(LogPosition(2), vec![summary(1, 2, "completed")]);
        projection.put_back(rows);
        assert_eq!(projection.take().0, [summary(1, 2, "completed")]);
    }

    #[test]
    fn a_cursor_is_worth_saving_after_so_many_records() {
        let mut cursor = CursorMachine::new(LogPosition(4), 2);
        assert!(!cursor.sent(LogPosition(5)));
        assert!(cursor.sent(LogPosition(6)));
        assert_eq!(cursor.unsaved(), Some(LogPosition(6)));
        cursor.saved(LogPosition(6));
        assert_eq!(cursor.unsaved(), None);
    }
}
