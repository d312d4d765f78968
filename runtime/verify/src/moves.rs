//! What can happen next in a state, and the real step that makes it happen.

use troupe_core::definition::{EdgeKind, NodeKind};
use troupe_core::execution::{
    AttemptClosed, AttemptFailure, AttemptOutcome, Deadline, EdgeState, Event, Phase, Started, Status, StepError,
    Stepped, Verb, step,
};
use troupe_core::{EdgeIx, ErrorInfo, LoopIx, NodeIx, Value};
use troupe_lang::Comparison;

use crate::assumptions::Atom;
use crate::compiled::Compiled;
use crate::oracle::{Choice, Chooser, Level, Note, Oracle};
use crate::symbols::{Origin, Symbols};
use crate::values::Missing;
use crate::world::{NOW, World};

/// Code of an attempt that took too long.
pub(crate) const TIMEOUT: &str = "TIMEOUT";

/// Codes that the core alone gives: no attempt fails with them.
const OF_THE_CORE: [&str; 3] = ["LOOP_LIMIT", "JOIN_UNSATISFIED", "NO_MATCHING_CONDITION"];

/// Something that can happen to an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// It starts; by a trigger that is named, or by hand.
    Start(Option<String>),
    /// An attempt of a node completes.
    Complete(NodeIx),
    /// A node fails for good: with a code that the definition names, or with any other.
    Fail(NodeIx, Option<String>),
    /// A call comes that a node waits for.
    Call(NodeIx),
    /// A timer fires.
    Fire(Deadline),
}

/// A move, every choice made in it, and the loop that has reached its limit there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) mv: Move,
    pub(crate) tape: Vec<u8>,
    pub(crate) limit: Option<LoopIx>,
}

/// What a move led to.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) way: Way,
    pub(crate) world: World,
    pub(crate) level: Level,
    pub(crate) notes: Vec<Note>,
    pub(crate) stepped: Stepped,
    choices: Vec<Choice>,
    /// What may be wrong with the step, and what it needs to show.
    pub(crate) faults: Vec<(Fault, Level)>,
}

/// Something wrong in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An expression looks something up on nothing.
    Missing(Option<NodeIx>, String, Missing),
    /// A decision matches nothing, and nothing handles that.
    Unmatched(NodeIx),
    /// The execution completes with nothing done.
    Nothing,
}

/// The moves of one node; none where it waits for a timer that others precede.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) node: NodeIx,
    pub(crate) moves: Vec<Move>,
}

/// Ways to start: by hand, and by each trigger.
pub(crate) fn starts(compiled: &Compiled) -> Vec<Move> {
    let plan = &compiled.plan;
    let named = plan.roots.iter().filter(|root| plan.node(**root).trigger.is_some());
    let named = named.map(|root| Some(compiled.key(*root).to_owned()));
    std::iter::once(None).chain(named).map(Move::Start).collect()
}

/// What can happen next, by the node that it happens to, and later to those that have no moves yet. The execution's own
/// timeout comes where nothing else can.
pub(crate) fn owners(compiled: &Compiled, world: &World) -> Vec<Owner> {
    let mut owners: Vec<Owner> = Vec::new();
    let execution = &world.execution;
    for ix in &execution.running {
        if let Phase::Running { .. } = execution.nodes[ix.at()].phase {
            owners.push(Owner {
                node: *ix,
                moves: outcomes(compiled, *ix),
            });
        }
    }
    for ix in &execution.active {
        if let Phase::Waiting { .. } = execution.nodes[ix.at()].phase {
            owners.push(Owner {
                node: *ix,
                moves: vec![Move::Call(*ix)],
            });
        }
    }
    for timer in world.zone.timers() {
        let Some(node) = node_of(*timer) else { continue };
        let fires = world.zone.fired(*timer).map(|_| Move::Fire(*timer));
        match owners.iter_mut().find(|owner| owner.node == node) {
            Some(owner) => owner.moves.extend(fires),
            None => owners.push(Owner {
                node,
                moves: fires.into_iter().collect(),
            }),
        }
    }
    owners
}

