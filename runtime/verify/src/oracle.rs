//! Answers the core's questions with what data might give: one run of a step for every way to choose.

use serde_json::Value as JsonValue;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Answer, Evaluator, Pending, Question, Scope};
use troupe_core::{EdgeIx, ErrorInfo, Json, NodeIx, Value};

use crate::assumptions::{Assumptions, Atom, Needs};
use crate::compiled::{Compiled, Source};
use crate::symbols::{Origin, Symbols};
use crate::values::{Evaluation, Judge, Missing, Settled, Term, bound, seen};

/// What a path needs beyond outcomes of nodes and their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    Sure,
    /// Data that nobody knows.
    Data,
    /// Data of a type that nobody expects.
    OddData,
}

/// Something noticed while a step was applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    /// A node started.
    Started(Start),
    /// A condition was given a truth that data decides.
    Assumed { condition: String, truth: bool },
    /// A node writes these variables; those it also reads there it only adds to.
    Writes(NodeIx, Vec<(String, Writing)>),
    /// An expression looks something up on nothing.
    Missing {
        node: Option<NodeIx>,
        source: String,
        missing: Missing,
    },
}

/// A start of a node within a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Start {
    pub(crate) node: NodeIx,
    /// Edges to it that were taken.
    pub(crate) edges: Vec<EdgeIx>,
    /// Choices of the step that came before.
    pub(crate) choices: usize,
    /// What these needed.
    pub(crate) level: Level,
    /// The pass of the innermost loop around the node.
    pub(crate) iteration: Option<u64>,
}

/// How a variable is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Writing {
    /// With this value.
    Replaces(String),
    /// With something made of what it was.
    Adds,
}

/// One of several ways on; the tape of a step names one for every choice it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) taken: u8,
    pub(crate) of: u8,
    /// What the way that was taken needs.
    pub(crate) level: Level,
}

/// One step's evaluator.
pub(crate) struct Oracle<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) symbols: &'a mut Symbols,
    pub(crate) choices: Chooser<'a>,
    pub(crate) notes: Vec<Note>,
}

/// Follows a tape of choices, and past its end always takes the first way.
pub(crate) struct Chooser<'a> {
    pub(crate) assumptions: Assumptions,
    pub(crate) tape: &'a [u8],
    pub(crate) made: Vec<Choice>,
    pub(crate) level: Level,
}

impl Chooser<'_> {
    fn choose(&mut self, levels: &[Level]) -> usize {
        let taken = self.tape.get(self.made.len()).copied().unwrap_or(0);
        let of = u8::try_from(levels.len()).unwrap_or(u8::MAX);
        let made = taken;
        let taken = usize::from(taken).min(levels.len() - 1);
        self.made.push(Choice {
            taken: made,
            of,
            level: levels[taken],
        });
        self.level = self.level.max(levels[taken]);
        taken
    }
}

impl Judge for Chooser<'_> {
    fn truth(&mut self, atom: &Atom) -> Option<bool> {
        let (yes, no) = (
            self.assumptions.allows(atom, true),
            self.assumptions.allows(atom, false),
        );
        let level = |own: Needs, other: Needs| match (own, other) {
            (Needs::OddData, _) => Level::OddData,
            (Needs::Data, Needs::OddData) => Level::Sure,
            (Needs::Data, Needs::Data) => Level::Data,
        };
        let truth = match (yes, no) {
            (Some(_), None) => return Some(true),
            (None, _) => return Some(false),
            (Some(yes), Some(no)) => self.choose(&[level(yes, no), level(no, yes)]) == 0,
        };
        self.assumptions.assume(atom, truth);
        Some(truth)
    }
}

