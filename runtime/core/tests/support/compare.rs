//! What the core and the reference must agree on after each stimulus.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_core::Timestamp;
use troupe_core::execution::{EdgeState, ErrorWorkflow, Event, Phase, Status, next_deadline, step};

use super::duo::{Disagreement, Duo};
use super::evaluator::{Mini, parsed};
use crate::reference::{self, Did, Edge};

impl Duo {
    /// The first difference between the two states.
    pub(super) fn compare(&self) -> Result<(), Disagreement> {
        let (state, reference) = (&self.state, &self.reference);
        for (planned, node) in self.plan.nodes.iter().zip(&state.nodes) {
            let key = planned.key.as_str();
            let expected = &reference.nodes[key];
            let stood = self.stood_ms(self.plan.node_ix(key));
            same(
                &format!("phase of {key}"),
                &phase(&node.phase, stood),
                &expected_phase(expected.phase),
            )?;
            let output = node.output.as_ref().map(|output| normal(&parsed(output)));
            same(
                &format!("output of {key}"),
                &output,
                &expected.output.as_ref().map(normal),
            )?;
            let code = node.failure.as_ref().map(|failure| failure.error.code.as_str());
            let expected_code = expected.error.as_ref().and_then(|error| error["code"].as_str());
            same(&format!("error of {key}"), &code, &expected_code)?;
            same(&format!("visit of {key}"), &node.visit.0, &expected.visit)?;
            let ended = node.ended.as_ref().map(|ended| {
                let output = ended.output.as_ref().map(|output| normal(&parsed(output)));
                let code = ended.failure.as_ref().map(|failure| failure.error.code.clone());
                (ended.visit.0, phase(&ended.phase, 0), output, code)
            });
            let expected_ended = expected.ended.as_ref().map(|ended| {
                let code = ended.error.as_ref().and_then(|error| error["code"].as_str());
                let phase = expected_phase(ended.phase);
                (
                    ended.visit,
                    phase,
                    ended.output.as_ref().map(normal),
                    code.map(str::to_owned),
                )
            });
            same(&format!("latest ended visit of {key}"), &ended, &expected_ended)?;
            same(
                &format!("interruptions of {key}"),
                &node.interruptions,
                &expected.interruptions,
            )?;
            let counted = node.attempts.iter().filter(|attempt| !attempt.was_interrupted());
            let failed = counted.filter_map(|attempt| attempt.error.as_ref());
            let failed: Vec<&String> = failed.map(|error| &error.code).collect();
            same(
                &format!("failed attempts of {key}"),
                &failed,
                &expected.failed.iter().collect(),
            )?;
        }
        for (place, planned) in self.plan.nodes.iter().enumerate() {
            let ix = troupe_core::NodeIx(u32::try_from(place).unwrap_or(u32::MAX));
            let kept = state.signals.get(&ix).into_iter().flatten();
            let kept: Vec<JsonValue> = kept.map(|call| normal(&parsed(call))).collect();
            let expected = reference.kept(planned.key.as_str());
            let expected: Vec<JsonValue> = expected.map(normal).collect();
            same(&format!("calls kept for {}", planned.key), &kept, &expected)?;
        }
        for (place, node) in state.nodes.iter().enumerate() {
            let ix = troupe_core::NodeIx(u32::try_from(place).unwrap_or(u32::MAX));
            let key = self.key(ix);
            let children = (node.phase == Phase::Parenting).then(|| &state.children[&ix]);
            let seen = children.map(|children| {
                let open: Vec<usize> = children.open.iter().map(|index| *index as usize).collect();
                let counts = [children.begun, children.completed, children.failed].map(|count| count as usize);
                (open, counts)
            });
            let expected = reference.nodes[&key].children.as_ref().map(|children| {
                let counts = [children.ends.len(), children.completed(), children.failed()];
                (children.open().collect(), counts)
            });
            same(
                &format!("children of {key}: open, [begun, completed, failed]"),
                &seen,
                &expected,
            )?;
        }
        for (place, edge) in state.edges.iter().enumerate() {
            let stands = match edge {
                EdgeState::Open => Edge::Open,
                EdgeState::HeldTaken => Edge::Held(true),
                EdgeState::HeldDead => Edge::Held(false),
                EdgeState::Taken => Edge::Resolved(true),
                EdgeState::Dead => Edge::Resolved(false),
            };
            let id = &self.plan.edges[place].id;
            same(&format!("edge {id}"), &stands, &reference.edges[place])?;
        }
        for (planned, at) in self.plan.loops.iter().zip(&state.loops) {
            let key = self.key(planned.header);
            let expected = reference.generations.get(&key);
            let expected = expected.map(|generation| (u64::from(generation.iteration), generation.finished));
            same(&format!("loop of {key}"), &Some((at.iteration, at.finished)), &expected)?;
        }
        self.compare_undone()?;
        let holds = state.holds.as_deref();
        let whole = holds.is_some_and(|holds| holds.whole);
        same("held by a wider scope", &whole, &reference.told.whole)?;
        let nodes = holds.iter().flat_map(|holds| &holds.nodes).map(|ix| self.key(*ix));
        same("nodes held by a wider scope", &nodes.collect(), &reference.told.nodes)?;
        if self.news().is_none() && !state.status.is_terminal() {
            same("what it should be told", &reference.told, &reference.in_force())?;
        }
        same("run", &state.run.0, &reference.run)?;
        same("loops", &state.loops.len(), &reference.generations.len())?;
        let variables: BTreeMap<String, JsonValue> = state
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), normal(&parsed(value))))
            .collect();
        let expected = reference
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), normal(value)))
            .collect();
        same("variables", &variables, &expected)?;
        let paused = (state.paused, state.paused_with_parent);
        same("paused", &paused, &(reference.paused, reference.paused_with_parent))?;
        let failure = state
            .failure
            .as_ref()
            .map(|failure| (failure.node.map(|ix| self.key(ix)), failure.error.code.clone()));
        let expected = reference
            .failure
            .as_ref()
            .map(|(node, error)| (node.clone(), error["code"].as_str().unwrap_or_default().to_owned()));
        same("failure", &failure, &expected)?;
        let told = state.error_workflow.as_deref().map(|outcome| match outcome {
            ErrorWorkflow::Began(id) => Ok(id.to_string()),
            ErrorWorkflow::Refused(error) => Err(error.code.clone()),
        });
        let expected = reference.told_of_failure.clone();
        let expected = expected.map(|outcome| outcome.map_err(|failure| failure.code));
        same("error workflow", &told, &expected)?;
        let due = next_deadline(state).map(|due| due.0);
        same("next deadline", &due, &reference.next_deadline())?;
        same("status", &status(&state.status), &expected_status(&reference.status))
    }
}

