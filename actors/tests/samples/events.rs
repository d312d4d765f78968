//! Entries with every event, every answer and every transition of the format.

use std::collections::BTreeSet;

use troupe_core::execution::{
    Answer, AttemptClosed, AttemptFailure, AttemptOutcome, CachedOutput, ChildOutcome, ChildReport, Decision, Entry,
    ErrorWorkflow, Event, LogLine, NodeFailure, Remedy, Reopened, Rerun, Reused, ReusedResult, Started, Transition,
    Verb,
};
use troupe_core::{CommandId, EdgeIx, NodeIx, Principal, Run, Seq};

use crate::values::{AT, blob, child, composed, error, id, inline, json, parent, seen, token};

/// How many events and answers there are in the format.
const EVENTS: usize = 22;
const ANSWERS: usize = 9;

/// Each at the place of its number.
pub(crate) const VERBS: [Verb; 17] = [
    Verb::ExecutionCreated,
    Verb::ExecutionStarted,
    Verb::ExecutionPaused,
    Verb::ExecutionResumed,
    Verb::ExecutionCompleted,
    Verb::ExecutionFailed,
    Verb::ExecutionCanceled,
    Verb::ExecutionCompensating,
    Verb::NodeScheduled,
    Verb::NodeWaiting,
    Verb::NodeRetrying,
    Verb::NodeCompleted,
    Verb::NodeFailed,
    Verb::NodeSkipped,
    Verb::NodeCanceled,
    Verb::NodeInterrupted,
    Verb::NodeStarted,
];

/// One entry an event; answers and transitions are shared out among them.
pub(crate) fn entries() -> Vec<Entry> {
    let (mut answers, mut transitions) = (answers().into_iter(), transitions().into_iter());
    let mut entries = Vec::new();
    for (event, seq) in events().into_iter().zip(1..) {
        let has_cause = seq % 2 == 1;
        // As it stands where an ended execution goes on.
        let transitions = if matches!(event, Event::Reopened(_)) {
            vec![Transition::execution(Verb::ExecutionStarted)]
        } else {
            transitions.by_ref().take(1).collect()
        };
        entries.push(Entry {
            seq: Seq(seq),
            at: AT.plus_ms(seq),
            event,
            answers: answers.by_ref().take(1).collect(),
            transitions,
            principal: has_cause.then(|| Principal::from("ada")),
            command: has_cause.then(|| CommandId::from(format!("command-{seq}"))),
        });
    }
    let is_spent = answers.next().is_none() && transitions.next().is_none();
    assert!(
        is_spent,
        "there are too few events to carry all answers and transitions"
    );
    entries
}

fn events() -> Vec<Event> {
    let closed = |outcome| {
        Event::AttemptClosed(Box::new(AttemptClosed {
            token: token(),
            started_at: AT.plus_ms(7),
            outcome,
            logs: Some(Box::new(vec![LogLine {
                level: "info".to_owned(),
                message: "paid".to_owned(),
            }])),
        }))
    };
    let failure = AttemptFailure {
        error: error(),
        retryable: true,
        retry_after_ms: Some(500),
    };
    let decided = |decision| Event::Decided {
        node: NodeIx(3),
        decision,
    };
    vec![
        Event::Started(Box::new(started())),
        Event::Queued(Box::new(bare())),
        Event::Admitted,
        closed(AttemptOutcome::Completed(blob())),
        closed(AttemptOutcome::Failed(Box::new(failure))),
        Event::DeadlineReached,
        Event::Paused,
        Event::Frozen,
        Event::Resumed,
        Event::PausedWithParent,
        Event::FrozenWithParent,
        Event::ResumedWithParent,
        Event::CancelRequested {
            reason: Some("enough".to_owned()),
            grace_ms: 30_000,
            at_once: true,
        },
        Event::Interrupted,
        Event::Drained,
        Event::Signaled {
            node: NodeIx(1),
            call: composed(),
        },
        Event::Heartbeat(NodeIx(2)),
        decided(Decision::Complete(blob())),
        decided(Decision::Fail(error())),
        decided(Decision::Skip(Some(inline("null")))),
        decided(Decision::Skip(None)),
        Event::VariablesSet(vec![("a".to_owned(), inline("1")), ("b".to_owned(), blob())]),
        Event::Children(reports()),
        reopened(Remedy::Retry),
        reopened(Remedy::Skip(Some(inline("8")))),
        reopened(Remedy::Skip(None)),
        Event::ErrorWorkflow(ErrorWorkflow::Began(id(9))),
        Event::ErrorWorkflow(ErrorWorkflow::Refused(error())),
        Event::ControlsChanged(Box::new(seen())),
    ]
}

