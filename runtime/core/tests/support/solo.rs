//! The core alone, for what the reference interpreter does not know.

use serde_json::{Value as JsonValue, json};
use troupe_core::execution::{
    AttemptClosed, AttemptFailure, AttemptOutcome, Effect, Entry, Event, ExecutionState, StartAttempt, Started,
    StepError, next_deadline, replay, step,
};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId, NodeIx, ShardId, Timestamp, Token, Value};

use super::evaluator::{Mini, parsed};

const EPOCH: i64 = 1_790_000_000_000;

/// An execution, and what was done for it.
pub struct Solo {
    pub plan: Plan,
    pub state: ExecutionState,
    pub log: Vec<Entry>,
    pub now: i64,
    /// Attempts that were started and did not report.
    pub running: Vec<StartAttempt>,
    /// What the last event had done: `a1` starts an attempt of `a`, `a^1` of what undoes it, `-a^` aborts one.
    pub done: Vec<String>,
    /// Payload of the error workflow.
    pub report: Option<JsonValue>,
}

impl Solo {
    pub fn new(definition: &JsonValue) -> Self {
        let plan = Plan::build(&serde_json::from_value(definition.clone()).unwrap()).unwrap();
        let id = ExecutionId::fresh(ShardId(0), Timestamp(EPOCH), 7);
        Self {
            state: ExecutionState::new(&plan, id),
            plan,
            log: Vec::new(),
            now: EPOCH,
            running: Vec::new(),
            done: Vec::new(),
            report: None,
        }
    }

    /// Starts it with `{"ok": true}`.
    pub fn start(&mut self, handles_failure_of: Option<ExecutionId>) {
        let started = Started {
            id: self.state.id,
            workflow: self.plan.workflow.clone(),
            version: self.plan.version,
            input: Value::from(json!({"ok": true})),
            variables: Vec::new(),
            metadata: None,
            trigger: None,
            trace_parent: None,
            execution_key: None,
            request_key: None,
            priority: None,
            key_ordinal: None,
            parent: None,
            rerun: None,
            controls: None,
            handles_failure_of,
        };
        self.apply(&Event::Started(Box::new(started)));
    }

    pub fn apply(&mut self, event: &Event) {
        self.try_apply(event).unwrap();
    }

    /// A step that is pending or refused changes nothing, and the entries fold to the state that they made.
    pub fn try_apply(&mut self, event: &Event) -> Result<(), StepError> {
        let before = self.state.clone();
        let at = Timestamp(self.now);
        for patience in 0.. {
            let outcome = step(&self.plan, &mut self.state, at, event, &mut Mini { patience });
            if outcome != Err(StepError::Pending) {
                self.state.clone_from(&before);
                break;
            }
            assert_eq!(self.state, before, "pending after {patience} answers");
        }
        let stepped = step(&self.plan, &mut self.state, at, event, &mut Mini::patient());
        let stepped = match stepped {
            Ok(stepped) => stepped,
            Err(error) => {
                assert_eq!(self.state, before, "refused with {error}");
                return Err(error);
            }
        };
        self.log.push(Entry {
            seq: self.state.seq,
            at,
            event: event.clone(),
            answers: stepped.answers,
            transitions: stepped.transitions,
            principal: None,
            command: None,
        });
        self.is_lawful();
        self.carry_out(stepped.effects);
        Ok(())
    }

