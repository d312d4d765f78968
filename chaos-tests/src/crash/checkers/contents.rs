//! Large values, which entries only refer to. C1: they are durable before any entry that does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as JsonValue, json};
use troupe_actors::blobs::reference;
use troupe_core::execution::{
    Answer, AttemptOutcome, ChildOutcome, Decision, Entry, Event, Remedy, Rerun, ReusedResult, Started,
};
use troupe_core::{BlobRef, ExecutionId, Json, Value};

use super::{Evidence, Findings};

/// What a store keeps of them.
#[derive(Debug, Default)]
pub struct Contents {
    contents: BTreeMap<BlobRef, Json>,
    /// Under which root each is kept, where its content is what it was.
    kept: BTreeSet<(ExecutionId, BlobRef)>,
}

impl Contents {
    /// Adds what the store keeps under a root, and under which reference.
    pub fn add(&mut self, root: ExecutionId, blob: BlobRef, content: Json) {
        if reference(&content) == blob {
            self.kept.insert((root, blob));
        }
        self.contents.insert(blob, content);
    }

    /// A value as JSON text; of one that is not there by its hash.
    pub(super) fn text(&self, value: &Value) -> String {
        let document = value.document(&|blob| self.contents.get(blob).cloned());
        document.unwrap_or_else(|_| value.shown()).as_str().to_owned()
    }

    /// A value as JSON.
    pub(super) fn parsed(&self, value: &Value) -> JsonValue {
        let read = serde_json::from_str(&self.text(value));
        read.unwrap_or_else(|error| json!({"unreadable": error.to_string()}))
    }
}

/// Every large value that an entry refers to is in the store, under the root of its family, and is what it was.
pub(super) fn are_kept(evidence: &Evidence, findings: &mut Findings) {
    for (id, (state, _, entries)) in &evidence.executions {
        let root = state.blob_root();
        for entry in entries {
            for blob in blobs_of(entry) {
                let kept = root.is_some_and(|root| evidence.contents.kept.contains(&(root, blob)));
                findings.expect(kept, "C1", || {
                    let (hash, bytes) = (blob.hex(), blob.bytes);
                    format!(
                        "{id}: entry {} refers to the large value {hash} of {bytes} bytes, which is not in the store",
                        entry.seq
                    )
                });
            }
        }
    }
}

/// The large values that an entry refers to, each once.
#[must_use]
pub fn blobs_of(entry: &Entry) -> BTreeSet<BlobRef> {
    let mut found = BTreeSet::new();
    let mut look = |value: &Value| value.blobs(&mut |blob| _ = found.insert(*blob));
    in_event(&entry.event, &mut look);
    for answer in &entry.answers {
        in_answer(answer, &mut look);
    }
    found
}

fn in_event(event: &Event, look: &mut dyn FnMut(&Value)) {
    match event {
        Event::Started(started) | Event::Queued(started) => in_start(started, look),
        Event::AttemptClosed(closed) => match &closed.outcome {
            AttemptOutcome::Completed(output) => look(output),
            AttemptOutcome::Failed(_) => {}
        },
        Event::Signaled { call, .. } => look(call),
        Event::Decided { decision, .. } => match decision {
            Decision::Complete(output) => look(output),
            Decision::Skip(output) => output.iter().for_each(look),
            Decision::Fail(_) => {}
        },
        Event::VariablesSet(variables) => variables.iter().for_each(|(_, value)| look(value)),
        Event::Children(reports) => reports.iter().for_each(|report| match &report.outcome {
            ChildOutcome::Completed(output) => look(output),
            ChildOutcome::Began(_) | ChildOutcome::Failed(_) => {}
        }),
        Event::Reopened(reopened) => match &reopened.remedy {
            Remedy::Skip(output) => output.iter().for_each(look),
            Remedy::Retry => {}
        },
        Event::DeadlineReached
        | Event::Paused
        | Event::Resumed
        | Event::CancelRequested { .. }
        | Event::Interrupted
        | Event::Drained
        | Event::Heartbeat(_)
        | Event::PausedWithParent
        | Event::ResumedWithParent
        | Event::Admitted
        | Event::ErrorWorkflow(_)
        | Event::Frozen
        | Event::FrozenWithParent
        | Event::ControlsChanged(_) => {}
    }
}

fn in_start(started: &Started, look: &mut dyn FnMut(&Value)) {
    look(&started.input);
    started.variables.iter().for_each(|(_, value)| look(value));
    if let Some(rerun) = &started.rerun {
        in_rerun(rerun, look);
    }
}

fn in_rerun(rerun: &Rerun, look: &mut dyn FnMut(&Value)) {
    rerun.input.iter().for_each(&mut *look);
    for reused in &rerun.reused {
        if let ReusedResult::Completed(output) = &reused.result {
            look(output);
        }
    }
}

fn in_answer(answer: &Answer, look: &mut dyn FnMut(&Value)) {
    match answer {
        Answer::Value(value) | Answer::Kept(value) => look(value),
        Answer::Variables(variables) => variables.iter().for_each(|(_, value)| look(value)),
        Answer::Prepared { input, data } => input.iter().chain(data).for_each(look),
        Answer::Cached(cached) => cached.output.iter().for_each(look),
        Answer::Valid | Answer::Truth { .. } | Answer::Threw(_) | Answer::NotKept(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::run;
    use super::*;

    /// A workflow of the load, one attempt of which gave a large value; what the store keeps of that.
    fn with_large_output(kept: impl FnOnce(&mut Contents, ExecutionId, BlobRef, Json)) -> Vec<String> {
        let mut evidence = run("chain");
        let content = Json::of(&".".repeat(70_000).into());
        let blob = reference(&content);
        let (id, (_, _, entries)) = evidence.executions.iter_mut().next().unwrap();
        let closed = entries.iter_mut().rev().find_map(|entry| match &mut entry.event {
            Event::AttemptClosed(closed) => Some(closed),
            _ => None,
        });
        closed.unwrap().outcome = AttemptOutcome::Completed(Value::from(blob));
        kept(&mut evidence.contents, *id, blob, content);
        let mut findings = Findings(Vec::new());
        are_kept(&evidence, &mut findings);
        findings.0.into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn a_large_value_that_its_store_keeps_is_lawful() {
        let found = with_large_output(|contents, root, blob, content| contents.add(root, blob, content));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_large_value_that_is_lost_elsewhere_or_another_one_is_found() {
        let another = |contents: &mut Contents, root, blob, _| contents.add(root, blob, Json::null());
        let elsewhere = |contents: &mut Contents, _, blob, content| contents.add(ExecutionId([7; 16]), blob, content);
        let found = [
            with_large_output(|_, _, _, _| {}),
            with_large_output(another),
            with_large_output(elsewhere),
        ];
        for found in found {
            assert!(
                found.len() == 1 && found[0].contains("of 70002 bytes, which is not in the store"),
                "{found:?}"
            );
        }
    }
}
