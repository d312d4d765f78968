#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::control::ControlsSeen;
use crate::definition::WorkflowDefinition;
use crate::id::{Attempt, ExecutionId, Seq, ShardId, Timestamp, Token};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Value};

/// Answers nothing: for workflows without expressions.
struct NoExpressions;

impl Evaluator for NoExpressions {
    fn evaluate(&mut self, question: Question, _: &Scope<'_>) -> Result<Answer, Pending> {
        panic!("{question:?} was asked")
    }
}

pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) state: ExecutionState,
    pub(super) now: Timestamp,
    entries: Vec<Entry>,
}

impl Run {
    pub(super) fn start(definition: serde_json::Value) -> (Self, Vec<Effect>) {
        Self::start_under(definition, None)
    }

    pub(super) fn start_under(definition: serde_json::Value, controls: Option<ControlsSeen>) -> (Self, Vec<Effect>) {
        let definition: WorkflowDefinition = serde_json::from_value(definition).unwrap();
        let plan = Plan::build(&definition).unwrap();
        let id = ExecutionId::fresh(ShardId(0), Timestamp(1), 1);
        let state = ExecutionState::new(&plan, id);
        let started = Started {
            controls: controls.map(Box::new),
            ..Started::of(id, &plan, json!({"n": 1}).into())
        };
        let mut run = Self {
            plan,
            state,
            now: Timestamp(1_000),
            entries: Vec::new(),
        };
        let started = Box::new(started);
        let queued = run.plan.settings.concurrency.is_some();
        let event = if queued {
            Event::Queued(started)
        } else {
            Event::Started(started)
        };
        let effects = run.step(event).unwrap();
        (run, effects)
    }

    pub(super) fn step(&mut self, event: Event) -> Result<Vec<Effect>, StepError> {
        let stepped = step(&self.plan, &mut self.state, self.now, &event, &mut NoExpressions)?;
        self.entries.push(Entry {
            seq: self.state.seq,
            at: self.now,
            event,
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal: None,
            command: None,
        });
        Ok(stepped.effects)
    }

    fn close(&mut self, token: Token, outcome: AttemptOutcome) -> Result<Vec<Effect>, StepError> {
        let started_at = self.now;
        self.step(Event::AttemptClosed(Box::new(AttemptClosed {
            token,
            started_at,
            outcome,
            logs: None,
        })))
    }

    pub(super) fn complete(&mut self, token: Token, output: serde_json::Value) -> Vec<Effect> {
        self.close(token, AttemptOutcome::Completed(output.into())).unwrap()
    }

    pub(super) fn fail(&mut self, token: Token, retryable: bool) -> Vec<Effect> {
        let failure = AttemptFailure {
            error: ErrorInfo::new("BOOM", "it broke"),
            retryable,
            retry_after_ms: None,
        };
        self.close(token, AttemptOutcome::Failed(Box::new(failure))).unwrap()
    }

    /// Folding the entries from nothing gives the same state, through its encoding too.
    pub(super) fn assert_replays(&self) {
        let mut folded = ExecutionState::new(&self.plan, self.state.id);
        for entry in &self.entries {
            let bytes = minicbor::to_vec(entry).unwrap();
            let decoded: Entry = minicbor::decode(&bytes).unwrap();
            assert_eq!(&decoded, entry);
            replay(&self.plan, &mut folded, &decoded).unwrap();
            let mut stored: ExecutionState = minicbor::decode(&minicbor::to_vec(&folded).unwrap()).unwrap();
            stored.reindex(&self.plan);
            assert_eq!(stored.fingerprint(), folded.fingerprint());
        }
        assert_eq!(folded.fingerprint(), self.state.fingerprint());
        invariants::check(&self.plan, &self.state).unwrap();
    }
}

fn tokens(effects: &[Effect]) -> Vec<Token> {
    let started = effects.iter().filter_map(|effect| match effect {
        Effect::StartAttempt(attempt) => Some(attempt.token),
        Effect::AbortAttempt(_)
        | Effect::StartChild(_)
        | Effect::TellChild(..)
        | Effect::OfferOutput(_)
        | Effect::AskForRoom
        | Effect::StartErrorWorkflow(_)
        | Effect::Finish => None,
    });
    started.collect()
}

fn node(id: &str) -> serde_json::Value {
    json!({"id": id, "type": "function", "data": {"handlerId": "noop", "retryPolicy": {"jitter": "none"}}})
}

fn edge(source: &str, target: &str, kind: &str) -> serde_json::Value {
    json!({"source": source, "target": target, "type": kind})
}