    fn is_lawful(&self) {
        troupe_core::execution::invariants::check(&self.plan, &self.state).unwrap();
        let mut folded = ExecutionState::new(&self.plan, self.state.id);
        for entry in &self.log {
            let bytes = minicbor::to_vec(entry).unwrap();
            replay(&self.plan, &mut folded, &minicbor::decode(&bytes).unwrap()).unwrap();
        }
        assert_eq!(folded, self.state, "folded");
        let mut decoded: ExecutionState = minicbor::decode(&minicbor::to_vec(&self.state).unwrap()).unwrap();
        decoded.reindex(&self.plan);
        assert_eq!(decoded, self.state, "decoded");
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        self.done.clear();
        for effect in effects {
            match effect {
                Effect::StartAttempt(start) => {
                    self.done
                        .push(format!("{}{}", self.name(start.token.node), start.token.attempt));
                    self.running.retain(|known| known.token.node != start.token.node);
                    self.running.push(start);
                }
                Effect::AbortAttempt(token) => self.done.push(format!("-{}", self.name(token.node))),
                Effect::StartErrorWorkflow(start) => {
                    self.done.push(format!("report to {}", start.workflow));
                    self.report = Some(parsed(&start.input));
                }
                Effect::OfferOutput(_) | Effect::AskForRoom => {}
                Effect::Finish => self.done.push("finish".into()),
                Effect::StartChild(_) | Effect::TellChild(..) => panic!("nodes of these tests have no children"),
            }
        }
    }

    /// `a`, or `a^` for what undoes it.
    fn name(&self, ix: NodeIx) -> String {
        let undoes = if self.plan.is_compensation(ix) { "^" } else { "" };
        format!("{}{undoes}", self.plan.node(ix).key)
    }

    /// What the last event had done, in order.
    pub fn done(&self) -> String {
        self.done.join(" ")
    }

    pub fn attempt(&self, name: &str) -> &StartAttempt {
        let running = self.running.iter().rev();
        let mut running = running.filter(|start| self.name(start.token.node) == name);
        running.next().unwrap_or_else(|| panic!("`{name}` does not run"))
    }

    pub fn report(&mut self, token: Token, outcome: AttemptOutcome) -> Result<(), StepError> {
        self.running.retain(|start| start.token != token);
        let closed = AttemptClosed {
            token,
            started_at: Timestamp(self.now),
            outcome,
            logs: None,
        };
        self.try_apply(&Event::AttemptClosed(Box::new(closed)))
    }

    pub fn complete(&mut self, name: &str, output: JsonValue) -> &mut Self {
        let token = self.attempt(name).token;
        self.report(token, AttemptOutcome::Completed(Value::from(output)))
            .unwrap();
        self
    }

    pub fn fail(&mut self, name: &str, code: &str) -> &mut Self {
        let token = self.attempt(name).token;
        let failure = AttemptFailure {
            error: ErrorInfo::new(code, "it broke"),
            retryable: true,
            retry_after_ms: None,
        };
        self.report(token, AttemptOutcome::Failed(Box::new(failure))).unwrap();
        self
    }

    pub fn cancel(&mut self, grace_ms: u64, at_once: bool) -> Result<(), StepError> {
        self.try_apply(&Event::CancelRequested {
            reason: Some("enough".into()),
            grace_ms,
            at_once,
        })
    }

    /// Waits for the next deadline, and gives how long that took.
    pub fn due(&mut self) -> i64 {
        let due = next_deadline(&self.state).expect("a deadline").0;
        let waited = due - self.now;
        self.now = due;
        self.apply(&Event::DeadlineReached);
        waited
    }

    /// What became of the compensations, in the order in which they were tried: `b:completed a:failed(E1)`.
    pub fn undone(&self) -> String {
        let visits = self.state.compensations.iter().flat_map(|all| all.visits.iter().rev());
        let shown = visits.filter_map(|visit| {
            let compensation = visit.compensation.as_ref()?;
            let code = compensation
                .failure
                .as_ref()
                .map(|failure| format!("({})", failure.error.code));
            let key = &self.plan.node(visit.node).key;
            let visit = if visit.visit.0 > 1 {
                visit.visit.to_string()
            } else {
                String::new()
            };
            Some(format!(
                "{key}{visit}:{}{}",
                compensation.phase.name(),
                code.unwrap_or_default()
            ))
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    pub fn status(&self) -> &'static str {
        self.state.status.name()
    }

    pub fn error(&self) -> &str {
        self.state
            .failure
            .as_ref()
            .map_or("none", |failure| failure.error.code.as_str())
    }
}
