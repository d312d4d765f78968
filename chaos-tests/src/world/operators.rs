//! Operators: each gives its word on one thing after the other, until it is known to be in force in every shard.

use serde::{Deserialize, Serialize};
use troupe_core::control::{BreakerOverride, Clocks, ControlKey, Scope, Setting};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{CommandId, ShardId};

use std::collections::BTreeSet;

use super::breakers::GUARDED;
use super::process::ProcessNo;
use super::random::Random;
use super::schedule::Timed;
use super::{FAULTS_MS, World, shards};

/// How long an operator waits for an answer.
const PATIENCE_MS: u64 = 150;
/// Pause before operators of a healed world look again for what is in force.
const LIFT_AGAIN_MS: u64 = 100;
/// Operators of a world, at most.
const OPERATORS_MAX: u64 = 3;

/// An operator: what it is about, and its words with the milliseconds after the answer before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorPlan {
    /// When it begins, in milliseconds.
    pub begins_ms: u64,
    /// What it is about; nobody else is.
    pub target: Target,
    /// What it says.
    pub words: Vec<(u64, Word)>,
}

/// What an operator is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Everything that runs.
    Everything,
    /// A workflow.
    Workflow(String),
    /// A node of a workflow.
    Node(String, String),
    /// A type of nodes.
    NodeType(String),
    /// Everything, in an emergency.
    StopOfEverything,
    /// A workflow, in an emergency.
    StopOf(String),
    /// The breaker of a handler.
    Breaker(String),
}

/// What an operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// It holds, and clocks go on.
    Pause,
    /// It holds, and clocks stand.
    Freeze,
    /// It holds, and what runs is canceled.
    Cancel,
    /// It goes on.
    Lift,
    /// Nothing passes.
    Open,
    /// Everything passes.
    Close,
    /// It does as it thinks, from the beginning.
    Reset,
}

impl Target {
    fn key(&self) -> ControlKey {
        let workflow = |name: &String| Scope::Workflow(name.as_str().into());
        match self {
            Self::Everything => ControlKey::Pause(Scope::All),
            Self::Workflow(name) => ControlKey::Pause(workflow(name)),
            Self::Node(name, node) => ControlKey::Pause(Scope::Node {
                workflow: name.as_str().into(),
                node: node.as_str().into(),
            }),
            Self::NodeType(kind) => ControlKey::Pause(Scope::NodeType(kind.clone())),
            Self::StopOfEverything => ControlKey::Stop(Scope::All),
            Self::StopOf(name) => ControlKey::Stop(workflow(name)),
            Self::Breaker(handler) => ControlKey::Breaker(format!("handler:{handler}")),
        }
    }

    fn is_stop(&self) -> bool {
        matches!(self, Self::StopOf(_) | Self::StopOfEverything)
    }

    fn setting(&self, word: Word) -> Option<Setting> {
        match word {
            Word::Lift | Word::Reset => None,
            Word::Open => Some(Setting::Breaker(BreakerOverride::Open)),
            Word::Close => Some(Setting::Breaker(BreakerOverride::Closed)),
            _ if self.is_stop() => Some(Setting::Stopped {
                cancel_running: word == Word::Cancel,
            }),
            Word::Freeze => Some(Setting::Paused { clocks: Clocks::Freeze }),
            Word::Pause | Word::Cancel => Some(Setting::Paused { clocks: Clocks::Run }),
        }
    }
}

/// Operators of a world in which these workflows are started.
pub(super) fn draw(started: &[&WorkflowDefinition], random: &mut Random) -> Vec<OperatorPlan> {
    if !random.once_in(2) {
        return Vec::new();
    }
    let mut drawn: Vec<OperatorPlan> = Vec::new();
    for _ in 0..=random.below(OPERATORS_MAX) {
        let workflow = started[random.place(started.len())];
        let node = &workflow.nodes[random.place(workflow.nodes.len())];
        let handler = handler_of(workflow).filter(|_| random.once_in(2));
        let target = match random.below(12) {
            _ if let Some(handler) = handler => Target::Breaker(handler),
            0 | 1 => Target::Everything,
            2 => Target::StopOfEverything,
            3 => Target::StopOf(workflow.id.clone()),
            4..=6 => Target::Node(workflow.id.clone(), node.id.clone()),
            7 | 8 => Target::NodeType(node.node_type.clone()),
            _ => Target::Workflow(workflow.id.clone()),
        };
        if drawn.iter().all(|known| known.target != target) {
            drawn.push(OperatorPlan {
                begins_ms: random.below(FAULTS_MS * 4 / 5),
                words: if matches!(target, Target::Breaker(_)) {
                    words_on_breaker(random)
                } else {
                    words(random)
                },
                target,
            });
        }
    }
    drawn
}

