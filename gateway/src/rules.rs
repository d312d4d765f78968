//! What a definition must obey, the same for the command line and the API.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use troupe_core::definition::{
    Checked, Diagnostic, ExchangeType, Format, LanguageChecker, Limits, Node, WorkflowDefinition, code, parse, validate,
};
use troupe_core::graph::{AnalyzeOptions, ProcessedWorkflow, analyze};
use troupe_core::{Json, Timestamp};
use troupe_lang::LangCode;
use troupe_lang::checker::{SandboxExpression, sandbox_expressions};
use troupe_ports::{DefinitionError, DefinitionStore, StoredDefinition};

use crate::dto::date;
use crate::error::ApiError;
use crate::triggers::{misfits, unheard};
use crate::wiring::CodeChecker;

/// Functions whose code is compiled while a definition is checked; code beyond fails when it is called.
const FUNCTIONS_CHECKED_MAX: usize = 10_000;

/// Expressions that the sandbox compiles while a definition is checked; those beyond fail when they are evaluated.
const EXPRESSIONS_CHECKED_MAX: usize = 100_000;

/// Expressions that one call of the sandbox compiles: with each as long as may be, still far from what a frame holds.
const EXPRESSIONS_AT_ONCE: usize = 200;

/// How long code is looked at while one definition is checked: the top level of each function may take seconds.
const CODE_TIME_MAX: Duration = Duration::from_secs(15);

/// Checks definitions. Clones share the sandbox that looks at function code.
#[derive(Clone)]
pub struct Rules {
    limits: Limits,
    checker: Arc<dyn LanguageChecker + Send + Sync>,
    code: CodeChecker,
    events: KnownEvents,
}

/// What is known of the messages that event triggers hear.
#[derive(Clone, Copy)]
enum KnownEvents {
    /// Nothing that speaks against any trigger.
    Nothing,
    /// There are none.
    Absent,
    /// The exchange of those that name none is of this type.
    Own(ExchangeType),
}

impl Rules {
    /// Rules with these limits; `checker` knows the languages, `code` compiles functions.
    #[must_use]
    pub fn new(limits: Limits, checker: Arc<dyn LanguageChecker + Send + Sync>, code: CodeChecker) -> Self {
        Self {
            limits,
            checker,
            code,
            events: KnownEvents::Nothing,
        }
    }

    /// For a deployment without a broker: an event trigger gets a warning.
    #[must_use]
    pub fn without_events(self) -> Self {
        Self {
            events: KnownEvents::Absent,
            ..self
        }
    }

    /// For a deployment whose own exchange is of this type: an event trigger that does not fit it gets a warning.
    #[must_use]
    pub fn with_own_exchange(self, own: ExchangeType) -> Self {
        Self {
            events: KnownEvents::Own(own),
            ..self
        }
    }

    /// Parses and validates a text, all problems at once; one without an id is invalid too.
    ///
    /// # Errors
    /// When function code cannot be looked at because the sandbox does not start.
    pub async fn check(&self, bytes: &[u8], format: Option<Format>) -> Result<Checked, ApiError> {
        // A large definition takes long, and the threads of requests must not wait for it.
        let (text, checker, limits) = (bytes.to_vec(), Arc::clone(&self.checker), self.limits);
        let events = self.events;
        let checking = tokio::task::spawn_blocking(move || -> Result<_, Vec<Diagnostic>> {
            let parsed = parse(&text, format, &limits)?;
            let mut found = validate(&parsed.definition, Some(&*checker), &limits);
            // A definition from outside is to be stored, served or run.
            if parsed.definition.id.is_empty() {
                found.insert(
                    0,
                    Diagnostic::error(code::MISSING_FIELD, "", "a workflow needs an `id`"),
                );
            }
            found.extend(match events {
                KnownEvents::Nothing => Vec::new(),
                KnownEvents::Absent => unheard(&parsed.definition),
                KnownEvents::Own(own) => misfits(&parsed.definition, own),
            });
            let is_within =
                parsed.definition.nodes.len() <= limits.nodes_max && parsed.definition.edges.len() <= limits.edges_max;
            let expressions = if is_within {
                sandbox_expressions(&parsed.definition, EXPRESSIONS_CHECKED_MAX)
            } else {
                Vec::new()
            };
            Ok((parsed, found, expressions))
        });
        let checked = checking
            .await
            .map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
        let (parsed, mut found, expressions) = match checked {
            Ok(checked) => checked,
            Err(diagnostics) => {
                return Ok(Checked {
                    definition: None,
                    diagnostics,
                });
            }
        };
        let known: HashSet<String> = found
            .iter()
            .filter(|problem| problem.is_error())
            .map(|problem| problem.pointer.clone())
            .collect();
        let begun = Instant::now();
        if parsed.definition.nodes.len() <= self.limits.nodes_max {
            found.extend(self.check_code(&parsed.definition, &known, begun).await?);
        }
        found.extend(self.check_expressions(&expressions, begun).await?);
        parsed.source.locate(&mut found);
        let mut diagnostics = parsed.diagnostics;
        diagnostics.append(&mut found);
        let is_valid = !diagnostics.iter().any(Diagnostic::is_error);
        Ok(Checked {
            definition: is_valid.then_some(parsed.definition),
            diagnostics,
        })
    }