impl Duo {
    /// What can be undone, and what was.
    fn compare_undone(&self) -> Result<(), Disagreement> {
        let visits = self.state.compensations.iter().flat_map(|all| &all.visits);
        let visits = visits.map(|visit| {
            let undoing = visit.compensation.as_deref().map(|node| {
                let code = node.failure.as_ref().map(|failure| failure.error.code.clone());
                let counted = node.attempts.iter().filter(|attempt| !attempt.was_interrupted());
                let failed = counted.filter_map(|attempt| Some(attempt.error.as_ref()?.code.clone()));
                let output = node.output.as_ref().map(|output| normal(&parsed(output)));
                let failed: Vec<String> = failed.collect();
                (
                    phase(&node.phase, self.stood_ms(None)),
                    code,
                    failed,
                    node.interruptions,
                    output,
                )
            });
            let (input, output) = (normal(&parsed(&visit.input)), normal(&parsed(&visit.output)));
            (self.key(visit.node), visit.visit.0, input, output, undoing)
        });
        let expected = self.reference.done.iter().map(|done| {
            let undoing = done.undoing.as_ref().map(|node| {
                let code = node.error.as_ref().and_then(|error| error["code"].as_str());
                let (code, output) = (code.map(str::to_owned), node.output.as_ref().map(normal));
                (
                    expected_phase(node.phase),
                    code,
                    node.failed.clone(),
                    node.interruptions,
                    output,
                )
            });
            (
                done.node.clone(),
                done.visit,
                normal(&done.input),
                normal(&done.output),
                undoing,
            )
        });
        same("what is undone", &visits.collect::<Vec<_>>(), &expected.collect())?;
        let left = self.state.compensations.as_ref().map_or(0, |all| all.left as usize);
        same("visits left to undo", &left, &self.reference.left)
    }

