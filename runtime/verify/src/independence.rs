//! Which nodes' moves commute, now and in all that follows them: what commutes is explored in one order only.
//!
//! Persistent sets, from what each node reads and writes. Source: Godefroid, *Partial-order methods for the verification of
//! concurrent systems*, 1996.

use fixedbitset::FixedBitSet;
use troupe_core::NodeIx;
use troupe_core::definition::{JoinMode, NodeKind};
use troupe_core::plan::Plan;
use troupe_lang::Names;

use crate::compiled::Compiled;
use crate::moves::{Move, Owner};

/// Above so many nodes the pairs are too many to be worth the time.
const NODES_MAX: usize = 2_000;

/// The nodes that depend on each node.
#[derive(Debug)]
pub(crate) struct Independence {
    /// None where everything depends on everything.
    dependent: Option<Vec<FixedBitSet>>,
    /// By node: how many nodes it leads to.
    below: Vec<usize>,
}

impl Independence {
    /// Everything in every order.
    pub(crate) fn none() -> Self {
        Self {
            dependent: None,
            below: Vec::new(),
        }
    }

    pub(crate) fn of(compiled: &Compiled, sensitive: &FixedBitSet) -> Self {
        let plan = &compiled.plan;
        let count = plan.nodes.len();
        // Dispatch in turn, and clean-up during a failure, tie everything together.
        let is_tied = plan.settings.parallel_nodes_max.is_some()
            || (!plan.settings.continues_on_failure && !compiled.failures_end);
        if is_tied || count > NODES_MAX {
            return Self::none();
        }
        let below = closures(plan, true);
        let above = strictly_above(plan);
        let mut dependent = vec![FixedBitSet::with_capacity(count); count];
        let behind: Vec<Vec<usize>> = (0..count)
            .map(|node| (0..count).filter(|from| below[*from].contains(node)).collect())
            .collect();
        let mut tie = |first: usize, second: usize| {
            for one in &behind[first] {
                for other in &behind[second] {
                    dependent[*one].insert(*other);
                    dependent[*other].insert(*one);
                }
            }
        };
        for first in 0..count {
            if is_sensitive(plan, first) || sensitive.contains(first) {
                tie(first, first);
            }
            for second in 0..count {
                let is_ordered = above[first].contains(second) || above[second].contains(first);
                if first != second && !is_ordered && conflict(compiled, first, second) {
                    tie(first, second);
                }
            }
        }
        Self {
            dependent: Some(dependent),
            below: below.iter().map(|nodes| nodes.count_ones(..)).collect(),
        }
    }

    /// Whether anything is independent of anything.
    pub(crate) fn is_some(&self) -> bool {
        self.dependent.is_some()
    }

    /// A few owners whose moves, now, stand for all: none of the others, nor what they lead to, depends on them.
    pub(crate) fn enough(&self, owners: &[Owner]) -> Option<Vec<usize>> {
        let dependent = self.dependent.as_ref()?;
        // Calls go last: whether one that never comes leaves an execution waiting must be seen.
        let rank = |group: &[usize]| {
            let mut moves = group.iter().flat_map(|at| &owners[*at].moves);
            // What has begun is brought to its end before anything else begins: fewer things are under way at once.
            let below = group.iter().map(|at| self.below[owners[*at].node.at()]).sum::<usize>();
            (moves.all(|mv| matches!(mv, Move::Call(_))), group.len(), below)
        };
        let mut best: Option<Vec<usize>> = None;
        let mut placed = vec![false; owners.len()];
        for first in 0..owners.len() {
            if placed[first] {
                continue;
            }
            let mut group = vec![first];
            placed[first] = true;
            let mut next = 0;
            while let Some(at) = group.get(next).copied() {
                next += 1;
                for other in 0..owners.len() {
                    if !placed[other] && dependent[owners[at].node.at()].contains(owners[other].node.at()) {
                        placed[other] = true;
                        group.push(other);
                    }
                }
            }
            let can_move = group.iter().any(|at| !owners[*at].moves.is_empty());
            if can_move && best.as_ref().is_none_or(|best| rank(&group) < rank(best)) {
                best = Some(group);
            }
        }
        best.filter(|best| best.len() < owners.len())
    }
}

