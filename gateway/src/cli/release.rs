//! `troupe release`.

use clap::Args;

use super::scope::{WorkflowOrAll, command};
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Release {
    #[command(flatten)]
    scope: WorkflowOrAll,
}

impl Release {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        command(context, "release", self.scope.body()).await
    }
}
