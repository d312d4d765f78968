//! `troupe resume`.

use clap::Args;
use serde_json::json;

use super::control;
use super::scope::{self, Wide};
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Resume {
    /// Ids of executions, or beginnings that only one id has.
    #[arg(
        required_unless_present = "scope",
        conflicts_with = "scope",
        value_name = "EXECUTION"
    )]
    executions: Vec<String>,
    #[command(flatten)]
    wide: Wide,
}

impl Resume {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        match self.wide.body()? {
            None => control::command(context, &self.executions, "resume", &json!({})).await,
            Some(body) => scope::command(context, "resume", body).await,
        }
    }
}
