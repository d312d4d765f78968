//! `troupe pause`.

use clap::Args;
use serde_json::json;

use super::control::Target;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Pause {
    #[command(flatten)]
    target: Target,
}

impl Pause {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        self.target.command(context, "pause", json!({})).await
    }
}
