//! What pauses of a wider scope mean for an execution, and clocks that stand still.
//!
//! A clock stands while a pause with `clocks: freeze` holds: the execution's own one or one of a wider scope. Deadlines that are
//! set meanwhile count from where it stands; when it goes on, every deadline moves by the time it stood. A node may be
//! frozen alone: then it has a clock of its own, until it agrees with the execution's again.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::control::{ControlsSeen, Span};
use crate::id::{NodeIx, Timestamp};

use super::state::{Deadline, ExecutionState, Phase, Status};
use super::step::StepError;
use super::tx::Tx;

/// What an execution knows of pauses beside whether it is paused itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Holds {
    /// Up to when spans of wider freezes are accounted for.
    #[n(0)]
    pub told_at: Timestamp,
    /// A wider scope holds all of it.
    #[n(1)]
    pub whole: bool,
    /// Nodes that a wider scope holds by themselves, ascending.
    #[n(2)]
    pub nodes: Vec<NodeIx>,
    /// Its own pause stops its clock.
    #[n(3)]
    pub own_freeze: bool,
    /// Where its clock stands, if it does.
    #[n(4)]
    pub clock: Option<Stopped>,
    /// Where clocks of nodes stand that stopped apart from it.
    #[n(5)]
    pub clocks: BTreeMap<NodeIx, Stopped>,
}

/// A clock that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stopped {
    /// Where it stands.
    #[n(0)]
    pub since: Timestamp,
    /// A wider scope keeps it there, perhaps beside the execution's own pause.
    #[n(1)]
    pub by_scope: bool,
}

impl Holds {
    fn new(told_at: Timestamp) -> Self {
        Self {
            told_at,
            whole: false,
            nodes: Vec::new(),
            own_freeze: false,
            clock: None,
            clocks: BTreeMap::new(),
        }
    }
}

impl ExecutionState {
    /// Whether nothing of it goes on: it is paused, or a wider scope holds all of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.paused || self.holds.as_ref().is_some_and(|holds| holds.whole)
    }

    /// Whether a wider scope holds it or some node of it.
    #[must_use]
    pub fn is_held_widely(&self) -> bool {
        self.holds
            .as_ref()
            .is_some_and(|holds| holds.whole || !holds.nodes.is_empty())
    }

    /// Whether a node must not go on.
    #[must_use]
    pub fn is_node_held(&self, ix: NodeIx) -> bool {
        self.is_held() || self.holds_node(ix)
    }

    /// Whether a wider scope holds this node by itself.
    pub(super) fn holds_node(&self, ix: NodeIx) -> bool {
        let holds = self.holds.as_ref();
        holds.is_some_and(|holds| holds.nodes.binary_search(&ix).is_ok())
    }

    /// What would go on first if no wider scope held it: the due time of a deadline, or `None` where something waits for nothing
    /// else.  The outer one is none where nothing would go on.
    #[must_use]
    pub fn held_back(&self) -> Option<Option<Timestamp>> {
        let undoes = matches!(self.status, Status::Compensating(_));
        let runs = undoes || matches!(self.status, Status::Running | Status::Failing);
        if !runs || self.paused || !self.is_held_widely() {
            return None;
        }
        let waits_for_nothing_else = self.held.iter().any(|ix| self.is_node_held(*ix)) || self.has_children_to_begin();
        if waits_for_nothing_else {
            return Some(None);
        }
        let of_node = self.deadlines.iter().find(|(_, deadline)| {
            let node = deadline.node();
            node.is_none_or(|ix| self.is_node_held(ix))
        });
        let whole = self.execution_deadline.filter(|_| self.is_held() && !undoes);
        let earliest = of_node.map(|(at, _)| *at).into_iter().chain(whole).min();
        earliest.map(Some)
    }

    /// The earliest deadline in force of a node.
    pub(super) fn first_of_nodes(&self) -> Option<(Timestamp, Deadline)> {
        let holds = self.holds.as_ref().filter(|holds| !holds.nodes.is_empty());
        if holds.is_none() {
            return self.deadlines.first().copied();
        }
        let mut deadlines = self.deadlines.iter().copied();
        deadlines.find(|(_, deadline)| !deadline.node().is_some_and(|ix| self.holds_node(ix)))
    }
}

