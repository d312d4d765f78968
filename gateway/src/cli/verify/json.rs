//! A verification as machines read it; stable.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use troupe_core::definition::Diagnostic;
use troupe_verify::{Bound, Report};

use super::millis;
use crate::error::ErrorItem;

/// Everything that was verified.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerifyReport {
    /// Whether every file is valid and none has a certain finding.
    pub(super) ok: bool,
    files: Vec<VerifiedFile>,
}

/// One file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerifiedFile {
    file: String,
    valid: bool,
    problems: Vec<ErrorItem>,
    findings: Vec<FindingItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    /// What holds in every outcome, for people.
    proven: Vec<String>,
    #[serde(skip)]
    ok: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingItem {
    code: String,
    certainty: String,
    nodes: Vec<String>,
    edges: Vec<String>,
    message: String,
    why: String,
    example: Vec<StepItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepItem {
    step: String,
    given: Vec<String>,
    then: Vec<String>,
}

/// How much was looked at.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    states: usize,
    completed: usize,
    failed: usize,
    canceled: usize,
    elapsed_ms: u64,
    /// Whether it was everything.
    complete: bool,
    /// Which bound was hit: `states` or `time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<&'static str>,
}

impl VerifyReport {
    pub(super) fn new() -> Self {
        Self {
            ok: true,
            files: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, file: VerifiedFile) {
        self.ok &= file.ok;
        self.files.push(file);
    }
}

impl VerifiedFile {
    /// One that the validator refuses.
    pub(super) fn invalid(file: &Path, problems: &[Diagnostic]) -> Self {
        Self {
            file: file.display().to_string(),
            valid: false,
            problems: problems.iter().map(ErrorItem::from).collect(),
            findings: Vec::new(),
            seen: None,
            proven: Vec::new(),
            ok: false,
        }
    }

    pub(super) fn verified(file: &Path, report: &Report, took: Duration) -> Self {
        let findings = report.findings.iter().map(|finding| FindingItem {
            code: finding.code.to_owned(),
            certainty: finding.certainty.as_str().to_owned(),
            nodes: finding.nodes.clone(),
            edges: finding.edges.clone(),
            message: finding.message.clone(),
            why: finding.why.clone(),
            example: finding
                .example
                .iter()
                .map(|step| StepItem {
                    step: step.text.clone(),
                    given: step.given.clone(),
                    then: step.then.clone(),
                })
                .collect(),
        });
        Self {
            file: file.display().to_string(),
            valid: true,
            problems: Vec::new(),
            findings: findings.collect(),
            seen: Some(Seen {
                states: report.states,
                completed: report.outcomes.completed,
                failed: report.outcomes.failed,
                canceled: report.outcomes.canceled,
                elapsed_ms: millis(took),
                complete: report.bound.is_none(),
                bound: report.bound.map(|bound| match bound {
                    Bound::States => "states",
                    Bound::Stopped => "time",
                }),
            }),
            proven: report.proven.clone(),
            ok: !report.has_certain(),
        }
    }
}
