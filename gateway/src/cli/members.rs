//! `troupe members`.

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Context, Failure};
use crate::dto::{FormatsDto, MemberDto, PageDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Members {}

impl Members {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let page: PageDto<MemberDto> = client.fetch(client.get(&["members"])).await?;
        if out.json {
            out.value(&page)?;
        } else if out.quiet {
            page.items.iter().for_each(|member| out.line(&member.name));
        } else if page.items.is_empty() {
            out.say("the server keeps its state by itself: it has no other members");
        } else {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header([
                "NAME", "ADDRESS", "STATUS", "SHARDS", "READS", "WRITES", "HOLDS", "RELEASE",
            ]);
            for member in &page.items {
                let answers = if member.own { "  (answers)" } else { "" };
                table.add_row([
                    Cell::new(&member.name),
                    Cell::new(format!("{}{answers}", member.address)),
                    Cell::new(&member.status),
                    Cell::new(member.shards),
                    Cell::new(reads(&member.reads)),
                    Cell::new(member.writes),
                    Cell::new(member.holds.map_or_else(|| "-".to_owned(), |format| format.to_string())),
                    Cell::new(&member.release),
                ]);
            }
            out.line(&table.trim_fmt());
        }
        Ok(Exit::Ok)
    }
}

fn reads(formats: &FormatsDto) -> String {
    if formats.oldest == formats.newest {
        formats.oldest.to_string()
    } else {
        format!("{}-{}", formats.oldest, formats.newest)
    }
}
