//! From what was seen to what is wrong. What never happens is told only where everything was seen.

mod data;
mod ends;
mod loops;
mod reach;
mod waits;

use troupe_core::execution::StepError;

use crate::explore::Search;
use crate::observed::Seen;
use crate::oracle::Level;
use crate::report::{self, Certainty, Finding, Outcomes, Report, Step};
use crate::story;

/// Judges a search.
pub(crate) fn report(mut search: Search<'_>) -> Result<Report, StepError> {
    let mut found = Found {
        search: &mut search,
        findings: Vec::new(),
    };
    reach::check(&mut found)?;
    loops::check(&mut found)?;
    waits::check(&mut found)?;
    data::check(&mut found)?;
    ends::check(&mut found)?;
    let mut findings = found.findings;
    let place = |finding: &Finding| report::CODES.iter().position(|code| *code == finding.code);
    findings.sort_by_cached_key(|finding| {
        (
            finding.certainty,
            place(finding),
            finding.nodes.clone(),
            finding.edges.clone(),
        )
    });
    let [completed, failed, canceled] = search.observed.ends;
    Ok(Report {
        proven: proven(&search, &findings),
        findings,
        states: search.states.len(),
        outcomes: Outcomes {
            completed,
            failed,
            canceled,
        },
        bound: search.bound,
    })
}

/// A search being judged.
struct Found<'s, 'a> {
    search: &'s mut Search<'a>,
    findings: Vec<Finding>,
}

impl Found<'_, '_> {
    /// Whether everything was seen, so that what was not seen never is.
    fn is_complete(&self) -> bool {
        self.search.bound.is_none()
    }

    fn add(&mut self, mut finding: Finding, example: Option<&Seen>) -> Result<(), StepError> {
        if let Some(seen) = example {
            finding.example = story::tell(self.search, seen)?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Adds what was seen to happen, unless it takes data that nobody expects.
    fn add_seen(&mut self, finding: Finding, seen: &Seen) -> Result<(), StepError> {
        match certainty(seen.level) {
            Some(certainty) => self.add(Finding { certainty, ..finding }, Some(seen)),
            None => Ok(()),
        }
    }
}

fn certainty(level: Level) -> Option<Certainty> {
    match level {
        Level::Sure => Some(Certainty::Certain),
        Level::Data => Some(Certainty::Possible),
        Level::OddData => None,
    }
}

/// A finding that is certain, without an example so far.
fn finding(code: &'static str, nodes: Vec<String>, message: String, why: String) -> Finding {
    Finding {
        code,
        certainty: Certainty::Certain,
        nodes,
        edges: Vec::new(),
        message,
        why,
        example: Vec::<Step>::new(),
    }
}

fn proven(search: &Search<'_>, findings: &[Finding]) -> Vec<String> {
    if search.bound.is_some() {
        return Vec::new();
    }
    let plan = &search.compiled.plan;
    let none = |codes: &[&str]| !findings.iter().any(|finding| codes.contains(&finding.code));
    let [completed, failed, canceled] = search.observed.ends;
    let mut proven = Vec::new();
    let mut say = |holds: bool, text: String| {
        if holds {
            proven.push(text);
        }
    };
    let ends = completed + failed + canceled;
    say(
        search.observed.stuck.is_empty() && ends == 1,
        "the one outcome there is ends".to_owned(),
    );
    say(
        search.observed.stuck.is_empty() && ends > 1,
        format!("every one of {ends} outcomes ends"),
    );
    say(
        none(&[report::NODE_NEVER_RUNS, report::JOIN_NEVER_FIRES]),
        "every node runs in some outcome".to_owned(),
    );
    let has_joins = plan.nodes.iter().any(|node| node.entries > 1);
    say(
        has_joins && none(&[report::JOIN_NEVER_FIRES]),
        "every join can fire".to_owned(),
    );
    say(
        !plan.edges.is_empty()
            && none(&[
                report::EDGE_NEVER_TAKEN,
                report::NODE_NEVER_RUNS,
                report::JOIN_NEVER_FIRES,
            ]),
        "every edge is taken in some outcome".to_owned(),
    );
    say(
        !plan.loops.is_empty() && none(&[report::LOOP_NEVER_LEFT]),
        "every loop can be left".to_owned(),
    );
    let writers = plan.nodes.iter().filter(|node| node.maps_output).count();
    say(
        writers > 1 && none(&[report::VARIABLE_RACE]),
        "no variable depends on which branch is faster".to_owned(),
    );
    say(
        none(&[report::NOTHING_COMPLETED]) && completed > 0,
        "what completes has completed something".to_owned(),
    );
    proven
}