    /// Whoever is held by a wider scope and says that nothing is held back is not woken when that is lifted: nothing may come of it.
    pub(super) fn nobody_is_forgotten(&self) -> Result<(), String> {
        let state = &self.state;
        if !state.is_held_widely() || state.paused || state.status.is_terminal() || state.held_back().is_some() {
            return Ok(());
        }
        // What is due without that happens anyway.
        if next_deadline(state).is_some_and(|due| due.0 <= self.now) {
            return Ok(());
        }
        let mut free = state.clone();
        let event = Event::ControlsChanged(Box::default());
        let stepped = step(&self.plan, &mut free, Timestamp(self.now), &event, &mut Mini::patient());
        match stepped {
            Ok(stepped) if stepped.effects.is_empty() => Ok(()),
            Ok(stepped) => Err(format!("held back by nothing, and when let go: {:?}", stepped.effects)),
            Err(error) => Err(format!("it cannot be let go: {error:?}")),
        }
    }

    /// For how long the clock of a node, or of the execution, has stood.
    pub(super) fn stood_ms(&self, node: Option<troupe_core::NodeIx>) -> i64 {
        let holds = self.state.holds.as_deref();
        let apart = node.and_then(|ix| holds?.clocks.get(&ix).copied());
        let stopped = apart.or_else(|| holds?.clock);
        stopped.map_or(0, |stopped| self.now - stopped.since.0)
    }

