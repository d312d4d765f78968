//! `troupe rerun`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::input::{InputArgs, named};
use super::output::Output;
use super::{Context, Failure};
use crate::dto::{RepeatDto, RerunDto};
use crate::exit::Exit;
use crate::members::IDEMPOTENCY_KEY;

#[derive(Args, Debug)]
pub(super) struct Rerun {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Id of the node from which it runs. The results of what does not follow from it are taken over.
    #[arg(long, value_name = "NODE")]
    from: String,
    /// What the node receives instead of what led to it; of a root the start payload.
    #[command(flatten)]
    input: InputArgs,
    /// Version of the workflow; else that of the execution.
    #[arg(long)]
    version: Option<u32>,
    /// Sets a variable: name=value (JSON if it is, else text).
    #[arg(long = "variable", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// Tells only what would run again.
    #[arg(long)]
    dry_run: bool,
    /// Why, for whoever looks at it later.
    #[arg(long)]
    reason: Option<String>,
    /// The same key always gives the same execution.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Rerun {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let id = client.execution_id(&self.execution).await?;
        let mut request = client.post(&["executions", &id, "rerun"]).json(&self.body()?);
        if let Some(key) = &self.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let answer: RerunDto = client.fetch(request).await?;
        if context.out.json {
            context.out.value(&answer)?;
            return Ok(Exit::Ok);
        }
        repeats(&context.out, &answer.repeats, answer.dry_run);
        if let Some(new) = &answer.id {
            context.out.line(new);
        }
        Ok(Exit::Ok)
    }

    fn body(&self) -> Result<Value, Failure> {
        let variables = self.variables.iter().map(|given| named(given, "variable"));
        let variables: Map<String, Value> = variables.collect::<Result<_, _>>()?;
        let mut body = json!({
            "from": self.from, "version": self.version, "variables": variables, "dryRun": self.dry_run,
            "reason": self.reason,
        });
        if self.input.is_given() {
            body["input"] = self.input.value()?;
        }
        Ok(body)
    }
}

/// Tells which nodes run again: data of a dry run, else talk.
pub(super) fn repeats(out: &Output, repeats: &[RepeatDto], is_data: bool) {
    if repeats.is_empty() {
        out.say("nothing runs a second time");
    } else if !is_data {
        out.say("these nodes have run and run again:");
    }
    for node in repeats {
        let effects = if node.side_effects { "  side effects" } else { "" };
        let line = format!("{}  {}  {}{effects}", node.node_id, node.kind, node.status);
        if is_data {
            out.line(&line);
        } else {
            out.say(format!("  {line}"));
        }
    }
}
