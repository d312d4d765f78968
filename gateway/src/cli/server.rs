//! What the commands that start a server share.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use troupe_actors::EngineOptions;
use troupe_config::{Settings, Sources};
use troupe_core::ShardId;
use troupe_telemetry::Exposition;

use super::output::Output;
use super::state::StatePlace;
use super::{Context, Failure};
use crate::app::App;
use crate::exit::Exit;
use crate::{server, wiring};

/// Where a server listens and where it keeps things.
#[derive(Args, Debug)]
pub(super) struct Places {
    /// Address of the API, such as 127.0.0.1:7654.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    #[command(flatten)]
    stores: StorePlaces,
    /// URL of a RabbitMQ that events go to.
    #[arg(long, value_name = "URL")]
    events: Option<String>,
    /// Opens a shard although records of its log cannot be read, or its store has less than it once acknowledged: what only
    /// those held is lost. See the page of DAMAGED.
    #[arg(long, value_name = "SHARD")]
    accept_loss: Vec<u16>,
}

/// Where state and definitions are kept.
#[derive(Args, Debug)]
pub(super) struct StorePlaces {
    /// Where the state is kept: a directory for the embedded store, or the URL of a Redis.
    #[arg(long, value_name = "DIR|URL")]
    pub(super) state: Option<StatePlace>,
    /// URL of a PostgreSQL that definitions, lists, keys and audit rows are kept in.
    #[arg(long, value_name = "URL")]
    pub(super) definitions: Option<String>,
}

impl StorePlaces {
    /// Sources in which they win.
    pub(super) fn set(&self, mut sources: Sources) -> Sources {
        if let Some(state) = &self.state {
            sources = state.set(sources);
        }
        if let Some(url) = &self.definitions {
            sources = sources.with_option("--definitions", "store.definitions", url.as_str());
        }
        sources
    }
}

impl Places {
    /// Sources in which they win.
    pub(super) fn set(&self, sources: Sources) -> Sources {
        let mut sources = self.stores.set(sources);
        if let Some(listen) = &self.listen {
            sources = sources.with_option("--listen", "listen", listen.as_str());
        }
        if let Some(url) = &self.events {
            sources = sources.with_option("--events", "store.events", url.as_str());
        }
        sources
    }

    fn engine(&self) -> EngineOptions {
        EngineOptions {
            accept_loss: self.accept_loss.iter().copied().map(ShardId).collect(),
            ..EngineOptions::default()
        }
    }

    /// Opens the product and serves it on `listener` until the process is asked to stop; says where.
    pub(super) async fn serve(
        &self,
        settings: Settings,
        listener: TcpListener,
        keys_required: bool,
        out: &Output,
    ) -> Result<Serving, Failure> {
        let exposition = Exposition::install().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        troupe_telemetry::build_info(env!("CARGO_PKG_VERSION"));
        let (directory, url) = (settings.state_dir.clone(), format!("http://{}", settings.listen));
        let extras = wiring::Extras {
            exposition: Some(Arc::new(exposition)),
            engine: Some(self.engine()),
            keys_required,
            ..wiring::Extras::default()
        };
        let app = wiring::open(settings, &directory, extras).await?;
        let serving = tokio::spawn(server::serve(app.clone(), listener, server::asked_to_stop()));
        if out.json {
            out.value(&json!({"address": url, "state": directory}))?;
        } else {
            out.line(&url);
        }
        Ok(Serving {
            app,
            url,
            directory,
            serving,
        })
    }
}

/// A server that runs.
pub(super) struct Serving {
    pub(super) app: App,
    /// Where it listens.
    pub(super) url: String,
    /// The embedded store's directory.
    pub(super) directory: PathBuf,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Serving {
    /// Waits until it has stopped.
    pub(super) async fn stopped(self, out: &Output) -> Result<Exit, Failure> {
        let failed = |error: String| Failure::new(Exit::Failed, error);
        let served = self.serving.await.map_err(|error| failed(error.to_string()))?;
        served.map_err(|error| failed(error.to_string()))?;
        out.say("stopped; nothing acknowledged is lost");
        Ok(Exit::Ok)
    }
}

/// Listens where the settings say, and has them say the port if it may be any.
pub(super) async fn listen(settings: &mut Settings) -> Result<TcpListener, Failure> {
    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Exit::Conflict, format!("cannot listen on {address}: {error}"))
            .hint("another server may run already; choose another port with --listen 127.0.0.1:0")
    })?;
    let bound = listener.local_addr();
    settings.listen = bound.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    Ok(listener)
}

/// Checked settings of a server.
pub(super) fn settings(context: &Context, places: &Places, loopback_only: bool) -> Result<Settings, Failure> {
    let sources = places.set(context.sources());
    context.settings(&if loopback_only {
        sources.loopback_only()
    } else {
        sources
    })
}
