//! The real core and the reference, given the same stimuli and compared after each.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_core::control::{self, Clocks, ControlEntry, ControlKey, ControlSet, ControlsSeen, Setting};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{
    ChildCommand, ChildId, EdgeState, Effect, Entry, Event, ExecutionState, Parent, Phase, StartChild, Status,
    StepError, Verb, step,
};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, NodeIx, ShardId, Timestamp, Token, Visit};

use super::compare::{in_order, normal, normal_did, same};
use super::evaluator::{Mini, parsed};
pub use super::stimulus::Stimulus;
use crate::reference::{Control, Did, Reference, Refusal, Scope, Tell, UNDOES};

/// When every execution of the tests starts.
pub const EPOCH: i64 = 1_790_000_000_000;

/// What differs, and where.
pub type Disagreement = String;

pub struct Duo {
    pub plan: Plan,
    pub state: ExecutionState,
    pub reference: Reference,
    pub now: i64,
    /// Every entry so far and the effects it had.
    pub log: Vec<(Entry, Vec<Effect>)>,
    /// The current attempt of each node that runs.
    pub outstanding: BTreeMap<String, Token>,
    /// Tokens whose attempts are over.
    pub spent: Vec<Token>,
    /// Inputs that started attempts were given, by node, visit and attempt.
    pub given: BTreeMap<(String, u32, u32), JsonValue>,
    /// Tries every step with an evaluator that runs out of answers, before it is applied.
    pub starves: bool,
    /// What was refused with an error code.
    pub refused: Vec<(Stimulus, String)>,
    /// Every child that was begun.
    pub begun: Vec<StartChild>,
    /// Whether a child was begun by an execution that fails: for clean-up.
    pub begun_while_failing: bool,
    /// How many executions are above it.
    depth: u32,
    /// Whether its parent, if it has one, waits for it.
    attached: bool,
    /// Controls as the shard has them.
    pub controls: ControlSet,
    /// Every control that was set or lifted, and when.
    pub commands: Vec<(i64, Scope, Option<Control>)>,
    /// How many executions it comes after: it is the rerun of a rerun.
    pub generation: u32,
    /// How many visits of each node have ended.
    ended: BTreeMap<NodeIx, u32>,
}

impl Duo {
    pub fn new(definition: &JsonValue) -> Self {
        let definition: WorkflowDefinition = serde_json::from_value(definition.clone()).expect("a definition");
        let plan = Plan::build(&definition).expect("a valid definition");
        let id = ExecutionId::fresh(ShardId(3), Timestamp(EPOCH), 42);
        let mut reference = Reference::new(&definition);
        reference.id = id.to_string();
        Self {
            state: ExecutionState::new(&plan, id),
            plan,
            reference,
            now: EPOCH,
            log: Vec::new(),
            outstanding: BTreeMap::new(),
            spent: Vec::new(),
            given: BTreeMap::new(),
            starves: false,
            refused: Vec::new(),
            begun: Vec::new(),
            begun_while_failing: false,
            depth: 0,
            attached: true,
            controls: ControlSet::default(),
            commands: Vec::new(),
            generation: 0,
            ended: BTreeMap::new(),
        }
    }

    /// So many executions are above it.
    pub fn depth(&mut self, depth: u32) {
        (self.depth, self.reference.depth) = (depth, depth);
        self.reference.parent = self.parent().map(|parent| parent.execution.to_string());
    }

    /// It is a rerun of another one, in the same shard.
    pub fn become_another(&mut self, source: &Self, id: ExecutionId) {
        self.state = ExecutionState::new(&self.plan, id);
        self.reference.id = id.to_string();
        self.reference.under_controls_of(&source.reference);
        self.controls = source.controls.clone();
        (self.now, self.generation, self.starves) = (source.now, source.generation + 1, source.starves);
    }

    /// It runs on behalf of another one's failure.
    pub fn handle_failure(&mut self) {
        self.reference.handles_failure = true;
    }

