//! `troupe controls`.

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::{Context, Failure};
use crate::dto::{ControlDto, PageDto, ScopeDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Controls {}

impl Controls {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let page: PageDto<ControlDto> = client.fetch(client.get(&["controls"])).await?;
        if out.json {
            out.value(&page)?;
        } else if out.quiet {
            page.items.iter().for_each(|item| out.line(&what(item)));
        } else if page.items.is_empty() {
            out.say("nothing is paused, stopped or overridden");
        } else {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header([
                "WHAT",
                "IS",
                "SINCE",
                "BY",
                "STILL RUN",
                "SHARDS",
                "REASON",
            ]);
            for item in &page.items {
                table.add_row([
                    Cell::new(what(item)),
                    Cell::new(state(item)),
                    Cell::new(&item.since),
                    Cell::new(item.by.as_deref().unwrap_or_default()),
                    Cell::new(item.draining),
                    Cell::new(format!("{} of {}", item.shards, item.shards_all)),
                    Cell::new(item.reason.as_deref().unwrap_or_default()),
                ]);
            }
            out.line(&table.trim_fmt());
        }
        Ok(Exit::Ok)
    }
}

/// What a control is of, for people.
pub(super) fn what(item: &ControlDto) -> String {
    let scope = item.scope.as_ref().map(ScopeDto::words);
    scope
        .or_else(|| item.target.as_ref().map(|target| format!("breaker {target}")))
        .unwrap_or_default()
}

/// What a control does there, for people.
pub(super) fn state(item: &ControlDto) -> String {
    match (item.kind.as_str(), item.clocks.as_deref(), item.cancel_running) {
        ("pause", Some("freeze"), _) => "paused, clocks stand".to_owned(),
        ("pause", ..) => "paused".to_owned(),
        ("stop", _, Some(true)) => "stopped, canceling".to_owned(),
        ("stop", ..) => "stopped".to_owned(),
        _ => item.state.clone().unwrap_or_default(),
    }
}
