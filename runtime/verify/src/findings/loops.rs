//! Loops without a way out.

use troupe_core::LoopIx;
use troupe_core::execution::StepError;

use super::{Found, certainty, finding};
use crate::explore::StateId;
use crate::report::{self, Certainty, Finding};
use crate::rounds::Pass;
use crate::story;

pub(super) fn check(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    if !found.is_complete() {
        return Ok(());
    }
    for ix in 0..found.search.compiled.plan.loops.len() {
        check_loop(found, ix)?;
    }
    Ok(())
}

fn check_loop(found: &mut Found<'_, '_>, ix: usize) -> Result<(), StepError> {
    let search = &*found.search;
    let of = LoopIx(u32::try_from(ix).unwrap_or(u32::MAX));
    let mut before: Vec<Vec<StateId>> = vec![Vec::new(); search.states.len()];
    for (from, to) in &search.steps {
        before[*to as usize].push(*from);
    }
    let left = search.rounds.left.iter().filter(|(left, _)| *left == of);
    let mut open: Vec<StateId> = left.map(|(_, from)| *from).collect();
    let is_ever_left = !open.is_empty();
    let mut finds_out = vec![false; search.states.len()];
    while let Some(id) = open.pop() {
        if !std::mem::replace(&mut finds_out[id as usize], true) {
            open.extend(&before[id as usize]);
        }
    }
    // Where a pass has asked what it asks, its end is clear: what counts is whether another one begins without a way out.
    let is_lost = |pass: &&Pass| {
        let finds_out = pass.is_left || pass.to.iter().any(|id| finds_out[*id as usize]);
        pass.of == of && pass.goes_on && !finds_out
    };
    let lost = search.rounds.passes.iter().filter(is_lost).map(|pass| &pass.seen);
    let nearest = lost.min_by_key(|seen| (seen.level, seen.depth, seen.from)).cloned();
    let Some(nearest) = nearest else { return Ok(()) };
    let compiled = search.compiled;
    let header = compiled.key(compiled.plan.loops[ix].header).to_owned();
    let most = compiled.plan.loops[ix].iterations_max;
    let (certainty, message, why) = if is_ever_left {
        let Some(certainty) = certainty(nearest.level) else {
            return Ok(());
        };
        let message = format!("the loop of `{header}` can come to where nothing leaves it any more");
        let why = format!(
            "nothing in the loop changes what its exits ask from there on: it goes round until its limit ({most})"
        );
        (certainty, message, why)
    } else {
        let message = format!("the loop of `{header}` is never left");
        let why = format!("no outcome takes one of its exits: it goes round until its limit ({most}) and fails");
        (Certainty::Certain, message, why)
    };
    let at_limit = (compiled.plan.loops[ix].header, Some("LOOP_LIMIT".to_owned()));
    let example = match found
        .search
        .observed
        .unhandled
        .get(&at_limit)
        .cloned()
        .filter(|_| !is_ever_left)
    {
        Some(seen) => story::tell(found.search, &seen)?,
        None => story::tell(found.search, &nearest)?,
    };
    let finding = Finding {
        certainty,
        example,
        ..finding(report::LOOP_NEVER_LEFT, vec![header], message, why)
    };
    found.add(finding, None)
}
