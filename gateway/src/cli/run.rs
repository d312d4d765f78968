//! `troupe run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use troupe_actors::{Command, ExecutionView, StartCause, StartRequest};
use troupe_config::{AllowedTarget, StoreSettings};
use troupe_core::{ExecutionId, Json, Principal};

use super::diagnostics::valid_file;
use super::input::{InputArgs, named};
use super::start::conclude;
use super::{Context, Failure, progress};
use crate::app::App;
use crate::demo;
use crate::exit::Exit;
use crate::{rules, wiring};

/// How long running attempts may take to stop after Ctrl-C.
const CANCEL_GRACE_MS: u64 = 2_000;

#[derive(Args, Debug)]
pub(super) struct Run {
    /// A definition (JSON or YAML).
    file: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// A variable that overrides the definition's default: name=value.
    #[arg(long = "variable", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// Id of the trigger node that fires.
    #[arg(long)]
    trigger: Option<String>,
    /// A private target that HTTP nodes may call, such as 127.0.0.1:8080.
    #[arg(long, value_name = "HOST[:PORT]")]
    allow: Vec<String>,
    /// Starts the local server that the examples call, allows it, and sets the variable `demo` to its address.
    #[arg(long)]
    demo_server: bool,
    /// Cancels the execution after so many seconds (exit status 124).
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl Run {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let out = &context.out;
        let mut settings = context.settings(&context.sources())?;
        for text in &self.allow {
            let target = AllowedTarget::parse(text);
            let wrong = || Failure::new(Exit::Usage, format!("`{text}` is no target")).hint("write 127.0.0.1:8080");
            settings.http.allow.push(target.ok_or_else(wrong)?);
        }
        let mut variables = self.given_variables()?;
        // Held until the end: dropping it stops the server.
        let mut demo_server = None;
        if self.demo_server {
            let server = demo::Server::start(0)
                .await
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            settings.http.allow.push(server.target());
            variables.push((demo::VARIABLE.to_owned(), Json::of(&Value::from(server.url()))));
            demo_server = Some(server);
        }
        let rules = wiring::rules(&settings, Some(wiring::built_in_handlers()));
        let definition = valid_file(&self.file, &rules, out).await?;
        let input = self.input.read()?;
        // It leaves nothing behind, whatever a server nearby uses.
        settings.store = StoreSettings::embedded();
        let scratch = tempfile::tempdir().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let app = wiring::open(settings, scratch.path(), wiring::Extras::default()).await?;
        let workflow = definition.id.clone();
        rules::store(&*app.definitions, definition, None, app.now())
            .await
            .map_err(crate::error::ApiError::from)?;
        let request = StartRequest {
            variables,
            trigger: self.trigger.clone(),
            principal: Some(Principal::from("local")),
            cause: Some(StartCause::Manual),
            ..StartRequest::new(workflow, input)
        };
        let mut ended = self.run_to_end(&app, request, context).await;
        if let Ok((view, _)) = &mut ended {
            app.engine.load_output(view).await?;
        }
        app.shutdown().await;
        drop(demo_server);
        let (view, late) = ended?;
        let ended = conclude(out, &crate::dto::context(&view, None));
        if late {
            let seconds = self.timeout.unwrap_or_default();
            return Err(Failure::new(Exit::WaitTimeout, format!("canceled after {seconds} s")));
        }
        ended
    }

    async fn run_to_end(
        &self,
        app: &App,
        request: StartRequest,
        context: &Context,
    ) -> Result<(ExecutionView, bool), Failure> {
        let (started, watch) = app.engine.start_watched(request).await?;
        let mut shown = Box::pin(progress::until_ended(app, started.id, watch, &context.out));
        let limit = self.timeout.map_or(Duration::MAX, Duration::from_secs);
        let late = tokio::select! {
            view = &mut shown => return Ok((view?, false)),
            () = interrupted() => false,
            () = sleep(limit) => true,
        };
        context.out.say("canceling; once more Ctrl-C to stop at once");
        cancel(app, started.id, if late { "timed out" } else { "interrupted" }).await?;
        tokio::select! {
            view = shown => Ok((view?, late)),
            () = interrupted() => Err(Failure::new(Exit::Failed, "stopped")),
        }
    }

    fn given_variables(&self) -> Result<Vec<(String, Json)>, Failure> {
        let read = |given: &String| named(given, "variable").map(|(name, value)| (name, Json::of(&value)));
        self.variables.iter().map(read).collect()
    }
}

async fn cancel(app: &App, id: ExecutionId, reason: &str) -> Result<(), Failure> {
    let command = Command {
        principal: Some(Principal::from("local")),
        reason: Some(reason.to_owned()),
        grace_ms: Some(CANCEL_GRACE_MS),
        ..Command::default()
    };
    match app.engine.cancel(id, command).await {
        // It ended by itself in the meantime.
        Ok(_) | Err(troupe_actors::EngineError::Ended(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn sleep(limit: Duration) {
    if limit == Duration::MAX {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(limit).await;
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
