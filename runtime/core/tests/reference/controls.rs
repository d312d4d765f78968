//! §6 and ADR 0021: pauses of wider scopes, and clocks that stand still.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::node;
use super::state::{Did, NodeState, Phase, Reference, Refusal};

/// Where a control applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Workflow(String),
    Node { workflow: String, node: String },
    NodeType(String),
}

/// What a control does: a stop in an emergency holds like a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Pause,
    Freeze,
    Stop,
}

/// What an execution knows of controls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// All of it is held.
    pub whole: bool,
    /// Nodes that are held by themselves.
    pub nodes: BTreeSet<String>,
}

/// A time in which clocks stood.
#[derive(Clone, Debug)]
struct Stood {
    /// None: by the execution's own pause.
    scope: Option<Scope>,
    from: i64,
    until: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub struct Controls {
    in_force: Vec<(Scope, Control)>,
    stood: Vec<Stood>,
    /// Deadlines have moved for what stood until then.
    accounted_at: i64,
    /// When the execution was told last: what stood before that is settled.
    told_at: i64,
}

impl Reference {
    /// A control is set or lifted; the execution learns of it when it wakes. It may hear late, after what it did meanwhile.
    pub fn controlled(&mut self, at: i64, scope: &Scope, is_stop: bool, control: Option<Control>) {
        let same = |(known, what): &(Scope, Control)| known == scope && (*what == Control::Stop) == is_stop;
        self.controls.in_force.retain(|known| !same(known));
        self.controls
            .in_force
            .extend(control.map(|control| (scope.clone(), control)));
        if !is_stop {
            self.stand_late(at, scope, control == Some(Control::Freeze));
        }
    }

    /// As [`Self::stand`], at a time for which deadlines may have moved already, or not have.
    fn stand_late(&mut self, at: i64, scope: &Scope, stands: bool) {
        let mut all = self.controls.stood.iter();
        let open = all.find(|stood| stood.scope.as_ref() == Some(scope) && stood.until.is_none());
        let since = open.map_or(self.controls.told_at, |open| open.from);
        let before = self.stood_of_all(since);
        let from = if stands { at.max(self.controls.told_at) } else { at };
        self.stand(from, Some(scope), stands);
        let after = self.stood_of_all(since);
        let differs = |id: &str| after[id] - before[id];
        self.timed_from += differs("");
        for id in self.ids() {
            move_deadlines(self.set(&id), differs(&id));
        }
        if self.under_way().is_some() {
            move_deadlines(self.current(), differs(""));
        }
    }

    /// For how long the clocks of the execution (of no name) and of its nodes stood.
    fn stood_of_all(&self, since: i64) -> BTreeMap<String, i64> {
        let of_nodes = self.ids().into_iter().map(|id| {
            let ms = self.stood_since(since, |scope| self.covers(scope) || self.names(scope, &id));
            (id, ms)
        });
        let whole = self.stood_since(since, |scope| self.covers(scope));
        of_nodes.chain([(String::new(), whole)]).collect()
    }

    /// The clocks of a scope, or of the execution's own pause, stand from now on or go.
    fn stand(&mut self, at: i64, scope: Option<&Scope>, stands: bool) {
        let mut all = self.controls.stood.iter_mut();
        match all.find(|stood| stood.scope.as_ref() == scope && stood.until.is_none()) {
            Some(open) if !stands => open.until = Some(at),
            None if stands => self.controls.stood.push(Stood {
                scope: scope.cloned(),
                from: at,
                until: None,
            }),
            _ => {}
        }
    }

    pub(super) fn freeze(&mut self, stands: bool) {
        self.stand(self.at, None, stands);
    }

    pub fn is_frozen_by_itself(&self) -> bool {
        let mut all = self.controls.stood.iter();
        all.any(|stood| stood.scope.is_none() && stood.until.is_none())
    }