    /// Looks at function code where no error is `known`.
    async fn check_code(
        &self,
        definition: &WorkflowDefinition,
        known: &HashSet<String>,
        begun: Instant,
    ) -> Result<Vec<Diagnostic>, ApiError> {
        let functions = definition.nodes.iter().enumerate().flat_map(|(place, node)| {
            let data = format!("/nodes/{place}/data");
            let undoes = function_of(&format!("{data}/compensation/data"), node.compensation().as_ref());
            [function_of(&data, Some(node)), undoes].into_iter().flatten()
        });
        let functions = functions.filter(|(pointer, ..)| !known.contains(pointer));
        let mut found = Vec::new();
        for (pointer, source, name) in functions.take(FUNCTIONS_CHECKED_MAX) {
            if begun.elapsed() > CODE_TIME_MAX {
                break;
            }
            if let Some((code, problem)) = self.code.problem(&source, &name).await? {
                found.push(Diagnostic::error(code, pointer, problem));
            }
        }
        Ok(found)
    }

    /// Looks at the syntax of expressions that the engine itself does not parse.
    async fn check_expressions(
        &self,
        expressions: &[SandboxExpression],
        begun: Instant,
    ) -> Result<Vec<Diagnostic>, ApiError> {
        let mut found = Vec::new();
        for some in expressions.chunks(EXPRESSIONS_AT_ONCE) {
            if begun.elapsed() > CODE_TIME_MAX {
                break;
            }
            let sources: Vec<&str> = some.iter().map(|expression| expression.source.as_str()).collect();
            for (expression, problem) in some.iter().zip(self.code.expressions(&sources).await?) {
                let Some(problem) = problem else { continue };
                let code = if problem.is_limit {
                    LangCode::ExpressionLimit
                } else {
                    LangCode::ExpressionSyntax
                };
                let message = match problem.offset {
                    Some(offset) => format!("{} (at byte {})", problem.message, expression.offset + offset),
                    None => problem.message,
                };
                found.push(Diagnostic::error(code.as_str(), expression.pointer.clone(), message));
            }
        }
        Ok(found)
    }
}

/// A node's code with its place, and the function that it defines.
fn function_of(data: &str, node: Option<&Node>) -> Option<(String, String, String)> {
    let text = |name: &str| node?.text_field(name).map(str::to_owned);
    Some((
        format!("{data}/functionCode"),
        text("functionCode")?,
        text("functionName")?,
    ))
}

/// The graph analysis of a definition.
#[must_use]
pub fn analysis(definition: &WorkflowDefinition, now: Timestamp) -> ProcessedWorkflow<'_> {
    analyze(
        definition,
        &AnalyzeOptions {
            now: Some(date(now)),
            ..AnalyzeOptions::default()
        },
    )
}

/// Stores a checked definition with its analysis, as the next version.
///
/// # Errors
/// As [`DefinitionStore::put`].
pub async fn store(
    definitions: &dyn DefinitionStore,
    definition: WorkflowDefinition,
    expected: Option<u32>,
    now: Timestamp,
) -> Result<StoredDefinition, DefinitionError> {
    let analysed = analysis(&definition, now);
    let text = serde_json::to_string(&analysed).map_err(|error| DefinitionError::Damaged(error.to_string()))?;
    definitions
        .put(definition, Json::from_trusted(text), expected, now)
        .await
}
