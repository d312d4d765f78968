//! An execution from its start to its end, driven through the pure core: its history, and how it stood under way.

use serde_json::json;
use troupe_core::control::ControlsSeen;
use troupe_core::execution::{
    Answer, AttemptClosed, AttemptFailure, AttemptOutcome, CachedOutput, ChildOutcome, ChildReport, Effect, Entry,
    ErrorWorkflow, Evaluator, Event, ExecutionState, LogLine, Pending, Question, Scope, Started, step,
};
use troupe_core::plan::Plan;
use troupe_core::{CommandId, Composed, NodeIx, Parts, Principal, Token};

use crate::values::{AT, blob, child, composed, error, id, inline, json as document, parent, span};

/// A payment with attempts, a cache and a compensation; then a call that is waited for beside children; then what fails.
pub(crate) fn definition() -> serde_json::Value {
    let pay = json!({
        "handlerId": "pay",
        "retryPolicy": {"maxAttempts": 3, "initialDelay": 1_000, "jitter": "none"},
        "totalTimeout": 600_000,
        "outputMapping": {"receipt": "output"},
        "concurrency": {"limit": 2, "key": "input.region"},
        "cache": {"key": "input.id", "ttl": 60_000},
        "compensation": {"type": "function", "data": {"handlerId": "refund"}},
    });
    let pack = json!({"workflowId": "pack", "items": "input.items", "maxConcurrency": 2, "toleratedFailures": 1});
    json!({
        "id": "orders",
        "version": 1,
        "nodes": [
            {"id": "pay", "type": "function", "data": pay},
            {"id": "approve", "type": "webhook", "data": {"timeout": 3_600_000, "heartbeatTimeout": 60_000}},
            {"id": "pack", "type": "forEach", "data": pack},
            {"id": "ship", "type": "function", "data": {"handlerId": "ship", "inputMapping": {"all": "input"}}},
        ],
        "edges": [
            {"id": "e0", "source": "pay", "target": "approve", "condition": "output.ok"},
            {"id": "e1", "source": "pay", "target": "pack"},
            {"id": "e2", "source": "approve", "target": "ship"},
            {"id": "e3", "source": "pack", "target": "ship"},
        ],
        "settings": {
            "timeout": 86_400_000,
            "priority": 3,
            "variables": {"tries": 1},
            "compensate": true,
            "errorWorkflow": "alarm",
        },
    })
}

const APPROVE: NodeIx = NodeIx(1);
const SHIP: NodeIx = NodeIx(3);

/// What the expressions of the definition give.
struct Answers;