    /// The execution wakes and learns of the controls: what they let go goes on, what fell due meanwhile first.
    pub fn learn(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        (self.told, self.controls.told_at) = (self.in_force(), at);
        self.apply_due();
        self.look_after_all();
        self.conclude()
    }

    /// What it would know if it were told now.
    pub fn in_force(&self) -> Told {
        let scopes = || self.controls.in_force.iter().map(|(scope, _)| scope);
        let is_named = |id: &String| scopes().any(|scope| self.names(scope, id));
        Told {
            whole: scopes().any(|scope| self.covers(scope)),
            nodes: self.ids().into_iter().filter(is_named).collect(),
        }
    }

    /// It is in one shard with another execution.
    pub(super) fn share_controls(&mut self, other: &Self) {
        self.controls = other.controls.clone();
    }

    /// It begins, or goes on as its next run: from now on clocks count.
    pub(super) fn begin_clocks(&mut self, told: Told) {
        (self.told, self.controls.accounted_at) = (told, self.at);
        self.controls.told_at = self.at;
        for open in self.controls.stood.iter_mut().filter(|stood| stood.until.is_none()) {
            open.from = open.from.max(self.at);
        }
        self.freeze(false);
    }

    fn covers(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Workflow(workflow) => self.is_within(workflow),
            Scope::Node { workflow, node } => self.is_within(&format!("{workflow}#{node}")),
            Scope::NodeType(_) => false,
        }
    }

    /// Whether it runs a workflow, or the body of a node in it: bodies are named after both.
    fn is_within(&self, outer: &str) -> bool {
        let rest = self.definition.id.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
    }

    fn names(&self, scope: &Scope, id: &str) -> bool {
        match scope {
            Scope::All | Scope::Workflow(_) => false,
            Scope::Node { workflow, node } => *workflow == self.definition.id && node == id,
            Scope::NodeType(kind) => node(&self.definition, id).node_type == *kind,
        }
    }

    /// Nothing of it goes on.
    pub(super) fn is_held_whole(&self) -> bool {
        self.paused || self.told.whole
    }

    pub(super) fn is_node_held(&self, id: &str) -> bool {
        self.is_held_whole() || self.told.nodes.contains(id)
    }

    /// Every deadline moves by as long as its clock stood; times that overlap count once. Heartbeats come from outside, where no
    /// clock stands still.
    pub(super) fn account(&mut self) {
        let since = std::mem::replace(&mut self.controls.accounted_at, self.at);
        let whole = self.stood_since(since, |scope| self.covers(scope));
        self.timed_from += whole;
        for id in self.ids() {
            let ms = self.stood_since(since, |scope| self.covers(scope) || self.names(scope, &id));
            move_deadlines(self.set(&id), ms);
        }
        if self.under_way().is_some() {
            move_deadlines(self.current(), whole);
        }
    }

    fn stood_since(&self, since: i64, concerns: impl Fn(&Scope) -> bool) -> i64 {
        let all = self.controls.stood.iter();
        let mine = all.filter(|stood| stood.scope.as_ref().is_none_or(&concerns));
        let mut spans: Vec<(i64, i64)> = mine
            .map(|stood| (stood.from.max(since), stood.until.unwrap_or(self.at).min(self.at)))
            .collect();
        spans.sort_unstable();
        let (mut sum, mut reached) = (0, since);
        for (from, until) in spans {
            sum += (until - from.max(reached)).max(0);
            reached = reached.max(until);
        }
        sum
    }
}

fn move_deadlines(state: &mut NodeState, ms: i64) {
    let times = [&mut state.first_arrival_at, &mut state.ready_at];
    times.into_iter().flatten().for_each(|at| *at += ms);
    match &mut state.phase {
        Phase::Backoff { earliest, latest } => {
            *earliest += ms;
            *latest += ms;
        }
        Phase::Delaying { until } => *until += ms,
        Phase::Waiting { until, .. } => until.iter_mut().for_each(|until| *until += ms),
        _ => {}
    }
}
