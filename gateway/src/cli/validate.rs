//! `troupe validate`.

use std::path::{Path, PathBuf};

use clap::Args;
use owo_colors::Style;
use serde::Serialize;
use troupe_core::definition::{Diagnostic, Format};

use super::diagnostics::{check_file, show};
use super::output::paint;
use super::{Context, Failure};
use crate::error::ErrorItem;
use crate::exit::Exit;
use crate::wiring;

#[derive(Args, Debug)]
pub(super) struct Validate {
    /// Definitions (JSON or YAML), or directories to walk.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Refuses warnings too.
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    valid: bool,
    problems: Vec<ErrorItem>,
}

impl Validate {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let settings = context.settings(&context.sources())?;
        let rules = wiring::rules(&settings, None);
        let out = &context.out;
        let mut reports = Vec::new();
        for file in definition_files(&self.paths)? {
            let (bytes, checked) = check_file(&file, &rules).await?;
            let valid = checked.definition.is_some() && (!self.strict || checked.diagnostics.is_empty());
            if !out.json {
                let counts = |problem: &Diagnostic| problem.is_error() || self.strict || !out.quiet;
                let shown: Vec<Diagnostic> = checked
                    .diagnostics
                    .iter()
                    .filter(|problem| counts(problem))
                    .cloned()
                    .collect();
                show(&file, &bytes, &shown, out);
                let word = if valid {
                    paint("valid", Style::new().green())
                } else {
                    paint("invalid", Style::new().red())
                };
                out.say(format!("{}: {word}", file.display()));
            }
            let problems = checked.diagnostics.iter().map(ErrorItem::from).collect();
            reports.push(FileReport {
                file: file.display().to_string(),
                valid,
                problems,
            });
        }
        let valid = reports.iter().all(|report| report.valid);
        if out.json {
            out.value(&serde_json::json!({"valid": valid, "files": reports}))?;
        }
        Ok(if valid { Exit::Ok } else { Exit::InvalidDefinition })
    }
}

/// Files as they are named, and in directories every JSON or YAML file, sorted; hidden ones are passed over.
pub(super) fn definition_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|error| Failure::file(&folder, &error))?;
            for entry in entries {
                let entry = entry.map_err(|error| Failure::file(&folder, &error))?;
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                let kind = entry
                    .file_type()
                    .map_err(|error| Failure::file(&entry.path(), &error))?;
                if kind.is_dir() && !hidden {
                    folders.push(entry.path());
                } else if !hidden && is_definition(&entry.path()) && mentions_nodes(&entry.path())? {
                    files.push(entry.path());
                }
            }
        }
        files[before..].sort();
        if files.len() == before {
            return Err(Failure::new(
                Exit::NotFound,
                format!("{}: no JSON or YAML files", path.display()),
            ));
        }
    }
    Ok(files)
}

fn is_definition(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| Format::of_extension(&extension.to_string_lossy()).is_some())
}

/// Other JSON and YAML files stand beside definitions; a definition without the word is none.
fn mentions_nodes(path: &Path) -> Result<bool, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    Ok(bytes.windows(5).any(|word| word == b"nodes"))
}
