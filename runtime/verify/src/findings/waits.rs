//! Waits that are always cut off, and waits that nothing ends.

use troupe_core::NodeIx;
use troupe_core::execution::StepError;

use super::reach::behind;
use super::{Found, finding};
use crate::explore::Search;
use crate::oracle::Level;
use crate::report::{self, Certainty, Finding};
use crate::story::{self, list};

pub(super) fn check(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    let plan = &compiled.plan;
    for node in compiled.node_ixs() {
        let observed = &found.search.observed;
        let key = compiled.key(node).to_owned();
        if let Some(waited) = observed.waited[node.at()].clone()
            && found.is_complete()
            && never_ends(found.search, node)
        {
            let message = format!("the wait of `{key}` never ends by itself");
            let mut why = match plan.settings.timeout_ms {
                Some(ms) => format!("the execution's timeout ({ms} ms) always comes first"),
                None => "something else always ends the execution first".to_owned(),
            };
            let behind = behind(found.search, node);
            if !behind.is_empty() {
                why = format!("{why}; {} can never run either", list(&behind));
            }
            found.add(
                finding(report::WAIT_NEVER_ENDS, vec![key.clone()], message, why),
                Some(&waited),
            )?;
        }
        let Some((_, _, id)) = found.search.observed.for_ever[node.at()].filter(|(level, ..)| *level != Level::OddData)
        else {
            continue;
        };
        let message = format!("`{key}` waits for ever if nobody calls");
        let why = "no timer runs by then, of the node or of anything else, and the execution has no timeout".to_owned();
        let example = story::tell_to(found.search, id)?;
        let finding = Finding {
            certainty: Certainty::Possible,
            example,
            ..finding(report::WAIT_WITHOUT_DEADLINE, vec![key], message, why)
        };
        found.add(finding, None)?;
    }
    Ok(())
}

/// Whether a node waits in some outcome, completes in none, and no other node ends it on purpose.
pub(super) fn never_ends(search: &Search<'_>, node: NodeIx) -> bool {
    let observed = &search.observed;
    observed.waited[node.at()].is_some()
        && observed.completed[node.at()].is_none()
        && !observed.ended_by_others[node.at()]
}