/// Each node with everything that its edges lead to.
fn closures(plan: &Plan, with_back_edges: bool) -> Vec<FixedBitSet> {
    let count = plan.nodes.len();
    (0..count)
        .map(|from| {
            let mut found = FixedBitSet::with_capacity(count);
            let mut open = vec![from];
            while let Some(at) = open.pop() {
                if found.put(at) {
                    continue;
                }
                let out = plan.nodes[at]
                    .outgoing
                    .iter()
                    .filter(|edge| with_back_edges || !plan.is_back_edge(**edge));
                open.extend(out.map(|edge| plan.edge(*edge).target.at()));
                // What it cancels ends, and leads on by that.
                open.extend(plan.nodes[at].cancels.iter().map(|other| other.at()));
            }
            found
        })
        .collect()
}

/// The nodes that surely have ended when a node starts.
fn strictly_above(plan: &Plan) -> Vec<FixedBitSet> {
    let count = plan.nodes.len();
    let mut above = vec![FixedBitSet::with_capacity(count); count];
    let cancelable = cancelable(plan);
    let is_strict = |place: usize| {
        let join = &plan.nodes[place].join;
        let is_single = plan.nodes[place].entries <= 1;
        let waits = join.mode == JoinMode::All && join.required.is_empty() && join.timeout.is_none();
        (is_single || waits) && join.timeout.is_none() && !cancelable.contains(place)
    };
    let mut order = Vec::with_capacity(count);
    let mut missing: Vec<u32> = plan.nodes.iter().map(|node| node.entries).collect();
    order.extend((0..count).filter(|place| missing[*place] == 0));
    let mut next = 0;
    while let Some(place) = order.get(next).copied() {
        next += 1;
        for edge in &plan.nodes[place].outgoing {
            let target = plan.edge(*edge).target.at();
            if plan.is_back_edge(*edge) {
                continue;
            }
            missing[target] -= 1;
            if missing[target] == 0 {
                order.push(target);
            }
        }
    }
    for place in order {
        if !is_strict(place) {
            continue;
        }
        let mut own = FixedBitSet::with_capacity(count);
        for edge in plan.nodes[place]
            .incoming
            .iter()
            .filter(|edge| !plan.is_back_edge(**edge))
        {
            let source = plan.edge(*edge).source.at();
            own.insert(source);
            own.union_with(&above[source]);
        }
        above[place] = own;
    }
    above
}

/// Nodes that may be canceled, and so end before what leads to them has.
fn cancelable(plan: &Plan) -> FixedBitSet {
    let mut found = FixedBitSet::with_capacity(plan.nodes.len());
    let mut late = Vec::new();
    for (place, node) in plan.nodes.iter().enumerate() {
        found.extend(node.cancels.iter().map(|other| other.at()));
        if node.join.cancels_late {
            late.push(place);
        }
    }
    let mut seen = FixedBitSet::with_capacity(plan.nodes.len());
    while let Some(place) = late.pop() {
        if seen.put(place) {
            continue;
        }
        for edge in &plan.nodes[place].incoming {
            let source = plan.edge(*edge).source.at();
            found.insert(source);
            late.push(source);
        }
    }
    found
}

/// Whether a join looks at the order in which its messages come.
fn is_sensitive(plan: &Plan, place: usize) -> bool {
    let node = &plan.nodes[place];
    let early = match node.join.mode {
        JoinMode::Any | JoinMode::Quorum { .. } => true,
        JoinMode::All | JoinMode::AllSuccess => false,
    };
    node.entries > 1 && (early || node.join.timeout.is_some() || node.join.cancels_late)
}

/// Whether two nodes that may run side by side touch the same.
fn conflict(compiled: &Compiled, first: usize, second: usize) -> bool {
    let (one, other) = (&compiled.nodes[first], &compiled.nodes[second]);
    let plan = &compiled.plan;
    let planned = &plan.nodes[first];
    let writes = |name: &str| one.output_mapping.iter().any(|(written, _)| written == name);
    let reads = |names: &Names| one.output_mapping.iter().any(|(name, _)| names.contains(name));
    planned.kind == NodeKind::End
        || other.output_mapping.iter().any(|(name, _)| writes(name))
        || reads(&other.uses.variables)
        || compiled.reads[second].contains(first)
        || planned
            .cancels
            .contains(&NodeIx(u32::try_from(second).unwrap_or(u32::MAX)))
        || (has_timer(plan, first) && has_timer(plan, second))
}

fn has_timer(plan: &Plan, place: usize) -> bool {
    let node = &plan.nodes[place];
    node.kind == NodeKind::Delay || node.join.timeout.is_some()
}
