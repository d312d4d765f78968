//! The command line: one file a command. Data goes to standard output, talk to standard error.

mod analyze;
mod apply;
mod audit;
mod bench;
mod breaker;
mod cancel;
mod client;
mod complete;
mod completions;
mod control;
mod controls;
mod dev;
mod diagnostics;
mod excerpt;
mod fail;
mod failure;
mod follow;
mod healthcheck;
mod history;
mod input;
mod key;
mod ls;
mod members;
mod output;
mod pause;
mod progress;
mod release;
mod rerun;
mod resume;
mod retry;
mod run;
mod scope;
mod serve;
mod server;
mod set;
mod show;
mod skip;
mod start;
mod state;
mod stop;
mod top;
mod tree;
mod validate;
mod verify;
mod watch;
mod why;

use std::future::Future;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use troupe_config::{Settings, Sources};
use troupe_telemetry::{LogFormat, install_logs};

use crate::exit::Exit;
use client::Client;
use failure::Failure;
use output::Output;

/// Durable workflows: every execution is a supervised actor, and nothing acknowledged is ever lost.
#[derive(Debug, Parser)]
#[command(name = "troupe", version, about, max_term_width = 120, after_help = EXITS)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXITS: &str = "Exit status: 0 ok, 1 execution failed or canceled, 2 usage, 3 not found, 4 conflict, \
5 invalid definition, 6 cannot connect, 124 wait timeout.";

#[derive(Args, Debug)]
struct Global {
    /// Prints JSON (one object, or one a line when watching).
    #[arg(long, global = true)]
    json: bool,
    /// Prints ids and results only, no talk.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Address of the server that client commands talk to; or several with commas between, of which they ask another one when one is gone.
    #[arg(
        long,
        global = true,
        env = "TROUPE_SERVER",
        // An address may have a login, which is not for whoever reads the help.
        hide_env_values = true,
        default_value = "http://127.0.0.1:7654",
        value_name = "URL[,URL…]"
    )]
    server: String,
    /// File that holds the key for the server; TROUPE_API_KEY holds the key itself.
    #[arg(long, global = true, env = "TROUPE_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Configuration file; else ./troupe.toml if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a workflow in this process and prints its result; no server needed.
    Run(run::Run),
    /// Starts the whole product on this machine, for development.
    Dev(dev::Dev),
    /// Serves the product to those who show a key, on the stores of the configuration: any number of processes on shared ones.
    Serve(serve::Serve),
    /// Exits 0 if the server is ready, 6 if not; needs no key.
    Healthcheck(healthcheck::Healthcheck),
    /// Checks definitions and shows every problem in its place.
    Validate(validate::Validate),
    /// Explores every outcome of definitions and shows what is wrong, each with the shortest example.
    Verify(verify::Verify),
    /// Prints the graph analysis of a definition.
    Analyze(analyze::Analyze),
    /// Stores definitions on a server, each as its next version.
    Apply(apply::Apply),
    /// Starts an execution on a server.
    Start(start::Start),
    /// Lists executions, newest first.
    Ls(ls::Ls),
    /// Shows members, rates, what is held and the latest executions on one screen, anew each second.
    Top(top::Top),
    /// Shows an execution.
    Show(show::Show),
    /// Shows what happened to an execution, entry by entry.
    History(history::History),
    /// Tells what an execution waits for.
    Why(why::Why),
    /// Shows the breakers of targets that are unwell, and opens, closes and resets them by hand.
    Breaker(breaker::Breaker),
    /// Cancels an execution.
    Cancel(cancel::Cancel),
    /// Pauses executions, a workflow, a node, a node type or everything: nothing new starts.
    Pause(pause::Pause),
    /// Resumes what was paused.
    Resume(resume::Resume),
    /// Stops a workflow or everything in an emergency: starts are refused, nothing new starts.
    Stop(stop::Stop),
    /// Lifts an emergency stop.
    Release(release::Release),
    /// Lists what is paused, stopped or overridden.
    Controls(controls::Controls),
    /// Lists the processes that share the stores, and how many parts of the log each has.
    Members(members::Members),
    /// Has a waiting node complete, as if what it waits for had come.
    Complete(complete::Complete),
    /// Has a waiting node fail.
    Fail(fail::Fail),
    /// Skips a node that has not ended, or one that has failed.
    Skip(skip::Skip),
    /// Runs what has failed again: the execution goes on as its next run.
    Retry(retry::Retry),
    /// Runs an execution again from one of its nodes, as a new execution.
    Rerun(rerun::Rerun),
    /// Sets variables of an execution.
    Set(set::Set),
    /// Makes, lists and revokes keys of the API.
    Key(key::Key),
    /// Lists who changed what, newest first.
    Audit(audit::Audit),
    /// Measures a named workload in this process and prints one JSON object.
    Bench(bench::Bench),
    /// Prints a completion script for a shell.
    Completions(completions::Completions),
}