/// The node that a timer belongs to; none for those of the execution, and for those of attempts, which fail at once here.
pub(crate) fn node_of(timer: Deadline) -> Option<NodeIx> {
    match timer {
        Deadline::Join(ix) | Deadline::Delay(ix) | Deadline::Turn(ix) | Deadline::Wait(ix) => Some(ix),
        Deadline::Execution | Deadline::CancelGrace | Deadline::Retry(_) | Deadline::NodeTotal(_) => None,
    }
}

/// How attempts of a node may end: codes that its failure edges tell apart, `TIMEOUT` among them, and any other.
fn outcomes(compiled: &Compiled, ix: NodeIx) -> Vec<Move> {
    let mut moves = vec![Move::Complete(ix)];
    moves.extend(codes(compiled, ix).into_iter().map(|code| Move::Fail(ix, code)));
    moves
}

fn codes(compiled: &Compiled, ix: NodeIx) -> Vec<Option<String>> {
    let edges = compiled
        .plan
        .node(ix)
        .outgoing
        .iter()
        .map(|edge| compiled.plan.edge(*edge));
    let mut named: Vec<&str> = edges
        .flat_map(|edge| &edge.errors)
        .map(String::as_str)
        .filter(|code| *code != "*" && !OF_THE_CORE.contains(code))
        .collect();
    // Any other comes first: where nothing tells codes apart, it stands for all.
    if !named.is_empty() {
        named.push(TIMEOUT);
        named.sort_unstable();
        named.dedup();
    }
    let named = named.into_iter().map(|code| Some(code.to_owned()));
    std::iter::once(None).chain(named).collect()
}

/// Makes a move once for every way to choose what data decides.
pub(crate) fn apply(
    compiled: &Compiled,
    symbols: &mut Symbols,
    world: &World,
    mv: &Move,
) -> Result<Vec<Applied>, StepError> {
    let way = Way {
        mv: mv.clone(),
        tape: Vec::new(),
        limit: None,
    };
    let mut all = ways(compiled, symbols, world, way)?;
    let mut at_limits = Vec::new();
    for applied in &all {
        for way in at_limits_of(compiled, world, applied) {
            if !at_limits.contains(&way) {
                at_limits.push(way);
            }
        }
    }
    for way in at_limits {
        all.extend(ways(compiled, symbols, world, way)?);
    }
    Ok(all)
}

/// Every way that begins with the choices of this one.
fn ways(compiled: &Compiled, symbols: &mut Symbols, world: &World, mut way: Way) -> Result<Vec<Applied>, StepError> {
    let made = way.tape.len();
    let mut all = Vec::new();
    loop {
        let applied = apply_one(compiled, symbols, world, &way)?;
        let next = next_tape(&applied.choices, made);
        all.push(applied);
        match next {
            Some(next) => way.tape = next,
            None => break,
        }
    }
    // The choices that all ways have in common were made for them.
    let begun = all[0]
        .choices
        .iter()
        .take(made)
        .map(|choice| choice.level)
        .max()
        .unwrap_or_default();
    let found: Vec<Vec<Fault>> = all.iter().map(|applied| faults(compiled, world, applied)).collect();
    for (place, own) in found.iter().enumerate() {
        let needs = own.iter().map(|fault| {
            let ways: Vec<(&[Choice], bool)> = all
                .iter()
                .zip(&found)
                .map(|(applied, found)| (applied.choices.as_slice(), found.contains(fault)))
                .collect();
            (fault.clone(), begun.max(needs(&ways, made).unwrap_or(all[place].level)))
        });
        let needs = needs.collect();
        all[place].faults = needs;
    }
    Ok(all)
}

