//! Loops without a way out.

use troupe_core::execution::StepError;

use super::{Found, certainty, finding};
use crate::explore::StateId;
use crate::observed::LoopStand;
use crate::report::{self, Certainty, Finding};
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
    let count = search.states.len();
    let ids = || (0..StateId::try_from(count).unwrap_or(StateId::MAX)).skip(1);
    let stand = |id: StateId| search.observed.stand(id, ix);
    let mut before: Vec<Vec<StateId>> = vec![Vec::new(); count];
    for (from, to) in &search.steps {
        before[*to as usize].push(*from);
    }
    let mut finds_out = vec![false; count];
    let mut open: Vec<StateId> = ids().filter(|id| stand(*id) == LoopStand::Left).collect();
    let is_ever_left = !open.is_empty();
    while let Some(id) = open.pop() {
        if !std::mem::replace(&mut finds_out[id as usize], true) {
            open.extend(&before[id as usize]);
        }
    }
    let trapped = ids().filter(|id| stand(*id) == LoopStand::Inside && !finds_out[*id as usize]);
    let nearest = trapped.min_by_key(|id| {
        (
            search.states[*id as usize].level,
            search.states[*id as usize].depth,
            *id,
        )
    });
    let Some(nearest) = nearest else { return Ok(()) };
    let compiled = search.compiled;
    let header = compiled.key(compiled.plan.loops[ix].header).to_owned();
    let most = compiled.plan.loops[ix].iterations_max;
    let (certainty, message, why) = if is_ever_left {
        let Some(certainty) = certainty(search.states[nearest as usize].level) else {
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
        None => story::tell_to(found.search, nearest)?,
    };
    let finding = Finding {
        certainty,
        example,
        ..finding(report::LOOP_NEVER_LEFT, vec![header], message, why)
    };
    found.add(finding, None)
}