    /// Its parent does not wait for it.
    pub fn detach(&mut self) {
        (self.attached, self.reference.attached) = (false, false);
    }

    /// Who started it, if it is a child.
    pub fn parent(&self) -> Option<Parent> {
        let child = ChildId {
            run: self.state.run,
            node: NodeIx(0),
            visit: Visit(1),
            index: 0,
        };
        (self.depth > 0).then(|| Parent {
            execution: ExecutionId::fresh(ShardId(3), Timestamp(EPOCH), 41),
            child,
            attached: self.attached,
            depth: self.depth,
            root: None,
        })
    }

    /// Applies a stimulus to both sides; what the core did, or how they disagree.
    pub fn apply(&mut self, stimulus: &Stimulus) -> Result<Result<Vec<Did>, StepError>, Disagreement> {
        if let Stimulus::Control {
            scope,
            is_stop,
            control,
        } = stimulus
        {
            self.control(scope, *is_stop, *control);
            return Ok(Ok(Vec::new()));
        }
        let event = self.event(stimulus);
        let before = self.state.clone();
        if self.starves {
            self.starve(&event)?;
        }
        let stepped = step(
            &self.plan,
            &mut self.state,
            Timestamp(self.now),
            &event,
            &mut Mini::patient(),
        );
        let expected = self.stimulate_reference(stimulus);
        match (stepped, expected) {
            (Ok(stepped), Ok(expected)) => {
                let entry = Entry {
                    seq: self.state.seq,
                    at: Timestamp(self.now),
                    event,
                    answers: stepped.answers,
                    transitions: stepped.transitions,
                    principal: None,
                    command: None,
                };
                self.lawful(&before, &entry, &stepped.effects)?;
                let done = self.did(&stepped.effects);
                self.log.push((entry, stepped.effects));
                self.settle_backoffs()?;
                // As text: the order of an object's keys counts.
                let expected = in_order(expected.iter().map(normal_did).collect());
                let done = in_order(done);
                same("effects", &format!("{done:?}"), &format!("{expected:?}"))?;
                self.compare()?;
                self.nobody_is_forgotten()?;
                Ok(Ok(done))
            }
            (Err(error), Err(refusal)) => {
                if self.state != before {
                    return Err(format!("a refused step ({error}) changed the state"));
                }
                let fits = match (&error, refusal) {
                    (StepError::Refused(error), Refusal::Refused(code)) => error.code == code,
                    (error, refusal) => matches!(
                        (error, refusal),
                        (StepError::Ended, Refusal::Ended)
                            | (StepError::Unchanged, Refusal::Unchanged)
                            | (StepError::NotDue, Refusal::NotDue)
                            | (StepError::Stale, Refusal::Stale)
                    ),
                };
                if let StepError::Refused(refused) = &error {
                    self.refused.push((stimulus.clone(), refused.code.clone()));
                }
                if let (StepError::Stale, Stimulus::Children(_)) = (&error, stimulus) {
                    self.refused.push((stimulus.clone(), "stale".into()));
                }
                if fits {
                    Ok(Err(error))
                } else {
                    Err(format!("the core refused with {error:?}, not {refusal:?}"))
                }
            }
            (Ok(stepped), Err(refusal)) => Err(format!("the core accepted ({stepped:?}), the reference: {refusal:?}")),
            (Err(error), Ok(expected)) => Err(format!("the core refused ({error:?}), the reference: {expected:?}")),
        }
    }

