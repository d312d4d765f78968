//! §6: what operators decide by hand.

use serde_json::Value;

use super::retries::Failure;
use super::state::{Did, Phase, Reference, Refusal, Status};

/// How an operator has a node end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Complete(Value),
    Fail(Failure),
    Skip(Option<Value>),
}

impl Reference {
    pub fn decided(&mut self, at: i64, id: &str, decision: Decision) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if matches!(
            self.status,
            Status::Pending | Status::Canceling { .. } | Status::Undoing(_) | Status::Reporting
        ) {
            return Err(Refusal::Refused("NODE_NOT_WAITING"));
        }
        let phase = self.nodes[id].phase;
        let waits = matches!(phase, Phase::Waiting { .. } | Phase::Delaying { .. } | Phase::Parenting);
        let (fits, refusal) = match decision {
            Decision::Complete(_) | Decision::Fail(_) => (waits, "NODE_NOT_WAITING"),
            Decision::Skip(_) => (!phase.is_terminal(), "NODE_ENDED"),
        };
        if !fits {
            return Err(Refusal::Refused(refusal));
        }
        if phase == Phase::Running {
            self.did.push(Did::Abort { node: id.to_owned() });
        }
        match decision {
            Decision::Complete(output) => self.complete_with(id, output),
            Decision::Skip(Some(output)) => self.skip_with(id, output),
            Decision::Fail(failure) => {
                let input = self.nodes[id].input.clone();
                self.fail(id, failure.error(), input);
            }
            Decision::Skip(None) => self.skip(id),
        }
        self.conclude()
    }

    pub fn variables_set(&mut self, at: i64, variables: &[(String, Value)]) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        self.variables.extend(variables.iter().cloned());
        self.conclude()
    }
}
