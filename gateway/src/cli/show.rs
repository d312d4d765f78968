//! `troupe show`.

use clap::Args;
use comfy_table::{Cell, Table, presets};
use troupe_core::Json;

use super::output::{duration, paint_out, status_cell, status_style};
use super::{Context, Failure};
use crate::dto::{NodeResultDto, WorkflowContextDto, instant};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Show {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Adds the graph analysis (JSON only).
    #[arg(long)]
    analysis: bool,
    /// Prints one large value instead, by the hash that is shown under `$blob`.
    #[arg(long, value_name = "HASH")]
    value: Option<String>,
}

impl Show {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let id = client.execution_id(&self.execution).await?;
        if let Some(hash) = &self.value {
            let document: Json = client.fetch(client.get(&["executions", &id, "values", hash])).await?;
            out.document(document.as_str());
            return Ok(Exit::Ok);
        }
        let mut request = client.get(&["executions", &id]);
        if self.analysis {
            request = request.query(&[("include", "processedWorkflow")]);
        }
        let shown: WorkflowContextDto = client.fetch(request).await?;
        if out.json || self.analysis {
            out.value(&shown)?;
            return Ok(Exit::Ok);
        }
        if out.quiet {
            out.line(&shown.id);
            return Ok(Exit::Ok);
        }
        let status = match (shown.paused, shown.compensating) {
            (true, _) => "paused",
            (false, true) => "compensating",
            (false, false) => &shown.status,
        };
        out.line(&format!("execution  {}", shown.id));
        out.line(&format!("workflow   {} v{}", shown.workflow_id, shown.version));
        out.line(&format!("status     {}", paint_out(status, status_style(status))));
        out.line(&format!("started    {}", shown.start_time));
        if let Some(end) = &shown.end_time {
            out.line(&format!("ended      {end}"));
        }
        if let Some(reason) = &shown.quarantined {
            out.line(&format!("set aside  {reason}"));
        }
        if let Some(error) = &shown.error {
            let node = error
                .node_id
                .as_deref()
                .map(|node| format!(" at {node}"))
                .unwrap_or_default();
            out.line(&format!("error      {}{node}: {}", error.code, error.message));
        }
        for error in shown.error.iter().flat_map(|error| &error.compensation_errors) {
            let line = format!("not undone {}: {} {}", error.node_id, error.code, error.message);
            out.line(&line);
        }
        if let Some(workflow) = &shown.error_workflow {
            let became = match (&workflow.execution_id, &workflow.error) {
                (Some(id), _) => format!("as {id}"),
                (None, Some(error)) => format!("not started: {} {}", error.code, error.message),
                (None, None) => "is being started".to_owned(),
            };
            out.line(&format!("told       {} {became}", workflow.workflow_id));
        }
        if let Some(failed) = &shown.handles_failure_of {
            out.line(&format!("handles    the failure of {failed}"));
        }
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["NODE", "STATUS", "TOOK", "ATTEMPTS", "NOTE"]);
        for (node, result) in &shown.node_results {
            let note = match (&result.error, &result.waiting) {
                (Some(error), _) => format!("{} {}", error.code, error.message),
                (None, Some(wait)) => wait
                    .until
                    .as_ref()
                    .map_or_else(|| wait.reason.clone(), |until| format!("{} until {until}", wait.reason)),
                (None, None) if result.cached => "reused".to_owned(),
                (None, None) => String::new(),
            };
            let note = match &result.compensation {
                Some(undo) => format!("{note} undo {}", undo.status).trim_start().to_owned(),
                None => note,
            };
            table.add_row([
                Cell::new(node),
                status_cell(&result.status),
                Cell::new(took(result).map(duration).unwrap_or_default()),
                Cell::new(result.attempts.len()),
                Cell::new(note),
            ]);
        }
        if !table.is_empty() {
            out.line("");
            out.line(&table.trim_fmt());
        }
        if let Some(output) = &shown.output {
            out.line("");
            out.document(output.as_str());
        }
        Ok(Exit::Ok)
    }
}

fn took(result: &NodeResultDto) -> Option<u64> {
    Some(instant(result.end_time.as_ref()?)?.since_ms(instant(result.start_time.as_ref()?)?))
}
