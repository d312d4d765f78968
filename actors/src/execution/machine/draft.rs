//! The entry that a step becomes, with everything that is committed beside it.

use bytes::Bytes;
use troupe_core::execution::{
    Answer, AttemptOutcome, ChildOutcome, ChildReport, Decision, Entry, ErrorWorkflow, Event, ExecutionState, Remedy,
    retention_of,
};
use troupe_core::{Seq, Timestamp, Value};

use super::{Draft, EndMark, ExecutionMachine};
use crate::execution::view::{changes_summary, summary};
use crate::record::Mark;

/// Bytes of entries below which no snapshot is worth its bytes.
const SNAPSHOT_BYTES_MIN: usize = 16 * 1024;
/// What an entry costs beyond its payloads, about.
const ENTRY_BYTES: usize = 64;

impl<R> ExecutionMachine<R> {
    /// What the log and the checkpoint are told. The planted fault "timer removed before commit" keeps timers in memory
    /// alone: none is left once the entry that fires it fails to become durable.
    fn recorded_mark(&self) -> Mark {
        match self.mark() {
            Mark::Until(_) if self.options.mutants.timer_removed_before_commit => Mark::Message,
            mark => mark,
        }
    }

    pub(super) fn draft(&mut self, entry: Entry) -> Draft {
        let mark = self.recorded_mark();
        let first = entry.seq == Seq(1);
        let summary = changes_summary(&entry).then(|| Box::new(summary(&self.state, &self.compiled.plan)));
        let end = self.end_mark(entry.at).map(Box::new);
        let snapshot = if end.is_some() {
            None
        } else {
            self.snapshot_if_due(&entry)
        };
        let key = self.state.execution_key.as_deref().filter(|_| first);
        let head = key.zip(self.state.key_ordinal).map(|(key, ordinal)| {
            let space = troupe_core::KeySpace::Business;
            (self.compiled.key_id(space, key, 0), ordinal)
        });
        Draft {
            entry,
            mark,
            snapshot,
            summary,
            end,
            head,
        }
    }

    /// What its archive is made of; none while it has not ended.
    fn end_mark(&self, at: Timestamp) -> Option<EndMark> {
        let settings = &self.compiled.plan.settings;
        let kept_ms = retention_of(&self.state.status, settings, self.options.retention_ms)?;
        Some(EndMark {
            state: encode_state(&self.state),
            expires_at: at.plus_ms(kept_ms),
        })
    }

    fn snapshot_if_due(&mut self, entry: &Entry) -> Option<Bytes> {
        self.segment_bytes += ENTRY_BYTES + payload_bytes(entry);
        if self.segment_bytes < self.snapshot_bytes.max(SNAPSHOT_BYTES_MIN) {
            return None;
        }
        let snapshot = encode_state(&self.state);
        self.snapshot_bytes = snapshot.len();
        self.segment_bytes = 0;
        Some(snapshot)
    }
}

/// Encodes a state for snapshots and archives.
#[must_use]
pub fn encode_state(state: &ExecutionState) -> Bytes {
    minicbor::to_vec(state).expect("writing to a vector cannot fail").into()
}

fn payload_bytes(entry: &Entry) -> usize {
    let value = Value::bytes_in_place;
    let event = match &entry.event {
        Event::Started(started) | Event::Queued(started) => {
            let reused = started.rerun.iter().flat_map(|rerun| &rerun.reused);
            value(&started.input) + reused.map(crate::rerun::reused_bytes).sum::<usize>()
        }
        Event::AttemptClosed(closed) => match &closed.outcome {
            AttemptOutcome::Completed(output) => value(output),
            AttemptOutcome::Failed(failure) => failure.error.message.len() + 64,
        },
        Event::Children(reports) => {
            let outcome = |report: &ChildReport| match &report.outcome {
                ChildOutcome::Began(_) => 64,
                ChildOutcome::Completed(output) => 16 + value(output),
                ChildOutcome::Failed(error) => error.message.len() + 64,
            };
            reports.iter().map(outcome).sum()
        }
        Event::ErrorWorkflow(ErrorWorkflow::Began(_)) => 16,
        Event::ErrorWorkflow(ErrorWorkflow::Refused(error)) => error.message.len() + 64,
        Event::Signaled { call, .. } => value(call),
        Event::VariablesSet(written) => written.iter().map(|(name, written)| name.len() + value(written)).sum(),
        Event::Decided { decision, .. } => match decision {
            Decision::Complete(output) | Decision::Skip(Some(output)) => value(output),
            Decision::Fail(error) => error.message.len() + 64,
            Decision::Skip(None) => 0,
        },
        Event::ControlsChanged(seen) => 16 + 16 * (seen.spans.len() + seen.node_spans.len()) + 4 * seen.nodes.len(),
        Event::DeadlineReached
        | Event::Frozen
        | Event::FrozenWithParent
        | Event::Paused
        | Event::Resumed
        | Event::CancelRequested { .. }
        | Event::Interrupted
        | Event::Drained
        | Event::Heartbeat(_)
        | Event::PausedWithParent
        | Event::ResumedWithParent
        | Event::Admitted => 0,
        Event::Reopened(reopened) => match &reopened.remedy {
            Remedy::Skip(Some(output)) => value(output),
            Remedy::Skip(None) | Remedy::Retry => 0,
        },
    };
    let answers = entry.answers.iter().map(|answer| match answer {
        Answer::Valid | Answer::Truth { .. } => 4,
        Answer::Value(answer) => value(answer),
        Answer::Variables(written) => written.iter().map(|(name, written)| name.len() + value(written)).sum(),
        Answer::Prepared { input, data } => input.as_ref().map_or(0, value) + data.as_ref().map_or(0, value),
        Answer::Kept(kept) => value(kept),
        Answer::Threw(error) | Answer::NotKept(error) => error.message.len() + 64,
        Answer::Cached(cached) => 48 + cached.output.as_ref().map_or(0, value),
    });
    event + answers.sum::<usize>()
}
