//! What a log says came from outside, told to the reference.

use serde_json::Value as JsonValue;
use troupe_core::ErrorInfo;
use troupe_core::execution::{
    Answer, AttemptOutcome, ChildOutcome, ChildReport, Decision, Entry, ErrorWorkflow, Event, Remedy, Reopened, Rerun,
    ReusedResult, Started,
};
use troupe_core::plan::Plan;

use super::contents::Contents;
use super::semantics::key_of;
use crate::reference::{self, ChildEnd, Did, Failure, Reference, Refusal};

/// What a rerun takes over, as its first entry says.
fn taken_over(plan: &Plan, started: &Started, rerun: &Rerun, contents: &Contents) -> reference::rerun::Rerun {
    let reused = rerun.reused.iter().map(|reused| reference::rerun::Reused {
        node: key_of(plan, reused.node),
        result: match &reused.result {
            ReusedResult::Completed(output) => reference::rerun::ReusedResult::Completed(contents.parsed(output)),
            ReusedResult::Failed(failed) => reference::rerun::ReusedResult::Failed {
                error: failure(&failed.error, false, None).error(),
                payload: failed
                    .payload
                    .as_ref()
                    .map_or(JsonValue::Null, |payload| contents.parsed(payload)),
            },
            ReusedResult::Skipped => reference::rerun::ReusedResult::Skipped,
            ReusedResult::Canceled => reference::rerun::ReusedResult::Canceled,
        },
        taken: reused.taken.iter().map(|edge| edge.at()).collect(),
    });
    reference::rerun::Rerun {
        from: key_of(plan, rerun.from),
        input: rerun.input.as_ref().map(|input| contents.parsed(input)),
        reused: reused.collect(),
        trigger: started.trigger.clone(),
    }
}

fn reopen(
    reference: &mut Reference,
    at: i64,
    plan: &Plan,
    reopened: &Reopened,
    contents: &Contents,
) -> Result<Vec<Did>, Refusal> {
    let named: Vec<String> = reopened.nodes.iter().map(|ix| key_of(plan, *ix)).collect();
    let remedy = match &reopened.remedy {
        Remedy::Retry => reference::Remedy::Retry,
        Remedy::Skip(output) => reference::Remedy::Skip(output.as_ref().map(|output| contents.parsed(output))),
    };
    reference.reopened(at, &named, &remedy)
}

/// Tells the reference what the store knew under the keys of nodes that reuse outputs.
pub(super) fn tell_reused(reference: &mut Reference, plan: &Plan, entry: &Entry, contents: &Contents) {
    for answer in &entry.answers {
        if let Answer::Cached(cached) = answer {
            let output = cached.output.as_ref().map(|output| contents.parsed(output));
            reference.found_in_cache(plan.node(cached.node).key.as_str(), output);
        }
    }
}

