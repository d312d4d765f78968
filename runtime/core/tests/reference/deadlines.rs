//! Every deadline of an execution, found by looking at everything.

use serde_json::Value;

use super::definition::join_field;
use super::state::{Phase, Reference, Status};

/// What a deadline is for; the order settles ties, then the order of the nodes does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    Execution,
    CancelGrace,
    Join,
    Delay,
    Retry,
    NodeTotal,
    Wait,
}

impl Reference {
    /// The earliest deadline in force: none of what is held, but the grace of a cancellation.
    pub fn next_deadline(&self) -> Option<i64> {
        self.in_force_deadlines().map(|(due, ..)| due).min()
    }

    /// The deadline to apply first of those that are due.
    pub(super) fn due(&self, at: i64) -> Option<(i64, Deadline, usize)> {
        self.in_force_deadlines().filter(|(due, ..)| *due <= at).min()
    }

    fn in_force_deadlines(&self) -> impl Iterator<Item = (i64, Deadline, usize)> {
        let is_whole = |what: Deadline| what == Deadline::Execution || matches!(self.status, Status::Undoing(_));
        let is_held = move |what: Deadline, place: usize| match what {
            Deadline::CancelGrace => false,
            _ if is_whole(what) => self.is_held_whole(),
            _ => self.is_node_held(&self.definition.nodes[place].id),
        };
        self.deadlines()
            .into_iter()
            .filter(move |(_, what, place)| !is_held(*what, *place))
    }

    fn deadlines(&self) -> Vec<(i64, Deadline, usize)> {
        let mut found = Vec::new();
        if matches!(self.status, Status::Undoing(_)) {
            let (retry, total) = self.undoing_due();
            found.extend(retry.map(|due| (due, Deadline::Retry, 0)));
            found.extend(total.map(|due| (due, Deadline::NodeTotal, 0)));
            return found;
        }
        if self.all_ended() {
            return found;
        }
        match self.status {
            Status::Canceling { until } => return vec![(until, Deadline::CancelGrace, 0)],
            Status::Running | Status::Failing => {}
            Status::Pending
            | Status::Undoing(_)
            | Status::Reporting
            | Status::Completed(_)
            | Status::Failed
            | Status::Canceled => return found,
        }
        if let Some(timeout) = self.definition.settings.get("timeout").and_then(Value::as_i64) {
            found.push((self.timed_from + timeout, Deadline::Execution, 0));
        }
        for (place, node) in self.definition.nodes.iter().enumerate() {
            let state = &self.nodes[&node.id];
            match state.phase {
                Phase::Pending => {
                    let timeout = join_field(node, "timeout").and_then(Value::as_i64);
                    let waits = !self.entries(&node.id).is_empty();
                    if let (Some(timeout), Some(first), true) = (timeout, state.first_arrival_at, waits) {
                        found.push((first + timeout, Deadline::Join, place));
                    }
                }
                Phase::Backoff { earliest, .. } => found.push((earliest, Deadline::Retry, place)),
                Phase::Delaying { until } => found.push((until, Deadline::Delay, place)),
                Phase::Waiting { until, heartbeat_by } => {
                    let earliest = until.into_iter().chain(heartbeat_by).min();
                    found.extend(earliest.map(|due| (due, Deadline::Wait, place)));
                }
                _ => {}
            }
            let open = matches!(
                state.phase,
                Phase::Ready | Phase::Running | Phase::Backoff { .. } | Phase::Waiting { .. } | Phase::Parenting
            );
            let timeout = self.resolved_milliseconds(&node.id, "totalTimeout");
            if let (true, Some(timeout), Some(ready_at)) = (open, timeout, state.ready_at) {
                found.push((ready_at + timeout, Deadline::NodeTotal, place));
            }
        }
        found
    }
}