impl Evaluator for Answers {
    fn evaluate(&mut self, question: Question, _: &Scope<'_>) -> Result<Answer, Pending> {
        Ok(match question {
            Question::ConcurrencyKey(_) => Answer::Value(inline(r#""eu""#)),
            Question::Cache(node) => Answer::Cached(Box::new(CachedOutput {
                node,
                key: [0xca; 32],
                output: None,
            })),
            Question::OutputMapping(_) => Answer::Variables(vec![("receipt".to_owned(), blob())]),
            Question::Condition(_) => Answer::Truth {
                taken: true,
                seen: Some(document("1")),
            },
            Question::Items(_) => {
                let items = vec![inline("1"), blob(), composed()];
                Answer::Value(Composed::new(Parts::List(items)).into())
            }
            Question::Prepare(_) => Answer::Prepared {
                input: Some(composed()),
                data: Some(inline(r#"{"handlerId":"ship"}"#)),
            },
            other => panic!("{other:?} was asked"),
        })
    }
}

/// What was done, and what came of it.
pub(crate) struct Story {
    pub(crate) plan: Plan,
    /// As it stands at last.
    pub(crate) state: ExecutionState,
    pub(crate) entries: Vec<Entry>,
    /// As it stood held by a control, and while it was undone.
    pub(crate) under_way: Vec<ExecutionState>,
    /// The attempt that was dispatched last.
    attempt: Option<Token>,
}

impl Story {
    pub(crate) fn told() -> Self {
        let plan = Plan::build(&serde_json::from_value(definition()).unwrap()).unwrap();
        let mut story = Self {
            state: ExecutionState::new(&plan, id(1)),
            plan,
            entries: Vec::new(),
            under_way: Vec::new(),
            attempt: None,
        };
        story.pays();
        story.under_way.push(story.state.clone());
        story.fails();
        story.under_way.push(story.state.clone());
        story.ends();
        story
    }

    fn pays(&mut self) {
        let started = Box::new(self.started());
        self.does(0, Event::Started(started));
        self.attempt_fails(100, true);
        self.does(1_100, Event::DeadlineReached);
        self.does(1_200, Event::Interrupted);
        self.attempt_completes(1_300);
        self.does(1_400, Event::Heartbeat(APPROVE));
        self.hears(1_500, vec![(0, ChildOutcome::Completed(blob()))]);
        let held = ControlsSeen {
            whole: true,
            nodes: vec![SHIP],
            spans: vec![span(1_550, None)],
            node_spans: vec![(SHIP, vec![span(0, None)])],
        };
        self.does(1_600, Event::ControlsChanged(Box::new(held)));
    }

    fn fails(&mut self) {
        let free = ControlsSeen {
            whole: false,
            nodes: Vec::new(),
            spans: vec![span(1_550, Some(2_550))],
            node_spans: vec![(SHIP, vec![span(0, Some(2_550))])],
        };
        self.does(2_600, Event::ControlsChanged(Box::new(free)));
        self.does(2_610, Event::Frozen);
        self.does(2_660, Event::Resumed);
        let called = Event::Signaled {
            node: APPROVE,
            call: composed(),
        };
        self.does(2_700, called);
        let last = vec![
            (1, ChildOutcome::Failed(error())),
            (2, ChildOutcome::Completed(inline("3"))),
        ];
        self.hears(2_800, last);
        self.attempt_fails(2_900, false);
    }

    fn ends(&mut self) {
        self.attempt_completes(3_000);
        self.does(3_100, Event::ErrorWorkflow(ErrorWorkflow::Began(id(9))));
    }

    /// It begins with a node that is held by itself.
    fn started(&self) -> Started {
        let controls = ControlsSeen {
            whole: false,
            nodes: vec![SHIP],
            spans: Vec::new(),
            node_spans: vec![(SHIP, vec![span(0, None)])],
        };
        Started {
            variables: vec![("region".to_owned(), inline(r#""eu""#))],
            metadata: Some(document(r#"{"team":"a"}"#)),
            execution_key: Some("order-7".to_owned()),
            request_key: Some("request-7".to_owned()),
            key_ordinal: Some(4),
            parent: Some(parent()),
            controls: Some(Box::new(controls)),
            trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            ..Started::of(id(1), &self.plan, composed())
        }
    }

    fn attempt_completes(&mut self, at_ms: u64) {
        self.attempt_ends(at_ms, AttemptOutcome::Completed(blob()));
    }

    fn attempt_fails(&mut self, at_ms: u64, retryable: bool) {
        let failure = AttemptFailure {
            error: error(),
            retryable,
            retry_after_ms: Some(500),
        };
        self.attempt_ends(at_ms, AttemptOutcome::Failed(Box::new(failure)));
    }

    fn attempt_ends(&mut self, at_ms: u64, outcome: AttemptOutcome) {
        let closed = AttemptClosed {
            token: self.attempt.expect("an attempt was dispatched"),
            started_at: AT.plus_ms(at_ms - 1),
            outcome,
            logs: Some(Box::new(vec![LogLine {
                level: "info".to_owned(),
                message: "tried".to_owned(),
            }])),
        };
        self.does(at_ms, Event::AttemptClosed(Box::new(closed)));
    }

    fn hears(&mut self, at_ms: u64, outcomes: Vec<(u32, ChildOutcome)>) {
        let report = |(index, outcome)| ChildReport {
            child: child(index),
            outcome,
        };
        self.does(at_ms, Event::Children(outcomes.into_iter().map(report).collect()));
    }

    fn does(&mut self, at_ms: u64, event: Event) {
        let at = AT.plus_ms(at_ms);
        let stepped = step(&self.plan, &mut self.state, at, &event, &mut Answers)
            .unwrap_or_else(|error| panic!("{event:?} at {at_ms} ms: {error}"));
        for effect in &stepped.effects {
            if let Effect::StartAttempt(start) = effect {
                self.attempt = Some(start.token);
            }
        }
        let command = CommandId::from(format!("command-{at_ms}"));
        self.state.note_command(command.clone());
        self.entries.push(Entry {
            seq: self.state.seq,
            at,
            event,
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal: Some(Principal::from("ada")),
            command: Some(command),
        });
    }
}

/// What the story is told for is in the samples.
#[test]
fn the_story_comes_where_it_should() {
    use troupe_core::execution::{Phase, Status};

    let story = Story::told();
    let [held, undone] = &story.under_way[..] else {
        panic!("two states are kept")
    };
    assert!(held.is_held() && held.has_open_children());
    assert!(matches!(held.nodes[1].phase, Phase::Waiting { .. }), "{held:?}");
    assert_eq!(held.nodes[0].attempts.len(), 3);
    assert!(matches!(undone.status, Status::Compensating(_)), "{undone:?}");
    assert!(undone.holds.as_ref().is_some_and(|holds| !holds.own.is_empty()));
    assert_eq!(story.state.status, Status::Failed);
    assert!(story.state.error_workflow.is_some() && story.state.has_compensated());
}
