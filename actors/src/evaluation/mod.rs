//! Answers the core's questions: the safe subset at once, the rest through the sandbox.
//!
//! The core asks while it steps. What needs the sandbox is answered with [`Pending`] and remembered as a [`Job`]; the
//! step changes nothing, the shell has the jobs evaluated, and the same event is stepped again with their answers.

mod compiled;
mod large;
mod payload;
mod plans;
mod reuse;
mod running;
mod scope;

pub use compiled::CompiledPlan;
pub(crate) use plans::BODY_OF;
pub use plans::PlanCache;
pub use running::RunningAttempts;

use std::collections::BTreeMap;

use troupe_core::execution::{Answer, Evaluator, Pending, Question, Scope};
use troupe_core::{BlobRef, ErrorInfo, Json};
use troupe_lang::{Class, Expression, Uses};
use troupe_ports::SandboxJob;

use crate::blobs::Contents;
use crate::resume::ResumeLinks;

/// Values up to this many bytes are kept with a condition's answer, to explain it.
const SEEN_BYTES_MAX: usize = 128;
/// Evaluation steps that the expressions of one question may take together in this process, and those of all questions of
/// one step of an execution. A step cannot be interrupted, and must end long before the shard's lease does: a definition
/// may have tens of thousands of expressions for one node, and as many nodes that become ready at once.
const QUESTION_STEPS_MAX: u64 = 1_000_000;
const STEPS_MAX: u64 = 4_000_000;
const EXPRESSION_ERROR: &str = "EXPRESSION_ERROR";

/// Something that must be done before the step is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// The sandbox evaluates an expression over what it sees.
    Evaluate(Part, SandboxJob),
    /// A large value is read.
    Load(BlobRef),
    /// A large value is kept apart.
    Keep(BlobRef, Json),
    /// An output for reuse is looked up.
    LookUp([u8; 32]),
}

/// One expression of a question: its place in the mapping or template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The question.
    pub question: Question,
    /// How often the step asked for it before. A loop that turns within a step asks again over what has changed, and so does a
    /// node that fails after it asked.
    pub asked_before: u32,
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

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobAnswer {
    /// The sandbox answered.
    Evaluated(PartAnswer),
    /// The large value.
    Loaded(BlobRef, Json),
    /// It is durable, or why it is not kept.
    Kept(BlobRef, Result<(), ErrorInfo>),
    /// What is known under the key.
    LookedUp([u8; 32], Option<Json>),
}

/// Answers gathered for one event.
#[derive(Debug, Default)]
pub struct Answers {
    parts: Vec<PartAnswer>,
    contents: Contents,
    kept: Vec<(BlobRef, Result<(), ErrorInfo>)>,
    looked_up: Vec<([u8; 32], Option<Json>)>,
}

impl Answers {
    /// Adds the answers of one round.
    pub fn add(&mut self, answers: Vec<JobAnswer>) {
        for answer in answers {
            match answer {
                JobAnswer::Evaluated(part) => self.parts.push(part),
                JobAnswer::Loaded(blob, content) => self.contents.add(blob, content),
                JobAnswer::Kept(blob, kept) => self.kept.push((blob, kept)),
                JobAnswer::LookedUp(key, found) => self.looked_up.push((key, found)),
            }
        }
    }

    fn get(&self, part: Part) -> Option<&Result<Json, ErrorInfo>> {
        let known = self.parts.iter().find(|known| known.part == part);
        known.map(|known| &known.answer)
    }

    /// Whether a large value is durable, if that is known.
    fn kept(&self, blob: &BlobRef) -> Option<Result<(), ErrorInfo>> {
        if self.contents.get(blob).is_some() {
            return Some(Ok(()));
        }
        let known = self.kept.iter().find(|(known, _)| known == blob);
        known.map(|(_, kept)| kept.clone())
    }
}

/// Why an expression has no value.
enum NoValue {
    /// It waits for the sandbox or the store.
    Pending,
    /// It threw.
    Threw(ErrorInfo),
}

/// Why what an expression sees cannot be told.
pub(super) enum NoScope {
    /// Some of it is to be loaded.
    Needs(Vec<BlobRef>),
    /// Some of it cannot be read.
    Unreadable(ErrorInfo),
}

impl From<ErrorInfo> for NoScope {
    fn from(error: ErrorInfo) -> Self {
        Self::Unreadable(error)
    }
}

impl From<ErrorInfo> for NoValue {
    fn from(error: ErrorInfo) -> Self {
        Self::Threw(error)
    }
}

/// What the expressions of one question see, bound once for all of them.
struct Seen<'s, 'a> {
    scope: &'s Scope<'a>,
    links: Option<&'a ResumeLinks>,
    contents: &'a Contents,
    bound: troupe_lang::Scope<'a>,
    /// What those for the sandbox use, and the object of it once one is asked for.
    sandbox: (Uses, Option<Json>),
}

impl<'s, 'a> Seen<'s, 'a> {
    /// `engine` is what expressions use that are evaluated here, `sandbox` what the others use.
    fn new(
        engine: &Uses,
        sandbox: Uses,
        scope: &'s Scope<'a>,
        (links, contents): (Option<&'a ResumeLinks>, &'a Contents),
        steps_max: u64,
    ) -> Result<Self, NoScope> {
        Ok(Self {
            scope,
            links,
            contents,
            bound: scope::bind(engine, scope, links, contents)?.with_steps_max(steps_max),
            sandbox: (sandbox, None),
        })
    }

