//! `troupe apply`.

use std::path::PathBuf;

use clap::Args;
use reqwest::{Method, header};
use troupe_core::definition::WorkflowDefinition;
use troupe_ports::says_the_same;

use super::diagnostics::valid_file;
use super::validate::definition_files;
use super::{Context, Failure};
use crate::dto::VersionDto;
use crate::error::ErrorItem;
use crate::exit::Exit;
use crate::triggers::{EVENT_TRIGGER_MISFIT, EVENT_TRIGGER_UNHEARD};
use crate::wiring;

#[derive(Args, Debug)]
pub(super) struct Apply {
    /// Definitions (JSON or YAML), or directories to walk.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Says what would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Apply {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let settings = context.settings(&context.sources())?;
        let rules = wiring::rules(&settings, None);
        let client = context.client()?;
        let out = &context.out;
        let mut definitions = Vec::new();
        // Everything is checked before anything is stored.
        for file in definition_files(&self.paths)? {
            definitions.push(valid_file(&file, &rules, out).await?);
        }
        for definition in definitions {
            if self.dry_run {
                let change = self.change(&client, &definition).await?;
                if out.json {
                    out.value(&serde_json::json!({"id": definition.id, "change": change, "dryRun": true}))?;
                } else {
                    out.line(&format!("{} {change}", definition.id));
                }
                continue;
            }
            let text = serde_json::to_string(&definition);
            let text = text.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            let request = client.request(Method::PUT, &["workflows", &definition.id]);
            let request = request.header(header::CONTENT_TYPE, "application/json").body(text);
            let stored: VersionDto = client.fetch(request).await?;
            // The other warnings stand above already: the definition was checked here too.
            let of_server = [EVENT_TRIGGER_UNHEARD, EVENT_TRIGGER_MISFIT];
            let is_new = |warning: &&ErrorItem| of_server.contains(&warning.code.as_str()) && !out.json;
            for warning in stored.warnings.iter().filter(is_new) {
                out.say(format!("{}: {}: {}", stored.id, warning.code, warning.detail));
            }
            match (out.json, out.quiet) {
                (true, _) => out.value(&stored)?,
                (false, true) => out.line(&stored.id),
                (false, false) => {
                    let change = match (stored.created, stored.restored) {
                        (Some(true), _) => "stored",
                        (_, true) => "restored",
                        (_, false) => "unchanged",
                    };
                    out.line(&format!("{} version {} {change}", stored.id, stored.version));
                }
            }
        }
        Ok(Exit::Ok)
    }

    /// `create`, `update` or `unchanged`, by the definition that the server has.
    async fn change(&self, client: &super::Client, definition: &WorkflowDefinition) -> Result<&'static str, Failure> {
        let request = client.get(&["workflows", &definition.id]);
        match client.fetch::<WorkflowDefinition>(request).await {
            Ok(stored) if says_the_same(&stored, definition) => Ok("unchanged"),
            Ok(_) => Ok("update"),
            Err(failure) if failure.exit == Exit::NotFound => Ok("create"),
            Err(failure) => Err(failure),
        }
    }
}