impl Tx<'_> {
    /// The time by the execution's clock.
    pub(super) fn clock(&self) -> Timestamp {
        let stopped = self.state.holds.as_ref().and_then(|holds| holds.clock);
        stopped.map_or(self.at, |stopped| stopped.since)
    }

    /// The time by a node's clock.
    pub(super) fn clock_of(&self, ix: NodeIx) -> Timestamp {
        let holds = self.state.holds.as_ref();
        let apart = holds.and_then(|holds| holds.clocks.get(&ix));
        apart.map_or_else(|| self.clock(), |stopped| stopped.since)
    }

    fn holds(&self) -> Holds {
        let known = self.state.holds.as_deref().cloned();
        known.unwrap_or_else(|| Holds::new(self.state.started_at))
    }

    /// A run begins: what held the one before does not count.
    pub(super) fn begin_clocks(&mut self) {
        self.set_holds(Holds::new(self.at));
    }

    /// A new execution, or the next run of one, begins under these controls.
    pub(super) fn begin_under(&mut self, seen: &ControlsSeen) {
        self.learn(seen);
    }

    /// Controls of a wider scope changed: what they let go goes on, what fell due meanwhile first.
    pub(super) fn controls_changed(&mut self, seen: &ControlsSeen) -> Result<(), StepError> {
        self.learn(seen);
        self.apply_due()?;
        self.begin_held_children()
    }

    fn learn(&mut self, seen: &ControlsSeen) {
        let mut holds = self.holds();
        let (whole_ms, clock) = advance(holds.own_freeze, holds.clock, &seen.spans);
        let mut apart = BTreeMap::new();
        for (ix, spans) in &seen.node_spans {
            let before = holds.clocks.get(ix).copied();
            let (moved_ms, after) = match (holds.own_freeze, before) {
                // It stands with the execution, and may go on standing when that does.
                (true, None) => {
                    let stays = is_open(spans);
                    (
                        0,
                        holds.clock.filter(|_| stays).map(|clock| Stopped {
                            by_scope: true,
                            ..clock
                        }),
                    )
                }
                (own, before) => advance(own, before, spans),
            };
            match after {
                Some(after) => drop(holds.clocks.insert(*ix, after)),
                None => drop(holds.clocks.remove(ix)),
            }
            apart.insert(*ix, moved_ms);
        }
        holds.told_at = self.at;
        holds.whole = seen.whole;
        holds.nodes.clone_from(&seen.nodes);
        holds.clock = clock;
        self.set_holds(holds);
        self.move_deadlines(whole_ms, &apart);
    }

    /// The execution's own pause stops its clock.
    pub(super) fn freeze(&mut self) {
        let mut holds = self.holds();
        holds.own_freeze = true;
        holds.clock.get_or_insert(Stopped {
            since: self.at,
            by_scope: false,
        });
        self.set_holds(holds);
    }

    /// The execution's own pause no longer stops its clock.
    pub(super) fn thaw(&mut self) {
        if !self.state.holds.as_ref().is_some_and(|holds| holds.own_freeze) {
            return;
        }
        let (mut holds, at) = (self.holds(), self.at);
        // Where a wider scope keeps a clock standing, what it stood so far is accounted for.
        let again = |stopped: Stopped| stopped.by_scope.then_some(Stopped { since: at, ..stopped });
        let whole_ms = holds.clock.map_or(0, |clock| at.since_ms(clock.since));
        let mut apart = BTreeMap::new();
        let clocks = std::mem::take(&mut holds.clocks);
        for (ix, stopped) in clocks {
            apart.insert(ix, at.since_ms(stopped.since));
            if let Some(stopped) = again(stopped) {
                holds.clocks.insert(ix, stopped);
            }
        }
        holds.own_freeze = false;
        holds.clock = holds.clock.and_then(again);
        self.set_holds(holds);
        self.move_deadlines(whole_ms, &apart);
    }

    /// Moves every deadline by as long as its clock stood: `apart` names nodes whose clocks differ from the execution's.
    fn move_deadlines(&mut self, whole_ms: u64, apart: &BTreeMap<NodeIx, u64>) {
        if whole_ms == 0 && apart.values().all(|ms| *ms == 0) {
            return;
        }
        if let Some(at) = self.state.execution_deadline {
            self.set_execution_deadline(Some(at.plus_ms(whole_ms)));
        }
        let waiting = self.state.deadlines.iter().filter_map(|(_, deadline)| deadline.node());
        let waiting: std::collections::BTreeSet<NodeIx> = waiting.collect();
        for ix in waiting {
            let ms = apart.get(&ix).copied().unwrap_or(whole_ms);
            self.update(ix, |node| {
                let later = |at: &mut Timestamp| *at = at.plus_ms(ms);
                match &mut node.phase {
                    Phase::Pending => node.first_arrival_at.iter_mut().for_each(later),
                    Phase::Backoff { until, .. } | Phase::Delaying { until } => later(until),
                    // Heartbeats come from outside, where no clock stands still.
                    Phase::Waiting { until, .. } => until.iter_mut().for_each(later),
                    Phase::Ready
                    | Phase::Running { .. }
                    | Phase::Canceling { .. }
                    | Phase::Turning { .. }
                    | Phase::Parenting
                    | Phase::Completed
                    | Phase::Failed
                    | Phase::Skipped
                    | Phase::Canceled => {}
                }
                node.total_deadline.iter_mut().for_each(|at| *at = at.plus_ms(ms));
            });
        }
    }
}

/// For how long a clock stood while only a wider scope could stop it, and where it stands now.
fn advance(own_freeze: bool, stopped: Option<Stopped>, spans: &[Span]) -> (u64, Option<Stopped>) {
    if own_freeze {
        let by_scope = is_open(spans);
        return (0, stopped.map(|stopped| Stopped { by_scope, ..stopped }));
    }
    let stood = spans.iter().filter_map(|span| Some(span.until?.since_ms(span.from)));
    let stands = spans.last().filter(|span| span.until.is_none());
    let stands = stands.map(|span| Stopped {
        since: span.from,
        by_scope: true,
    });
    (stood.sum(), stands)
}

fn is_open(spans: &[Span]) -> bool {
    spans.last().is_some_and(|span| span.until.is_none())
}
