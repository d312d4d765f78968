//! `troupe complete`.

use clap::Args;
use serde_json::json;

use super::control::NodeTarget;
use super::input::InputArgs;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Complete {
    #[command(flatten)]
    target: NodeTarget,
    /// What the node gives: its output.
    #[command(flatten)]
    output: InputArgs,
}

impl Complete {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let body = json!({"output": self.output.value()?});
        self.target.command(context, "complete", body).await
    }
}
