//! `troupe fail`.

use clap::Args;
use serde_json::json;

use super::control::NodeTarget;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Fail {
    #[command(flatten)]
    target: NodeTarget,
    /// Code of the error, which failure edges may ask for.
    #[arg(long, default_value = "FAILED_BY_HAND")]
    code: String,
    /// Why, for whoever looks at it later.
    #[arg(long, default_value = "an operator decided so")]
    message: String,
}

impl Fail {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        self.target.command(context, "fail", body).await
    }
}
