//! `troupe verify`.

mod json;
mod text;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use owo_colors::Style;
use troupe_core::definition::WorkflowDefinition;
use troupe_verify::{Options, Report, STATES_MAX_DEFAULT, verify};

use super::diagnostics::{check_file, show};
use super::output::{duration, paint};
use super::validate::definition_files;
use super::{Context, Failure};
use crate::exit::Exit;
use crate::wiring;
use json::{VerifiedFile, VerifyReport};
use text::told;

/// How long a search goes on before it shows how far it is.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// How often it shows that then.
const FRAME: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// Definitions (JSON or YAML), or directories to walk.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// States that are looked at for each file, at most.
    #[arg(long, value_name = "N", default_value_t = STATES_MAX_DEFAULT)]
    max_states: usize,
    /// How long each file may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    timeout: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is needed".to_owned())?;
    if seconds > 0.0 && seconds < 1e6 {
        Ok(seconds)
    } else {
        Err("a number of seconds above 0 and below 1000000 is needed".to_owned())
    }
}

impl Verify {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let settings = context.settings(&context.sources())?;
        let rules = wiring::rules(&settings, None);
        let out = &context.out;
        let mut report = VerifyReport::new();
        for file in definition_files(&self.paths)? {
            let (bytes, checked) = check_file(&file, &rules).await?;
            let Some(definition) = checked.definition else {
                if !out.json {
                    let errors: Vec<_> = checked
                        .diagnostics
                        .iter()
                        .filter(|one| one.is_error())
                        .cloned()
                        .collect();
                    show(&file, &bytes, &errors, out);
                    out.warn(format!("{}: {}", file.display(), paint("invalid", Style::new().red())));
                }
                report.add(VerifiedFile::invalid(&file, &checked.diagnostics));
                continue;
            };
            let begun = Instant::now();
            let found = self.verify(definition, out.quiet || out.json).await?;
            let took = begun.elapsed();
            if !out.json {
                for line in told(&file, &found, took, out.quiet) {
                    out.line(&line);
                }
            }
            report.add(VerifiedFile::verified(&file, &found, took));
        }
        if out.json {
            out.value(&report)?;
        }
        Ok(if report.ok { Exit::Ok } else { Exit::InvalidDefinition })
    }

    async fn verify(&self, definition: WorkflowDefinition, is_silent: bool) -> Result<Report, Failure> {
        let options = Options {
            states_max: self.max_states,
            ..Options::default()
        };
        let most = Duration::from_secs_f64(self.timeout);
        // It computes for seconds; the runtime's threads have other things to do.
        let searching = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            let mut shown = begun;
            let mut should_stop = |states: usize| {
                let now = Instant::now();
                if !is_silent && now - begun > QUIET_FOR && now - shown > FRAME {
                    if bar.is_hidden() {
                        bar.set_draw_target(ProgressDrawTarget::stderr());
                    }
                    bar.set_message(format!("{states} states, {}", duration(millis(now - begun))));
                    bar.tick();
                    shown = now;
                }
                now - begun > most
            };
            let found = verify(&definition, options, &mut should_stop);
            bar.finish_and_clear();
            found
        });
        let found = searching
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        found.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
