//! The search: every state that can be reached, those that need no assumption first, and of those the nearest first.

use std::collections::{BTreeSet, HashMap};

use fixedbitset::FixedBitSet;
use troupe_core::execution::{Deadline, EdgeState, StepError};

use crate::compiled::Compiled;
use crate::independence::Independence;
use crate::moves::{Applied, Move, Owner, Way, apply, owners, starts};
use crate::observed::{Observed, Seen, Written};
use crate::oracle::Level;
use crate::rounds::Rounds;
use crate::symbols::Symbols;
use crate::world::World;

/// A state by its number, in the order of discovery.
pub(crate) type StateId = u32;

/// Where a state was reached from.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    /// The state before, and the way from it; none for the state before the start.
    pub(crate) by: Option<(StateId, Way)>,
    pub(crate) level: Level,
    /// Steps from the start.
    pub(crate) depth: u32,
}

/// Why a search ended before it had seen everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So many states as it may visit.
    States,
    /// The caller stopped it.
    Stopped,
}

/// A search, and what it has seen.
pub(crate) struct Search<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) symbols: Symbols,
    pub(crate) states: Vec<Reached>,
    pub(crate) observed: Observed,
    pub(crate) bound: Option<Bound>,
    /// From which state to which; kept where loops must be judged.
    pub(crate) steps: Vec<(StateId, StateId)>,
    pub(crate) rounds: Rounds,
    independence: Independence,
    /// Leaves out what gives no other finding.
    reduces: bool,
    has_loops: bool,
    known: HashMap<u128, StateId>,
    waiting: BTreeSet<(Level, u32, StateId)>,
    worlds: HashMap<StateId, World>,
}

impl<'a> Search<'a> {
    /// `sensitive` are joins at which the order of messages tells, besides those of which the definition says so.
    pub(crate) fn new(compiled: &'a Compiled, reduces: bool, sensitive: &FixedBitSet) -> Self {
        let independence = if reduces {
            Independence::of(compiled, sensitive)
        } else {
            Independence::none()
        };
        Self {
            compiled,
            symbols: Symbols::default(),
            states: Vec::new(),
            observed: Observed::new(&compiled.plan),
            bound: None,
            steps: Vec::new(),
            rounds: Rounds::default(),
            independence,
            reduces,
            has_loops: !compiled.plan.loops.is_empty(),
            known: HashMap::new(),
            waiting: BTreeSet::new(),
            worlds: HashMap::new(),
        }
    }

    /// Whether moves that commute are made in one order only.
    pub(crate) fn is_reduced(&self) -> bool {
        self.independence.is_some()
    }

    /// Looks at up to `states_max` states; `should_stop` is asked before each with the number of those seen.
    pub(crate) fn run(
        &mut self,
        states_max: usize,
        should_stop: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), StepError> {
        let world = World::new(&self.compiled.plan);
        self.states.push(Reached {
            by: None,
            level: Level::Sure,
            depth: 0,
        });
        for mv in starts(self.compiled) {
            for applied in apply(self.compiled, &mut self.symbols, &world, &mv)? {
                self.arrive(0, &world, applied);
            }
        }
        while let Some((_, _, id)) = self.waiting.pop_first() {
            if should_stop(self.states.len()) {
                self.bound = Some(Bound::Stopped);
                return Ok(());
            }
            if self.states.len() > states_max {
                self.bound = Some(Bound::States);
                return Ok(());
            }
            if let Some(world) = self.worlds.remove(&id) {
                self.expand(id, &world)?;
            }
        }
        Ok(())
    }

    fn expand(&mut self, id: StateId, world: &World) -> Result<(), StepError> {
        let mut owners = owners(self.compiled, world);
        if owners.iter().all(|owner| owner.moves.is_empty()) {
            return self.stand(id, world);
        }
        let mut moves = owners.iter().flat_map(|owner| &owner.moves);
        if world.zone.timers().is_empty() && moves.all(|mv| matches!(mv, Move::Call(_))) {
            self.observed.waits_for_ever(&owners, id, &self.states[id as usize]);
        }
        let enough = self.independence.enough(&owners);
        let mut rest = Vec::new();
        if let Some(enough) = enough {
            let all = std::mem::take(&mut owners);
            for (place, owner) in all.into_iter().enumerate() {
                if enough.contains(&place) {
                    owners.push(owner);
                } else {
                    rest.push(owner);
                }
            }
        }
        let mut stands = false;
        let mut written = Vec::new();
        for owner in &owners {
            stands |= self.make(id, world, owner, &rest, &mut written)?;
        }
        if !rest.is_empty() && !stands {
            for owner in &rest {
                self.make(id, world, owner, &[], &mut written)?;
            }
        }
        let Reached { level, depth, .. } = self.states[id as usize];
        self.observed.races(&written, (level, depth));
        Ok(())
    }

