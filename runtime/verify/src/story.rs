//! A way through the states, told as numbered steps.

use troupe_core::NodeIx;
use troupe_core::execution::{Deadline, StepError, Verb};

use crate::compiled::Compiled;
use crate::explore::{Search, StateId};
use crate::moves::{Applied, Move, Way, apply_one};
use crate::observed::Seen;
use crate::oracle::Note;
use crate::report::Step;
use crate::symbols::{MARK, Symbols};
use crate::world::World;

/// Nodes named in one part of a step; the rest is counted.
const NAMED_MAX: usize = 4;

/// The shortest way known to a step, and the step itself.
pub(crate) fn tell(search: &mut Search<'_>, seen: &Seen) -> Result<Vec<Step>, StepError> {
    let mut ways = search.ways_to(seen.from);
    ways.push(seen.way.clone());
    tell_ways(search.compiled, &mut search.symbols, &ways)
}

/// The shortest way known to a state.
pub(crate) fn tell_to(search: &mut Search<'_>, id: StateId) -> Result<Vec<Step>, StepError> {
    let ways = search.ways_to(id);
    tell_ways(search.compiled, &mut search.symbols, &ways)
}

fn tell_ways(compiled: &Compiled, symbols: &mut Symbols, ways: &[Way]) -> Result<Vec<Step>, StepError> {
    let mut world = World::new(&compiled.plan);
    let mut steps = Vec::with_capacity(ways.len());
    for way in ways {
        let applied = apply_one(compiled, symbols, &world, way)?;
        steps.push(step(compiled, &world, &applied));
        world = applied.world;
    }
    Ok(steps)
}

/// A node's id as people read it.
pub(crate) fn quoted(compiled: &Compiled, ix: NodeIx) -> String {
    format!("`{}`", compiled.key(ix))
}

/// Several of them, joined.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] if items.len() <= NAMED_MAX => format!("{} and {last}", first.join(", ")),
        more => format!("{} and {} more", more[..NAMED_MAX].join(", "), more.len() - NAMED_MAX),
    }
}

fn step(compiled: &Compiled, before: &World, applied: &Applied) -> Step {
    let name = |ix: NodeIx| quoted(compiled, ix);
    let (mut text, own) = match &applied.way.mv {
        Move::Start(None) => ("the execution starts".to_owned(), None),
        Move::Start(Some(trigger)) => (format!("trigger `{trigger}` starts the execution"), None),
        Move::Complete(ix) => (format!("{} completes", name(*ix)), Some(*ix)),
        Move::Fail(ix, None) => (format!("{} fails", name(*ix)), Some(*ix)),
        Move::Fail(ix, Some(code)) => (format!("{} fails ({code})", name(*ix)), Some(*ix)),
        Move::Call(ix) => (format!("a call comes for {}", name(*ix)), None),
        Move::Fire(timer) => match timer {
            Deadline::Wait(ix) => (format!("{} has waited long enough for a call", name(*ix)), None),
            Deadline::Delay(ix) => (format!("delay {} ends", name(*ix)), Some(*ix)),
            Deadline::Join(ix) => (format!("the join of {} has waited long enough", name(*ix)), None),
            Deadline::Turn(ix) => (format!("{} goes round again", name(*ix)), None),
            Deadline::Execution => ("the execution's timeout passes".to_owned(), None),
            Deadline::CancelGrace | Deadline::Retry(_) | Deadline::NodeTotal(_) => (format!("{timer:?}"), None),
        },
    };
    if let Some(ix) = applied.way.limit {
        let planned = &compiled.plan.loops[ix.at()];
        text = format!(
            "{text}, in pass {} of the loop of {}",
            planned.iterations_max,
            name(planned.header)
        );
    }
    let mut given = Vec::new();
    for note in &applied.notes {
        if let Note::Assumed { condition, truth } = note {
            let told = if *truth {
                format!("`{condition}`")
            } else {
                format!("not `{condition}`")
            };
            if !given.contains(&told) {
                given.push(told);
            }
        }
    }
    Step {
        text,
        given,
        then: consequences(compiled, before, applied, own),
    }
}

fn consequences(compiled: &Compiled, before: &World, applied: &Applied, own: Option<NodeIx>) -> Vec<String> {
    let after = &applied.world.execution;
    let changed = |wanted: Verb| -> Vec<NodeIx> {
        let changes = applied
            .stepped
            .transitions
            .iter()
            .filter(|change| change.verb() == Some(wanted));
        changes.filter_map(|change| change.node_ix()).collect()
    };
    let mut then = Vec::new();
    let mut several = |nodes: Vec<NodeIx>, one: &str, many: &str| {
        let nodes: Vec<String> = nodes.into_iter().map(|ix| quoted(compiled, ix)).collect();
        if !nodes.is_empty() {
            then.push(format!(
                "{} {}",
                list(&nodes),
                if nodes.len() == 1 { one } else { many }
            ));
        }
    };
    let completed = changed(Verb::NodeCompleted);
    several(
        completed.into_iter().filter(|ix| Some(*ix) != own).collect(),
        "completes",
        "complete",
    );
    several(changed(Verb::NodeWaiting), "waits", "wait");
    several(changed(Verb::NodeScheduled), "starts", "start");
    several(changed(Verb::NodeSkipped), "is skipped", "are skipped");
    several(changed(Verb::NodeCanceled), "is canceled", "are canceled");
    for ix in changed(Verb::NodeFailed) {
        let code = after.nodes[ix.at()]
            .failure
            .as_ref()
            .map(|failure| failure.error.code.as_str());
        if Some(ix) == own && matches!(applied.way.mv, Move::Fail(..)) {
            continue;
        }
        then.push(match code.filter(|code| !code.starts_with(MARK)) {
            Some(code) => format!("{} fails ({code})", quoted(compiled, ix)),
            None => format!("{} fails", quoted(compiled, ix)),
        });
    }
    for (planned, (old, new)) in compiled
        .plan
        .loops
        .iter()
        .zip(before.execution.loops.iter().zip(&after.loops))
    {
        if new.iteration > old.iteration && !new.finished {
            then.push(format!(
                "pass {} begins at {}",
                new.iteration,
                quoted(compiled, planned.header)
            ));
        }
    }
    for change in &applied.stepped.transitions {
        let Some(verb) = change.verb().filter(|verb| verb.ends_execution()) else {
            continue;
        };
        then.push(format!("the execution ends: {}", verb.word()));
    }
    then
}
