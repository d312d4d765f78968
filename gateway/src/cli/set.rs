//! `troupe set`.

use clap::Args;

use super::control::report;
use super::input::named;
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Set {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
    /// Variables to set: name=value (JSON if it is, else text).
    #[arg(required = true, value_name = "NAME=VALUE")]
    variables: Vec<String>,
}

impl Set {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let variables = self.variables.iter().map(|given| named(given, "variable"));
        let variables: serde_json::Map<String, serde_json::Value> = variables.collect::<Result<_, _>>()?;
        let id = client.execution_id(&self.execution).await?;
        let request = client.post(&["executions", &id, "variables"]).json(&variables);
        report(&context.out, &client.fetch(request).await?)?;
        Ok(Exit::Ok)
    }
}