    /// Makes an owner's moves; tells whether they may stand for those of the `others`: they need no data, leave the others
    /// as they are, and lead on to something new.
    fn make(
        &mut self,
        id: StateId,
        world: &World,
        owner: &Owner,
        others: &[Owner],
        written: &mut Vec<Written>,
    ) -> Result<bool, StepError> {
        let mut leads_on = false;
        let mut needs_data = false;
        for mv in &owner.moves {
            if self.reduces && self.is_told(id, world, mv) {
                continue;
            }
            for applied in apply(self.compiled, &mut self.symbols, world, mv)? {
                needs_data |= applied.level > self.states[id as usize].level;
                let is_over = applied.world.execution.status.is_terminal();
                let unmoved = others.iter().all(|other| {
                    let phase = |world: &World| world.execution.nodes[other.node.at()].phase.clone();
                    phase(&applied.world) == phase(world)
                });
                needs_data |= !is_over && !unmoved;
                written.extend(Written::of(self.compiled, id, world, owner.node, &applied));
                let is_new = self.arrive(id, world, applied);
                // Where nothing goes round a state that is known leads on as well.
                leads_on |= !is_over && (is_new || !self.has_loops);
            }
        }
        Ok(leads_on && !needs_data)
    }

    /// A failure that ends everything is the same end wherever it happens, and was seen nearer.
    fn is_told(&self, id: StateId, world: &World, mv: &Move) -> bool {
        let Move::Fail(ix, code) = mv else { return false };
        if !self.compiled.failures_end || self.compiled.failure_leads_on(*ix) {
            return false;
        }
        // It resolves what loops hold as that was decided.
        let mut edges = world.execution.edges.iter().zip(&self.observed.taken);
        if edges.any(|(edge, is_seen)| *edge == EdgeState::HeldTaken && !is_seen) {
            return false;
        }
        let here = &self.states[id as usize];
        let told = self.observed.unhandled.get(&(*ix, code.clone()));
        told.is_some_and(|seen| (seen.level, seen.depth) <= (here.level, here.depth + 1))
    }

    /// Nothing can happen but the execution's own timeout.
    fn stand(&mut self, id: StateId, world: &World) -> Result<(), StepError> {
        if world.execution.status.is_terminal() {
            return Ok(());
        }
        if world.zone.timers().contains(&Deadline::Execution) {
            for applied in apply(
                self.compiled,
                &mut self.symbols,
                world,
                &Move::Fire(Deadline::Execution),
            )? {
                self.arrive(id, world, applied);
            }
        } else {
            self.observed.stuck(id);
        }
        Ok(())
    }

    /// Takes a successor in; tells whether it is new.
    fn arrive(&mut self, from: StateId, before: &World, mut applied: Applied) -> bool {
        let (needed, level, depth) = {
            let from = &self.states[from as usize];
            (from.level, from.level.max(applied.level), from.depth + 1)
        };
        let print = applied.world.fingerprint(self.compiled, &self.symbols, self.reduces);
        let seen = Seen {
            from,
            level,
            depth,
            way: applied.way.clone(),
        };
        self.observed.step(self.compiled, &seen, needed, before, &applied);
        let next = StateId::try_from(self.states.len()).unwrap_or(StateId::MAX);
        let id = *self.known.entry(print).or_insert(next);
        if self.has_loops {
            self.steps.push((from, id));
            self.rounds.step(self.compiled, &seen, needed, before, &applied, id);
        }
        let reached = Reached {
            by: Some((from, applied.way)),
            level,
            depth,
        };
        if id == next {
            self.observed.state(&applied.world);
            self.states.push(reached);
        } else {
            let old = &mut self.states[id as usize];
            let is_nearer = (level, depth) < (old.level, old.depth);
            if !is_nearer || !self.waiting.remove(&(old.level, old.depth, id)) {
                return false;
            }
            *old = reached;
        }
        self.waiting.insert((level, depth, id));
        self.worlds.insert(id, applied.world);
        id == next
    }

    /// The ways from before the start to a state.
    pub(crate) fn ways_to(&self, id: StateId) -> Vec<Way> {
        let mut ways = Vec::new();
        let mut at = id;
        while let Some((from, way)) = &self.states[at as usize].by {
            ways.push(way.clone());
            at = *from;
        }
        ways.reverse();
        ways
    }
}
