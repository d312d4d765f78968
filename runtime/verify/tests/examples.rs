//! Every example of the repository, and every planted fault.

mod support;

use std::collections::BTreeSet;

use support::{examples, files, lines, parsed, read, report, told};
use troupe_verify::Certainty;

/// Findings of examples that are no faults, with the reason.
const JUSTIFIED: [(&str, &str); 2] = [
    // No alarm goes off for nothing: a caller who asks for neither gets an error, and should.
    ("pattern-synchronizing-merge", "DECISION_WITHOUT_MATCH possible alarm"),
    (
        "pattern-local-synchronizing-merge",
        "DECISION_WITHOUT_MATCH possible first",
    ),
];

#[test]
fn no_alarm_is_false() {
    let patterns = examples().join("patterns");
    for file in files(&examples()).into_iter().chain(files(&patterns)) {
        let text = std::fs::read_to_string(&file).expect("the file is readable");
        // Whether a pattern is valid is for its own test to say.
        let Ok(definition) = parsed(&text) else { continue };
        let report = report(&definition, true);
        let is_justified = |line: &String| JUSTIFIED.contains(&(definition.id.as_str(), line.as_str()));
        let alarms: Vec<String> = lines(&report).into_iter().filter(|line| !is_justified(line)).collect();
        assert!(
            alarms.is_empty() && report.bound.is_none(),
            "{}\n{}",
            file.display(),
            told(&report)
        );
    }
}

#[test]
fn every_planted_fault_is_found() {
    let mut kinds = BTreeSet::new();
    for file in files(&examples().join("broken")) {
        let (text, definition) = read(&file);
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expects: "));
        let expected = expected.unwrap_or_else(|| panic!("{} does not say what is wrong", file.display()));
        let report = report(&definition, true);
        let found = lines(&report).join("; ");
        assert_eq!(found, expected, "{}\n{}", file.display(), told(&report));
        for finding in &report.findings {
            let has_example = !finding.example.is_empty();
            assert!(has_example, "{}: {} has no example", file.display(), finding.code);
            assert!(!finding.why.is_empty());
        }
        kinds.extend(report.findings.iter().map(|finding| finding.code));
        if std::env::var_os("TOLD").is_some() {
            println!("{}\n{}", file.display(), told(&report));
        }
    }
    assert!(kinds.len() >= 10, "{kinds:?}");
}

#[test]
fn the_bound_is_told() {
    let (_, definition) = read(&examples().join("quotes.yaml"));
    let options = troupe_verify::Options {
        states_max: 10,
        ..troupe_verify::Options::default()
    };
    let report = troupe_verify::verify(&definition, options, &mut |_| false).expect("the example is valid");
    assert_eq!(report.bound, Some(troupe_verify::Bound::States));
    assert!(
        report.proven.is_empty() && report.findings.is_empty(),
        "{}",
        told(&report)
    );
    let stopped = troupe_verify::verify(&definition, troupe_verify::Options::default(), &mut |states| {
        states > 20
    });
    assert_eq!(
        stopped.expect("the example is valid").bound,
        Some(troupe_verify::Bound::Stopped)
    );
    assert_eq!(
        report
            .findings
            .iter()
            .filter(|finding| finding.certainty == Certainty::Certain)
            .count(),
        0
    );
}