#[test]
fn a_join_fires_once_with_every_branch() {
    let (mut run, effects) = Run::start(json!({
        "id": "w", "nodes": [node("a"), node("b"), node("c"), node("d")],
        "edges": [edge("a", "b", "default"), edge("a", "c", "default"), edge("b", "d", "default"), edge("c", "d", "default")],
    }));
    let first = tokens(&effects);
    let branches = tokens(&run.complete(first[0], json!("from a")));
    assert_eq!(branches.len(), 2);
    assert_eq!(run.complete(branches[0], json!("left")), []);
    let effects = run.complete(branches[1], json!("right"));
    let Effect::StartAttempt(join) = &effects[0] else {
        panic!("{effects:?}")
    };
    assert_eq!(join.input, Value::from(json!({"b": "left", "c": "right"})));
    let before = run.state.clone();
    assert_eq!(
        run.close(branches[1], AttemptOutcome::Completed(Value::null())),
        Err(StepError::Stale)
    );
    assert_eq!(run.state, before);
    assert_eq!(run.complete(join.token, json!(42)), [Effect::Finish]);
    assert_eq!(
        run.state.status,
        Status::Completed {
            output: json!(42).into()
        }
    );
    assert_eq!(run.state.seq, Seq(5));
    assert_eq!(
        run.close(join.token, AttemptOutcome::Completed(Value::null())),
        Err(StepError::Ended)
    );
    run.assert_replays();
}

#[test]
fn retries_wait_their_turn_and_then_the_failure_edge_is_taken() {
    let (mut run, effects) = Run::start(json!({
        "id": "w", "nodes": [node("a"), node("rescue"), node("never")],
        "edges": [edge("a", "rescue", "failure"), edge("a", "never", "success")],
    }));
    let mut token = tokens(&effects)[0];
    for wait_ms in [1_000, 2_000] {
        assert_eq!(run.fail(token, true), []);
        assert_eq!(next_deadline(&run.state), Some(run.now.plus_ms(wait_ms)));
        assert_eq!(run.step(Event::DeadlineReached), Err(StepError::NotDue));
        run.now = run.now.plus_ms(wait_ms);
        token = tokens(&run.step(Event::DeadlineReached).unwrap())[0];
    }
    let effects = run.fail(token, true);
    let Effect::StartAttempt(rescue) = &effects[0] else {
        panic!("{effects:?}")
    };
    let expected = json!({"error": {"message": "it broke", "code": "BOOM"}, "input": {"n": 1}});
    assert_eq!(rescue.input, Value::from(expected));
    run.complete(rescue.token, json!("saved"));
    assert_eq!(
        run.state.status,
        Status::Completed {
            output: json!("saved").into()
        }
    );
    run.assert_replays();
}

#[test]
fn failing_fast_lets_clean_up_finish() {
    let (mut run, effects) = Run::start(json!({
        "id": "w", "nodes": [node("a"), node("slow"), node("tidy"), node("after")],
        "edges": [edge("a", "tidy", "always"), edge("tidy", "after", "default")],
    }));
    let started = tokens(&effects);
    let effects = run.fail(started[0], false);
    assert_eq!(effects[0], Effect::AbortAttempt(started[1]));
    let tidy = tokens(&effects)[0];
    assert_eq!(run.state.status, Status::Failing);
    let after = tokens(&run.complete(tidy, json!(1)))[0];
    assert_eq!(run.complete(after, json!(2)), [Effect::Finish]);
    assert_eq!(run.state.status, Status::Failed);
    assert_eq!(run.state.failure.as_ref().unwrap().error.code, "BOOM");
    run.assert_replays();
}

#[test]
fn pause_holds_and_resume_applies_what_fell_due_first() {
    let (mut run, effects) = Run::start(json!({
        "id": "w",
        "nodes": [node("a"), node("b"), {"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": 50}}, node("late")],
        "edges": [edge("a", "b", "default"), edge("wait", "late", "default")],
    }));
    let a = tokens(&effects)[0];
    run.step(Event::Paused).unwrap();
    assert_eq!(run.step(Event::Paused), Err(StepError::Unchanged));
    assert_eq!(run.complete(a, json!(1)), []);
    run.now = run.now.plus_ms(100);
    assert_eq!(next_deadline(&run.state), None);
    assert_eq!(run.step(Event::DeadlineReached), Err(StepError::NotDue));
    assert_eq!(tokens(&run.step(Event::Resumed).unwrap()).len(), 2);
    run.assert_replays();
}

