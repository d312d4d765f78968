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
    /// `payloadSchema` over the body of a call, which is the scope's output: valid or threw.
    PayloadSchema(NodeIx),
    /// `transformationTemplate` over a call, which is the scope's output: value or threw.
    CallOutput(NodeIx),
    /// `items` of a node with a child for each: value or threw.
    Items(NodeIx),
    /// `while` of a loop of children; the scope's output is that of the last one: truth or threw.
    While(NodeIx),
    /// What becomes of a large value that the core has composed, which is the scope's output: [`Answer::Kept`],
    /// [`Answer::NotKept`], or [`Answer::Valid`] where it stays as it is.
    Keep(NodeIx),
    /// `cache.key`, and what is known under it: [`Answer::Cached`] or threw, or [`Answer::Valid`] where nothing is reused.
    Cache(NodeIx),
    /// `concurrency.key` over the node's input: value or threw.
    ConcurrencyKey(NodeIx),
    /// `settings.concurrency.key` over the start payload: value or threw.
    RoomKey,
}

impl Question {
    /// The node it is about: of an edge its source.
    #[must_use]
    pub fn node(self, plan: &Plan) -> Option<NodeIx> {
        match self {
            Self::StartSchema | Self::ExecutionOutput | Self::RoomKey => None,
            Self::InputSchema(ix)
            | Self::OutputSchema(ix)
            | Self::Prepare(ix)
            | Self::Output(ix)
            | Self::OutputMapping(ix)
            | Self::PayloadSchema(ix)
            | Self::CallOutput(ix)
            | Self::Items(ix)
            | Self::While(ix)
            | Self::Keep(ix)
            | Self::Cache(ix)
            | Self::ConcurrencyKey(ix)
            | Self::DecisionCondition(ix, _) => Some(ix),
            Self::Condition(edge) => Some(plan.edge(edge).source),
        }
    }
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
    /// The node that is evaluated for; none for the execution itself.
    pub node: Option<NodeIx>,
    /// `input`: the node's (unmapped while it is being mapped); none for questions without a node.
    pub input: Option<&'a Value>,
    /// `output`, once there is one.
    pub output: Option<&'a Value>,
    /// `error`, on failure edges and on `always` edges after a failure.
    pub error: Option<&'a ErrorInfo>,
    /// The time of the step.
    pub at: Timestamp,
}

impl<'a> Scope<'a> {
    /// `nodes.<id>` of the latest ended visit: status, output and error.
    #[must_use]
    pub fn latest(&self, key: &str) -> Option<(&'static str, Option<&'a Value>, Option<&'a ErrorInfo>)> {
        let node = self.state.nodes.get(self.plan.node_ix(key)?.at())?;
        let shown = node.latest_ended().unwrap_or(node);
        let error = shown.failure.as_ref().map(|failure| &failure.error);
        Some((shown.phase.name(), shown.output.as_ref(), error))
    }

    /// `execution.iteration`: the generation of the innermost loop around the node; none outside loops.
    #[must_use]
    pub fn iteration(&self) -> Option<u64> {
        let within = self.plan.node(self.node?).within?;
        self.state.loops.get(within.at()).map(|one| one.iteration)
    }

    /// `execution`: `{id, workflowId, version, startTime}`, in a loop also `iteration`.
    #[must_use]
    pub fn execution(&self) -> Json {
        let state = self.state;
        let started = chrono::DateTime::from_timestamp_millis(state.started_at.0)
            .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        let mut execution = serde_json::json!({
            "id": state.id.to_string(),
            "workflowId": state.workflow.as_str(),
            "version": state.version,
            "startTime": started,
        });
        if let Some(iteration) = self.iteration() {
            execution["iteration"] = iteration.into();
        }
        Json::of(&execution)
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
    fn evaluate(&mut self, question: Question, _: &Scope<'_>) -> Result<Answer, Pending> {
        let kept = || matches!(self.0.as_slice().first(), Some(Answer::Kept(_) | Answer::NotKept(_)));
        if matches!(question, Question::Keep(_)) && !kept() {
            return Ok(Answer::Valid);
        }
        self.0.next().cloned().ok_or(Pending)
    }
}
