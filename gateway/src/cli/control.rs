//! What the commands to an execution share.

use clap::Args;
use serde_json::Value;

use super::output::Output;
use super::{Context, Failure};
use crate::dto::CommandDto;
use crate::exit::Exit;
use crate::members::IDEMPOTENCY_KEY;

#[derive(Args, Debug)]
pub(super) struct Target {
    /// Ids of executions, or beginnings that only one id has.
    #[arg(required = true, value_name = "EXECUTION")]
    executions: Vec<String>,
}

impl Target {
    /// Sends `verb` to every execution named.
    pub(super) async fn command(&self, context: &Context, verb: &str, body: Value) -> Result<Exit, Failure> {
        command(context, &self.executions, verb, &body).await
    }
}

/// Sends `verb` to each of these executions.
pub(super) async fn command(
    context: &Context,
    executions: &[String],
    verb: &str,
    body: &Value,
) -> Result<Exit, Failure> {
    let client = context.client()?;
    for given in executions {
        let id = client.execution_id(given).await?;
        let request = client.post(&["executions", &id, verb]).json(body);
        report(&context.out, &client.fetch(request).await?)?;
    }
    Ok(Exit::Ok)
}

#[derive(Args, Debug)]
pub(super) struct NodeTarget {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Id of the node.
    node: String,
    /// The same key is applied once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl NodeTarget {
    /// Sends `verb` to the node.
    pub(super) async fn command(&self, context: &Context, verb: &str, body: Value) -> Result<Exit, Failure> {
        let client = context.client()?;
        let id = client.execution_id(&self.execution).await?;
        let mut request = client.post(&["executions", &id, "nodes", &self.node, verb]).json(&body);
        if let Some(key) = &self.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        report(&context.out, &client.fetch(request).await?)?;
        Ok(Exit::Ok)
    }
}

/// Tells what a command came to.
pub(super) fn report(out: &Output, done: &CommandDto) -> Result<(), Failure> {
    if out.json {
        return out.value(done);
    }
    out.line(&done.id);
    if done.unchanged {
        out.say("it stood there already");
    }
    if done.draining > 0 {
        out.say(format!("attempts that still run: {}", done.draining));
    }
    Ok(())
}