/// What something needs that some ways show. What shows whatever data decides needs no data: it only came to a choice in
/// the same step.
fn needs(ways: &[(&[Choice], bool)], depth: usize) -> Option<Level> {
    let (first, shows) = ways.first()?;
    if first.len() <= depth {
        return shows.then_some(Level::Sure);
    }
    let taken = |way: &(&[Choice], bool)| way.0.get(depth).map(|choice| choice.taken);
    let mut nearest = None;
    let mut always = None;
    let mut is_always = true;
    for same in ways.chunk_by(|one, other| taken(one) == taken(other)) {
        let own = same[0].0.get(depth).map_or(Level::Sure, |choice| choice.level);
        let within = needs(same, depth + 1);
        if own != Level::OddData {
            is_always &= within.is_some();
            always = always.max(within);
        }
        nearest = nearest.into_iter().chain(within.map(|within| within.max(own))).min();
    }
    nearest.into_iter().chain(always.filter(|_| is_always)).min()
}

fn faults(compiled: &Compiled, before: &World, applied: &Applied) -> Vec<Fault> {
    let missing = applied.notes.iter().filter_map(|note| match note {
        Note::Missing { node, source, missing } => Some(Fault::Missing(*node, source.clone(), missing.clone())),
        Note::Started(_) | Note::Assumed { .. } | Note::Writes(..) => None,
    });
    let mut found: Vec<Fault> = missing.collect();
    let (plan, after) = (&compiled.plan, &applied.world.execution);
    for change in &applied.stepped.transitions {
        let failed = change.node_ix().filter(|_| change.verb() == Some(Verb::NodeFailed));
        let Some(node) = failed else { continue };
        let failure = after.nodes[node.at()].failure.as_ref();
        let handles = |edge: &EdgeIx| {
            plan.edge(*edge).kind == EdgeKind::Failure
                && matches!(after.edges[edge.at()], EdgeState::Taken | EdgeState::HeldTaken)
        };
        let is_handled = plan.node(node).outgoing.iter().any(handles);
        if failure.is_some_and(|failure| failure.error.code == "NO_MATCHING_CONDITION") && !is_handled {
            found.push(Fault::Unmatched(node));
        }
    }
    if !before.execution.status.is_terminal() && matches!(after.status, Status::Completed { .. }) {
        let completed = |leaf: &NodeIx| after.nodes[leaf.at()].phase == Phase::Completed;
        let by_node = plan.nodes.iter().zip(&after.nodes);
        let by_node = by_node.filter(|(node, _)| node.kind == NodeKind::End);
        let ended = by_node.filter(|(_, state)| state.phase == Phase::Completed).count() > 0;
        if !ended && !plan.leaves.iter().any(completed) {
            found.push(Fault::Nothing);
        }
    }
    found
}

/// Makes one move in one way.
pub(crate) fn apply_one(
    compiled: &Compiled,
    symbols: &mut Symbols,
    world: &World,
    way: &Way,
) -> Result<Applied, StepError> {
    let plan = &compiled.plan;
    let mut world = world.clone();
    if let Some(ix) = way.limit {
        world.execution.loops[ix.at()].iteration = plan.loops[ix.at()].iterations_max;
    }
    let event = event(compiled, symbols, &mut world, &way.mv)?;
    let mut oracle = Oracle {
        compiled,
        symbols,
        choices: Chooser {
            assumptions: std::mem::take(&mut world.assumptions),
            tape: &way.tape,
            made: Vec::new(),
            level: Level::Sure,
        },
        notes: Vec::new(),
    };
    let stepped = step(plan, &mut world.execution, NOW, &event, &mut oracle)?;
    let Oracle { choices, notes, .. } = oracle;
    world.assumptions = choices.assumptions;
    world.settle(compiled);
    let tape = choices.made.iter().map(|choice| choice.taken).collect();
    Ok(Applied {
        way: Way { tape, ..way.clone() },
        world,
        level: choices.level,
        notes,
        stepped,
        choices: choices.made,
        faults: Vec::new(),
    })
}