    fn object(&mut self) -> Result<Json, NoScope> {
        let (uses, object) = &mut self.sandbox;
        if let Some(object) = object {
            return Ok(object.clone());
        }
        let seen = scope::object(uses, self.scope, self.links, self.contents)?;
        Ok(object.insert(seen).clone())
    }
}

/// Evaluates one step's questions.
pub struct LiveEvaluator<'a> {
    compiled: &'a CompiledPlan,
    answers: &'a Answers,
    exhausted: bool,
    jobs: Vec<Job>,
    steps_left: u64,
    /// How often the sandbox was asked each part of a question; the same in every round of a step.
    asked: BTreeMap<(Question, u32), u32>,
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
            asked: BTreeMap::new(),
        }
    }

    /// What must be done before the step is tried again.
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
        let links = self.compiled.resume_links.as_deref();
        let answers = self.answers;
        let seen = Seen::new(engine, sandbox, scope, (links, &answers.contents), steps_max);
        let mut seen = seen.map_err(|none| self.without_scope(none))?;
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
        let asked = self.asked.entry((part.question, part.index)).or_default();
        let part = Part {
            asked_before: *asked,
            ..part
        };
        *asked += 1;
        if let Some(answer) = self.answers.get(part) {
            return Ok(answer.clone()?);
        }
        let object = seen.object().map_err(|none| self.without_scope(none))?;
        let plan = &self.compiled.plan;
        let job = SandboxJob {
            workflow: plan.workflow.clone(),
            version: plan.version,
            source: expression.source().into(),
            scope: object,
        };
        Err(self.after(Job::Evaluate(part, job)))
    }

    /// The step is tried again after this.
    fn after(&mut self, job: Job) -> NoValue {
        if self.exhausted {
            return ErrorInfo::new(EXPRESSION_ERROR, "one event needs too many rounds of evaluation").into();
        }
        self.jobs.push(job);
        NoValue::Pending
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
        let missing = || {
            NoValue::Threw(ErrorInfo::new(
                EXPRESSION_ERROR,
                "the definition has no such expression",
            ))
        };
        match question {
            Question::StartSchema => self.check(compiled.start_schema(), Some(&scope.state.input)),
            Question::InputSchema(node) => self.check(compiled.node(node).input_schema.as_ref(), scope.input),
            Question::OutputSchema(node) => self.check(compiled.node(node).output_schema.as_ref(), scope.output),
            Question::Prepare(node) => self.prepare(question, node, scope),
            Question::Output(node) => {
                let expression = compiled.node(node).output.as_ref().ok_or_else(missing)?;
                let output = self.value(part(question, 0), expression, scope)?;
                Ok(Answer::Value(self.recorded(output, scope)?))
            }
            Question::OutputMapping(node) => {
                let mapping = &compiled.node(node).output_mapping;
                let values = self.all(question, mapping.iter().map(|(_, expression)| expression), scope)?;
                let values = self.recorded_all(values, scope)?;
                let names = mapping.iter().map(|(name, _)| name.clone());
                Ok(Answer::Variables(names.zip(values).collect()))
            }
            Question::PayloadSchema(node) => self.check_payload(node, scope),
            Question::CallOutput(node) => self.of_call(question, node, scope),
            Question::Items(node) => {
                let expression = compiled.node(node).items.as_ref().ok_or_else(missing)?;
                let items = self.value(part(question, 0), expression, scope)?;
                Ok(Answer::Value(self.recorded_items(items, scope)?))
            }
            Question::While(node) => {
                let expression = compiled.node(node).holds_on.as_ref().ok_or_else(missing)?;
                self.truth(part(question, 0), expression, scope)
            }
            Question::RoomKey => {
                let expression = compiled.room_key().ok_or_else(missing)?;
                Ok(Answer::Value(self.value(part(question, 0), expression, scope)?.into()))
            }
            Question::ConcurrencyKey(node) => {
                let expression = compiled.node(node).concurrency_key.as_ref().ok_or_else(missing)?;
                Ok(Answer::Value(self.value(part(question, 0), expression, scope)?.into()))
            }
            Question::Condition(edge) => {
                let expression = compiled.condition(edge).ok_or_else(missing)?;
                self.truth(part(question, 0), expression, scope)
            }
            Question::DecisionCondition(node, n) => {
                let expression = compiled.node(node).decision.get(n as usize).ok_or_else(missing)?;
                self.truth(part(question, 0), expression, scope)
            }
            Question::Keep(_) => match scope.output {
                Some(value) => self.keep(value, scope),
                None => Err(missing()),
            },
            Question::Cache(node) => self.cached(node, scope),
            Question::ExecutionOutput => {
                let expression = compiled.output().ok_or_else(missing)?;
                let output = self.value(part(question, 0), expression, scope)?;
                Ok(Answer::Value(self.recorded(output, scope)?))
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
                match evaluator.value_of(part(question, index), expression, seen) {
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

fn part(question: Question, index: usize) -> Part {
    Part {
        question,
        asked_before: 0,
        index: u32::try_from(index).unwrap_or(u32::MAX),
    }
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
