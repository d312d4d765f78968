//! `troupe pause`.

use clap::Args;
use serde_json::json;

use super::control;
use super::scope::{self, Wide};
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Pause {
    /// Ids of executions, or beginnings that only one id has.
    #[arg(
        required_unless_present = "scope",
        conflicts_with = "scope",
        value_name = "EXECUTION"
    )]
    executions: Vec<String>,
    #[command(flatten)]
    wide: Wide,
    /// Timers and deadlines stand still meanwhile; else what fell due is applied when it goes on.
    #[arg(long)]
    freeze: bool,
    /// Why, for whoever looks at it later.
    #[arg(long)]
    reason: Option<String>,
}

impl Pause {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let clocks = if self.freeze { "freeze" } else { "run" };
        let Some(mut body) = self.wide.body()? else {
            return control::command(
                context,
                &self.executions,
                "pause",
                &json!({"clocks": clocks, "reason": self.reason}),
            )
            .await;
        };
        body.insert("clocks".into(), clocks.into());
        body.extend(self.reason.map(|reason| ("reason".to_owned(), reason.into())));
        scope::command(context, "pause", body).await
    }
}
