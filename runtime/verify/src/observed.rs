//! What the search has seen of each node, edge and loop, each with the nearest way to see it.

use std::collections::{BTreeMap, BTreeSet};

use fixedbitset::FixedBitSet;
use troupe_core::definition::{EdgeKind, NodeKind};
use troupe_core::execution::{Deadline, EdgeState, ExecutionState, Phase, Status, Verb};
use troupe_core::plan::Plan;
use troupe_core::{EdgeIx, NodeIx};

use crate::compiled::Compiled;
use crate::explore::{Reached, StateId};
use crate::moves::{Applied, Fault, Move, Owner, Way, node_of};
use crate::oracle::{Level, Note, Writing};
use crate::values::Missing;
use crate::world::World;

/// A step in which something was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) from: StateId,
    /// What it needs, the way to `from` included.
    pub(crate) level: Level,
    /// Steps from the start.
    pub(crate) depth: u32,
    pub(crate) way: Way,
}

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Observed {
    /// By node.
    pub(crate) started: Vec<Option<Seen>>,
    /// By node.
    pub(crate) completed: Vec<Option<Seen>>,
    /// By node that ended without a start: most edges taken then, and where.
    pub(crate) passed_by: Vec<Option<(u32, Seen)>>,
    /// By edge.
    pub(crate) taken: Vec<bool>,
    /// By edge that is dead though its source ran.
    pub(crate) dead: Vec<Option<Seen>>,
    /// By node: most edges into it that were taken, or still might have been, when it ended without a start.
    pub(crate) most_taken: Vec<u32>,
    /// Edges into one node of which neither was dead then, the lower first.
    pub(crate) together: BTreeSet<(EdgeIx, EdgeIx)>,
    /// By loop.
    pub(crate) repeated: Vec<bool>,
    /// Who canceled whom by its region.
    pub(crate) canceled: BTreeSet<(NodeIx, NodeIx)>,
    /// By node that waited for time.
    pub(crate) waited: Vec<Option<Seen>>,
    /// By node: the nearest state in which only calls for it, and for others like it, could go on.
    pub(crate) for_ever: Vec<Option<(Level, u32, StateId)>>,
    /// By node: whether another node ended it on purpose.
    pub(crate) ended_by_others: Vec<bool>,
    /// Failures that nothing handled: the node and the code, none for any code that is not named.
    pub(crate) unhandled: BTreeMap<(NodeIx, Option<String>), Seen>,
    /// Decisions that matched nothing, unhandled.
    pub(crate) unmatched: BTreeMap<NodeIx, Seen>,
    /// Look-ups on nothing: by node (none for the execution's output), with the expression.
    pub(crate) missing: BTreeMap<(Option<NodeIx>, String, Missing), Seen>,
    /// Two nodes that write a variable in either order.
    pub(crate) races: BTreeMap<(String, NodeIx, NodeIx), Seen>,
    /// An execution completed though none of its leaves did.
    pub(crate) nothing: Option<Seen>,
    /// Ends, by status: completed, failed, canceled.
    pub(crate) ends: [usize; 3],
    /// Whether a node of type `end` ended an execution as failed or canceled.
    pub(crate) ends_by_choice: bool,
    /// States in which nothing can happen any more.
    pub(crate) stuck: Vec<StateId>,
    /// Joins whose last message took data, or ended everything, so that what else its step shows seems to need that.
    pub(crate) reorders: FixedBitSet,
}

/// A write to a variable, as one way on from a state.
#[derive(Debug)]
pub(crate) struct Written {
    owner: NodeIx,
    node: NodeIx,
    name: String,
    writing: Writing,
    level: Level,
    /// What may still happen afterwards.
    alive: BTreeSet<NodeIx>,
    from: StateId,
    way: Way,
    /// Joins that may be why the step took data.
    decided: Vec<NodeIx>,
}

impl Written {
    pub(crate) fn of(
        compiled: &Compiled,
        from: StateId,
        before: &World,
        owner: NodeIx,
        applied: &Applied,
    ) -> Vec<Self> {
        let mut all = Vec::new();
        let takes_data = applied.level != Level::Sure;
        let decided = decided(compiled, &before.execution, &applied.world.execution);
        let decided: Vec<NodeIx> = decided.filter(|_| takes_data).collect();
        for note in &applied.notes {
            let Note::Writes(node, writings) = note else { continue };
            let mut alive = BTreeSet::new();
            if !applied.world.execution.status.is_terminal() {
                alive.extend(applied.world.execution.active.iter().copied());
                alive.extend(applied.world.zone.timers().iter().filter_map(|timer| node_of(*timer)));
            }
            all.extend(writings.iter().map(|(name, writing)| Self {
                owner,
                node: *node,
                name: name.clone(),
                writing: writing.clone(),
                level: applied.level,
                alive: alive.clone(),
                from,
                way: applied.way.clone(),
                decided: decided.clone(),
            }));
        }
        all
    }

