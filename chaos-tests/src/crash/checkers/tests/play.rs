//! Runs a workflow of the load with its children, one thing after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value as JsonValue, json};
use troupe_core::definition::{NodeKind, WorkflowDefinition};
use troupe_core::execution::{
    Answer, AttemptClosed, AttemptFailure, AttemptOutcome, ChildCommand, ChildId, ChildOutcome, ChildReport, Effect,
    Entry, Evaluator, Event, ExecutionState, Parent, Pending, Phase, Question, Scope, StartChild, Started, Status,
    StepError, next_deadline, step,
};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId, Json, ShardId, Timestamp, Token, Value};

use super::super::Contents;
use super::super::Evidence;
use crate::crash::record::Record;
use crate::crash::workload;
use crate::reference::language;

/// When is due what waits for an instant.
const DUE: Timestamp = Timestamp(1_790_000_000_000);

/// Answers in the reference's language.
struct Mini;

impl Evaluator for Mini {
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending> {
        let node = question.node(scope.plan).map(|ix| scope.plan.node(ix));
        let data = |name: &str| {
            let text = node.and_then(|node| node.data.get(name)).and_then(JsonValue::as_str);
            text.unwrap_or_else(|| panic!("no `{name}`: {question:?}"))
        };
        let seen = seen(scope);
        let value = |expression: &str| language::evaluate(expression, &seen).expect("nothing throws here");
        let truth = |expression: &str| Answer::Truth {
            taken: language::truthy(&value(expression)),
            seen: None,
        };
        Ok(match question {
            Question::Items(_) => Answer::Value(value(data("items")).into()),
            Question::Output(_) => Answer::Value(value(data("output")).into()),
            Question::While(_) => truth(data("while")),
            Question::DecisionCondition(ix, place) => {
                let decision = scope.plan.node(ix).decision.as_ref().expect("a decision");
                truth(&decision.conditions[place as usize].0)
            }
            Question::OutputMapping(ix) => {
                let mapping = scope.plan.node(ix).data["outputMapping"]
                    .as_object()
                    .expect("a mapping");
                let one =
                    |(name, text): (&String, &JsonValue)| (name.clone(), value(text.as_str().expect("text")).into());
                Answer::Variables(mapping.iter().map(one).collect())
            }
            Question::RoomKey => {
                let limit = scope.plan.settings.concurrency.as_ref().expect("a limit");
                Answer::Value(value(limit.key.as_deref().expect("a key")).into())
            }
            Question::ConcurrencyKey(ix) => {
                let limit = scope.plan.node(ix).concurrency.as_ref().expect("a limit");
                Answer::Value(value(limit.key.as_deref().expect("a key")).into())
            }
            // Of what is prepared nothing but instants is computed.
            Question::Prepare(_) => Answer::Prepared {
                input: None,
                data: node.filter(|node| node.kind == NodeKind::Delay).map(|node| {
                    let mut prepared = node.data.clone();
                    prepared.insert("delayValue".to_owned(), value(data("delayValue")));
                    JsonValue::Object(prepared).into()
                }),
            },
            other => panic!("{other:?}"),
        })
    }
}

fn seen(scope: &Scope<'_>) -> JsonValue {
    let state = scope.state;
    let variables: Map<String, JsonValue> = state
        .variables
        .iter()
        .map(|(name, value)| (name.clone(), parsed(value)))
        .collect();
    json!({
        "variables": variables,
        "input": scope.input.map(parsed),
        "output": scope.output.map(parsed),
        "execution": {"iteration": scope.iteration()},
    })
}

/// An execution that runs.
struct Live {
    state: ExecutionState,
    plan: Arc<Plan>,
    entries: Vec<Entry>,
    parent: Option<Parent>,
}

/// What waits to be told to an execution.
type Mail = (ExecutionId, Event);

#[derive(Default)]
struct Play {
    definitions: BTreeMap<String, WorkflowDefinition>,
    live: BTreeMap<ExecutionId, Live>,
    children: BTreeMap<(ExecutionId, ChildId), ExecutionId>,
    mail: VecDeque<Mail>,
    records: Vec<Record>,
    now: i64,
}

