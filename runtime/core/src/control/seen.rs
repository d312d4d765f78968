//! What an execution is told of the controls: exactly what its next steps decide by.

use minicbor::{Decode, Encode};

use crate::execution::{ExecutionState, Holds, Stopped};
use crate::id::{NodeIx, Timestamp};
use crate::plan::Plan;

use super::{ControlSet, Scope};

/// What the controls in force mean for one execution. It is recorded with the entry that learns of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ControlsSeen {
    /// Some scope holds all of it.
    #[n(0)]
    pub whole: bool,
    /// Nodes that some scope holds by themselves, ascending.
    #[n(1)]
    pub nodes: Vec<NodeIx>,
    /// When its clock stood still since it was told last.
    #[n(2)]
    pub spans: Vec<Span>,
    /// The same of nodes that were frozen by themselves meanwhile, or still are.
    #[n(3)]
    pub node_spans: Vec<(NodeIx, Vec<Span>)>,
}

/// A span of time. Several of one list do not touch and are in order; only the last may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Span {
    /// From then on.
    #[n(0)]
    pub from: Timestamp,
    /// Until then; none while it lasts.
    #[n(1)]
    pub until: Option<Timestamp>,
}

impl ControlSet {
    /// What an execution of this plan must be told at `now`; none where it would make no difference.
    #[must_use]
    pub fn news_for(&self, plan: &Plan, state: &ExecutionState, now: Timestamp) -> Option<ControlsSeen> {
        if self.seq().0 == 0 || state.status.is_terminal() {
            return None;
        }
        let holds = state.holds.as_deref();
        let told_at = holds.map_or(state.started_at, |holds| holds.told_at);
        let (whole, nodes) = self.held_of(plan);
        let from = holds.map_or(told_at, Holds::told_from);
        let spans = self.spans(|scope| scope.covers(&plan.workflow), from, now);
        let alone = self.frozen_alone(plan, state, told_at).into_iter();
        let spans_of = |ix| {
            let from = holds.map_or(told_at, |holds| holds.told_from_of(ix));
            (ix, self.spans(|scope| scope.covers_node(plan, ix), from, now))
        };
        let node_spans = alone.map(spans_of).collect();
        let seen = ControlsSeen {
            whole,
            nodes,
            spans,
            node_spans,
        };
        seen.differs_from(state).then_some(seen)
    }

    /// What a new execution of this plan begins under; none where nothing holds it.
    #[must_use]
    pub fn news_at_start(&self, plan: &Plan, now: Timestamp) -> Option<ControlsSeen> {
        if self.holds_nothing() {
            return None;
        }
        let (whole, nodes) = self.held_of(plan);
        if !whole && nodes.is_empty() {
            return None;
        }
        let node_spans = nodes.iter().filter_map(|ix| {
            let spans = self.spans(|scope| scope.covers_node(plan, *ix), now, now);
            (!spans.is_empty()).then_some((*ix, spans))
        });
        Some(ControlsSeen {
            whole,
            spans: self.spans(|scope| scope.covers(&plan.workflow), now, now),
            node_spans: node_spans.collect(),
            nodes,
        })
    }

    fn held_of(&self, plan: &Plan) -> (bool, Vec<NodeIx>) {
        let whole = self.holding().any(|(_, scope, _)| scope.covers(&plan.workflow));
        let every = (0..plan.nodes.len()).map(|place| NodeIx(u32::try_from(place).unwrap_or(u32::MAX)));
        let nodes = every.filter(|ix| self.holding().any(|(_, scope, _)| scope.names_node(plan, *ix)));
        (whole, nodes.collect())
    }

    /// Nodes whose clocks have gone apart from the execution's since, or still are.
    fn frozen_alone(&self, plan: &Plan, state: &ExecutionState, since: Timestamp) -> Vec<NodeIx> {
        let recent = self
            .freezes()
            .iter()
            .filter(|freeze| freeze.until.is_none_or(|until| until > since));
        let recent: Vec<&Scope> = recent.map(|freeze| &freeze.scope).collect();
        let apart = |ix: &NodeIx| {
            let known = state.holds.as_ref().is_some_and(|holds| holds.clocks.contains_key(ix));
            known || recent.iter().any(|scope| scope.names_node(plan, *ix))
        };
        let every = (0..plan.nodes.len()).map(|place| NodeIx(u32::try_from(place).unwrap_or(u32::MAX)));
        every.filter(apart).collect()
    }

    /// When clocks stood in these scopes between `from` and `now`, overlapping spans as one.
    fn spans(&self, covers: impl Fn(&Scope) -> bool, from: Timestamp, now: Timestamp) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for freeze in self.freezes().iter().filter(|freeze| covers(&freeze.scope)) {
            if freeze.until.is_some_and(|until| until <= from) || freeze.from > now {
                continue;
            }
            let begins = freeze.from.max(from);
            match spans.last_mut() {
                Some(last) if last.until.is_none_or(|until| begins <= until) => {
                    last.until = last.until.zip(freeze.until).map(|(one, other)| one.max(other));
                }
                _ => spans.push(Span {
                    from: begins,
                    until: freeze.until,
                }),
            }
        }
        spans
    }
}

impl ControlsSeen {
    /// Whether an execution that learns of this stands otherwise afterwards.
    fn differs_from(&self, state: &ExecutionState) -> bool {
        let Some(holds) = state.holds.as_deref() else {
            return self.whole || !self.nodes.is_empty() || !self.spans.is_empty() || !self.node_spans.is_empty();
        };
        // Whether wider scopes did to a clock what they were known to do, all the time.
        let stands = |spans: &[Span], clock: Option<&Stopped>| match (spans, clock.filter(|clock| clock.by_scope)) {
            ([], None) => true,
            ([only], Some(clock)) => only.until.is_none() && only.from <= clock.told_from,
            _ => false,
        };
        let same_clocks = stands(&self.spans, holds.clock.as_ref())
            && self
                .node_spans
                .iter()
                .all(|(ix, spans)| stands(spans, holds.clocks.get(ix)));
        self.whole != holds.whole || self.nodes != holds.nodes || !same_clocks
    }
}
