//! `troupe bench`.

use clap::Args;

use super::state::StatePlace;
use super::{Context, Failure};
use crate::bench::{self, BenchError, Handler, Job, RECOVER_RUNNING, Workload};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Bench {
    /// The workload.
    workload: Workload,
    /// How many executions.
    #[arg(long)]
    executions: Option<usize>,
    /// Nodes of an execution (`chain`), or parallel ones (`fan`).
    #[arg(long)]
    nodes: Option<usize>,
    /// Executions under way at once.
    #[arg(long)]
    concurrency: Option<usize>,
    /// Executions that are started a second, at most.
    #[arg(long)]
    rate: Option<usize>,
    /// Engines in this process that share the state: it takes a Redis and a PostgreSQL.
    #[arg(long, default_value_t = 1)]
    members: usize,
    /// URL of a PostgreSQL that definitions and lists are kept in, in a schema of its own that is left.
    #[arg(long, value_name = "URL")]
    definitions: Option<String>,
    /// What function nodes do.
    #[arg(long, value_enum, default_value = "noop")]
    handler: Handler,
    /// Where the state is kept: a directory for the embedded store, or the URL of a Redis, in which a store of its own is made
    /// and left; else a temporary directory.
    #[arg(long, value_name = "DIR|URL")]
    state: Option<StatePlace>,
    /// What an acknowledgement promises on a Redis: see `store.durability`.
    #[arg(long, value_name = "strict|relaxed|volatile")]
    durability: Option<String>,
    /// URL of a RabbitMQ that events go to.
    #[arg(long, value_name = "URL")]
    events: Option<String>,
    /// Loads the store for `recover` and waits to be killed.
    #[arg(long, hide = true)]
    load_and_wait: bool,
}

impl Bench {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let mut sources = context.sources();
        let mut directory = None;
        match self.state {
            Some(StatePlace::Directory(given)) => directory = Some(given),
            Some(server) => {
                // Beside whatever else is on it.
                let prefix = format!("bench_{}", std::process::id());
                sources = server.set(sources).with_option("--state", "store.prefix", prefix);
            }
            None => {}
        }
        if let Some(url) = self.definitions {
            sources = sources.with_option("--definitions", "store.definitions", url);
        }
        if let Some(durability) = self.durability {
            sources = sources.with_option("--durability", "store.durability", durability);
        }
        if let Some(url) = self.events {
            sources = sources.with_option("--events", "store.events", url);
        }
        let settings = context.settings(&sources)?;
        if self.members > 1 && (settings.store.state.is_none() || settings.store.definitions.is_none()) {
            let why = "an embedded store admits one member";
            return Err(Failure::new(Exit::Usage, why).hint("give --state redis://… and --definitions postgres://…"));
        }
        let (executions, nodes, concurrency) = self.workload.defaults();
        let scratch = tempfile::tempdir().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let job = Job {
            workload: self.workload,
            executions: positive("--executions", self.executions, executions)?,
            nodes: positive("--nodes", self.nodes, nodes)?,
            concurrency: positive("--concurrency", self.concurrency, concurrency)?,
            handler: self.handler,
            members: positive("--members", Some(self.members), 1)?,
            rate: self.rate.map(|rate| positive("--rate", Some(rate), rate)).transpose()?,
            state: directory.unwrap_or_else(|| scratch.path().into()),
            settings,
        };
        if self.load_and_wait {
            bench::load_and_wait(&job).await.map_err(failure)?;
            return Ok(Exit::Failed);
        }
        let extra = if job.workload == Workload::Recover {
            format!(" waiting and {} running", RECOVER_RUNNING.min(job.executions))
        } else {
            String::new()
        };
        context
            .out
            .say(format!("{}: {} executions{extra}", job.workload.name(), job.executions));
        let report = bench::run(&job).await.map_err(failure)?;
        let text = serde_json::to_string(&report).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        context.out.document(&text);
        Ok(Exit::Ok)
    }
}

fn positive(option: &str, given: Option<usize>, usual: usize) -> Result<usize, Failure> {
    match given.unwrap_or(usual) {
        0 => Err(Failure::new(Exit::Usage, format!("{option} must be at least 1"))),
        number => Ok(number),
    }
}

fn failure(error: BenchError) -> Failure {
    let hint = matches!(error, BenchError::Violated { .. }).then_some("no figures: the run violated the contract");
    let failure = Failure::new(Exit::Failed, error.to_string());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