/// The same way up to where a loop goes round that may have done so as often as it may: what it leads to then asks anew.
fn at_limits_of(compiled: &Compiled, world: &World, applied: &Applied) -> Vec<Way> {
    let mut all = Vec::new();
    for (ix, planned) in (0..).map(LoopIx).zip(&compiled.plan.loops) {
        let before = world.execution.loops[ix.at()].iteration;
        let after = applied.world.execution.loops[ix.at()].iteration;
        let is_told_apart = compiled.iterations_told_apart.is_none_or(|told| before < told);
        if after > before && before < planned.iterations_max && !is_told_apart {
            let choices = applied.notes.iter().find_map(|note| match note {
                Note::Started(start) if start.node == planned.header && start.iteration > Some(before) => {
                    Some(start.choices)
                }
                _ => None,
            });
            let mut way = applied.way.clone();
            way.limit = Some(ix);
            way.tape.truncate(choices.unwrap_or(way.tape.len()));
            all.push(way);
        }
    }
    all
}

/// The next way that makes the first `made` choices alike.
fn next_tape(choices: &[Choice], made: usize) -> Option<Vec<u8>> {
    let last = choices.iter().rposition(|choice| choice.taken + 1 < choice.of)?;
    if last < made {
        return None;
    }
    let mut tape: Vec<u8> = choices[..=last].iter().map(|choice| choice.taken).collect();
    tape[last] += 1;
    Some(tape)
}

fn event(compiled: &Compiled, symbols: &mut Symbols, world: &mut World, mv: &Move) -> Result<Event, StepError> {
    let plan = &compiled.plan;
    let unknown = |symbols: &mut Symbols, origin| Value::from(serde_json::Value::from(symbols.of(origin).marked()));
    match mv {
        Move::Start(trigger) => {
            // A start may override what the definition gives a variable.
            let variables = plan.settings.variables.keys();
            let variables = variables.map(|name| (name.clone(), unknown(symbols, Origin::Variable(name.clone()))));
            Ok(Event::Started(Box::new(Started {
                variables: variables.collect(),
                trigger: trigger.clone(),
                ..Started::of(world.execution.id, plan, unknown(symbols, Origin::Trigger))
            })))
        }
        Move::Complete(ix) => {
            let visit = world.execution.nodes[ix.at()].visit;
            let output = unknown(symbols, Origin::Output(*ix, visit));
            closed(world, *ix, AttemptOutcome::Completed(output))
        }
        Move::Fail(ix, code) => {
            let visit = world.execution.nodes[ix.at()].visit;
            let code = match code {
                Some(code) => code.clone(),
                None => {
                    let any = symbols.of(Origin::Error(*ix, visit, "code"));
                    for named in codes(compiled, *ix).into_iter().flatten() {
                        let is_named = Atom::Constant(any, Comparison::StrictEqual, Some(named.into()));
                        world.assumptions.assume(&is_named, false);
                    }
                    any.marked()
                }
            };
            let mut field = |name| symbols.of(Origin::Error(*ix, visit, name)).marked();
            let mut error = ErrorInfo::new(code, field("message"));
            error.details = Some(troupe_core::Json::of(&field("details").into()));
            let failure = AttemptFailure {
                error,
                retryable: false,
                retry_after_ms: None,
            };
            closed(world, *ix, AttemptOutcome::Failed(Box::new(failure)))
        }
        Move::Call(ix) => {
            let visit = world.execution.nodes[ix.at()].visit;
            Ok(Event::Signaled {
                node: *ix,
                call: unknown(symbols, Origin::Output(*ix, visit)),
            })
        }
        Move::Fire(timer) => {
            world.zone = match timer {
                Deadline::Execution => crate::zone::Zone::new(),
                timer => world.zone.fired(*timer).ok_or(StepError::NotDue)?,
            };
            world.arm(plan, *timer);
            Ok(Event::DeadlineReached)
        }
    }
}

fn closed(world: &World, ix: NodeIx, outcome: AttemptOutcome) -> Result<Event, StepError> {
    let Phase::Running { token } = world.execution.nodes[ix.at()].phase else {
        return Err(StepError::Stale);
    };
    Ok(Event::AttemptClosed(Box::new(AttemptClosed {
        token,
        started_at: NOW,
        outcome,
        logs: None,
    })))
}
