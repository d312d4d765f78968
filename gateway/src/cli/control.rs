//! What cancel, pause and resume share.

use clap::Args;
use serde_json::Value;

use super::{Context, Failure};
use crate::dto::CommandDto;
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Target {
    /// Ids of executions, or beginnings that only one id has.
    #[arg(required = true, value_name = "EXECUTION")]
    executions: Vec<String>,
}

impl Target {
    /// Sends `verb` to every execution named.
    pub(super) async fn command(&self, context: &Context, verb: &str, body: Value) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        for given in &self.executions {
            let id = client.execution_id(given).await?;
            let request = client.post(&["executions", &id, verb]).json(&body);
            let done: CommandDto = client.fetch(request).await?;
            if out.json {
                out.value(&done)?;
                continue;
            }
            out.line(&done.id);
            if done.unchanged {
                out.say("it stood there already");
            }
            if done.draining > 0 {
                out.say(format!("attempts that still run: {}", done.draining));
            }
        }
        Ok(Exit::Ok)
    }
}
