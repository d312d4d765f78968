//! `troupe healthcheck`.

use clap::Args;
use serde_json::Value;

use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Healthcheck {
    /// Asks only whether the process answers, not whether it serves.
    #[arg(long)]
    live: bool,
}

impl Healthcheck {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let (client, out) = (context.client()?, &context.out);
        let (status, text) = client.ask_root(if self.live { "livez" } else { "readyz" }).await?;
        let word = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|body| body["status"].as_str().map(str::to_owned));
        if status.is_success() {
            match (out.json, word) {
                (true, _) => out.line(&text),
                (false, word) => out.say(word.unwrap_or_default()),
            }
            return Ok(Exit::Ok);
        }
        let state = word.unwrap_or_else(|| "not well".to_owned());
        Err(Failure::new(Exit::CannotConnect, format!("the server is {state}")).hint("`GET /readyz` tells more"))
    }
}
