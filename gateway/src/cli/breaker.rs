//! `troupe breaker`.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::Map;

use super::scope::post;
use super::{Context, Failure};
use crate::dto::{BreakerDto, PageDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Breaker {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the breakers of targets that are unwell, or were a moment ago.
    Ls,
    /// Parks every attempt on a target until its breaker is closed or reset.
    Open(Word),
    /// Lets every attempt on a target go, whatever fails, until its breaker is opened or reset.
    Close(Word),
    /// Takes `open` or `close` back and forgets what was counted of the target.
    Reset(Word),
}

#[derive(Args, Debug)]
struct Word {
    /// What is called: http:HOST, http:HOST:PORT or handler:NAME, as `troupe breaker ls` shows it.
    target: String,
    /// Why, for whoever looks at `troupe controls`.
    #[arg(long)]
    reason: Option<String>,
}

impl Breaker {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Ls => list(context).await,
            Verb::Open(word) => word.send(context, "open").await,
            Verb::Close(word) => word.send(context, "close").await,
            Verb::Reset(word) => word.send(context, "reset").await,
        }
    }
}

impl Word {
    async fn send(self, context: &Context, verb: &str) -> Result<Exit, Failure> {
        let mut body = Map::new();
        body.extend(self.reason.map(|reason| ("reason".to_owned(), reason.into())));
        post(context, &["breakers", &self.target, verb], body).await
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let (client, out) = (context.client()?, &context.out);
    let page: PageDto<BreakerDto> = client.fetch(client.get(&["breakers"])).await?;
    if out.json {
        out.value(&page)?;
    } else if out.quiet {
        page.items.iter().for_each(|breaker| out.line(&breaker.target));
    } else if page.items.is_empty() {
        out.say("every target is well");
    } else {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["TARGET", "STATE", "SINCE", "UNTIL", "PARKED", "FAILED"]);
        for breaker in &page.items {
            let state = match &breaker.held {
                Some(held) => format!("held {held}"),
                None => breaker.state.clone(),
            };
            table.add_row([
                breaker.target.clone(),
                state,
                breaker.since.clone(),
                breaker.until.clone().unwrap_or_default(),
                breaker.parked.to_string(),
                format!("{} of {}", breaker.failed, breaker.calls),
            ]);
        }
        out.line(&table.trim_fmt());
    }
    Ok(Exit::Ok)
}
