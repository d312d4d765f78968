//! One execution with real data, real time and the real languages.

use std::collections::BTreeSet;

use serde_json::{Map, Value as JsonValue, json};
use troupe_core::execution::{
    Answer, AttemptClosed, AttemptFailure, AttemptOutcome, EdgeState, Evaluator, Event, ExecutionState, Pending, Phase,
    Question, Scope, Started, Status, next_deadline, step,
};
use troupe_core::plan::Plan;
use troupe_core::{EdgeIx, ErrorInfo, ExecutionId, NodeIx, ShardId, Timestamp, Value};
use troupe_lang::Expression;

/// Numbers that choose; past their end every choice is the first one.
pub(crate) struct Chance<'a>(pub(crate) std::slice::Iter<'a, u8>);

impl Chance<'_> {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % bound
    }

    fn value(&mut self) -> JsonValue {
        [
            json!(1),
            json!({"ok": true, "x": 1}),
            json!({"ok": false, "x": 2}),
            json!(null),
            json!({"ok": 1, "n": 4}),
            json!("text"),
        ][self.below(6)]
        .clone()
    }
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) started: BTreeSet<String>,
    pub(crate) taken: BTreeSet<String>,
    pub(crate) completed: bool,
    pub(crate) waits_ended: BTreeSet<String>,
    pub(crate) canceled: BTreeSet<String>,
}

struct Real<'a> {
    started: &'a mut BTreeSet<String>,
    taken: &'a mut BTreeSet<String>,
}

impl Evaluator for Real<'_> {
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending> {
        let answer = self.answer(question, scope);
        Ok(answer.unwrap_or_else(|error| Answer::Threw(Box::new(ErrorInfo::new("EXPRESSION_ERROR", error)))))
    }
}

impl Real<'_> {
    fn answer(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, String> {
        let data = |node: NodeIx, name: &str| scope.plan.node(node).data.get(name).cloned().unwrap_or_default();
        let truth = |source: &str| {
            let taken = troupe_lang::truthy(&value(source, scope)?);
            Ok(Answer::Truth { taken, seen: None })
        };
        match question {
            Question::Prepare(node) => {
                self.started.insert(scope.plan.node(node).key.to_string());
                for edge in &scope.plan.node(node).incoming {
                    if scope.state.edges[edge.at()] == EdgeState::Taken {
                        self.taken.insert(scope.plan.edge(*edge).id.clone());
                    }
                }
                let input = data(node, "inputMapping");
                let input = input.as_object().map(|mapping| mapped(mapping, scope)).transpose()?;
                Ok(Answer::Prepared {
                    input: input.map(|input| Value::from(JsonValue::Object(input))),
                    data: None,
                })
            }
            Question::OutputMapping(node) => {
                let mapping = data(node, "outputMapping");
                let values = mapped(mapping.as_object().ok_or("no mapping")?, scope)?;
                Ok(Answer::Variables(
                    values.into_iter().map(|(name, value)| (name, value.into())).collect(),
                ))
            }
            Question::Condition(edge) => truth(scope.plan.edge(edge).condition.as_deref().unwrap_or("true")),
            Question::DecisionCondition(node, place) => {
                let decision = scope.plan.node(node).decision.as_ref().ok_or("no decision")?;
                truth(&decision.conditions[place as usize].0)
            }
            other => Err(format!("{other:?} was asked")),
        }
    }
}

fn mapped(mapping: &Map<String, JsonValue>, scope: &Scope<'_>) -> Result<Map<String, JsonValue>, String> {
    let one =
        |(name, source): (&String, &JsonValue)| Ok((name.clone(), value(source.as_str().unwrap_or_default(), scope)?));
    mapping.iter().map(one).collect()
}

fn parsed(value: &Value) -> JsonValue {
    value.shown().to_value().expect("values of the tests are shallow")
}