    /// Whether the order of the two is open, and tells in the end.
    fn races(&self, other: &Self) -> bool {
        let differs = match (&self.writing, &other.writing) {
            (Writing::Adds, Writing::Adds) => false,
            (Writing::Replaces(one), Writing::Replaces(two)) => one != two,
            (Writing::Adds, Writing::Replaces(_)) | (Writing::Replaces(_), Writing::Adds) => true,
        };
        differs
            && self.owner != other.owner
            && self.name == other.name
            && self.node != other.node
            && self.alive.contains(&other.owner)
            && other.alive.contains(&self.owner)
    }
}

fn keep(place: &mut Option<Seen>, seen: &Seen) {
    if place
        .as_ref()
        .is_none_or(|old| (seen.level, seen.depth) < (old.level, old.depth))
    {
        *place = Some(seen.clone());
    }
}

fn keep_in<K: Ord>(map: &mut BTreeMap<K, Seen>, key: K, seen: &Seen) {
    let mut place = map.remove(&key);
    keep(&mut place, seen);
    map.extend(place.map(|place| (key, place)));
}

impl Observed {
    pub(crate) fn new(plan: &Plan) -> Self {
        let (nodes, edges) = (plan.nodes.len(), plan.edges.len());
        Self {
            started: vec![None; nodes],
            completed: vec![None; nodes],
            passed_by: vec![None; nodes],
            taken: vec![false; edges],
            dead: vec![None; edges],
            most_taken: vec![0; nodes],
            together: BTreeSet::new(),
            repeated: vec![false; plan.loops.len()],
            canceled: BTreeSet::new(),
            waited: vec![None; nodes],
            for_ever: vec![None; nodes],
            ended_by_others: vec![false; nodes],
            unhandled: BTreeMap::new(),
            unmatched: BTreeMap::new(),
            missing: BTreeMap::new(),
            races: BTreeMap::new(),
            nothing: None,
            ends: [0; 3],
            ends_by_choice: false,
            stuck: Vec::new(),
            reorders: FixedBitSet::with_capacity(nodes),
        }
    }

    /// Takes in a step from a state that needs so much.
    pub(crate) fn step(&mut self, compiled: &Compiled, seen: &Seen, needed: Level, before: &World, applied: &Applied) {
        let after = &applied.world.execution;
        for (fault, level) in &applied.faults {
            let level = needed.max(*level);
            let seen = &Seen { level, ..seen.clone() };
            match fault.clone() {
                Fault::Missing(node, source, missing) => keep_in(&mut self.missing, (node, source, missing), seen),
                Fault::Unmatched(node) => keep_in(&mut self.unmatched, node, seen),
                Fault::Nothing => keep(&mut self.nothing, seen),
            }
        }
        for note in &applied.notes {
            match note {
                Note::Started(start) => {
                    keep(&mut self.started[start.node.at()], seen);
                    start.edges.iter().for_each(|edge| self.taken[edge.at()] = true);
                }
                Note::Missing { .. } | Note::Assumed { .. } | Note::Writes(..) => {}
            }
        }
        self.transitions(compiled, seen, applied);
        self.edges(compiled, seen, &before.execution, after);
        for (place, (before, after)) in before.execution.loops.iter().zip(&after.loops).enumerate() {
            self.repeated[place] |= after.iteration > before.iteration;
        }
        self.ending(compiled, seen, &before.execution, after);
        if after.status == Status::Failed && compiled.failures_end {
            self.cuts(compiled, &before.execution, applied);
        }
    }

