//! `troupe skip`.

use clap::Args;
use serde_json::json;

use super::input::InputArgs;
use super::retry::ReopenArgs;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Skip {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Id of the node.
    node: String,
    /// Has the node complete with this output instead, so that what follows it runs.
    #[command(flatten)]
    output: InputArgs,
    #[command(flatten)]
    options: ReopenArgs,
}

impl Skip {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let body = if self.output.is_given() {
            json!({"output": self.output.value()?})
        } else {
            json!({})
        };
        let path = ["nodes", &self.node, "skip"];
        self.options.send(context, &self.execution, &path, body).await
    }
}
