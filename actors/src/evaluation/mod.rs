//! Answers the core's questions: the safe subset at once, the rest through the sandbox.
//!
//! The core asks while it steps. What needs the sandbox is answered with [`Pending`] and remembered as a [`Job`]; the
//! step changes nothing, the shell has the jobs evaluated, and the same event is stepped again with their answers.

mod compiled;
mod plans;
mod scope;

pub use compiled::CompiledPlan;
pub use plans::PlanCache;

use troupe_core::execution::{Answer, Evaluator, Pending, Question, Scope};
use troupe_core::{ErrorInfo, Json};
use troupe_lang::{Class, Expression, Uses};
use troupe_ports::SandboxJob;

/// Values up to this many bytes are kept with a condition's answer, to explain it.
const SEEN_BYTES_MAX: usize = 128;
/// Evaluation steps that the expressions of one question may take together in this process, and those of all questions of
/// one step of an execution. A step cannot be interrupted, and must end long before the shard's lease does: a definition
/// may have tens of thousands of expressions for one node, and as many nodes that become ready at once.
const QUESTION_STEPS_MAX: u64 = 1_000_000;
const STEPS_MAX: u64 = 4_000_000;
const EXPRESSION_ERROR: &str = "EXPRESSION_ERROR";

/// Something for the sandbox to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the answer is for.
    pub part: Part,
    /// The expression and what it sees.
    pub job: SandboxJob,
}

/// One expression of a question: its place in the mapping or template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The question.
    pub question: Question,
    /// Which of its expressions, from 0.
    pub index: u32,
}

/// What the sandbox answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartAnswer {
    /// What it is for.
    pub part: Part,
    /// The value, or what was thrown.
    pub answer: Result<Json, ErrorInfo>,
}

/// Sandbox answers gathered for one event.
#[derive(Debug, Default)]
pub struct Answers(Vec<PartAnswer>);

impl Answers {
    /// Adds the answers of one round.
    pub fn add(&mut self, answers: Vec<PartAnswer>) {
        self.0.extend(answers);
    }

    fn get(&self, part: Part) -> Option<&Result<Json, ErrorInfo>> {
        self.0
            .iter()
            .find(|known| known.part == part)
            .map(|known| &known.answer)
    }
}

/// Why an expression has no value.
enum NoValue {
    /// It waits for the sandbox.
    Pending,
    /// It threw.
    Threw(ErrorInfo),
}

impl From<ErrorInfo> for NoValue {
    fn from(error: ErrorInfo) -> Self {
        Self::Threw(error)
    }
}

/// What the expressions of one question see, bound once for all of them.
struct Seen<'s, 'a> {
    scope: &'s Scope<'a>,
    bound: troupe_lang::Scope<'a>,
    /// What those for the sandbox use, and the object of it once one is asked for.
    sandbox: (Uses, Option<Json>),
}

impl<'s, 'a> Seen<'s, 'a> {
    /// `engine` is what expressions use that are evaluated here, `sandbox` what the others use.
    fn new(engine: &Uses, sandbox: Uses, scope: &'s Scope<'a>, steps_max: u64) -> Result<Self, ErrorInfo> {
        Ok(Self {
            scope,
            bound: scope::bind(engine, scope)?.with_steps_max(steps_max),
            sandbox: (sandbox, None),
        })
    }

    fn object(&mut self) -> Result<Json, ErrorInfo> {
        let (uses, object) = &mut self.sandbox;
        if let Some(object) = object {
            return Ok(object.clone());
        }
        Ok(object.insert(scope::object(uses, self.scope)?).clone())
    }
}

/// Evaluates one step's questions.
pub struct LiveEvaluator<'a> {
    compiled: &'a CompiledPlan,
    answers: &'a Answers,
    exhausted: bool,
    jobs: Vec<Job>,
    steps_left: u64,
}

impl<'a> LiveEvaluator<'a> {
    /// An evaluator with the answers gathered so far. `exhausted`: the event used up its rounds, the sandbox is not
    /// asked again.
    #[must_use]
    pub fn new(compiled: &'a CompiledPlan, answers: &'a Answers, exhausted: bool) -> Self {
        Self {
            compiled,
            answers,
            exhausted,
            jobs: Vec::new(),
            steps_left: STEPS_MAX,
        }
    }

    /// What the sandbox must answer before the step is tried again.
    #[must_use]
    pub fn into_jobs(self) -> Vec<Job> {
        self.jobs
    }

    /// Evaluates over what these uses name, within the steps that are left.
    fn seeing<T>(
        &mut self,
        (engine, sandbox): (&Uses, Uses),
        scope: &Scope<'_>,
        evaluate: impl FnOnce(&mut Self, &mut Seen<'_, '_>) -> Result<T, NoValue>,
    ) -> Result<T, NoValue> {
        let steps_max = self.steps_left.min(QUESTION_STEPS_MAX);
        let mut seen = Seen::new(engine, sandbox, scope, steps_max)?;
        let result = evaluate(self, &mut seen);
        self.steps_left -= steps_max - seen.bound.steps_left();
        result
    }

    /// The value of a question's only expression.
    fn value(&mut self, part: Part, expression: &Expression, scope: &Scope<'_>) -> Result<Json, NoValue> {
        let (engine, sandbox) = uses(std::iter::once(expression));
        self.seeing((&engine, sandbox), scope, |evaluator, seen| {
            evaluator.value_of(part, expression, seen)
        })
    }

    fn value_of(&mut self, part: Part, expression: &Expression, seen: &mut Seen<'_, '_>) -> Result<Json, NoValue> {
        if expression.class() == Class::Sandbox {
            return self.sandboxed(part, expression, seen);
        }
        let text = expression
            .evaluate_to_text(&seen.bound)
            .map_err(|error| threw(&error))?;
        Ok(Json::from_trusted(text))
    }

