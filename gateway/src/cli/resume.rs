//! `troupe resume`.

use clap::Args;
use serde_json::json;

use super::control::Target;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Resume {
    #[command(flatten)]
    target: Target,
}

impl Resume {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        self.target.command(context, "resume", json!({})).await
    }
}