    /// With the messages of such a join in another order, something else begins, or writes, before everything ends.
    fn cuts(&mut self, compiled: &Compiled, before: &ExecutionState, applied: &Applied) {
        let (plan, after) = (&compiled.plan, &applied.world.execution);
        let is_cut = |edge: EdgeIx| {
            let is_new = before.edges[edge.at()] != after.edges[edge.at()];
            let target = &after.nodes[plan.edge(edge).target.at()];
            let has_ended = matches!(target.phase, Phase::Skipped | Phase::Canceled);
            is_new && matches!(after.edges[edge.at()], EdgeState::Taken | EdgeState::HeldTaken) && has_ended
        };
        let writes = applied.notes.iter().any(|note| matches!(note, Note::Writes(..)));
        if !writes && !compiled.edge_ixs().any(is_cut) {
            return;
        }
        self.reorders.extend(decided(compiled, before, after).map(NodeIx::at));
    }

    fn transitions(&mut self, compiled: &Compiled, seen: &Seen, applied: &Applied) {
        let plan = &compiled.plan;
        let changed = |wanted: Verb| {
            let changes = applied.stepped.transitions.iter();
            changes
                .filter(move |change| change.verb() == Some(wanted))
                .filter_map(|change| change.node_ix())
        };
        let canceled: BTreeSet<NodeIx> = changed(Verb::NodeCanceled).collect();
        for node in changed(Verb::NodeCompleted) {
            keep(&mut self.completed[node.at()], seen);
            let of_region = plan.node(node).cancels.iter().filter(|other| canceled.contains(other));
            self.canceled.extend(of_region.map(|other| (node, *other)));
        }
        let is_meant = applied.way.mv != Move::Fire(Deadline::Execution) && changed(Verb::NodeFailed).next().is_none();
        canceled
            .iter()
            .for_each(|node| self.ended_by_others[node.at()] |= is_meant);
        for node in changed(Verb::NodeWaiting) {
            keep(&mut self.waited[node.at()], seen);
        }
    }

    fn edges(&mut self, compiled: &Compiled, seen: &Seen, before: &ExecutionState, after: &ExecutionState) {
        for edge in compiled.edge_ixs() {
            let (was, is) = (before.edges[edge.at()], after.edges[edge.at()]);
            if was == is {
                continue;
            }
            match is {
                EdgeState::Taken => self.taken[edge.at()] = true,
                EdgeState::Dead | EdgeState::HeldDead if was_for(compiled, edge, after) => {
                    keep(&mut self.dead[edge.at()], seen);
                }
                EdgeState::Dead | EdgeState::HeldDead | EdgeState::HeldTaken | EdgeState::Open => {}
            }
        }
        for node in compiled.node_ixs() {
            let (old, new) = (&before.nodes[node.at()], &after.nodes[node.at()]);
            let ends = !old.phase.is_terminal() && new.phase.is_terminal();
            if ends && new.scheduled_at.is_none() {
                self.join_decided(compiled, node, before, after);
                let place = &mut self.passed_by[node.at()];
                let rank = |taken: u32, seen: &Seen| (u32::MAX - taken, seen.level, seen.depth);
                let is_better = |old: &(u32, Seen)| rank(new.taken, seen) < rank(old.0, &old.1);
                if place.as_ref().is_none_or(is_better) {
                    *place = Some((new.taken, seen.clone()));
                }
            }
        }
    }

    /// A join ended without a start: which of its edges were taken, and which might have been in time.
    fn join_decided(&mut self, compiled: &Compiled, node: NodeIx, before: &ExecutionState, after: &ExecutionState) {
        let plan = &compiled.plan;
        // Where its failure ends everything, edges die that might have been taken.
        let ends_all = after.status != Status::Running;
        let is_dead = |edge: &EdgeIx| {
            let source = &after.nodes[plan.edge(*edge).source.at()].phase;
            let decided = !ends_all || matches!(source, Phase::Completed | Phase::Failed);
            before.edges[edge.at()] == EdgeState::Dead || (after.edges[edge.at()] == EdgeState::Dead && decided)
        };
        let incoming = plan.node(node).incoming.iter().copied();
        let living: Vec<EdgeIx> = incoming
            .filter(|edge| !plan.is_back_edge(*edge) && !is_dead(edge))
            .collect();
        let count = u32::try_from(living.len()).unwrap_or(u32::MAX);
        self.most_taken[node.at()] = self.most_taken[node.at()].max(count);
        for (place, first) in living.iter().enumerate() {
            self.together
                .extend(living[place + 1..].iter().map(|second| (*first, *second)));
        }
    }

