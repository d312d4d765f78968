//! One attempt and the breaker of its target.

use std::sync::Arc;

use troupe_core::execution::AttemptOutcome;
use troupe_core::plan::Plan;
use troupe_core::{NodeIx, Value};
use troupe_ports::Task;

use super::{Admitted, Answer, Outcome};
use crate::attempt::permits::Rank;
use crate::context::EngineContext;

/// Failures of attempts that never reached their target. What it does with a request is another matter.
const NEVER_REACHED: [&str; 10] = [
    "CANCELED",
    "EGRESS_DENIED",
    "HANDLER_NOT_FOUND",
    "HTTP_AUTHENTICATION",
    "HTTP_REQUEST_INVALID",
    "INPUT_TOO_LARGE",
    "NODE_DATA_INVALID",
    "PAYLOAD_NOT_LOADED",
    "SECRET_NOT_FOUND",
    "TEMPLATE_ERROR",
];
/// HTTP statuses worth a retry that say nothing bad of the target: it did not like the request.
const ANSWERS: [&str; 2] = ["408", "425"];

/// What a guarded attempt calls, found out only where somebody must know.
#[derive(Debug)]
pub struct Guard {
    plan: Arc<Plan>,
    node: NodeIx,
    data: Option<Value>,
}

impl Guard {
    /// The guard of an attempt; none where breakers are off, or its node wants none (`data.breaker: false`).
    #[must_use]
    pub fn of(engine: &EngineContext, task: &Task) -> Option<Self> {
        let breakers = &engine.breakers;
        let opted_out = || task.node().data.get("breaker") == Some(&serde_json::Value::Bool(false));
        if !(breakers.count_failures() || breakers.any()) || opted_out() {
            return None;
        }
        Some(Self {
            plan: Arc::clone(&task.plan),
            node: task.token.node,
            data: task.data.clone(),
        })
    }

    /// Whether the target may be called now.
    pub fn ask(&self, engine: &EngineContext, rank: Rank) -> Answer {
        engine.breakers.ask_for(|| self.target(engine), rank)
    }

    /// The attempt has ended so.
    pub fn ended(&self, engine: &EngineContext, admitted: Option<Admitted>, ended: &AttemptOutcome) {
        engine.breakers.ended(|| self.target(engine), admitted, ended);
    }

    fn target(&self, engine: &EngineContext) -> Option<String> {
        engine
            .parts
            .executor
            .target(self.plan.node(self.node), self.data.as_ref())
    }
}

/// What the end of an attempt says of its target: it speaks against it where another attempt might succeed.
pub(super) fn outcome(ended: &AttemptOutcome) -> Outcome {
    let AttemptOutcome::Failed(failure) = ended else {
        return Outcome::Answered;
    };
    match failure.error.code.as_str() {
        code if NEVER_REACHED.contains(&code) => Outcome::Unknown,
        code if code
            .split_once('_')
            .is_some_and(|(kind, status)| kind == "HTTP" && ANSWERS.contains(&status)) =>
        {
            Outcome::Answered
        }
        code if failure.retryable || code == "HTTP_TLS" => Outcome::Failed {
            retry_after_ms: failure.retry_after_ms,
        },
        _ => Outcome::Answered,
    }
}

#[cfg(test)]
mod tests {
    use troupe_core::ErrorInfo;
    use troupe_ports::Executed;

    use super::*;

    #[test]
    fn only_what_speaks_against_the_target_counts() {
        let of = |code: &str, retryable| outcome(&Executed::failed(ErrorInfo::new(code, ""), retryable).outcome);
        let failed = Outcome::Failed { retry_after_ms: None };
        for (code, retryable, expected) in [
            ("HTTP_CONNECT", true, failed),
            ("HTTP_TLS", false, failed),
            ("HTTP_503", true, failed),
            ("HTTP_429", true, failed),
            ("TIMEOUT", true, failed),
            ("PANIC", true, failed),
            ("HANDLER_FAILED", true, failed),
            ("HTTP_404", false, Outcome::Answered),
            ("HTTP_408", true, Outcome::Answered),
            ("SCHEMA_VIOLATION", false, Outcome::Answered),
            ("CANCELED", false, Outcome::Unknown),
            ("HTTP_AUTHENTICATION", true, Outcome::Unknown),
        ] {
            assert_eq!(of(code, retryable), expected, "{code}");
        }
        assert_eq!(outcome(&Executed::completed(Value::null()).outcome), Outcome::Answered);
    }
}
