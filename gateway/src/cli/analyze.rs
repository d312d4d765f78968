//! `troupe analyze`.

use std::path::PathBuf;

use clap::Args;
use troupe_core::Timestamp;
use troupe_core::definition::{Format, Limits, parse};
use troupe_ports::{Clock, SystemClock};

use super::diagnostics::show;
use super::{Context, Failure};
use crate::exit::Exit;
use crate::rules;

#[derive(Args, Debug)]
pub(super) struct Analyze {
    /// A definition (JSON or YAML); it need not be valid for execution.
    file: PathBuf,
}

impl Analyze {
    pub(super) fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let bytes = std::fs::read(&self.file).map_err(|error| Failure::file(&self.file, &error))?;
        let format = self
            .file
            .extension()
            .and_then(|extension| Format::of_extension(&extension.to_string_lossy()));
        let parsed = match parse(&bytes, format, &Limits::default()) {
            Ok(parsed) => parsed,
            Err(problems) => {
                show(&self.file, &bytes, &problems, &context.out);
                return Err(Failure::new(
                    Exit::InvalidDefinition,
                    format!("{} cannot be read", self.file.display()),
                ));
            }
        };
        if !context.out.quiet {
            show(&self.file, &bytes, &parsed.diagnostics, &context.out);
        }
        let now: Timestamp = SystemClock.now();
        let analysis = rules::analysis(&parsed.definition, now);
        let text = serde_json::to_string(&analysis).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        context.out.document(&text);
        Ok(Exit::Ok)
    }
}