    fn ending(&mut self, compiled: &Compiled, seen: &Seen, before: &ExecutionState, after: &ExecutionState) {
        let plan = &compiled.plan;
        if before.failure.is_none()
            && let Some(failure) = &after.failure
            && let Some(node) = failure.node
        {
            if plan.node(node).kind == NodeKind::End {
                self.ends_by_choice = true;
            } else {
                let code = Some(failure.error.code.clone()).filter(|code| !code.starts_with(crate::symbols::MARK));
                keep_in(&mut self.unhandled, (node, code), seen);
            }
        }
        match after.status {
            Status::Canceled { .. } => self.ends_by_choice = true,
            Status::Pending
            | Status::Running
            | Status::Failing
            | Status::Canceling { .. }
            | Status::Compensating(_)
            | Status::Reporting
            | Status::Completed { .. }
            | Status::Failed => {}
        }
    }

    /// Takes in a new state.
    pub(crate) fn state(&mut self, world: &World) {
        let place = match world.execution.status {
            Status::Completed { .. } => Some(0),
            Status::Failed => Some(1),
            Status::Canceled { .. } => Some(2),
            Status::Pending
            | Status::Running
            | Status::Failing
            | Status::Canceling { .. }
            | Status::Compensating(_)
            | Status::Reporting => None,
        };
        if let Some(place) = place {
            self.ends[place] += 1;
        }
    }

    /// Nothing but a call from outside can go on from here.
    pub(crate) fn waits_for_ever(&mut self, owners: &[Owner], id: StateId, reached: &Reached) {
        for owner in owners {
            let place = &mut self.for_ever[owner.node.at()];
            let here = (reached.level, reached.depth, id);
            if place.is_none_or(|old| here < old) {
                *place = Some(here);
            }
        }
    }

    pub(crate) fn stuck(&mut self, id: StateId) {
        self.stuck.push(id);
    }

    /// Compares the writes of all ways on from one state.
    pub(crate) fn races(&mut self, written: &[Written], (level, depth): (Level, u32)) {
        for (place, first) in written.iter().enumerate() {
            for second in &written[place + 1..] {
                if first.races(second) {
                    let decided = first.decided.iter().chain(&second.decided);
                    self.reorders.extend(decided.map(|node| node.at()));
                    let (one, two) = (first.node.min(second.node), first.node.max(second.node));
                    let seen = Seen {
                        from: first.from,
                        level: level.max(first.level).max(second.level),
                        depth: depth + 1,
                        way: first.way.clone(),
                    };
                    keep_in(&mut self.races, (first.name.clone(), one, two), &seen);
                }
            }
        }
    }
}

/// Whether an edge is for the way in which its source has ended.
fn was_for(compiled: &Compiled, ix: EdgeIx, state: &ExecutionState) -> bool {
    let edge = compiled.plan.edge(ix);
    let source = &state.nodes[edge.source.at()];
    let code = source.failure.as_ref().map(|failure| failure.error.code.as_str());
    let catches = || {
        edge.errors.is_empty()
            || edge
                .errors
                .iter()
                .any(|named| named == "*" || Some(named.as_str()) == code)
    };
    match edge.kind {
        EdgeKind::Default | EdgeKind::Success => source.phase == Phase::Completed,
        EdgeKind::Failure => source.phase == Phase::Failed && catches(),
        EdgeKind::Always => matches!(source.phase, Phase::Completed | Phase::Failed),
    }
}

/// Joins that a step decided, when other messages had come before.
fn decided(compiled: &Compiled, before: &ExecutionState, after: &ExecutionState) -> impl Iterator<Item = NodeIx> {
    let joins = compiled.node_ixs().filter(|node| compiled.plan.node(*node).entries > 1);
    joins.filter(|node| {
        let (old, new) = (&before.nodes[node.at()], &after.nodes[node.at()]);
        old.phase == Phase::Pending && new.phase != Phase::Pending && old.taken + old.dead > 0
    })
}

/// Whether a node of type `end` has failed the execution.
pub(crate) fn ended_on_purpose(compiled: &Compiled, execution: &ExecutionState) -> bool {
    let plan = &compiled.plan;
    let by_node = execution.failure.as_ref().and_then(|failure| failure.node);
    let is_end = |node: &NodeIx| plan.node(*node).kind == NodeKind::End;
    let has_ended = |node: &NodeIx| execution.nodes[node.at()].phase == Phase::Completed;
    // One that was tolerated before stays the reason, where the node names none.
    let is_tolerated = plan.settings.continues_on_failure && execution.status == Status::Failed;
    let mut ends = compiled.node_ixs().filter(is_end);
    by_node.as_ref().is_some_and(is_end) || (is_tolerated && ends.any(|node| has_ended(&node)))
}
