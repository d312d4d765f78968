//! `troupe cancel`.

use clap::Args;
use serde_json::json;

use super::control::Target;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Cancel {
    #[command(flatten)]
    target: Target,
    /// Why, for whoever looks at it later.
    #[arg(long)]
    reason: Option<String>,
    /// How long running attempts may take to stop.
    #[arg(long, value_name = "MS")]
    grace_ms: Option<u64>,
}

impl Cancel {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let body = json!({"reason": self.reason, "graceMs": self.grace_ms});
        self.target.command(context, "cancel", body).await
    }
}
