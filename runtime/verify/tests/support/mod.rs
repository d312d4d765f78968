//! What the tests share.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod concrete;

use std::path::{Path, PathBuf};

use troupe_core::definition::{Format, Limits, WorkflowDefinition, check};
use troupe_lang::checker::Checker;
use troupe_verify::{Finding, Options, Report, verify};

/// The examples of the repository.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Definitions in a folder, not in those below it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// Reads a definition that the validator must accept.
pub(crate) fn read(file: &Path) -> (String, WorkflowDefinition) {
    let text = std::fs::read_to_string(file).expect("the file is readable");
    let definition = parsed(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", file.display()));
    (text, definition)
}

/// A definition that is written as JSON or YAML, or every error of the validator.
pub(crate) fn parsed(text: &str) -> Result<WorkflowDefinition, Vec<String>> {
    let checked = check(
        text.as_bytes(),
        Some(Format::Yaml),
        Some(&Checker::new()),
        &Limits::default(),
    );
    let errors: Vec<String> = checked
        .diagnostics
        .iter()
        .filter(|problem| problem.is_error())
        .map(ToString::to_string)
        .collect();
    checked.definition.ok_or(errors)
}

/// Verifies all of it.
pub(crate) fn report(definition: &WorkflowDefinition, reduces: bool) -> Report {
    let options = Options {
        reduces,
        ..Options::default()
    };
    verify(definition, options, &mut |_| false).expect("the definition is valid")
}

/// `CODE certainty node,node`
pub(crate) fn line(finding: &Finding) -> String {
    format!(
        "{} {} {}",
        finding.code,
        finding.certainty.as_str(),
        finding.nodes.join(",")
    )
}

pub(crate) fn lines(report: &Report) -> Vec<String> {
    report.findings.iter().map(line).collect()
}

/// As people read it.
pub(crate) fn told(report: &Report) -> String {
    let mut text = format!("{} states, {:?}, {:?}\n", report.states, report.outcomes, report.bound);
    for finding in &report.findings {
        text.push_str(&format!(
            "{}\n  {}\n  {}\n",
            line(finding),
            finding.message,
            finding.why
        ));
        for (number, step) in (1..).zip(&finding.example) {
            text.push_str(&format!("  {number}. {} {:?} {:?}\n", step.text, step.given, step.then));
        }
    }
    text.push_str(&format!("{:?}\n", report.proven));
    text
}
