//! `troupe audit`.

use clap::Args;
use comfy_table::{Table, presets};

use super::{Context, Failure};
use crate::dto::{AuditRowDto, PageDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Audit {
    /// Only changes of this, such as workflow:orders, key:ID or execution:ID.
    #[arg(long, value_name = "KIND:ID")]
    target: Option<String>,
    /// Only changes by this one.
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Only changes of this sort, such as workflow.put.
    #[arg(long)]
    action: Option<String>,
    /// Only those at or after (RFC 3339).
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
}

impl Audit {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let (client, out) = (context.client()?, &context.out);
        let mut items: Vec<AuditRowDto> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < self.limit {
            let mut query = vec![("limit", (self.limit - items.len()).min(100).to_string())];
            for (name, value) in [
                ("target", &self.target),
                ("principal", &self.principal),
                ("action", &self.action),
                ("from", &self.since),
                ("cursor", &cursor),
            ] {
                query.extend(value.clone().map(|value| (name, value)));
            }
            let page: PageDto<AuditRowDto> = client.fetch(client.get(&["audit"]).query(&query)).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        if out.json {
            out.value(&PageDto { items, next: cursor })?;
        } else if out.quiet {
            items.iter().for_each(|row| out.line(&row.id));
        } else if items.is_empty() {
            out.say("no rows");
        } else {
            let mut table = Table::new();
            table
                .load_style(presets::NOTHING)
                .set_header(["TIME", "WHO", "ACTION", "TARGET", "OUTCOME", "REQUEST"]);
            for row in &items {
                table.add_row([
                    row.time.as_str(),
                    row.principal.as_deref().unwrap_or_default(),
                    &row.action,
                    &row.target,
                    row.outcome.as_deref().unwrap_or_default(),
                    row.request_id.as_deref().unwrap_or_default(),
                ]);
            }
            out.line(&table.trim_fmt());
        }
        Ok(Exit::Ok)
    }
}