    fn sandboxed(&mut self, part: Part, expression: &Expression, seen: &mut Seen<'_, '_>) -> Result<Json, NoValue> {
        if let Some(answer) = self.answers.get(part) {
            return Ok(answer.clone()?);
        }
        if self.exhausted {
            return Err(ErrorInfo::new(EXPRESSION_ERROR, "one event needs too many rounds of evaluation").into());
        }
        let plan = &self.compiled.plan;
        let job = SandboxJob {
            workflow: plan.workflow.clone(),
            version: plan.version,
            source: expression.source().into(),
            scope: seen.object()?,
        };
        self.jobs.push(Job { part, job });
        Err(NoValue::Pending)
    }

    fn truth(&mut self, part: Part, expression: &Expression, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let (engine, sandbox) = uses(std::iter::once(expression));
        let value = self.seeing((&engine, sandbox), scope, |evaluator, seen| {
            if expression.class() != Class::Sandbox {
                return Ok(expression.evaluate(&seen.bound).map_err(|error| threw(&error))?);
            }
            let json = evaluator.sandboxed(part, expression, seen)?;
            Ok(json
                .to_value()
                .map_err(|error| ErrorInfo::new(EXPRESSION_ERROR, error.to_string()))?)
        })?;
        if let serde_json::Value::Bool(taken) = value {
            return Ok(Answer::Truth { taken, seen: None });
        }
        let seen = Some(Json::of(&value)).filter(|json| json.bytes() <= SEEN_BYTES_MAX);
        Ok(Answer::Truth {
            taken: troupe_lang::truthy(&value),
            seen,
        })
    }

    fn answer(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let compiled = self.compiled;
        let part = |index: usize| Part {
            question,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        };
        let missing = || {
            NoValue::Threw(ErrorInfo::new(
                EXPRESSION_ERROR,
                "the definition has no such expression",
            ))
        };
        match question {
            Question::StartSchema => compiled
                .check_start(scope)
                .map(|()| Answer::Valid)
                .map_err(NoValue::Threw),
            Question::InputSchema(node) => compiled
                .check_input(node, scope.input)
                .map(|()| Answer::Valid)
                .map_err(NoValue::Threw),
            Question::OutputSchema(node) => compiled
                .check_output(node, scope.output)
                .map(|()| Answer::Valid)
                .map_err(NoValue::Threw),
            Question::Prepare(node) => self.prepare(question, node, scope),
            Question::Output(node) => {
                let expression = compiled.node(node).output.as_ref().ok_or_else(missing)?;
                Ok(Answer::Value(self.value(part(0), expression, scope)?.into()))
            }
            Question::OutputMapping(node) => {
                let mapping = &compiled.node(node).output_mapping;
                let values = self.all(question, mapping.iter().map(|(_, expression)| expression), scope)?;
                let written = mapping
                    .iter()
                    .zip(values)
                    .map(|((name, _), value)| (name.clone(), value.into()));
                Ok(Answer::Variables(written.collect()))
            }
            Question::Condition(edge) => {
                let expression = compiled.condition(edge).ok_or_else(missing)?;
                self.truth(part(0), expression, scope)
            }
            Question::DecisionCondition(node, n) => {
                let expression = compiled.node(node).decision.get(n as usize).ok_or_else(missing)?;
                self.truth(part(0), expression, scope)
            }
            Question::ExecutionOutput => {
                let expression = compiled.output().ok_or_else(missing)?;
                Ok(Answer::Value(self.value(part(0), expression, scope)?.into()))
            }
        }
    }

    /// Evaluates all, so that one round with the sandbox serves the whole mapping.
    fn all<'e>(
        &mut self,
        question: Question,
        expressions: impl Iterator<Item = &'e Expression> + Clone,
        scope: &Scope<'_>,
    ) -> Result<Vec<Json>, NoValue> {
        let (engine, sandbox) = uses(expressions.clone());
        self.seeing((&engine, sandbox), scope, |evaluator, seen| {
            let mut values = Vec::new();
            let mut pending = false;
            for (index, expression) in expressions.enumerate() {
                let part = Part {
                    question,
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                };
                match evaluator.value_of(part, expression, seen) {
                    Ok(value) => values.push(value),
                    Err(NoValue::Pending) => pending = true,
                    Err(threw) => return Err(threw),
                }
            }
            if pending { Err(NoValue::Pending) } else { Ok(values) }
        })
    }
}

/// What expressions use: those that are evaluated here, and those for the sandbox.
fn uses<'e>(expressions: impl Iterator<Item = &'e Expression>) -> (Uses, Uses) {
    let (mut engine, mut sandbox) = (Uses::default(), Uses::default());
    for expression in expressions {
        match expression.class() {
            Class::Sandbox => sandbox.merge(expression.uses()),
            Class::Safe | Class::JsonPath => engine.merge(expression.uses()),
        }
    }
    (engine, sandbox)
}

fn threw(error: &troupe_lang::EvalError) -> ErrorInfo {
    ErrorInfo::new(error.code(), error.message())
}

impl Evaluator for LiveEvaluator<'_> {
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending> {
        let jobs = self.jobs.len();
        match self.answer(question, scope) {
            Ok(answer) => Ok(answer),
            Err(NoValue::Pending) => Err(Pending),
            Err(NoValue::Threw(error)) => {
                // What else the question wanted of the sandbox no longer matters.
                self.jobs.truncate(jobs);
                Ok(Answer::Threw(Box::new(error)))
            }
        }
    }
}