/// Everything that a workflow of the load does.
pub(in super::super) fn run(workflow: &str) -> Evidence {
    let all = workload::all().into_iter();
    let mut play = Play {
        definitions: all.map(|definition| (definition.id.clone(), definition)).collect(),
        now: 1_000,
        ..Play::default()
    };
    let input = match workflow {
        workload::LATER => workload::input_of_key(workflow, &workload::later_key(0, 0, DUE)),
        _ => Json::from_trusted("{\"n\":1}"),
    };
    play.start(workflow, input.into(), None);
    while play.go_on() {}
    let mut evidence = Evidence {
        records: play.records,
        definitions: play.definitions,
        ..Evidence::default()
    };
    for (id, live) in play.live {
        assert!(live.state.status.is_terminal(), "{:?}", live.state.status);
        evidence.executions.insert(id, (live.state, live.plan, live.entries));
    }
    evidence
}

impl Play {
    fn start(&mut self, workflow: &str, input: Value, parent: Option<Parent>) -> ExecutionId {
        let definition = match workflow.split_once('#') {
            Some((around, node)) => {
                let mut body = self.definitions[around].body_of(node).expect("a body");
                workflow.clone_into(&mut body.id);
                body
            }
            None => self.definitions[workflow].clone(),
        };
        let plan = Arc::new(Plan::build(&definition).expect("a valid definition"));
        let id = ExecutionId::fresh(ShardId(0), Timestamp(self.now), self.live.len() as u64);
        let live = Live {
            state: ExecutionState::new(&plan, id),
            plan: Arc::clone(&plan),
            entries: Vec::new(),
            parent,
        };
        self.live.insert(id, live);
        let started = Started {
            parent,
            ..Started::of(id, &plan, input)
        };
        let started = Box::new(started);
        let event = match plan.settings.concurrency {
            Some(_) => Event::Queued(started),
            None => Event::Started(started),
        };
        self.mail.push_back((id, event));
        id
    }

    /// Delivers what waits, else calls what waits for a call, else lets time pass. False when all is over.
    fn go_on(&mut self) -> bool {
        self.now += 1;
        if let Some((id, event)) = self.mail.pop_front() {
            self.deliver(id, event);
            return true;
        }
        if let Some((id, event)) = self.call() {
            self.deliver(id, event);
            return true;
        }
        let due = |(id, live): (&ExecutionId, &Live)| Some((next_deadline(&live.state)?.0, *id));
        let Some((due, id)) = self.live.iter().filter_map(due).min() else {
            return false;
        };
        self.now = self.now.max(due);
        self.deliver(id, Event::DeadlineReached);
        true
    }

    /// Calls an execution that no other one began wherever it waits, a child only where it has no timeout.
    fn call(&self) -> Option<Mail> {
        let is_called = |live: &Live, phase: &Phase| match phase {
            Phase::Waiting { until, .. } => live.parent.is_none() || until.is_none(),
            _ => false,
        };
        let waiting = self.live.iter().find_map(|(id, live)| {
            let nodes = &live.state.nodes;
            Some((*id, nodes.iter().position(|node| is_called(live, &node.phase))?))
        });
        let (id, node) = waiting?;
        let node = troupe_core::NodeIx(u32::try_from(node).ok()?);
        let call = json!({"body": {"n": 1}, "headers": {}, "query": {}, "method": "POST"}).into();
        Some((id, Event::Signaled { node, call }))
    }