fn value(source: &str, scope: &Scope<'_>) -> Result<JsonValue, String> {
    let expression = Expression::compile(source).map_err(|error| error.message)?;
    let mut nodes = Map::new();
    for node in &scope.plan.nodes {
        let Some((status, output, error)) = scope.latest(node.key.as_str()) else {
            continue;
        };
        let mut seen = json!({"status": status});
        if let Some(output) = output {
            seen["output"] = parsed(output);
        }
        if let Some(error) = error {
            seen["error"] = error.to_json().to_value().map_err(|error| error.to_string())?;
        }
        nodes.insert(node.key.to_string(), seen);
    }
    let variables = scope
        .state
        .variables
        .iter()
        .map(|(name, value)| (name.clone(), parsed(value)));
    let mut bound = troupe_lang::Scope::new()
        .bind("nodes", JsonValue::Object(nodes))
        .bind("variables", JsonValue::Object(variables.collect()))
        .bind("trigger", parsed(&scope.state.input))
        .bind(
            "execution",
            scope
                .iteration()
                .map_or_else(|| json!({}), |iteration| json!({"iteration": iteration})),
        );
    if let Some(input) = scope.input {
        bound.set("input", parsed(input));
    }
    if let Some(output) = scope.output {
        bound.set("output", parsed(output));
    }
    if let Some(error) = scope.error {
        bound.set("error", error.to_json().to_value().map_err(|error| error.to_string())?);
    }
    expression.evaluate(&bound).map_err(|error| error.message().to_owned())
}

/// Runs a plan to its end.
pub(crate) fn run(plan: &Plan, chance: &mut Chance<'_>) -> Happened {
    let mut plan = plan.clone();
    plan.nodes.iter_mut().for_each(|node| node.prepares = true);
    let id = ExecutionId::fresh(ShardId(0), Timestamp(1), 1);
    let mut state = ExecutionState::new(&plan, id);
    let mut happened = Happened::default();
    let mut now = Timestamp(1_000);
    let mut next = Some(Event::Started(Box::new(Started {
        variables: vec![("v".to_owned(), json!(chance.below(3)).into())],
        ..Started::of(id, &plan, json!({"n": chance.below(8)}).into())
    })));
    while let Some(event) = next.take() {
        let mut real = Real {
            started: &mut happened.started,
            taken: &mut happened.taken,
        };
        let stepped = step(&plan, &mut state, now, &event, &mut real).expect("the event fits");
        for change in stepped.transitions {
            let key = |ix: NodeIx| plan.node(ix).key.to_string();
            match (change.verb(), change.node_ix()) {
                (Some(troupe_core::execution::Verb::NodeCompleted), Some(ix)) => {
                    happened.waits_ended.insert(key(ix));
                }
                (Some(troupe_core::execution::Verb::NodeCanceled), Some(ix)) => {
                    happened.canceled.insert(key(ix));
                }
                _ => {}
            }
        }
        if state.status.is_terminal() {
            break;
        }
        next = Some(choose(&state, &mut now, chance));
    }
    for edge in 0..plan.edges.len() {
        let ix = EdgeIx(u32::try_from(edge).expect("few edges"));
        if state.edges[edge] == EdgeState::Taken {
            happened.taken.insert(plan.edge(ix).id.clone());
        }
    }
    happened.completed = matches!(state.status, Status::Completed { .. });
    happened
}

/// An attempt ends after some time, or the next timer fires.
fn choose(state: &ExecutionState, now: &mut Timestamp, chance: &mut Chance<'_>) -> Event {
    let due = next_deadline(state);
    let running: Vec<NodeIx> = state.running.iter().copied().collect();
    let at = now.plus_ms([0, 10, 60, 90, 150, 400, 2_000][chance.below(7)]);
    if running.is_empty() || due.is_some_and(|due| due <= at) {
        *now = due.expect("something is due where nothing runs").max(*now);
        return Event::DeadlineReached;
    }
    *now = at;
    let ix = running[chance.below(running.len())];
    let Phase::Running { token } = state.nodes[ix.at()].phase else {
        panic!("{ix} does not run");
    };
    let outcome = match chance.below(6) {
        0 => failed("E1"),
        1 => failed("E2"),
        _ => AttemptOutcome::Completed(chance.value().into()),
    };
    Event::AttemptClosed(Box::new(AttemptClosed {
        token,
        started_at: *now,
        outcome,
        logs: None,
    }))
}

fn failed(code: &str) -> AttemptOutcome {
    AttemptOutcome::Failed(Box::new(AttemptFailure {
        error: ErrorInfo::new(code, "it broke"),
        retryable: false,
        retry_after_ms: None,
    }))
}
