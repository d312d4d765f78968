//! Where a command of a wider scope than one execution applies.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Context, Failure};
use crate::dto::{ControlledDto, ScopeDto};
use crate::exit::Exit;

/// `--workflow`, `--node`, `--node-type` or `--all`.
#[derive(Args, Debug, Default)]
pub(super) struct Wide {
    /// Every execution of a workflow.
    #[arg(long, value_name = "WORKFLOW", group = "scope")]
    workflow: Option<String>,
    /// A node of a workflow.
    #[arg(long, value_name = "WORKFLOW/NODE", group = "scope")]
    node: Option<String>,
    /// Every node of a type, such as http.
    #[arg(long, value_name = "TYPE", group = "scope")]
    node_type: Option<String>,
    /// Everything.
    #[arg(long, group = "scope")]
    all: bool,
}

/// `--workflow` or `--all`.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct WorkflowOrAll {
    /// Every execution of a workflow.
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl Wide {
    /// The members of a body that name the scope; none where no option is given.
    pub(super) fn body(&self) -> Result<Option<Map<String, Value>>, Failure> {
        let scope = if let Some(named) = &self.node {
            // A workflow's id may hold a slash, a node's may too: the last one parts them.
            let Some((workflow, node)) = named.rsplit_once('/') else {
                let wrong = Failure::new(Exit::Usage, format!("`{named}` names no node of a workflow"));
                return Err(wrong.hint("write --node WORKFLOW/NODE"));
            };
            json!({"workflow": workflow, "node": node})
        } else if let Some(workflow) = &self.workflow {
            json!({"workflow": workflow})
        } else if let Some(kind) = &self.node_type {
            json!({"nodeType": kind})
        } else if self.all {
            json!({"all": true})
        } else {
            return Ok(None);
        };
        Ok(scope.as_object().cloned())
    }
}

impl WorkflowOrAll {
    /// The members of a body that name the scope.
    pub(super) fn body(&self) -> Map<String, Value> {
        let scope = match &self.workflow {
            Some(workflow) => json!({"workflow": workflow}),
            None => json!({"all": true}),
        };
        scope.as_object().cloned().unwrap_or_default()
    }
}

/// Sends a command on a wider scope.
pub(super) async fn command(context: &Context, verb: &str, body: Map<String, Value>) -> Result<Exit, Failure> {
    post(context, &["controls", verb], body).await
}

/// Sends a command that becomes a control.
pub(super) async fn post(context: &Context, path: &[&str], body: Map<String, Value>) -> Result<Exit, Failure> {
    let client = context.client()?;
    let request = client.post(path).json(&Value::Object(body));
    report(context, &client.fetch(request).await?)?;
    Ok(Exit::Ok)
}

fn report(context: &Context, done: &ControlledDto) -> Result<(), Failure> {
    let out = &context.out;
    if out.json {
        return out.value(done);
    }
    let scope = done.scope.as_ref().map(ScopeDto::words);
    out.line(scope.as_ref().or(done.target.as_ref()).map_or("", String::as_str));
    if done.unchanged {
        out.say("it stood there already");
    }
    if done.in_force && done.draining > 0 {
        out.say(format!(
            "attempts that still run: {}; `troupe controls` tells when they have ended",
            done.draining
        ));
    }
    if done.shards < done.shards_all {
        out.say(format!(
            "{} of {} shards have it; the others learn of it when they are served again",
            done.shards, done.shards_all
        ));
    }
    Ok(())
}