    /// Sets or lifts a control in the shard; the reference hears of it at once, the core when the execution wakes.
    fn control(&mut self, scope: &Scope, is_stop: bool, control: Option<Control>) {
        let seq = self.controls.seq().next();
        let covered = match scope {
            Scope::All => control::Scope::All,
            Scope::Workflow(workflow) => control::Scope::Workflow(workflow.as_str().into()),
            Scope::Node { workflow, node } => control::Scope::Node {
                workflow: workflow.as_str().into(),
                node: node.as_str().into(),
            },
            Scope::NodeType(kind) => control::Scope::NodeType(kind.clone()),
        };
        let setting = control.map(|control| match control {
            Control::Pause => Setting::Paused { clocks: Clocks::Run },
            Control::Freeze => Setting::Paused { clocks: Clocks::Freeze },
            Control::Stop => Setting::Stopped { cancel_running: false },
        });
        self.controls.apply(&ControlEntry {
            seq,
            at: Timestamp(self.now),
            key: if is_stop {
                ControlKey::Stop(covered)
            } else {
                ControlKey::Pause(covered)
            },
            setting,
            // The later of two at one instant has the greater id.
            command: format!("c{:06}", seq.0).into(),
            principal: None,
            reason: None,
            only_id: false,
        });
        self.reference.controlled(self.now, scope, is_stop, control);
        self.commands.push((self.now, scope.clone(), control));
    }

    /// What the execution must be told before its next step.
    pub fn news(&self) -> Option<ControlsSeen> {
        let is_known = self.state.seq.0 > 0;
        let news = self.controls.news_for(&self.plan, &self.state, Timestamp(self.now));
        news.filter(|_| is_known)
    }

    /// With too few answers a step is pending and changes nothing, however far it got.
    fn starve(&mut self, event: &Event) -> Result<(), Disagreement> {
        let before = self.state.clone();
        for patience in 0..64 {
            let outcome = step(
                &self.plan,
                &mut self.state,
                Timestamp(self.now),
                event,
                &mut Mini { patience },
            );
            if outcome != Err(StepError::Pending) {
                self.state = before;
                return Ok(());
            }
            if self.state != before {
                return Err(format!(
                    "a step that is pending after {patience} answers changed the state"
                ));
            }
        }
        Ok(())
    }

    /// What holds of every step, whatever the reference says.
    fn lawful(&mut self, before: &ExecutionState, entry: &Entry, effects: &[Effect]) -> Result<(), Disagreement> {
        if entry.seq != before.seq.next() {
            return Err(format!("seq went from {} to {}", before.seq, entry.seq));
        }
        for transition in &entry.transitions {
            let ends = matches!(
                transition.verb(),
                Some(Verb::NodeCompleted | Verb::NodeFailed | Verb::NodeSkipped | Verb::NodeCanceled)
            );
            if let (true, Some(node)) = (ends, transition.node_ix()) {
                *self.ended.entry(node).or_default() += 1;
            }
        }
        for (planned, node) in self.plan.nodes.iter().zip(&self.state.nodes) {
            let ix = self.plan.node_ix(planned.key.as_str()).expect("a node of the plan");
            let expected = node.visit.0 - u32::from(!node.phase.is_terminal());
            let ended = self.ended.get(&ix).copied().unwrap_or(0);
            same(&format!("ends of {}, one a visit", planned.key), &ended, &expected)?;
        }
        let reopens = matches!(entry.event, Event::Reopened(_));
        for (place, (old, new)) in before.edges.iter().zip(&self.state.edges).enumerate() {
            let source = self.plan.edges[place].source.at();
            let same_visit = before.nodes[source].visit == self.state.nodes[source].visit;
            let lawful = match old {
                EdgeState::Open => true,
                EdgeState::HeldTaken => *new != EdgeState::Open,
                EdgeState::HeldDead => matches!(new, EdgeState::HeldDead | EdgeState::Dead),
                // A loop that goes on holds again what it had let go, and wants again the pass that it dropped.
                EdgeState::Taken if reopens => matches!(new, EdgeState::Taken | EdgeState::HeldTaken | EdgeState::Dead),
                EdgeState::Dead if reopens => *new != EdgeState::Taken && *new != EdgeState::Open,
                EdgeState::Taken | EdgeState::Dead => old == new,
            };
            if same_visit && !lawful {
                return Err(format!(
                    "edge {place} went from {old:?} to {new:?} in one visit of its source"
                ));
            }
        }
        for effect in effects {
            match effect {
                Effect::StartAttempt(attempt) => {
                    let is_held = match self.plan.is_compensation(attempt.token.node) {
                        true => self.state.is_held(),
                        false => self.state.is_node_held(attempt.token.node),
                    };
                    if is_held {
                        return Err("an attempt starts that is held".into());
                    }
                    let known = self.spent.contains(&attempt.token)
                        || self.outstanding.values().any(|token| *token == attempt.token);
                    if known {
                        return Err(format!("token {:?} is given out twice", attempt.token));
                    }
                }
                Effect::AbortAttempt(_) => {}
                Effect::StartErrorWorkflow(_) if self.state.status == Status::Reporting => {}
                Effect::StartErrorWorkflow(_) => return Err("an execution reports that has not failed".into()),
                Effect::StartChild(start) if self.state.is_node_held(start.child.node) => {
                    return Err("a child begins that is held".into());
                }
                Effect::StartChild(start) if self.begun.iter().any(|known| known.child == start.child) => {
                    return Err(format!("child {:?} begins twice", start.child));
                }
                Effect::StartChild(start) => {
                    self.begun.push(start.clone());
                    self.begun_while_failing |= self.state.status == Status::Failing;
                }
                Effect::TellChild(..) | Effect::OfferOutput(_) => {}
                // The script admits it.
                Effect::AskForRoom => {}
                Effect::Finish if self.state.status.is_terminal() => {}
                Effect::Finish => return Err("an execution finishes that has not ended".into()),
            }
        }
        self.starts_again_alike()?;
        self.reports_again_alike(effects)?;
        let most = self
            .plan
            .settings
            .parallel_nodes_max
            .map_or(usize::MAX, |most| most as usize);
        if self.state.running.len() > most {
            return Err(format!("{} attempts run at once", self.state.running.len()));
        }
        troupe_core::execution::invariants::check(&self.plan, &self.state)
    }