    fn deliver(&mut self, id: ExecutionId, event: Event) {
        let live = self.live.get_mut(&id).expect("it was started");
        let at = Timestamp(self.now);
        let stepped = match step(&live.plan, &mut live.state, at, &event, &mut Mini) {
            Ok(stepped) => stepped,
            // Told too late.
            Err(StepError::Stale | StepError::Ended | StepError::Unchanged) => return,
            Err(error) => panic!("{error}: {event:?}"),
        };
        live.entries.push(Entry {
            seq: live.state.seq,
            at,
            event,
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal: None,
            command: None,
        });
        for effect in stepped.effects {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: ExecutionId, effect: Effect) {
        match effect {
            Effect::StartAttempt(start) => {
                let plan = Arc::clone(&self.live[&id].plan);
                let token = start.token;
                self.records.push(Record::Effect {
                    id,
                    node: plan.node(token.node).key.to_string(),
                    token: [token.run.0, token.visit.0, token.attempt.0, token.nonce],
                    input: parsed(&start.input).to_string(),
                });
                let report = self.report(&plan, token);
                self.mail.push_back((id, report));
            }
            Effect::AbortAttempt(_) | Effect::OfferOutput(_) => {}
            Effect::StartChild(start) => self.bear(id, start),
            Effect::TellChild(child, command) => {
                let Some(child) = self.children.get(&(id, child)) else {
                    return;
                };
                let event = match command {
                    ChildCommand::Pause => Event::PausedWithParent,
                    ChildCommand::Freeze => Event::FrozenWithParent,
                    ChildCommand::Resume => Event::ResumedWithParent,
                    ChildCommand::Cancel => Event::CancelRequested {
                        reason: None,
                        grace_ms: 10,
                        at_once: false,
                    },
                };
                self.mail.push_back((*child, event));
            }
            Effect::AskForRoom => self.mail.push_back((id, Event::Admitted)),
            Effect::StartErrorWorkflow(_) => panic!("the workloads name no error workflow"),
            Effect::Finish => self.tell_parent(id),
        }
    }

    fn report(&self, plan: &Plan, token: Token) -> Event {
        let fails_first = plan.node(token.node).data.get("failFirst").and_then(JsonValue::as_u64);
        let outcome = if u64::from(token.attempt.0) <= fails_first.unwrap_or(0) {
            AttemptOutcome::Failed(Box::new(AttemptFailure {
                error: ErrorInfo::new("FLAKY", "not yet"),
                retryable: true,
                retry_after_ms: None,
            }))
        } else {
            AttemptOutcome::Completed(
                Json::from_trusted(format!("\"{}-{token:?}\"", self.now).replace(['{', '}'], "")).into(),
            )
        };
        Event::AttemptClosed(Box::new(AttemptClosed {
            token,
            started_at: Timestamp(self.now),
            outcome,
            logs: None,
        }))
    }

    fn bear(&mut self, id: ExecutionId, start: StartChild) {
        let live = &self.live[&id];
        let node = live.plan.node(start.child.node);
        let named = node.data.get("workflowId").and_then(JsonValue::as_str);
        let workflow = named.map_or_else(|| format!("{}#{}", live.plan.workflow, node.key), str::to_owned);
        let parent = Parent {
            execution: id,
            child: start.child,
            attached: start.attached,
            depth: live.parent.map_or(0, |above| above.depth) + 1,
            root: Some(live.parent.and_then(|above| above.root).unwrap_or(id)),
        };
        let child = self.start(&workflow, start.input, Some(parent));
        self.children.insert((id, start.child), child);
        if !start.attached {
            self.tell(parent, ChildOutcome::Began(child));
        }
    }

    fn tell_parent(&mut self, id: ExecutionId) {
        let live = &self.live[&id];
        let Some(parent) = live.parent.filter(|parent| parent.attached) else {
            return;
        };
        let outcome = match &live.state.status {
            Status::Completed { output } => ChildOutcome::Completed(output.clone()),
            Status::Canceled { .. } => ChildOutcome::Failed(ErrorInfo::new("CANCELED", "")),
            _ => ChildOutcome::Failed(live.state.failure.as_ref().expect("why it failed").error.clone()),
        };
        self.tell(parent, outcome);
    }

    fn tell(&mut self, parent: Parent, outcome: ChildOutcome) {
        let child = parent.child;
        let event = Event::Children(vec![ChildReport { child, outcome }]);
        self.mail.push_back((parent.execution, event));
    }
}

fn parsed(value: &Value) -> JsonValue {
    Contents::default().parsed(value)
}
