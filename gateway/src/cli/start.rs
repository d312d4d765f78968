//! `troupe start`.

use std::time::Duration;

use clap::Args;
use owo_colors::Style;
use serde_json::{Map, Value, json};

use super::follow::Follow;
use super::input::InputArgs;
use super::output::{Output, paint};
use super::{Client, Context, Failure};
use crate::dto::{StartedDto, WorkflowContextDto};
use crate::exit::Exit;
use crate::members::IDEMPOTENCY_KEY;

#[derive(Args, Debug)]
pub(super) struct Start {
    /// Id of the workflow.
    workflow: String,
    #[command(flatten)]
    input: InputArgs,
    /// Waits for the end and prints the output.
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// Shows what happens until the end, then prints the output.
    #[arg(long)]
    watch: bool,
    /// Gives up waiting after so many seconds (exit status 124); the execution goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    timeout: u64,
    /// The same key always gives the same execution.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Business key: one open execution has it at a time. A start has one key or the other.
    #[arg(long, value_name = "KEY", conflicts_with = "idempotency_key")]
    execution_key: Option<String>,
    /// Version of the workflow; else the latest.
    #[arg(long)]
    version: Option<u32>,
    /// Id of the trigger node that fires.
    #[arg(long)]
    trigger: Option<String>,
    /// Priority 0–9.
    #[arg(long)]
    priority: Option<u8>,
}

impl Start {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let mut request = client
            .post(&["workflows", &self.workflow, "executions"])
            .json(&self.body()?);
        if let Some(key) = &self.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let started: StartedDto = client.fetch(request).await?;
        if !self.wait && !self.watch {
            if out.json {
                out.value(&started)?;
            } else {
                out.line(&started.id);
            }
            return Ok(Exit::Ok);
        }
        out.say(format!("execution {}", started.id));
        let limit = Duration::from_secs(self.timeout);
        match tokio::time::timeout(limit, watch(&client, out, &started.id, self.watch)).await {
            Ok(ended) => ended,
            Err(_) => {
                let failure = Failure::new(
                    Exit::WaitTimeout,
                    format!("{} still runs after {} s", started.id, self.timeout),
                );
                Err(failure.hint(format!("`troupe show {}` tells where it stands", started.id)))
            }
        }
    }

    fn body(&self) -> Result<Value, Failure> {
        let input = self
            .input
            .read()?
            .to_value()
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let mut body = Map::from_iter([("input".to_owned(), input)]);
        for (name, value) in [
            ("executionKey", self.execution_key.as_ref().map(|key| json!(key))),
            ("version", self.version.map(|version| json!(version))),
            ("trigger", self.trigger.as_ref().map(|trigger| json!(trigger))),
            ("priority", self.priority.map(|priority| json!(priority))),
        ] {
            body.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(Value::Object(body))
    }
}

/// Follows an execution to its end and prints its output.
pub(super) async fn watch(client: &Client, out: &Output, id: &str, show: bool) -> Result<Exit, Failure> {
    let mut follow = Follow::execution(client, id).await?;
    while let Some(event) = follow.next(client).await? {
        if show && out.json {
            out.value(&event.data)?;
        } else if show {
            out.say(line(&event.name, &event.data));
        }
        if matches!(
            event.name.as_str(),
            "execution.completed" | "execution.failed" | "execution.canceled"
        ) {
            break;
        }
    }
    let ended: WorkflowContextDto = client.fetch(client.get(&["executions", id])).await?;
    conclude(out, &ended)
}

/// An event for people.
fn line(name: &str, data: &Value) -> String {
    let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let time = text("time");
    let clock = time.get(11..23).unwrap_or(&time).to_owned();
    let error = data.get("error").map(|error| {
        let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        format!("  {} {}", part("code"), part("message"))
    });
    let verb = name.rsplit('.').next().unwrap_or(name);
    let style = match verb {
        "scheduled" | "started" => super::output::status_style("running"),
        other => super::output::status_style(other),
    };
    let who = if text("nodeId").is_empty() {
        "execution".to_owned()
    } else {
        text("nodeId")
    };
    let clock = paint(&clock, Style::new().dimmed());
    format!("{clock}  {who:<24} {}{}", paint(verb, style), error.unwrap_or_default())
}

/// Prints the end of an execution: its output on standard output, its error on standard error.
pub(super) fn conclude(out: &Output, ended: &WorkflowContextDto) -> Result<Exit, Failure> {
    if out.json {
        out.value(ended)?;
    } else if let Some(output) = &ended.output {
        out.document(output.as_str());
    }
    if ended.status == "completed" {
        return Ok(Exit::Ok);
    }
    if out.json {
        return Ok(Exit::Failed);
    }
    let (code, why) = match &ended.error {
        Some(error) => {
            let node = error
                .node_id
                .as_ref()
                .map(|node| format!(" at {node}"))
                .unwrap_or_default();
            (Some(error.code.clone()), format!("{node}: {}", error.message))
        }
        None => (None, String::new()),
    };
    let mut failure = Failure::new(Exit::Failed, format!("the execution {}{why}", ended.status));
    if ended.status == "canceled" {
        failure.message = format!("the execution was canceled{why}");
    }
    failure.code = code;
    Err(failure)
}
