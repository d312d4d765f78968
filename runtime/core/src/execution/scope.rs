//! What the core asks of whoever evaluates expressions, and what an evaluation may see.

use crate::id::{EdgeIx, NodeIx, Timestamp};
use crate::plan::Plan;
use crate::value::{ErrorInfo, Json, Value};

use super::event::Answer;
use super::state::ExecutionState;

/// Something to evaluate while a step is applied. The plan holds the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// `settings.inputSchema` over the start payload: [`Answer::Valid`] or [`Answer::Threw`].
    StartSchema,
    /// The node's `inputSchema` over its input: valid or threw.
    InputSchema(NodeIx),
    /// The node's `outputSchema` over its output: valid or threw.
    OutputSchema(NodeIx),
    /// The node's `inputMapping` and templates: [`Answer::Prepared`] or threw.
    Prepare(NodeIx),
    /// `data.output`: [`Answer::Value`] or threw.
    Output(NodeIx),
    /// `data.outputMapping`, all read before any is written: [`Answer::Variables`] or threw.
    OutputMapping(NodeIx),
    /// An edge's condition: [`Answer::Truth`] or threw.
    Condition(EdgeIx),
    /// A decision's n-th condition: truth or threw.
    DecisionCondition(NodeIx, u32),
    /// `settings.output`: value or threw.
    ExecutionOutput,
}

/// The evaluator has no answer yet (it needs the sandbox, or a blob). The step changes nothing and is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending;

/// Answers questions while a step is applied: live ones by evaluating, a replay from the record.
///
/// Must be a pure function of the question and the scope.
pub trait Evaluator {
    /// Evaluates one question over `scope`.
    ///
    /// # Errors
    /// [`Pending`] when the answer is not to be had synchronously; the evaluator remembers what it needs.
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending>;
}

/// What an expression sees, read straight from the state while a step is applied.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The plan, for names.
    pub plan: &'a Plan,
    /// The state, with what this step has written so far.
    pub state: &'a ExecutionState,
    /// `input`: the node's (unmapped while it is being mapped); none for questions without a node.
    pub input: Option<&'a Value>,
    /// `output`, once there is one.
    pub output: Option<&'a Value>,
    /// `error`, on failure edges and on `always` edges after a failure.
    pub error: Option<&'a ErrorInfo>,
    /// The time of the step.
    pub at: Timestamp,
}

impl Scope<'_> {
    /// `nodes.<id>` of the latest ended visit: status, output and error.
    #[must_use]
    pub fn node(&self, key: &str) -> Option<(&'static str, Option<&Value>, Option<&ErrorInfo>)> {
        let node = self.state.nodes.get(self.plan.node_ix(key)?.at())?;
        let error = node.failure.as_ref().map(|failure| &failure.error);
        Some((node.phase.name(), node.output.as_ref(), error))
    }

    /// `execution`: `{id, workflowId, version, startTime}`.
    #[must_use]
    pub fn execution(&self) -> Json {
        let state = self.state;
        let started = chrono::DateTime::from_timestamp_millis(state.started_at.0)
            .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        Json::of(&serde_json::json!({
            "id": state.id.to_string(),
            "workflowId": state.workflow.as_str(),
            "version": state.version,
            "startTime": started,
        }))
    }
}

/// Answers from the record of an entry, in order.
#[derive(Debug)]
pub struct Recorded<'a>(std::slice::Iter<'a, Answer>);

impl<'a> Recorded<'a> {
    /// Reads the answers of one entry.
    #[must_use]
    pub fn new(answers: &'a [Answer]) -> Self {
        Self(answers.iter())
    }

    /// Whether every answer was used.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.0.len() == 0
    }
}

impl Evaluator for Recorded<'_> {
    fn evaluate(&mut self, _: Question, _: &Scope<'_>) -> Result<Answer, Pending> {
        self.0.next().cloned().ok_or(Pending)
    }
}