impl Oracle<'_> {
    /// A value; what data decides in it stays open.
    fn value(&mut self, source: &Source, scope: &Scope<'_>) -> Result<JsonValue, ErrorInfo> {
        if let Some(value) = self.real_value(source, scope) {
            return value;
        }
        let mut settled = Settled(&self.choices.assumptions);
        let mut evaluation = Evaluation {
            scope,
            uses: source.expression.uses(),
            symbols: self.symbols,
            judge: &mut settled,
        };
        let value = evaluation.value(&source.outline);
        value
            .map(Term::into_json)
            .map_err(|missing| self.missing(source, scope, missing))
    }

    /// What the expression gives when everything that it sees is known.
    fn real_value(&mut self, source: &Source, scope: &Scope<'_>) -> Option<Result<JsonValue, ErrorInfo>> {
        let uses = source.expression.uses();
        if source.expression.class() == troupe_lang::Class::Sandbox {
            return None;
        }
        let seen = seen(uses, scope);
        let bound = bound(uses, &seen, scope)?;
        match source.expression.evaluate(&bound) {
            Ok(value) => Some(Ok(value)),
            // The outline says what is missing, where that is the reason.
            Err(_) if !matches!(source.outline, troupe_lang::Outline::Closed(_)) => None,
            Err(error) => Some(Err(ErrorInfo::new(error.code(), error.message()))),
        }
    }

    fn truth(&mut self, source: &Source, scope: &Scope<'_>) -> Result<bool, ErrorInfo> {
        if let Some(value) = self.real_value(source, scope) {
            return value.map(|value| troupe_lang::truthy(&value));
        }
        let before = self.choices.made.len();
        let mut evaluation = Evaluation {
            scope,
            uses: source.expression.uses(),
            symbols: self.symbols,
            judge: &mut self.choices,
        };
        let truth = evaluation
            .value(&source.outline)
            .map(|term| evaluation.truthy(&term).unwrap_or(false));
        let truth = truth.map_err(|missing| self.missing(source, scope, missing))?;
        if self.choices.made.len() > before {
            self.notes.push(Note::Assumed {
                condition: source.text().to_owned(),
                truth,
            });
        }
        Ok(truth)
    }

    fn missing(&mut self, source: &Source, scope: &Scope<'_>, missing: Missing) -> ErrorInfo {
        let message = format!("`{}` is not there", missing.base);
        self.notes.push(Note::Missing {
            node: scope.node,
            source: source.text().to_owned(),
            missing,
        });
        ErrorInfo::new("EXPRESSION_ERROR", message)
    }

    /// What a node without attempts evaluates may throw for data of the wrong type; that counts where it leads anywhere.
    fn may_throw(&mut self, node: NodeIx, code: &str) -> Result<(), ErrorInfo> {
        let compiled = self.compiled;
        let kind = compiled.plan.node(node).kind;
        // What an attempt or its data may fail with is an outcome of the attempt.
        if (kind.has_attempts() && kind != NodeKind::Webhook) || !compiled.failure_leads_on(node) {
            return Ok(());
        }
        if self.choices.choose(&[Level::Sure, Level::OddData]) == 0 {
            return Ok(());
        }
        Err(ErrorInfo::new(code, "the data has another type than expected"))
    }

    fn prepare(&mut self, node: NodeIx, scope: &Scope<'_>) -> Result<Answer, ErrorInfo> {
        let plan = &self.compiled.plan;
        let taken = |edge: &EdgeIx| scope.state.edges[edge.at()] == troupe_core::execution::EdgeState::Taken;
        let taken = plan.node(node).incoming.iter().copied().filter(taken).collect();
        self.notes.push(Note::Started(Start {
            node,
            edges: taken,
            choices: self.choices.made.len(),
            level: self.choices.level,
            iteration: scope.iteration(),
        }));
        let compiled = &self.compiled.nodes[node.at()];
        let mut input = None;
        if plan.node(node).maps_input {
            self.may_throw(node, "EXPRESSION_ERROR")?;
            let mut mapped = serde_json::Map::new();
            for (name, source) in &compiled.input_mapping {
                mapped.insert(name.clone(), self.value(source, scope)?);
            }
            input = Some(Json::of(&JsonValue::Object(mapped)));
        }
        // What the author maps is what the rest of the node's data sees.
        let mapped = input.clone().map(Value::Inline);
        let inner = Scope {
            input: mapped.as_ref().or(scope.input),
            ..*scope
        };
        for source in &compiled.templates {
            self.value(source, &inner)?;
        }
        let data = self.data(node, &inner)?;
        Ok(Answer::Prepared {
            input: mapped,
            data: data.map(|data| Value::Inline(Json::of(&data))),
        })
    }

    /// Fields that the core itself reads, where the definition leaves them to data.
    fn data(&mut self, node: NodeIx, scope: &Scope<'_>) -> Result<Option<JsonValue>, ErrorInfo> {
        let compiled = self.compiled;
        let planned = compiled.plan.node(node);
        let text = |name: &str| planned.data.get(name).and_then(JsonValue::as_str);
        let mut data = planned.data.clone();
        match planned.kind {
            NodeKind::Delay => {
                let value = match &compiled.nodes[node.at()].delay {
                    Some(source) => self.value(source, scope)?,
                    None if text("delayValue").is_some_and(|text| text.contains("{{")) => JsonValue::Null,
                    None => return Ok(None),
                };
                self.may_throw(node, "EXPRESSION_ERROR")?;
                // Whatever data gives: the zone knows that it is not to be taken at its word.
                let value = if value.is_number() { value } else { 1.into() };
                data.insert("delayValue".into(), value);
            }
            NodeKind::End if text("status").is_some_and(|text| text.contains("{{")) => {
                self.may_throw(node, "EXPRESSION_ERROR")?;
                let status = ["completed", "failed", "canceled"][self.choices.choose(&[Level::Data; 3])];
                data.insert("status".into(), status.into());
                self.notes.push(Note::Assumed {
                    condition: format!("the status of {} is {status}", planned.key),
                    truth: true,
                });
            }
            NodeKind::End
            | NodeKind::Function
            | NodeKind::Http
            | NodeKind::Decision
            | NodeKind::Webhook
            | NodeKind::Trigger
            | NodeKind::Transformation
            | NodeKind::Custom
            | NodeKind::Subworkflow
            | NodeKind::ForEach
            | NodeKind::Loop
            | NodeKind::Database
            | NodeKind::Publish => return Ok(None),
        }
        Ok(Some(JsonValue::Object(data)))
    }

    fn write(&mut self, node: NodeIx, scope: &Scope<'_>) -> Result<Answer, ErrorInfo> {
        self.may_throw(node, "EXPRESSION_ERROR")?;
        let compiled = &self.compiled.nodes[node.at()];
        let mut variables = Vec::new();
        let mut writings = Vec::new();
        for (name, source) in &compiled.output_mapping {
            let value = self.value(source, scope)?;
            let writing = if source.expression.uses().variables.contains(name) {
                Writing::Adds
            } else {
                Writing::Replaces(value.to_string())
            };
            writings.push((name.clone(), writing));
            variables.push((name.clone(), Value::from(value)));
        }
        self.notes.push(Note::Writes(node, writings));
        Ok(Answer::Variables(variables))
    }

    fn answer(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, ErrorInfo> {
        let compiled = self.compiled;
        let truth = |taken| Answer::Truth { taken, seen: None };
        match question {
            Question::StartSchema | Question::Keep(_) | Question::Cache(_) => Ok(Answer::Valid),
            Question::InputSchema(node) | Question::OutputSchema(node) => {
                self.may_throw(node, "SCHEMA_VIOLATION").map(|()| Answer::Valid)
            }
            Question::PayloadSchema(_) => Ok(Answer::Valid),
            Question::CallOutput(node) => {
                self.may_throw(node, "EXPRESSION_ERROR")?;
                // What the template makes of a call is as unknown as the call.
                let made = match scope.output.map(Term::of) {
                    Some(Term::Unknown(call)) => self.symbols.of(Origin::Member(call, "()".to_owned())).marked().into(),
                    Some(Term::Known(_) | Term::Undefined) | None => JsonValue::Null,
                };
                Ok(Answer::Value(Value::from(made)))
            }
            // Nodes with children are explored as attempts.
            Question::Items(_) => Ok(Answer::Value(Value::null())),
            Question::While(_) => Ok(truth(false)),
            Question::RoomKey => Ok(Answer::Value(Value::from(JsonValue::Bool(true)))),
            Question::ConcurrencyKey(node) => {
                self.may_throw(node, "EXPRESSION_ERROR")?;
                Ok(Answer::Value(Value::from(JsonValue::Bool(true))))
            }
            Question::Prepare(node) => self.prepare(node, scope),
            Question::Output(node) => {
                self.may_throw(node, "EXPRESSION_ERROR")?;
                let source = compiled.nodes[node.at()].output.as_ref();
                let value = source.map(|source| self.value(source, scope)).transpose()?;
                Ok(Answer::Value(Value::from(value.unwrap_or_default())))
            }
            Question::OutputMapping(node) => self.write(node, scope),
            Question::Condition(edge) => {
                if scope.error.is_none() {
                    self.may_throw(compiled.plan.edge(edge).source, "EXPRESSION_ERROR")?;
                }
                let source = compiled.edges[edge.at()].as_ref();
                source.map_or(Ok(true), |source| self.truth(source, scope)).map(truth)
            }
            Question::DecisionCondition(node, place) => {
                self.may_throw(node, "EXPRESSION_ERROR")?;
                let source = compiled.nodes[node.at()].decision.get(place as usize);
                source.map_or(Ok(true), |source| self.truth(source, scope)).map(truth)
            }
            Question::ExecutionOutput => {
                let value = compiled
                    .output
                    .as_ref()
                    .map(|source| self.value(source, scope))
                    .transpose()?;
                Ok(Answer::Value(Value::from(value.unwrap_or_default())))
            }
        }
    }
}

impl Evaluator for Oracle<'_> {
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending> {
        Ok(self
            .answer(question, scope)
            .unwrap_or_else(|error| Answer::Threw(Box::new(error))))
    }
}
