//! `troupe ls`.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::client::Client;
use super::output::{Output, duration, json_line, status_cell};
use super::watch::{Pace, seconds, watch};
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
    /// Only those with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Only those in which this text is found.
    #[arg(long)]
    text: Option<String>,
    /// Only those with this business key.
    #[arg(long, value_name = "KEY")]
    business_key: Option<String>,
    /// Only children of this execution.
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only those started at or after (RFC 3339).
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
    /// Shows the list anew until Ctrl-C: in its place on a terminal, again with the time elsewhere.
    #[arg(long)]
    watch: bool,
    /// Seconds from one look to the next, of --watch.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "2",
        value_parser = seconds,
        requires = "watch"
    )]
    every: Duration,
    /// Ends after so many looks.
    #[arg(long, hide = true, requires = "watch")]
    times: Option<u64>,
}

impl Ls {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let parent = match &self.parent {
            Some(parent) => Some(client.execution_id(parent).await?),
            None => None,
        };
        if self.watch {
            let pace = Pace {
                every: self.every,
                times: self.times,
            };
            let look = async || shown(out, &self.page(&client, parent.as_deref()).await?);
            return watch(out, pace, look).await;
        }
        let page = self.page(&client, parent.as_deref()).await?;
        if page.items.is_empty() && !out.json {
            out.say(NONE);
        } else {
            out.line(&shown(out, &page)?);
        }
        Ok(Exit::Ok)
    }

    async fn page(&self, client: &Client, parent: Option<&str>) -> Result<PageDto<ExecutionSummaryDto>, Failure> {
        let filters = [
            ("workflow", self.workflow.as_deref()),
            ("status", self.status.as_deref()),
            ("tag", self.tag.as_deref()),
            ("text", self.text.as_deref()),
            ("businessKey", self.business_key.as_deref()),
            ("parent", parent),
            ("startedFrom", self.since.as_deref()),
        ];
        let mut items: Vec<ExecutionSummaryDto> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < self.limit {
            let limit = (self.limit - items.len()).min(100).to_string();
            let mut query = vec![("limit", limit.as_str())];
            query.extend(filters.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: PageDto<ExecutionSummaryDto> = client.fetch(client.get(&["executions"]).query(&query)).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(PageDto { items, next: cursor })
    }
}

const NONE: &str = "no executions";

/// A list as it is asked for: an object, ids, or a table.
fn shown(out: &Output, page: &PageDto<ExecutionSummaryDto>) -> Result<String, Failure> {
    if out.json {
        return json_line(page);
    }
    if out.quiet {
        let ids: Vec<&str> = page.items.iter().map(|item| item.id.as_str()).collect();
        return Ok(ids.join("\n"));
    }
    if page.items.is_empty() {
        return Ok(NONE.to_owned());
    }
    Ok(table(&page.items))
}

/// Executions for people, a row each.
pub(super) fn table(items: &[ExecutionSummaryDto]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "ERROR"]);
    for item in items {
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
    table.trim_fmt()
}
