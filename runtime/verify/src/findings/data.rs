//! What data, or the order of writes to it, makes wrong.

use troupe_core::execution::StepError;

use super::{Found, finding};
use crate::report;
use crate::story::quoted;

pub(super) fn check(found: &mut Found<'_, '_>) -> Result<(), StepError> {
    let compiled = found.search.compiled;
    for ((name, first, second), seen) in found.search.observed.races.clone() {
        let nodes = vec![compiled.key(first).to_owned(), compiled.key(second).to_owned()];
        let message = format!(
            "`{}` and `{}` write the variable `{name}` in either order",
            nodes[0], nodes[1]
        );
        let why =
            "they run side by side, and the value of the slower one stays: behind the example the other one writes \
                   over it, and had that been faster, it would be the other way round"
                .to_owned();
        found.add_seen(finding(report::VARIABLE_RACE, nodes, message, why), &seen)?;
    }
    for (node, seen) in found.search.observed.unmatched.clone() {
        let key = compiled.key(node).to_owned();
        let message = format!("`{key}` can match nothing, and has no default path");
        let why = "it fails then (NO_MATCHING_CONDITION), and nothing handles that".to_owned();
        found.add_seen(finding(report::DECISION_WITHOUT_MATCH, vec![key], message, why), &seen)?;
    }
    for ((node, source, missing), seen) in found.search.observed.missing.clone() {
        let base = &missing.base;
        let (nodes, who) = match node {
            Some(node) => (vec![compiled.key(node).to_owned()], quoted(compiled, node)),
            None => (Vec::new(), "the output of the execution".to_owned()),
        };
        let message = format!("{who} reads `{}` of `{base}`, which is not there", missing.member);
        let why = format!("`{source}` throws then (EXPRESSION_ERROR); `?.` would give nothing instead");
        found.add_seen(finding(report::READ_OF_NOTHING, nodes, message, why), &seen)?;
    }
    Ok(())
}
