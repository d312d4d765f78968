//! A verification as people read it.

use std::path::Path;
use std::time::Duration;

use owo_colors::Style;
use troupe_verify::{Bound, Certainty, Finding, Report};

use super::millis;
use crate::cli::output::{duration, paint_out};

/// A report as lines of text; only what was found where quiet people read it.
pub(super) fn told(file: &Path, report: &Report, took: Duration, is_quiet: bool) -> Vec<String> {
    let name = file.display();
    if is_quiet {
        let lines = report
            .findings
            .iter()
            .map(|finding| format!("{name}: {}", headline(finding)));
        return lines.collect();
    }
    let mut lines = vec![paint_out(&name.to_string(), Style::new().bold()), String::new()];
    for finding in &report.findings {
        lines.push(format!("  {}", headline(finding)));
        lines.push(format!("    {}", finding.why));
        lines.extend(example(finding));
        lines.push(String::new());
    }
    if !report.proven.is_empty() {
        lines.push(format!("  {}", paint_out("proven", Style::new().green())));
        lines.extend(report.proven.iter().map(|line| format!("    {line}")));
        lines.push(String::new());
    }
    lines.push(format!("  {}", summary(report, took)));
    lines.push(String::new());
    lines
}

/// `certain JOIN_NEVER_FIRES the join of …`.
fn headline(finding: &Finding) -> String {
    let style = match finding.certainty {
        Certainty::Certain => Style::new().red().bold(),
        Certainty::Possible => Style::new().yellow(),
    };
    let certainty = paint_out(finding.certainty.as_str(), style);
    let code = paint_out(finding.code, Style::new().bold());
    format!("{certainty}  {code}  {}", finding.message)
}

fn example(finding: &Finding) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, step) in (1..).zip(&finding.example) {
        let given = if step.given.is_empty() {
            String::new()
        } else {
            format!(
                ", {} {}",
                paint_out("given", Style::new().yellow()),
                step.given.join(" and ")
            )
        };
        lines.push(format!("    {number:>4}. {}{given}", step.text));
        if !step.then.is_empty() {
            lines.push(paint_out(
                &format!("          → {}", step.then.join("; ")),
                Style::new().dimmed(),
            ));
        }
    }
    lines
}

fn summary(report: &Report, took: Duration) -> String {
    let count = |certainty| {
        report
            .findings
            .iter()
            .filter(|finding| finding.certainty == certainty)
            .count()
    };
    let (certain, possible) = (count(Certainty::Certain), count(Certainty::Possible));
    let found = match (certain, possible) {
        (0, 0) if report.bound.is_some() => "no fault so far".to_owned(),
        (0, 0) => paint_out("no fault", Style::new().green()),
        (certain, possible) => format!("{certain} certain, {possible} possible"),
    };
    let outcomes = report.outcomes;
    let seen = format!(
        "{} states, {} outcomes ({} completed, {} failed, {} canceled), {}",
        report.states,
        outcomes.all(),
        outcomes.completed,
        outcomes.failed,
        outcomes.canceled,
        duration(millis(took))
    );
    let bound = match report.bound {
        None => "complete".to_owned(),
        Some(bound) => {
            let option = match bound {
                Bound::States => "--max-states",
                Bound::Stopped => "--timeout",
            };
            let bounded = paint_out("bounded", Style::new().yellow());
            format!("{bounded}: not everything was seen, so what never happens cannot be told; {option} allows more")
        }
    };
    format!("{found} · {seen} · {bound}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use troupe_verify::{Options, verify};

    use super::*;

    fn found(states_max: usize) -> Report {
        let node = |id: &str, join: serde_json::Value| json!({"id": id, "type": "function", "data": {"handlerId": "echo", "join": join}});
        let definition = json!({
            "id": "trip", "settings": {"onFailure": "failFast"},
            "nodes": [
                {"id": "way", "type": "decision", "data": {
                    "conditions": [{"id": "far", "expression": "input.km > 500"}], "defaultPath": "train",
                }},
                node("plane", json!({})), node("train", json!({})), node("go", json!({"mode": "allSuccess"})),
            ],
            "edges": [
                {"source": "way", "target": "plane", "condition": "far"}, {"source": "way", "target": "train"},
                {"source": "plane", "target": "go"}, {"source": "train", "target": "go"},
            ],
        });
        let options = Options {
            states_max,
            ..Options::default()
        };
        verify(&serde_json::from_value(definition).unwrap(), options, &mut |_| false).unwrap()
    }

    #[test]
    fn a_finding_is_told_with_its_steps() {
        let text = told(Path::new("trip.yaml"), &found(1_000), Duration::from_millis(3), false).join("\n");
        let expected = "trip.yaml

  certain  JOIN_NEVER_FIRES  the join of `go` never fires
    it needs 2 of its 2 edges, and never more than 1 can be taken; `plane → go` and `train → go` exclude each other
       1. the execution starts, given `input.km > 500`
          → `way` completes; `plane` starts; `train` is skipped
       2. `plane` completes
          → `go` is skipped; the execution ends: completed

  proven
    every one of 2 outcomes ends
    what completes has completed something

  1 certain, 0 possible · 5 states, 2 outcomes (1 completed, 1 failed, 0 canceled), 3 ms · complete
";
        assert_eq!(text, expected);
        let quiet = told(Path::new("trip.yaml"), &found(1_000), Duration::ZERO, true);
        assert_eq!(
            quiet,
            ["trip.yaml: certain  JOIN_NEVER_FIRES  the join of `go` never fires"]
        );
    }

    #[test]
    fn a_bound_that_was_hit_is_told() {
        let report = found(2);
        assert!(summary(&report, Duration::ZERO).contains("bounded") && report.findings.is_empty());
    }
}