    /// Where the nodes of both stand that differ or have not ended, for people.
    pub(super) fn stands(&self) -> String {
        let nodes = self.plan.nodes.iter().zip(&self.state.nodes);
        let lines = nodes.filter_map(|(planned, node)| {
            let expected = &self.reference.nodes[planned.key.as_str()];
            let (core, expected) = (
                (
                    node.visit.0,
                    phase(&node.phase, self.stood_ms(self.plan.node_ix(planned.key.as_str()))),
                ),
                (expected.visit, expected_phase(expected.phase)),
            );
            let is_dull = core == expected && node.phase.is_terminal();
            (!is_dull).then(|| format!("{}: the core {core:?}, the reference {expected:?}", planned.key))
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, core: &T, expected: &T) -> Result<(), Disagreement> {
    if core == expected {
        Ok(())
    } else {
        Err(format!("{what}: the core has {core:?}, the reference {expected:?}"))
    }
}

/// Its name, until when it lasts, and by when a heartbeat must have come.
type Seen = (&'static str, Option<i64>, Option<i64>);

/// `stood_ms`: for how long its clock has stood; that is added to deadlines when it goes on.
fn phase(phase: &Phase, stood_ms: i64) -> Seen {
    match phase {
        Phase::Pending => ("pending", None, None),
        Phase::Ready => ("ready", None, None),
        Phase::Running { .. } => ("running", None, None),
        Phase::Backoff { until, .. } => ("backoff", Some(until.0 + stood_ms), None),
        Phase::Delaying { until } => ("delaying", Some(until.0 + stood_ms), None),
        Phase::Waiting { until, heartbeat_by } => {
            ("waiting", until.map(|at| at.0 + stood_ms), heartbeat_by.map(|at| at.0))
        }
        Phase::Parenting => ("parenting", None, None),
        Phase::Turning { at } => ("turning", Some(at.0), None),
        Phase::Canceling { .. } => ("canceling", None, None),
        Phase::Completed => ("completed", None, None),
        Phase::Failed => ("failed", None, None),
        Phase::Skipped => ("skipped", None, None),
        Phase::Canceled => ("canceled", None, None),
    }
}

fn expected_phase(phase: reference::Phase) -> Seen {
    match phase {
        reference::Phase::Pending => ("pending", None, None),
        reference::Phase::Ready => ("ready", None, None),
        reference::Phase::Running => ("running", None, None),
        reference::Phase::Backoff { earliest, .. } => ("backoff", Some(earliest), None),
        reference::Phase::Delaying { until } => ("delaying", Some(until), None),
        reference::Phase::Waiting { until, heartbeat_by } => ("waiting", until, heartbeat_by),
        reference::Phase::Parenting => ("parenting", None, None),
        reference::Phase::Canceling => ("canceling", None, None),
        reference::Phase::Completed => ("completed", None, None),
        reference::Phase::Failed => ("failed", None, None),
        reference::Phase::Skipped => ("skipped", None, None),
        reference::Phase::Canceled => ("canceled", None, None),
    }
}

fn status(status: &Status) -> (&'static str, Option<String>) {
    match status {
        Status::Pending => ("pending", None),
        Status::Running => ("running", None),
        Status::Failing => ("failing", None),
        Status::Compensating(_) => ("compensating", None),
        Status::Reporting => ("reporting", None),
        Status::Canceling { until, .. } => ("canceling", Some(until.to_string())),
        Status::Completed { output } => ("completed", Some(normal(&parsed(output)).to_string())),
        Status::Failed => ("failed", None),
        Status::Canceled { .. } => ("canceled", None),
    }
}

fn expected_status(status: &reference::Status) -> (&'static str, Option<String>) {
    match status {
        reference::Status::Pending => ("pending", None),
        reference::Status::Running => ("running", None),
        reference::Status::Failing => ("failing", None),
        reference::Status::Undoing(_) => ("compensating", None),
        reference::Status::Reporting => ("reporting", None),
        reference::Status::Canceling { until } => ("canceling", Some(until.to_string())),
        reference::Status::Completed(output) => ("completed", Some(normal(output).to_string())),
        reference::Status::Failed => ("failed", None),
        reference::Status::Canceled => ("canceled", None),
    }
}

/// A value without the words that errors carry for people.
pub fn normal(value: &JsonValue) -> JsonValue {
    match value {
        JsonValue::Array(items) => items.iter().map(normal).collect(),
        JsonValue::Object(fields) => {
            let is_error = fields.contains_key("code") && fields.contains_key("message");
            let one = |(name, value): (&String, &JsonValue)| {
                let words = is_error && name == "message";
                (name.clone(), if words { JsonValue::from("") } else { normal(value) })
            };
            JsonValue::Object(fields.iter().map(one).collect())
        }
        other => other.clone(),
    }
}

/// What was done, without the order that means nothing: attempts in theirs, then children in theirs of each node, then what
/// children are told.
pub(super) fn in_order(mut done: Vec<Did>) -> Vec<Did> {
    done.sort_by_key(|did| match did {
        Did::Start { .. } | Did::Abort { .. } => (0, String::new(), 0, None),
        Did::Begin { node, .. } => (1, node.clone(), 0, None),
        Did::Tell { node, index, what, .. } => (2, node.clone(), *index, Some(*what)),
        Did::Report { .. } | Did::Finish => (3, String::new(), 0, None),
    });
    done
}

pub(super) fn normal_did(did: &Did) -> Did {
    match did {
        Did::Start {
            node,
            visit,
            attempt,
            input,
            data,
        } => Did::Start {
            node: node.clone(),
            visit: *visit,
            attempt: *attempt,
            input: normal(input),
            data: normal(data),
        },
        Did::Begin {
            node,
            visit,
            index,
            input,
            attached,
        } => Did::Begin {
            node: node.clone(),
            visit: *visit,
            index: *index,
            input: normal(input),
            attached: *attached,
        },
        Did::Report { workflow, input } => Did::Report {
            workflow: workflow.clone(),
            input: normal(input),
        },
        other => other.clone(),
    }
}