    /// Open children, and only those, are awaited, and starting one again starts the same.
    fn starts_again_alike(&self) -> Result<(), Disagreement> {
        let open = self.state.open_children();
        for start in &self.begun {
            let child = start.child;
            let is_open = open.contains(&child);
            same("whether a child is awaited", &self.state.awaits(child), &is_open)?;
            if is_open {
                let again = self.state.start_of_child(&self.plan, child.node, child.index);
                same("the start of a child, again", &again, start)?;
            }
        }
        let known = |child: &ChildId| self.begun.iter().any(|start| start.child == *child);
        if open.iter().all(known) {
            Ok(())
        } else {
            Err(format!("among {open:?} is a child that never began"))
        }
    }

    /// Whoever takes over an execution that reports starts the same error workflow.
    fn reports_again_alike(&self, effects: &[Effect]) -> Result<(), Disagreement> {
        let again = self.state.error_workflow_to_start(&self.plan);
        same(
            "whether an error workflow is to start",
            &again.is_some(),
            &(self.state.status == Status::Reporting),
        )?;
        let mut effects = effects.iter();
        match effects.find(|effect| matches!(effect, Effect::StartErrorWorkflow(_))) {
            Some(Effect::StartErrorWorkflow(start)) => same("the report, again", &again.as_ref(), &Some(start)),
            _ => Ok(()),
        }
    }