/// A handler that a workflow calls and that has a breaker.
fn handler_of(workflow: &WorkflowDefinition) -> Option<String> {
    let mut named = workflow
        .nodes
        .iter()
        .filter_map(|node| node.data.get("handlerId")?.as_str());
    named.find(|handler| handler.starts_with(GUARDED)).map(str::to_owned)
}

fn words_on_breaker(random: &mut Random) -> Vec<(u64, Word)> {
    let all = [Word::Open, Word::Close, Word::Lift, Word::Reset];
    let first = if random.once_in(2) { Word::Open } else { Word::Close };
    let mut words = vec![(random.below(60), first)];
    for _ in 0..random.below(4) {
        words.push((random.below(200), all[random.place(all.len())]));
    }
    words
}

fn words(random: &mut Random) -> Vec<(u64, Word)> {
    let mut words = Vec::new();
    for _ in 0..=random.below(2) {
        let word = match random.below(5) {
            0 | 1 => Word::Pause,
            2 => Word::Cancel,
            _ => Word::Freeze,
        };
        words.push((random.below(60), word));
        // Some change their mind on the clocks, and some forget to lift it.
        if random.once_in(4) {
            let other = if word == Word::Freeze {
                Word::Pause
            } else {
                Word::Freeze
            };
            words.push((random.below(80), other));
        }
        if !random.once_in(8) {
            words.push((random.below(250), Word::Lift));
        }
    }
    words
}

/// An operator at work.
#[derive(Debug)]
pub(super) struct Operator {
    plan: OperatorPlan,
    /// Words that are in force everywhere.
    done: usize,
    /// Number of the request that is not answered yet.
    waiting: Option<u64>,
    /// The command, the same for every repetition.
    command: Option<CommandId>,
    /// Shards that its word is in force in.
    reached: BTreeSet<ShardId>,
}

impl Operator {
    pub(super) fn new(plan: OperatorPlan) -> Self {
        Self {
            plan,
            done: 0,
            waiting: None,
            command: None,
            reached: BTreeSet::new(),
        }
    }
}

/// What a process is asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Whose answer it is, and of which request; none: of nobody's.
    pub(super) by: Option<(usize, u64)>,
    pub(super) key: ControlKey,
    pub(super) setting: Option<Setting>,
    pub(super) command: CommandId,
    /// What its breaker counted is forgotten too.
    pub(super) resets: bool,
}

impl Asked {
    /// Whether nothing passes once it is in force.
    fn holds(&self) -> bool {
        !matches!(self.setting, None | Some(Setting::Breaker(BreakerOverride::Closed)))
    }
}

impl World {
    pub(super) fn begin_operators(&mut self) {
        for (number, plan) in self.scenario.operators.clone().into_iter().enumerate() {
            self.after(plan.begins_ms, Timed::Operator(number));
            self.operators.push(Operator::new(plan));
        }
    }

    /// An operator gives its next word, or repeats the last one, to some process.
    pub(super) fn operator_acts(&mut self, number: usize) {
        let operator = &self.operators[number];
        let Some((_, word)) = operator.plan.words.get(operator.done).copied().filter(|_| !self.healed) else {
            return;
        };
        let (key, setting) = (operator.plan.target.key(), operator.plan.target.setting(word));
        let command = operator.command.clone().unwrap_or_else(|| self.command());
        let request = self.number();
        let operator = &mut self.operators[number];
        (operator.waiting, operator.command) = (Some(request), Some(command.clone()));
        self.after(PATIENCE_MS, Timed::OperatorGivesUp(number, request));
        let asked = Asked {
            by: Some((number, request)),
            key,
            setting,
            command,
            resets: word == Word::Reset,
        };
        if !asked.holds() {
            self.lift_asked(&asked.key);
        }
        let processes: Vec<ProcessNo> = self.processes.keys().copied().collect();
        if !processes.is_empty() {
            let process = processes[self.random.place(processes.len())];
            let travel_ms = self.random.below(3);
            self.after(travel_ms, Timed::Ask(process, Box::new(asked)));
        }
    }