#[test]
fn a_crash_repeats_the_attempt_without_counting_it_but_not_for_ever() {
    let (mut run, effects) = Run::start(json!({"id": "w", "nodes": [node("a")], "edges": []}));
    let mut token = tokens(&effects)[0];
    for _ in 0..10 {
        let again = tokens(&run.step(resume(&run.state).unwrap()).unwrap())[0];
        assert_eq!((again.attempt, again.nonce), (token.attempt, token.nonce + 1));
        assert_eq!(
            run.close(token, AttemptOutcome::Completed(Value::null())),
            Err(StepError::Stale)
        );
        token = again;
    }
    assert_eq!(run.step(Event::Interrupted).unwrap(), []);
    assert_eq!(run.state.nodes[0].attempts.last().unwrap().cut_short, None);
    run.now = next_deadline(&run.state).unwrap();
    let next = tokens(&run.step(Event::DeadlineReached).unwrap())[0];
    assert_eq!((next.attempt, next.nonce), (Attempt(token.attempt.0 + 1), token.nonce));
    run.assert_replays();
}

#[test]
fn cancel_waits_for_running_attempts_until_the_grace_ends() {
    let (mut run, effects) = Run::start(json!({
        "id": "w", "nodes": [node("a"), node("b"), node("c")], "edges": [edge("a", "c", "default")],
    }));
    let started = tokens(&effects);
    let cancel = || Event::CancelRequested {
        reason: Some("enough".into()),
        grace_ms: 500,
        at_once: false,
    };
    assert_eq!(
        run.step(cancel()).unwrap(),
        started
            .iter()
            .map(|token| Effect::AbortAttempt(*token))
            .collect::<Vec<_>>()
    );
    assert_eq!(run.step(cancel()), Err(StepError::Unchanged));
    run.complete(started[0], json!("too late"));
    assert_eq!(run.state.status.name(), "running");
    run.now = run.now.plus_ms(500);
    let effects = run.step(Event::DeadlineReached).unwrap();
    assert_eq!(effects.last(), Some(&Effect::Finish));
    assert_eq!(
        run.state.status,
        Status::Canceled {
            reason: Some("enough".into())
        }
    );
    assert_eq!(
        run.state.nodes.iter().map(|node| node.phase.name()).collect::<Vec<_>>(),
        ["canceled", "canceled", "skipped"]
    );
    run.assert_replays();
}

#[test]
fn lifecycle_events_come_from_the_entry_alone() {
    let (mut run, effects) = Run::start(json!({
        "id": "w", "nodes": [node("a"), node("b")], "edges": [edge("a", "b", "default")],
    }));
    run.complete(tokens(&effects)[0], json!("out"));
    let told = |place: usize| {
        let events = crate::lifecycle::derive(&run.plan, run.state.id, &run.entries[place]);
        let told = events.iter().map(|event| {
            let node = event.node.as_ref().map_or("-", |(key, _)| key.as_str());
            format!("{} {node} {} {}", event.part, event.verb.word(), event.data)
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(0), ["0 - created {}", "1 - started {}", "2 a scheduled {}"]);
    assert_eq!(
        told(1),
        [
            r#"0 a started {"attempt":1}"#,
            r#"1 a completed {"attempt":1,"output":"out"}"#,
            "2 b scheduled {}"
        ]
    );
}

/// One node, and an execution that waits before it runs.
fn queued() -> Run {
    let settings = json!({"concurrency": {"limit": 1}, "timeout": 500});
    let (run, effects) = Run::start(json!({"id": "w", "nodes": [node("a")], "edges": [], "settings": settings}));
    assert_eq!(effects, [Effect::AskForRoom]);
    assert_eq!((run.state.status.name(), next_deadline(&run.state)), ("pending", None));
    run
}

#[test]
fn a_queued_execution_runs_once_it_is_admitted_and_its_timeout_begins_then() {
    let mut run = queued();
    run.now = Timestamp(9_000);
    let effects = run.step(Event::Admitted).unwrap();
    let started = tokens(&effects);
    assert_eq!(started.len(), 1);
    assert_eq!(next_deadline(&run.state), Some(Timestamp(9_500)));
    assert_eq!(run.step(Event::Admitted), Err(StepError::Unchanged));
    assert_eq!(run.complete(started[0], json!(1)), [Effect::Finish]);
    run.assert_replays();
}

#[test]
fn a_queued_execution_can_be_paused_and_canceled_but_no_node_of_it_decided() {
    let mut run = queued();
    let skip = Event::Decided {
        node: crate::id::NodeIx(0),
        decision: Decision::Skip(None),
    };
    assert!(matches!(run.step(skip), Err(StepError::Refused(error)) if error.code == "NODE_NOT_WAITING"));
    run.step(Event::Paused).unwrap();
    assert_eq!(run.step(Event::Admitted).unwrap(), []);
    assert_eq!(tokens(&run.step(Event::Resumed).unwrap()).len(), 1);
    let mut run = queued();
    let cancel = Event::CancelRequested {
        reason: None,
        grace_ms: 1_000,
        at_once: false,
    };
    assert_eq!(run.step(cancel).unwrap(), [Effect::Finish]);
    assert_eq!(run.state.status.name(), "canceled");
    run.assert_replays();
}
