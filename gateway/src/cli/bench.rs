//! `troupe bench`.

use clap::Args;
use troupe_config::StoreSettings;

use super::output::Output;
use super::state::StatePlace;
use super::{Context, Failure};
use crate::bench::{self, BenchError, Handler, Job, RECOVER_RUNNING, Workload};
use crate::exit::Exit;
use crate::wiring::{self, OwnPrefix};

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
    /// URL of a PostgreSQL that definitions and lists are kept in, in a schema of its own that is removed at the end.
    #[arg(long, value_name = "URL")]
    definitions: Option<String>,
    /// What function nodes do.
    #[arg(long, value_enum, default_value = "noop")]
    handler: Handler,
    /// Where the state is kept: a directory for the embedded store, or the URL of a Redis, in which a store of its own is made
    /// and removed at the end; else a temporary directory. `recover` takes no server.
    #[arg(long, value_name = "DIR|URL")]
    state: Option<StatePlace>,
    /// What an acknowledgement promises on a Redis: see `store.durability`.
    #[arg(long, value_name = "strict|relaxed|volatile")]
    durability: Option<String>,
    /// URL of a RabbitMQ that events go to.
    #[arg(long, value_name = "URL")]
    events: Option<String>,
    /// Leaves the stores of its own on the servers, which else are removed at the end, also of a run that failed.
    #[arg(long)]
    keep: bool,
    /// Loads the store for `recover` and waits to be killed.
    #[arg(long, hide = true)]
    load_and_wait: bool,
}

impl Bench {
    /// Where a server is named for this run, a prefix that is used for it alone.
    fn own_prefix(&self) -> Result<Option<OwnPrefix>, Failure> {
        let named = matches!(self.state, Some(StatePlace::Server(_))) || self.definitions.is_some();
        Ok(named.then(|| OwnPrefix::fresh("bench")).transpose()?)
    }

    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let mut sources = context.sources();
        let own = self.own_prefix()?;
        if let Some(own) = &own {
            // Beside whatever else is on the servers.
            sources = sources.with_option("--state", "store.prefix", own.as_str());
        }
        let mut directory = None;
        match self.state {
            Some(StatePlace::Directory(given)) => directory = Some(given),
            Some(server) => sources = server.set(sources),
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
        let config = sources.file.clone();
        let mut settings = context.settings(&sources)?;
        if self.workload == Workload::Recover {
            refuse_servers(&settings.store)?;
        }
        // Those of a configuration are for its consumers; nobody would empty these.
        settings.events.queues.clear();
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
            config,
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
        if let Some(own) = &own {
            context.out.say(format!(
                "on the servers everything is under the prefix `{}`",
                own.as_str()
            ));
        }
        let measured = bench::run(&job).await;
        match &own {
            Some(own) if self.keep => context
                .out
                .say(format!("what is under the prefix `{}` stays", own.as_str())),
            Some(own) => clear(&job, own, context.out).await,
            None => tell_what_stays(&job, context.out),
        }
        let report = measured.map_err(failure)?;
        let text = serde_json::to_string(&report).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        context.out.document(&text);
        Ok(Exit::Ok)
    }
}

/// `recover` kills a process that has the embedded store, and opens what that one left. On servers, those of a configuration perhaps, it would
/// only leave what it makes. The process that it kills is asked too.
fn refuse_servers(store: &StoreSettings) -> Result<(), Failure> {
    let named = [
        ("store.state", &store.state),
        ("store.definitions", &store.definitions),
        ("store.events", &store.events),
    ];
    let Some((key, _)) = named.into_iter().find(|(_, url)| url.is_some()) else {
        return Ok(());
    };
    let why = format!("`recover` measures the embedded store alone, and `{key}` names a server");
    let hint = "leave out --state URL, --definitions and --events, and what names servers in the configuration or in \
                TROUPE_STORE_… variables";
    Err(Failure::new(Exit::Usage, why).hint(hint))
}

/// Removes what a run made under its own prefix. What cannot be removed is told and changes nothing else.
async fn clear(job: &Job, own: &OwnPrefix, out: Output) {
    for error in wiring::erase(&job.settings, own).await {
        let problem = error.problem();
        out.warn(format!("warning: what the run made may be left: {}", problem.detail));
        if let Some(hint) = problem.hint {
            out.warn(format!("hint: {hint}"));
        }
    }
}

/// Tells that what a run made under the prefix of the configuration stays: others may have something there, too.
fn tell_what_stays(job: &Job, out: Output) {
    let store = &job.settings.store;
    if store.state.is_some() || store.definitions.is_some() {
        out.say(format!(
            "what the run made on the servers of the configuration, under the prefix `{}`, stays",
            store.prefix
        ));
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