    /// A command that comes after all others.
    fn command(&mut self) -> CommandId {
        format!("c{:08}", self.number()).as_str().into()
    }

    /// A word is in force in these shards.
    pub(super) fn operator_hears(&mut self, asked: &Asked, reached: &BTreeSet<ShardId>) {
        let Some((number, request)) = asked.by else { return };
        let operator = &mut self.operators[number];
        if operator.waiting != Some(request) || self.healed {
            return self.count("answers that came too late");
        }
        operator.waiting = None;
        operator.reached.extend(reached);
        let is_everywhere = shards().all(|shard| operator.reached.contains(&shard));
        if is_everywhere {
            operator.done += 1;
            (operator.command, operator.reached) = (None, BTreeSet::new());
        }
        let next_ms = operator.plan.words.get(operator.done).map(|(ms, _)| *ms);
        if asked.holds() {
            self.in_force_for_sure(&asked.key, reached);
        }
        if is_everywhere {
            self.count(asked_for(asked));
        }
        match next_ms {
            Some(pause_ms) if is_everywhere => self.after(pause_ms, Timed::Operator(number)),
            Some(_) => self.operator_tries_again(number),
            None => {}
        }
    }

    pub(super) fn operator_gives_up(&mut self, number: usize, request: u64) {
        if self.operators[number].waiting == Some(request) {
            self.operators[number].waiting = None;
            self.operator_tries_again(number);
        }
    }

    fn operator_tries_again(&mut self, number: usize) {
        let pause_ms = 5 + self.random.below(20);
        self.after(pause_ms, Timed::Operator(number));
    }

    /// In a healed world whatever is in force is lifted, again and again: what was on its way may come yet.
    pub(super) fn lift_all(&mut self) {
        let mut found: Vec<(ProcessNo, ControlKey)> = Vec::new();
        for (number, process) in &self.processes {
            let sets: Vec<_> = process
                .shards
                .values()
                .map(|serving| serving.controls.in_force.set())
                .collect();
            let keys = sets.iter().flat_map(|set| set.in_force()).map(|(key, ..)| key.clone());
            let keys: BTreeSet<ControlKey> = keys.collect();
            found.extend(keys.into_iter().map(|key| (*number, key)));
        }
        for (process, key) in found {
            self.lift_asked(&key);
            let asked = Asked {
                by: None,
                key,
                setting: None,
                command: self.command(),
                resets: false,
            };
            self.after(0, Timed::Ask(process, Box::new(asked)));
        }
        self.after(LIFT_AGAIN_MS, Timed::LiftAll);
    }
}

/// The metric of how often it was asked for.
fn asked_for(asked: &Asked) -> &'static str {
    match (&asked.key, asked.setting) {
        (ControlKey::Breaker(_), None) => "left to itself",
        (ControlKey::Breaker(_), Some(Setting::Breaker(BreakerOverride::Open))) => "held open",
        (ControlKey::Breaker(_), _) => "held closed",
        (_, None) => "lifted",
        (_, Some(Setting::Paused { clocks: Clocks::Freeze })) => "frozen",
        (_, Some(Setting::Stopped { cancel_running: true })) => "stopped and canceled",
        (_, Some(Setting::Stopped { .. })) => "stopped",
        (ControlKey::Pause(Scope::All), _) => "everything paused",
        (ControlKey::Pause(Scope::Node { .. }), _) => "node paused",
        (ControlKey::Pause(Scope::NodeType(_)), _) => "type paused",
        (_, Some(_)) => "workflow paused",
    }
}
