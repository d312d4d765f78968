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
    /// When it was told of controls last.
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
    /// When its own pause stopped its clock, as far back as something may still be told of.
    #[n(6)]
    #[cbor(default)]
    pub own: Vec<Span>,
    /// By how many milliseconds deadlines have moved since it was told last.
    #[n(7)]
    #[cbor(default)]
    pub moved_ms: u64,
    /// By how many those of nodes whose clocks stopped apart.
    #[n(8)]
    #[cbor(default)]
    pub moved_apart_ms: BTreeMap<NodeIx, u64>,
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
    /// What wider scopes did from here on was told as lasting, or was not told yet.
    #[n(2)]
    #[cbor(default)]
    pub told_from: Timestamp,
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
            own: Vec::new(),
            moved_ms: 0,
            moved_apart_ms: BTreeMap::new(),
        }
    }

    /// From when on wider scopes may yet have done something else to the execution's clock than is known.
    #[must_use]
    pub fn told_from(&self) -> Timestamp {
        self.clock.map_or(self.told_at, |stopped| stopped.told_from)
    }

    /// The same of a node's clock.
    #[must_use]
    pub fn told_from_of(&self, ix: NodeIx) -> Timestamp {
        let apart = self.clocks.get(&ix);
        apart.map_or_else(|| self.told_from(), |stopped| stopped.told_from)
    }

    /// By how much deadlines have still to move where wider scopes stopped a clock in these spans and deadlines have moved by so
    /// much since it was told last; and where that clock stands.
    fn advance(&self, spans: &[Span], moved_ms: u64, told_from: Timestamp, now: Timestamp) -> (i64, Option<Stopped>) {
        let open = spans.last().filter(|span| span.until.is_none());
        let since = open.map_or(now, |span| span.from);
        let stopped = Stopped {
            since,
            by_scope: open.is_some(),
            told_from: since,
        };
        let ms = signed(stood_ms(&[spans, &self.own], told_from, since)) - signed(moved_ms);
        (ms, (stopped.by_scope || self.own_freeze).then_some(stopped))
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

    /// Deadlines are moved to where the clocks stand or go by now, whatever was known before.
    fn learn(&mut self, seen: &ControlsSeen) {
        let (mut holds, at) = (self.holds(), self.at);
        let (whole_ms, clock) = holds.advance(&seen.spans, holds.moved_ms, holds.told_from(), at);
        let (mut apart, mut clocks) = (BTreeMap::new(), BTreeMap::new());
        for (ix, spans) in &seen.node_spans {
            let moved_ms = holds.moved_apart_ms.get(ix).copied().unwrap_or(holds.moved_ms);
            let (ms, stopped) = holds.advance(spans, moved_ms, holds.told_from_of(*ix), at);
            apart.insert(*ix, ms);
            clocks.extend(stopped.map(|stopped| (*ix, stopped)));
        }
        let bases = clocks.values().chain(&clock).map(|stopped| stopped.told_from);
        let told_from = bases.min().unwrap_or(at);
        holds
            .own
            .retain(|span| span.until.is_none_or(|until| until > told_from));
        let holds = Holds {
            told_at: at,
            whole: seen.whole,
            nodes: seen.nodes.clone(),
            own_freeze: holds.own_freeze,
            clock,
            clocks,
            own: holds.own,
            moved_ms: 0,
            moved_apart_ms: BTreeMap::new(),
        };
        self.set_holds(holds);
        self.move_deadlines(whole_ms, &apart);
    }

    /// The execution's own pause stops its clock.
    pub(super) fn freeze(&mut self) {
        let (mut holds, at) = (self.holds(), self.at);
        if holds.own_freeze {
            return;
        }
        holds.own_freeze = true;
        holds.own.push(Span { from: at, until: None });
        let told_from = holds.told_at;
        holds.clock.get_or_insert(Stopped {
            since: at,
            by_scope: false,
            told_from,
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
        let clocks = std::mem::take(&mut holds.clocks);
        let apart_ms: BTreeMap<NodeIx, u64> = clocks
            .iter()
            .map(|(ix, stopped)| (*ix, at.since_ms(stopped.since)))
            .collect();
        let moved_before_ms = holds.moved_ms;
        for (ix, moved_ms) in &mut holds.moved_apart_ms {
            *moved_ms += apart_ms.get(ix).copied().unwrap_or(whole_ms);
        }
        for (ix, ms) in &apart_ms {
            holds.moved_apart_ms.entry(*ix).or_insert(moved_before_ms + ms);
        }
        holds.moved_ms += whole_ms;
        holds.clocks = clocks
            .into_iter()
            .filter_map(|(ix, stopped)| Some((ix, again(stopped)?)))
            .collect();
        if let Some(own) = holds.own.last_mut() {
            own.until = Some(at);
        }
        holds.own_freeze = false;
        holds.clock = holds.clock.and_then(again);
        let apart = apart_ms.into_iter().map(|(ix, ms)| (ix, signed(ms))).collect();
        self.set_holds(holds);
        self.move_deadlines(signed(whole_ms), &apart);
    }

    /// Moves every deadline by as long as its clock stood: `apart` names nodes whose clocks differ from the execution's.
    fn move_deadlines(&mut self, whole_ms: i64, apart: &BTreeMap<NodeIx, i64>) {
        if whole_ms == 0 && apart.values().all(|ms| *ms == 0) {
            return;
        }
        if let Some(at) = self.state.execution_deadline {
            self.set_execution_deadline(Some(moved(at, whole_ms)));
        }
        let waiting = self.state.deadlines.iter().filter_map(|(_, deadline)| deadline.node());
        let waiting: std::collections::BTreeSet<NodeIx> = waiting.collect();
        for ix in waiting {
            let ms = apart.get(&ix).copied().unwrap_or(whole_ms);
            self.update(ix, |node| {
                let later = |at: &mut Timestamp| *at = moved(*at, ms);
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
                node.total_deadline.iter_mut().for_each(later);
            });
        }
    }
}

/// For how long a clock stood in a time: what overlaps counts once.
fn stood_ms(spans: &[&[Span]], from: Timestamp, until: Timestamp) -> u64 {
    let all = spans.iter().flat_map(|spans| spans.iter());
    let mut all: Vec<(Timestamp, Timestamp)> = all
        .map(|span| (span.from, span.until.map_or(until, |ended| ended.min(until))))
        .collect();
    all.sort_unstable();
    let (mut stood_ms, mut reached) = (0, from);
    for (from, until) in all {
        stood_ms += until.since_ms(from.max(reached));
        reached = reached.max(until);
    }
    stood_ms
}

/// Clocks stand for less than the ages of the universe.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn moved(at: Timestamp, ms: i64) -> Timestamp {
    Timestamp(at.0.saturating_add(ms))
}