/// What every command works with.
struct Context {
    out: Output,
    server: String,
    config: Option<PathBuf>,
    api_key_file: Option<PathBuf>,
    /// See [`main`].
    idle: fn(),
}

impl Context {
    /// A client of the chosen server, or servers, with the key that it is to show.
    fn client(&self) -> Result<Client, Failure> {
        let key = match &self.api_key_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?),
            None => Sources::of_process().tool_variable("TROUPE_API_KEY").map(str::to_owned),
        };
        Client::new(
            &self.server,
            key.as_deref().map(str::trim).filter(|key| !key.is_empty()),
        )
    }

    /// Where settings come from.
    fn sources(&self) -> Sources {
        let mut sources = Sources::of_process();
        sources.file = self.config.clone().or(sources.file);
        sources
    }

    /// Checked settings, with logs set up by them.
    fn settings(&self, sources: &Sources) -> Result<Settings, Failure> {
        let settings = sources
            .load()
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let format = if settings.log.json {
            LogFormat::Json
        } else {
            LogFormat::Human
        };
        install_logs(format, &settings.log.filter).map_err(|error| {
            Failure::new(Exit::Usage, error.to_string()).hint("see log.filter and TROUPE_LOG_FILTER")
        })?;
        Ok(settings)
    }
}

/// Runs the command line of this process. `idle` is called by a thread that has nothing to do for now, often.
#[must_use]
pub fn main(idle: fn()) -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return error.print().map_or(Exit::Failed, |()| exit);
        }
    };
    let out = Output::new(cli.global.json, cli.global.quiet);
    let context = Context {
        out,
        server: cli.global.server,
        config: cli.global.config,
        api_key_file: cli.global.api_key_file,
        idle,
    };
    let done = match cli.command {
        Command::Run(command) => block_on(&context, command.execute(&context)),
        Command::Dev(command) => block_on(&context, command.execute(&context)),
        Command::Serve(command) => block_on(&context, command.execute(&context)),
        Command::Healthcheck(command) => block_on(&context, command.execute(&context)),
        Command::Validate(command) => block_on(&context, command.execute(&context)),
        Command::Verify(command) => block_on(&context, command.execute(&context)),
        Command::Analyze(command) => command.execute(&context),
        Command::Apply(command) => block_on(&context, command.execute(&context)),
        Command::Start(command) => block_on(&context, command.execute(&context)),
        Command::Ls(command) => block_on(&context, command.execute(&context)),
        Command::Top(command) => block_on(&context, command.execute(&context)),
        Command::Show(command) => block_on(&context, command.execute(&context)),
        Command::History(command) => block_on(&context, command.execute(&context)),
        Command::Why(command) => block_on(&context, command.execute(&context)),
        Command::Breaker(command) => block_on(&context, command.execute(&context)),
        Command::Cancel(command) => block_on(&context, command.execute(&context)),
        Command::Pause(command) => block_on(&context, command.execute(&context)),
        Command::Resume(command) => block_on(&context, command.execute(&context)),
        Command::Stop(command) => block_on(&context, command.execute(&context)),
        Command::Release(command) => block_on(&context, command.execute(&context)),
        Command::Controls(command) => block_on(&context, command.execute(&context)),
        Command::Members(command) => block_on(&context, command.execute(&context)),
        Command::Complete(command) => block_on(&context, command.execute(&context)),
        Command::Fail(command) => block_on(&context, command.execute(&context)),
        Command::Skip(command) => block_on(&context, command.execute(&context)),
        Command::Retry(command) => block_on(&context, command.execute(&context)),
        Command::Rerun(command) => block_on(&context, command.execute(&context)),
        Command::Set(command) => block_on(&context, command.execute(&context)),
        Command::Key(command) => block_on(&context, command.execute(&context)),
        Command::Audit(command) => block_on(&context, command.execute(&context)),
        Command::Bench(command) => block_on(&context, command.execute(&context)),
        Command::Completions(command) => command.execute(&context),
    };
    match done {
        Ok(exit) => exit,
        Err(failure) => {
            context.out.failure(&failure);
            failure.exit
        }
    }
}

fn block_on(context: &Context, command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(context.idle)
        .build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("no threads to run on: {error}")))?;
    let done = runtime.block_on(command);
    // What still runs belongs to nobody any more.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
