//! The real core without the reference, for what the reference does not know.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_core::execution::{
    AttemptClosed, AttemptFailure, AttemptOutcome, EdgeState, Effect, Entry, Event, ExecutionState, StartAttempt,
    Status, StepError, invariants, next_deadline, replay, step,
};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, Timestamp, Token, Value};

use super::duo::{Duo, EPOCH};
use super::evaluator::{Mini, parsed};

/// An execution. After every step its invariants hold, and its entries fold to the same state.
pub struct Alone {
    pub plan: Plan,
    pub state: ExecutionState,
    pub now: i64,
    pub log: Vec<Entry>,
    outstanding: BTreeMap<String, Token>,
    started: Vec<StartAttempt>,
    pub effects: Vec<Effect>,
    begun: ExecutionState,
}

impl Alone {
    pub fn new(plan: Plan, state: ExecutionState) -> Self {
        Self {
            plan,
            begun: state.clone(),
            state,
            now: EPOCH + 1_000_000,
            log: Vec::new(),
            outstanding: BTreeMap::new(),
            started: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// An execution as the tests of core and reference left it.
    pub fn after(duo: &Duo) -> Self {
        Self {
            now: duo.now + 1_000,
            outstanding: duo.outstanding.clone(),
            ..Self::new(duo.plan.clone(), duo.state.clone())
        }
    }

    /// A test has changed the state: what follows is folded over that.
    pub fn begins_here(&mut self) {
        self.begun = self.state.clone();
        self.log.clear();
    }

    /// A report of an attempt.
    pub fn report(token: Token, output: JsonValue) -> Event {
        closed(token, AttemptOutcome::Completed(Value::from(output)))
    }

    /// Whether the last event aborted an attempt of a node.
    pub fn aborted(&self, node: &str) -> bool {
        let of_node = |effect: &Effect| matches!(effect, Effect::AbortAttempt(token) if self.key(*token) == node);
        self.effects.iter().any(of_node)
    }

    /// Where an edge stands.
    pub fn way(&self, source: &str, target: &str) -> EdgeState {
        let key = |ix: troupe_core::NodeIx| self.plan.node(ix).key.as_str();
        let place = self
            .plan
            .edges
            .iter()
            .position(|edge| key(edge.source) == source && key(edge.target) == target);
        self.state.edges[place.expect("an edge")]
    }

    /// Applies an event, which may be refused.
    pub fn try_apply(&mut self, event: Event) -> Result<(), StepError> {
        let (before, at) = (self.state.clone(), Timestamp(self.now));
        for patience in 0..64 {
            let starved = step(&self.plan, &mut self.state, at, &event, &mut Mini { patience });
            if starved != Err(StepError::Pending) {
                break;
            }
            assert_eq!(self.state, before, "a step that is pending changed something");
        }
        self.state = before.clone();
        let stepped = step(&self.plan, &mut self.state, at, &event, &mut Mini::patient());
        let stepped = stepped.inspect_err(|_| assert_eq!(self.state, before, "a refused step changed something"))?;
        invariants::check(&self.plan, &self.state).unwrap();
        self.log.push(Entry {
            seq: self.state.seq,
            at,
            event,
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal: None,
            command: None,
        });
        let mut folded = self.begun.clone();
        for entry in &self.log {
            let bytes = minicbor::to_vec(entry).unwrap();
            replay(&self.plan, &mut folded, &minicbor::decode(&bytes).unwrap()).unwrap();
        }
        assert_eq!(folded, self.state, "the entries fold to another state");
        let mut decoded: ExecutionState = minicbor::decode(&minicbor::to_vec(&self.state).unwrap()).unwrap();
        decoded.reindex(&self.plan);
        assert_eq!(decoded, self.state, "the state does not survive its encoding");
        self.started.clear();
        for effect in &stepped.effects {
            match effect {
                Effect::StartAttempt(start) => {
                    self.outstanding.insert(self.key(start.token), start.token);
                    self.started.push(start.clone());
                }
                Effect::AbortAttempt(token) => drop(self.outstanding.remove(&self.key(*token))),
                Effect::StartChild(_)
                | Effect::TellChild(..)
                | Effect::StartErrorWorkflow(_)
                | Effect::OfferOutput(_)
                | Effect::AskForRoom
                | Effect::Finish => {}
            }
        }
        self.effects = stepped.effects;
        Ok(())
    }

    pub fn apply(&mut self, event: Event) -> &mut Self {
        self.try_apply(event).unwrap();
        self
    }

    pub fn complete(&mut self, node: &str, output: JsonValue) -> &mut Self {
        let token = self.outstanding[node];
        self.apply(closed(token, AttemptOutcome::Completed(Value::from(output))))
    }

    pub fn fail(&mut self, node: &str, code: &str) -> &mut Self {
        let failure = AttemptFailure {
            error: ErrorInfo::new(code, "it broke"),
            retryable: false,
            retry_after_ms: None,
        };
        let token = self.outstanding[node];
        self.apply(closed(token, AttemptOutcome::Failed(Box::new(failure))))
    }

    /// The code with which an event is refused.
    pub fn refusal(&mut self, event: Event) -> String {
        match self.try_apply(event) {
            Err(StepError::Refused(error)) => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Applies what is due next.
    pub fn due(&mut self) -> &mut Self {
        self.now = next_deadline(&self.state).expect("a deadline").0;
        self.apply(Event::DeadlineReached)
    }

    pub fn token(&self, node: &str) -> Token {
        self.outstanding[node]
    }

    fn key(&self, token: Token) -> String {
        self.plan.node(token.node).key.to_string()
    }

    /// The nodes whose attempts the last event started, in which visit and with what, such as `a@2(1)`.
    pub fn started(&self) -> String {
        let one = |start: &StartAttempt| {
            let input = parsed(&start.input);
            format!("{}@{}({input})", self.key(start.token), start.token.visit)
        };
        self.started.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// Where nodes stand, such as `a:completed b:pending`.
    pub fn nodes(&self) -> String {
        let nodes = self.plan.nodes.iter().zip(&self.state.nodes);
        let nodes = nodes.map(|(planned, node)| format!("{}:{}", planned.key, node.phase.name()));
        nodes.collect::<Vec<_>>().join(" ")
    }

    /// `completed` and its output, or `failed` and its code, or another status.
    pub fn status(&self) -> String {
        match (&self.state.status, &self.state.failure) {
            (Status::Completed { output }, _) => format!("completed {}", parsed(output)),
            (Status::Failed, Some(failure)) => format!("failed {}", failure.error.code),
            (other, _) => other.name().to_owned(),
        }
    }
}

fn closed(token: Token, outcome: AttemptOutcome) -> Event {
    Event::AttemptClosed(Box::new(AttemptClosed {
        token,
        started_at: Timestamp(EPOCH),
        outcome,
        logs: None,
    }))
}