    /// Carries the effects out: the tests only remember who runs.
    fn did(&mut self, effects: &[Effect]) -> Vec<Did> {
        let mut done = Vec::new();
        for effect in effects {
            match effect {
                Effect::StartAttempt(start) => {
                    let node = self.key(start.token.node);
                    if let Some(old) = self.outstanding.insert(node.clone(), start.token) {
                        self.spent.push(old);
                    }
                    let input = normal(&parsed(&start.input));
                    let data = normal(&start.data.as_ref().map(parsed).unwrap_or(JsonValue::Null));
                    let (visit, attempt) = (start.token.visit.0, start.token.attempt.0);
                    self.given.insert((node.clone(), visit, attempt), input.clone());
                    let data = self.only_templates(start.token.node, &data);
                    done.push(Did::Start {
                        node,
                        visit,
                        attempt,
                        input,
                        data,
                    });
                }
                Effect::AbortAttempt(token) => done.push(Did::Abort {
                    node: self.key(token.node),
                }),
                Effect::Finish => done.push(Did::Finish),
                Effect::OfferOutput(_) => {}
                Effect::StartChild(start) => done.push(Did::Begin {
                    node: self.key(start.child.node),
                    visit: start.child.visit.0,
                    index: start.child.index as usize,
                    input: normal(&parsed(&start.input)),
                    attached: start.attached,
                }),
                Effect::TellChild(child, command) => done.push(Did::Tell {
                    node: self.key(child.node),
                    visit: child.visit.0,
                    index: child.index as usize,
                    what: match command {
                        ChildCommand::Pause => Tell::Pause,
                        ChildCommand::Freeze => Tell::Freeze,
                        ChildCommand::Resume => Tell::Resume,
                        ChildCommand::Cancel => Tell::Cancel,
                    },
                }),
                Effect::AskForRoom => {}
                Effect::StartErrorWorkflow(start) => done.push(Did::Report {
                    workflow: start.workflow.as_str().into(),
                    input: normal(&parsed(&start.input)),
                }),
            }
        }
        let (state, plan) = (&self.state, &self.plan);
        let runs = |token: &Token| {
            // What was given up being undone is known no more.
            let node = state.node(token.node);
            node.is_some_and(|node| {
                matches!(&node.phase, Phase::Running { token: current } | Phase::Canceling { token: current } if current == token)
            })
        };
        let over: Vec<String> = self
            .outstanding
            .iter()
            .filter(|(_, token)| !runs(token))
            .map(|(node, _)| node.clone())
            .collect();
        debug_assert!(plan.nodes.len() == state.nodes.len());
        for node in over {
            self.spent.extend(self.outstanding.remove(&node));
        }
        done
    }

    /// The fields of a node's data that hold a template.
    fn only_templates(&self, node: NodeIx, data: &JsonValue) -> JsonValue {
        let written = &self.plan.node(node).data;
        let is_template = |name: &&String| written[*name].as_str().is_some_and(|text| text.starts_with("{{"));
        let fields = written
            .keys()
            .filter(is_template)
            .map(|name| (name.clone(), data[name].clone()));
        JsonValue::Object(fields.collect())
    }

    pub(super) fn key(&self, node: NodeIx) -> String {
        let key = &self.plan.node(node).key;
        if self.plan.is_compensation(node) {
            format!("{key}{UNDOES}")
        } else {
            key.to_string()
        }
    }

    /// The core draws the jitter; the reference says only within which bounds.
    fn settle_backoffs(&mut self) -> Result<(), Disagreement> {
        for (planned, node) in self.plan.nodes.iter().zip(&self.state.nodes) {
            if let Phase::Backoff { until, .. } = node.phase {
                let bounds = self.reference.nodes[planned.key.as_str()].phase;
                let until = until.0 + self.stood_ms(self.plan.node_ix(planned.key.as_str()));
                if !self.reference.settle_backoff(planned.key.as_str(), until) {
                    return Err(format!("{}: retry due at {until}, expected {bounds:?}", planned.key));
                }
            }
        }
        let undoing = self.state.compensations.as_deref();
        let undoing = undoing.and_then(|all| all.visits.get(all.left as usize)?.compensation.as_deref());
        if let Some(Phase::Backoff { until, .. }) = undoing.map(|undoing| &undoing.phase)
            && !self.reference.settle_undoing_backoff(until.0 + self.stood_ms(None))
        {
            return Err(format!("the next attempt to undo is due at {until}"));
        }
        Ok(())
    }
}
