//! `troupe retry`.

use clap::Args;
use serde_json::{Value, json};

use super::output::Output;
use super::rerun::repeats;
use super::{Context, Failure};
use crate::dto::ReopenedDto;
use crate::exit::Exit;
use crate::members::IDEMPOTENCY_KEY;

#[derive(Args, Debug)]
pub(super) struct Retry {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Ids of failed nodes; else every one whose failure nothing handled.
    nodes: Vec<String>,
    #[command(flatten)]
    options: ReopenArgs,
}

/// What a retry and a skip of a failed node share.
#[derive(Args, Debug)]
pub(super) struct ReopenArgs {
    /// Tells only what would run again.
    #[arg(long)]
    dry_run: bool,
    /// Why, for whoever looks at it later.
    #[arg(long)]
    reason: Option<String>,
    /// The same key is applied once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Retry {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let nodes = Some(&self.nodes).filter(|nodes| !nodes.is_empty());
        let body = json!({"nodes": nodes});
        self.options.send(context, &self.execution, &["retry"], body).await
    }
}

impl ReopenArgs {
    /// Sends the command and tells what came of it.
    pub(super) async fn send(
        self,
        context: &Context,
        execution: &str,
        path: &[&str],
        mut body: Value,
    ) -> Result<Exit, Failure> {
        let client = context.client()?;
        let id = client.execution_id(execution).await?;
        body["dryRun"] = json!(self.dry_run);
        body["reason"] = json!(self.reason);
        let segments: Vec<&str> = ["executions", &id].into_iter().chain(path.iter().copied()).collect();
        let mut request = client.post(&segments).json(&body);
        if let Some(key) = &self.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        told(&context.out, &client.fetch(request).await?)
    }
}

fn told(out: &Output, answer: &ReopenedDto) -> Result<Exit, Failure> {
    if out.json {
        out.value(answer)?;
        return Ok(Exit::Ok);
    }
    if !answer.repeats.is_empty() || answer.dry_run {
        repeats(out, &answer.repeats, answer.dry_run);
    }
    if !answer.dry_run {
        out.line(&answer.id);
        out.say(format!("run {}", answer.run));
    }
    if answer.unchanged {
        out.say("it stood there already");
    }
    if answer.draining > 0 {
        out.say(format!("attempts that still run: {}", answer.draining));
    }
    Ok(Exit::Ok)
}