/// Tells the reference what an entry says came from outside.
pub(super) fn stimulate(
    reference: &mut Reference,
    plan: &Plan,
    entry: &Entry,
    contents: &Contents,
) -> Result<Vec<Did>, String> {
    let at = entry.at.0;
    let answer: Result<Vec<Did>, Refusal> = match &entry.event {
        Event::Started(started) | Event::Queued(started) => {
            let variables: Vec<(String, JsonValue)> = started
                .variables
                .iter()
                .map(|(name, value)| (name.clone(), contents.parsed(value)))
                .collect();
            let (trigger, input) = (started.trigger.as_deref(), contents.parsed(&started.input));
            if let Some(rerun) = &started.rerun {
                let rerun = taken_over(plan, started, rerun, contents);
                reference.start_over(at, input, &variables, &rerun)
            } else if matches!(entry.event, Event::Queued(_)) {
                reference.queue(at, trigger, input, &variables)
            } else {
                reference.start(at, trigger, input, &variables)
            }
        }
        Event::AttemptClosed(closed) => {
            let node = key_of(plan, closed.token.node);
            let phase = if plan.is_compensation(closed.token.node) {
                let undoing = reference.under_way();
                undoing
                    .ok_or_else(|| format!("a report of {node}, which is not under way"))?
                    .phase
            } else {
                reference.nodes[&node].phase
            };
            if !matches!(phase, reference::Phase::Running | reference::Phase::Canceling) {
                return Err(format!("a report of {node}, which is {phase:?}"));
            }
            let outcome = match &closed.outcome {
                AttemptOutcome::Completed(output) => Ok(contents.parsed(output)),
                AttemptOutcome::Failed(failed) => Err(failure(&failed.error, failed.retryable, failed.retry_after_ms)),
            };
            reference.report(at, &node, outcome)
        }
        Event::DeadlineReached => reference.deadline(at),
        Event::Paused => reference.pause(at),
        Event::Frozen => reference.pause_and_freeze(at),
        Event::Resumed => reference.resume(at),
        Event::CancelRequested { grace_ms, at_once, .. } => {
            reference.cancel(at, i64::try_from(*grace_ms).unwrap_or(i64::MAX), *at_once)
        }
        Event::Interrupted => reference.interrupted(at, true),
        Event::Drained => reference.interrupted(at, false),
        Event::Signaled { node, call } => reference.signal(at, plan.node(*node).key.as_str(), contents.parsed(call)),
        Event::Heartbeat(node) => reference.heartbeat(at, plan.node(*node).key.as_str()),
        Event::Decided { node, decision } => {
            let decision = match decision {
                Decision::Complete(output) => reference::Decision::Complete(contents.parsed(output)),
                Decision::Fail(error) => reference::Decision::Fail(failure(error, false, None)),
                Decision::Skip(output) => {
                    reference::Decision::Skip(output.as_ref().map(|value| contents.parsed(value)))
                }
            };
            reference.decided(at, plan.node(*node).key.as_str(), decision)
        }
        Event::VariablesSet(variables) => {
            let variables: Vec<(String, JsonValue)> = variables
                .iter()
                .map(|(name, value)| (name.clone(), contents.parsed(value)))
                .collect();
            reference.variables_set(at, &variables)
        }
        Event::Admitted => reference.admitted(at),
        Event::ControlsChanged(_) => reference.learn(at),
        Event::Reopened(reopened) => reopen(reference, at, plan, reopened, contents),
        Event::ErrorWorkflow(outcome) => reference.reported(
            at,
            match outcome {
                ErrorWorkflow::Began(id) => Ok(id.to_string()),
                ErrorWorkflow::Refused(error) => Err(failure(error, false, None)),
            },
        ),
        Event::Children(reports) => {
            let reports: Vec<_> = reports
                .iter()
                .map(|report| child_report(plan, report, contents))
                .collect();
            reference.children_reported(at, &reports)
        }
        Event::PausedWithParent => reference.pause_with_parent(at),
        Event::FrozenWithParent => reference.freeze_with_parent(at),
        Event::ResumedWithParent => reference.resume_with_parent(at),
    };
    answer.map_err(|refusal| format!("the reference refuses it: {refusal:?}"))
}

fn child_report(plan: &Plan, report: &ChildReport, contents: &Contents) -> reference::ChildReport {
    let ChildReport { child, outcome } = report;
    reference::ChildReport {
        node: plan.node(child.node).key.to_string(),
        visit: child.visit.0,
        index: child.index as usize,
        end: match outcome {
            ChildOutcome::Began(id) => ChildEnd::Began(id.to_string()),
            ChildOutcome::Completed(output) => ChildEnd::Completed(contents.parsed(output)),
            ChildOutcome::Failed(error) => ChildEnd::Failed(failure(error, false, None)),
        },
    }
}

fn failure(error: &ErrorInfo, retryable: bool, retry_after_ms: Option<u64>) -> Failure {
    Failure {
        code: error.code.clone(),
        message: error.message.clone(),
        details: error.details.as_ref().and_then(|details| details.to_value().ok()),
        retryable,
        retry_after_ms: retry_after_ms.and_then(|ms| i64::try_from(ms).ok()),
    }
}