fn started() -> Started {
    Started {
        id: id(1),
        workflow: "orders".into(),
        version: 12,
        input: composed(),
        variables: vec![("region".to_owned(), inline(r#""eu""#))],
        metadata: Some(json(r#"{"team":"a"}"#)),
        trigger: Some("by-hand".to_owned()),
        execution_key: Some("order-7".to_owned()),
        request_key: Some("request-7".to_owned()),
        priority: Some(9),
        key_ordinal: Some(4),
        parent: Some(parent()),
        rerun: Some(Box::new(rerun())),
        controls: Some(Box::new(seen())),
        handles_failure_of: Some(id(8)),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// A start of which nothing is given that need not be.
fn bare() -> Started {
    Started {
        id: id(2),
        workflow: "orders".into(),
        version: 1,
        input: inline("null"),
        variables: Vec::new(),
        metadata: None,
        trigger: None,
        execution_key: None,
        request_key: None,
        priority: None,
        key_ordinal: None,
        parent: None,
        rerun: None,
        controls: None,
        handles_failure_of: None,
        trace_parent: None,
    }
}

fn rerun() -> Rerun {
    let failed = NodeFailure {
        error: error(),
        payload: Some(composed()),
        handled: Some(true),
    };
    let results = [
        ReusedResult::Completed(blob()),
        ReusedResult::Failed(failed),
        ReusedResult::Skipped,
        ReusedResult::Canceled,
    ];
    let reused = results.into_iter().zip(0..).map(|(result, place)| Reused {
        node: NodeIx(place),
        result,
        ended_at: Some(AT.plus_ms(3)),
        taken: vec![EdgeIx(place), EdgeIx(5)],
    });
    Rerun {
        of: id(7),
        from: NodeIx(5),
        input: Some(inline("[1]")),
        reason: Some("the price was wrong".to_owned()),
        reused: reused.collect(),
    }
}

fn reports() -> Vec<ChildReport> {
    let outcomes = [
        ChildOutcome::Began(id(6)),
        ChildOutcome::Completed(blob()),
        ChildOutcome::Failed(error()),
    ];
    let reports = outcomes.into_iter().zip(0..).map(|(outcome, index)| ChildReport {
        child: child(index),
        outcome,
    });
    reports.collect()
}

fn reopened(remedy: Remedy) -> Event {
    Event::Reopened(Box::new(Reopened {
        run: Run(2),
        nodes: vec![NodeIx(1), NodeIx(3)],
        remedy,
        reason: Some("it is back in stock".to_owned()),
        controls: Some(Box::new(seen())),
    }))
}

fn answers() -> Vec<Answer> {
    let cached = |output| {
        Answer::Cached(Box::new(CachedOutput {
            node: NodeIx(2),
            key: [0xca; 32],
            output,
        }))
    };
    vec![
        Answer::Valid,
        Answer::Truth {
            taken: true,
            seen: Some(json("1")),
        },
        Answer::Truth {
            taken: false,
            seen: None,
        },
        Answer::Value(blob()),
        Answer::Variables(vec![("total".to_owned(), inline("7"))]),
        Answer::Prepared {
            input: Some(composed()),
            data: Some(inline(r#"{"url":"x"}"#)),
        },
        Answer::Prepared {
            input: None,
            data: Some(blob()),
        },
        Answer::Threw(Box::new(error())),
        Answer::Kept(blob()),
        Answer::NotKept(Box::new(error())),
        cached(Some(inline("7"))),
        cached(None),
    ]
}

fn transitions() -> Vec<Transition> {
    let transition = |(verb, node): (Verb, u32)| match verb.entity() {
        "node" => Transition::node(verb, NodeIx(node)),
        _ => Transition::execution(verb),
    };
    VERBS.into_iter().zip(0..).map(transition).collect()
}

#[test]
fn every_event_is_in_an_entry() {
    let places: BTreeSet<usize> = events().iter().map(place_of_event).collect();
    assert_eq!(places, (0..EVENTS).collect());
}

#[test]
fn every_answer_is_in_an_entry() {
    let places: BTreeSet<usize> = answers().iter().map(place_of_answer).collect();
    assert_eq!(places, (0..ANSWERS).collect());
}

/// An event that comes to be belongs to another format, whose samples are to have it.
fn place_of_event(event: &Event) -> usize {
    match event {
        Event::Started(_) => 0,
        Event::AttemptClosed(_) => 1,
        Event::DeadlineReached => 2,
        Event::Paused => 3,
        Event::Resumed => 4,
        Event::CancelRequested { .. } => 5,
        Event::Interrupted => 6,
        Event::Drained => 7,
        Event::Signaled { .. } => 8,
        Event::Heartbeat(_) => 9,
        Event::Decided { .. } => 10,
        Event::VariablesSet(_) => 11,
        Event::Children(_) => 12,
        Event::PausedWithParent => 13,
        Event::ResumedWithParent => 14,
        Event::Queued(_) => 15,
        Event::Admitted => 16,
        Event::Reopened(_) => 17,
        Event::ErrorWorkflow(_) => 18,
        Event::Frozen => 19,
        Event::FrozenWithParent => 20,
        Event::ControlsChanged(_) => 21,
    }
}

fn place_of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::Valid => 0,
        Answer::Truth { .. } => 1,
        Answer::Value(_) => 2,
        Answer::Variables(_) => 3,
        Answer::Prepared { .. } => 4,
        Answer::Threw(_) => 5,
        Answer::Kept(_) => 6,
        Answer::NotKept(_) => 7,
        Answer::Cached(_) => 8,
    }
}
