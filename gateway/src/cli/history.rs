//! `troupe history`.

use clap::Args;
use owo_colors::Style;

use super::output::paint_out;
use super::{Context, Failure};
use crate::dto::{HistoryEntryDto, PageDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct History {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Only entries after this one.
    #[arg(long, default_value_t = 0)]
    after: u64,
}

impl History {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let id = client.execution_id(&self.execution).await?;
        let mut after = self.after;
        loop {
            let query = [("after", after.to_string()), ("limit", "100".to_owned())];
            let request = client.get(&["executions", &id, "history"]).query(&query);
            let page: PageDto<HistoryEntryDto> = client.fetch(request).await?;
            for entry in &page.items {
                if out.json {
                    out.value(entry)?;
                } else {
                    out.line(&line(entry));
                }
            }
            match page.next.and_then(|next| next.parse().ok()) {
                Some(next) if next > after => after = next,
                _ => return Ok(Exit::Ok),
            }
        }
    }
}

fn line(entry: &HistoryEntryDto) -> String {
    let mut text = format!(
        "{:>5}  {}  {}",
        entry.seq,
        paint_out(&entry.time, Style::new().dimmed()),
        entry.event
    );
    if let Some(node) = &entry.node_id {
        let undo = if entry.compensation { " (undo)" } else { "" };
        text.push_str(&format!(" {node}{undo}"));
    }
    if let Some(attempt) = entry.attempt.filter(|attempt| *attempt > 1) {
        text.push_str(&format!(" (attempt {attempt})"));
    }
    if let Some(error) = &entry.error {
        text.push_str(&format!(": {} {}", error.code, error.message));
    }
    if let Some(principal) = &entry.principal {
        text.push_str(&format!(" by {principal}"));
    }
    for change in &entry.changes {
        let node = change
            .node_id
            .as_deref()
            .map(|node| format!(" {node}"))
            .unwrap_or_default();
        text.push_str(&format!("\n         {}{node}", change.kind));
    }
    for log in &entry.logs {
        text.push_str(&format!("\n         [{}] {}", log.level, log.message));
    }
    text
}
