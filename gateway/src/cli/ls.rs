//! `troupe ls`.

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::output::{duration, status_cell};
use super::{Context, Failure};
use crate::dto::{ExecutionSummaryDto, PageDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Ls {
    /// Only this workflow.
    workflow: Option<String>,
    /// Only this status: pending, running, completed, failed or canceled.
    #[arg(long)]
    status: Option<String>,
    /// Only children of this execution.
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only those started at or after (RFC 3339).
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
}

impl Ls {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let parent = match &self.parent {
            Some(parent) => Some(client.execution_id(parent).await?),
            None => None,
        };
        let mut items: Vec<ExecutionSummaryDto> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < self.limit {
            let mut query = vec![("limit", (self.limit - items.len()).min(100).to_string())];
            query.extend(self.workflow.clone().map(|workflow| ("workflow", workflow)));
            query.extend(self.status.clone().map(|status| ("status", status)));
            query.extend(parent.clone().map(|parent| ("parent", parent)));
            query.extend(self.since.clone().map(|since| ("startedFrom", since)));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: PageDto<ExecutionSummaryDto> = client.fetch(client.get(&["executions"]).query(&query)).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if out.json {
            out.value(&PageDto { items, next: cursor })?;
        } else if out.quiet {
            items.iter().for_each(|item| out.line(&item.id));
        } else if items.is_empty() {
            out.say("no executions");
        } else {
            let mut table = Table::new();
            table
                .load_style(presets::NOTHING)
                .set_header(["ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "ERROR"]);
            for item in &items {
                let status = match (&item.quarantined, item.paused) {
                    (Some(_), _) => "set aside",
                    (None, true) => "paused",
                    (None, false) => &item.status,
                };
                table.add_row([
                    Cell::new(&item.id),
                    Cell::new(format!("{} v{}", item.workflow_id, item.version)),
                    status_cell(status),
                    Cell::new(&item.start_time),
                    Cell::new(item.duration_ms.map(duration).unwrap_or_default()),
                    Cell::new(item.error_code.as_deref().unwrap_or_default()),
                ]);
            }
            out.line(&table.trim_fmt());
        }
        Ok(Exit::Ok)
    }
}
