//! A node of type `end`: it ends the execution at once.

use serde_json::Value as JsonValue;

use crate::id::NodeIx;
use crate::value::{ErrorInfo, Value};

use super::state::{self, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Code of an execution that an `end` node fails without an error of its own.
const ENDED: &str = "ENDED";

/// What `data.status` says.
enum Ending {
    Completed,
    Failed(Option<ErrorInfo>),
    Canceled,
}

impl Tx<'_> {
    /// The node is ready. During a fail-fast clean-up it completes like any other.
    pub(super) fn reach_end(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let ending = match self.ending(ix) {
            Ok(ending) => ending,
            Err(message) => return self.fail(ix, ErrorInfo::new("EXPRESSION_ERROR", message)),
        };
        let input = self.state.input_of(self.plan, ix);
        self.complete(ix, input)?;
        if self.node(ix).phase != Phase::Completed || self.state.status != Status::Running {
            return Ok(());
        }
        let output = self.node(ix).output.clone().unwrap_or_else(Value::null);
        self.end_everything();
        self.set_ended_by(Some(ix));
        match ending {
            Ending::Completed => {
                self.set_failure(None);
                self.end(Status::Completed { output }, Verb::ExecutionCompleted);
            }
            Ending::Failed(error) => {
                if error.is_some() || self.state.failure.is_none() {
                    let otherwise =
                        || ErrorInfo::new(ENDED, format!("the node `{}` ended it as failed", self.planned(ix).key));
                    let error = error.unwrap_or_else(otherwise);
                    let failure = self.failure_of(Some(ix), error);
                    self.set_failure(Some(failure));
                }
                self.end_as(state::Ending::Failed)?;
            }
            Ending::Canceled => {
                let reason = Some(format!("the node `{}` ended it as canceled", self.planned(ix).key));
                self.set_failure(None);
                self.end_as(state::Ending::Canceled { reason })?;
            }
        }
        Ok(())
    }

    fn ending(&self, ix: NodeIx) -> Result<Ending, String> {
        let data = self.data(ix)?;
        let field = |name: &str| data.given(name);
        let error = field("error").map(|error| {
            let text = |name: &str| error.get(name).and_then(JsonValue::as_str);
            let message = text("message").map_or_else(
                || format!("the node `{}` ended it as failed", self.planned(ix).key),
                str::to_owned,
            );
            ErrorInfo::new(text("code").filter(|code| !code.is_empty()).unwrap_or(ENDED), message)
        });
        match field("status").map(|status| status.as_str().unwrap_or_default()) {
            None | Some("completed") => Ok(Ending::Completed),
            Some("failed") => Ok(Ending::Failed(error)),
            Some("canceled") => Ok(Ending::Canceled),
            Some(_) => Err("`status` must give `completed`, `failed` or `canceled`".into()),
        }
    }
}
