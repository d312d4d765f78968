//! `troupe stop`.

use clap::Args;

use super::scope::{WorkflowOrAll, command};
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Stop {
    #[command(flatten)]
    scope: WorkflowOrAll,
    /// Cancels the executions in the scope too.
    #[arg(long)]
    cancel_running: bool,
    /// Why: whoever tries to start something is told.
    #[arg(long)]
    reason: Option<String>,
}

impl Stop {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let mut body = self.scope.body();
        body.insert("cancelRunning".into(), self.cancel_running.into());
        body.extend(self.reason.map(|reason| ("reason".to_owned(), reason.into())));
        command(context, "stop", body).await
    }
}
