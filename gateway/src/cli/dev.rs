//! `troupe dev`.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use owo_colors::Style;
use serde_json::json;
use tokio::net::TcpListener;
use troupe_actors::{EngineOptions, StartCause, StartRequest};
use troupe_config::Settings;
use troupe_core::{Principal, ShardId};
use troupe_telemetry::Exposition;

use super::output::paint;
use super::state::StatePlace;
use super::{Context, Failure, progress};
use crate::app::App;
use crate::demo;
use crate::exit::Exit;
use crate::{rules, server, wiring};

#[derive(Args, Debug)]
pub(super) struct Dev {
    /// Address of the API; loopback only.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the state is kept: a directory for the embedded store, or the URL of a Redis.
    #[arg(long, value_name = "DIR|URL")]
    state: Option<StatePlace>,
    /// URL of a PostgreSQL that definitions and lists are kept in.
    #[arg(long, value_name = "URL")]
    definitions: Option<String>,
    /// URL of a RabbitMQ that events go to.
    #[arg(long, value_name = "URL")]
    events: Option<String>,
    /// Opens a shard although records of its log cannot be read: what only those held is lost. See the page of DAMAGED.
    #[arg(long, value_name = "SHARD")]
    accept_loss: Vec<u16>,
    /// Applies the examples, runs one while you watch, and tells what to try next.
    #[arg(long)]
    demo: bool,
}

impl Dev {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let out = &context.out;
        let mut sources = context.sources();
        if let Some(listen) = &self.listen {
            sources = sources.with_option("--listen", "listen", listen.as_str());
        }
        if let Some(state) = &self.state {
            sources = state.set(sources);
        }
        if let Some(url) = &self.definitions {
            sources = sources.with_option("--definitions", "store.definitions", url.as_str());
        }
        if let Some(url) = &self.events {
            sources = sources.with_option("--events", "store.events", url.as_str());
        }
        let mut settings = context.settings(&sources)?;
        let listener = listen(settings.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        // The port may have been any.
        settings.listen = address;
        let demo_server = if self.demo {
            Some(demo_server(&mut settings).await?)
        } else {
            None
        };
        let exposition = Exposition::install().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        troupe_telemetry::build_info(env!("CARGO_PKG_VERSION"));
        let directory = settings.state_dir.clone();
        let extras = wiring::Extras {
            exposition: Some(Arc::new(exposition)),
            engine: Some(self.engine()),
            ..wiring::Extras::default()
        };
        let app = wiring::open(settings, &directory, extras).await?;
        let serving = tokio::spawn(server::serve(app.clone(), listener, server::asked_to_stop()));
        let url = format!("http://{address}");
        if out.json {
            out.value(&json!({"address": url, "state": directory}))?;
        } else {
            out.line(&url);
        }
        out.say(format!(
            "troupe {} keeps its state in {}",
            env!("CARGO_PKG_VERSION"),
            directory.display()
        ));
        if let Some(demo_server) = &demo_server {
            // Ctrl-C during the demo ends it together with the server.
            tokio::select! {
                shown = show(&app, demo_server, &url, context) => shown?,
                () = app.closing.cancelled() => {}
            }
        } else {
            out.say("next: `troupe apply FILE`, `troupe start WORKFLOW --watch`; Ctrl-C stops");
        }
        let served = serving
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        served.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        out.say("stopped; nothing acknowledged is lost");
        Ok(Exit::Ok)
    }
}

impl Dev {
    fn engine(&self) -> EngineOptions {
        EngineOptions {
            accept_loss: self.accept_loss.iter().copied().map(ShardId).collect(),
            ..EngineOptions::default()
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Exit::Conflict, format!("cannot listen on {address}: {error}"))
            .hint("another server may run already; choose another port with --listen 127.0.0.1:0")
    })
}

/// The examples' server, on its usual port if that is free.
async fn demo_server(settings: &mut Settings) -> Result<demo::Server, Failure> {
    let started = match demo::Server::start(demo::PORT).await {
        Ok(server) => Ok(server),
        Err(_) => demo::Server::start(0).await,
    };
    let server = started.map_err(|error| Failure::new(Exit::Failed, format!("no demo server: {error}")))?;
    settings.http.allow.push(server.target());
    Ok(server)
}

/// Applies the examples and runs one while you watch.
async fn show(app: &App, server: &demo::Server, url: &str, context: &Context) -> Result<(), Failure> {
    let out = &context.out;
    for example in demo::EXAMPLES {
        let definition = example.definition(&app.rules, &server.url()).await?;
        let stored = rules::store(&*app.definitions, definition, None, app.now()).await;
        let stored = stored.map_err(crate::error::ApiError::from)?;
        app.stored(&stored);
        let name = paint(&format!("{:<16}", stored.workflow.as_str()), Style::new().bold());
        out.say(format!("  {name} {}", stored.definition.description));
    }
    let shown = demo::SHOWN;
    out.say(format!("\nrunning `{}`:\n", shown.workflow));
    let request = StartRequest {
        principal: Some(Principal::from("local")),
        cause: Some(StartCause::Manual),
        ..StartRequest::new(shown.workflow, shown.input())
    };
    let (started, watch) = app.engine.start_watched(request).await?;
    let ended = progress::until_ended(app, started.id, watch, out).await?;
    let id = started.id.to_string();
    out.say(format!(
        "\nit {}. Listening on {}",
        ended.state.status.name(),
        paint(url, Style::new().underline())
    ));
    out.say("Next, in another terminal:");
    for (number, (command, why)) in demo::next_steps(&id, url).into_iter().enumerate() {
        let command = paint(&command, Style::new().bold());
        out.say(format!("  {}. {command}\n     {why}", number + 1));
    }
    out.say("Ctrl-C stops the server.");
    Ok(())
}
