//! The checks that the validator of definitions asks for.

use serde_json::Value;
use troupe_core::definition::{
    LanguageChecker, LanguageError, Source, UnknownName, WorkflowDefinition, did_you_mean, each_source,
};

use crate::cron;
use crate::error::{LangCode, LangError};
use crate::expression::{Class, Expression, SCOPE_NAMES};
use crate::limits::FUNCTION_CODE_BYTES_MAX;
use crate::schema::Schema;
use crate::template::{Jinja, TextTemplate};

/// The name that expressions over events see, and no others.
const EVENT: &str = "event";

/// Checks expressions, templates, schemas and cron patterns.
///
/// Function code is only checked for being there and for its size: its syntax is the sandbox's matter, and so is
/// that of expressions outside the safe subset.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    handlers: Option<Vec<String>>,
}

impl Checker {
    /// A checker that knows no handlers.
    #[must_use]
    pub const fn new() -> Self {
        Self { handlers: None }
    }

    /// Lets the validator warn of handlers that are not among these.
    #[must_use]
    pub fn with_handlers(self, handlers: Vec<String>) -> Self {
        Self {
            handlers: Some(handlers),
        }
    }
}

impl LanguageChecker for Checker {
    fn expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        Ok(unknown_names([&Expression::compile(source)?], NamesOf::Execution))
    }

    fn template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        Ok(unknown_names(
            TextTemplate::compile(source)?.expressions(),
            NamesOf::Execution,
        ))
    }

    fn event_expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        Ok(unknown_names([&Expression::compile(source)?], NamesOf::Event))
    }

    fn event_template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError> {
        let template = TextTemplate::compile(source)?;
        if let Some(secret) = template.secrets().next() {
            let problem = format!("the secret `{secret}` would leave with every event");
            return Err(LangError::new(LangCode::TemplateSyntax, problem).into());
        }
        let unknown = unknown_names(template.expressions(), NamesOf::Event);
        match template.sandbox_sources().next() {
            Some(beyond) if unknown.is_empty() => {
                let problem = format!("`{}` is beyond the safe subset of JavaScript", beyond.source());
                Err(LangError::new(LangCode::ExpressionSyntax, problem).into())
            }
            Some(_) | None => Ok(unknown),
        }
    }

    fn jinja(&self, source: &str) -> Result<(), LanguageError> {
        Jinja::compile(source).map(drop).map_err(LanguageError::from)
    }

    fn schema(&self, schema: &Value) -> Result<(), LanguageError> {
        Schema::compile(schema).map(drop).map_err(LanguageError::from)
    }

    fn cron(&self, source: &str) -> Result<(), LanguageError> {
        cron::parse(source).map(drop).map_err(LanguageError::from)
    }

    fn function_code(&self, code: &str, _function_name: &str) -> Result<(), LanguageError> {
        let problem = if code.trim().is_empty() {
            "function code is empty".to_owned()
        } else if code.len() > FUNCTION_CODE_BYTES_MAX {
            format!("function code is longer than {FUNCTION_CODE_BYTES_MAX} bytes")
        } else {
            return Ok(());
        };
        Err(LangError::new(LangCode::FunctionCodeInvalid, problem).into())
    }

    fn known_handlers(&self) -> Option<Vec<String>> {
        self.handlers.clone()
    }
}

/// What an expression is evaluated for: it sees other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamesOf {
    Execution,
    Event,
}

fn unknown_names<'a>(expressions: impl IntoIterator<Item = &'a Expression>, of: NamesOf) -> Vec<UnknownName> {
    let bound = |name: &str| (name == EVENT) == (of == NamesOf::Event);
    let mut unknown = Vec::new();
    for expression in expressions {
        // Of sources of the sandbox more may be named than is touched.
        let is_known = expression.class() != Class::Sandbox;
        let touched = expression.uses().names().filter(|name| is_known && !bound(name));
        let names = expression.unknown_names().map(str::to_owned);
        unknown.extend(names.chain(touched.map(str::to_owned)).map(|name| UnknownName {
            hint: did_you_mean(&name, SCOPE_NAMES.iter().copied().filter(|name| bound(name))),
            name,
        }));
    }
    unknown
}

/// An expression whose syntax only the sandbox knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxExpression {
    /// JSON pointer of the string that it is, or is part of.
    pub pointer: String,
    /// What the sandbox is given.
    pub source: String,
    /// Where that begins in the string, in bytes.
    pub offset: usize,
}

/// At most `count_max` expressions of a definition that [`Checker`] leaves to the sandbox; sources that do not compile
/// are left out.
#[must_use]
pub fn sandbox_expressions(definition: &WorkflowDefinition, count_max: usize) -> Vec<SandboxExpression> {
    let mut found = Vec::new();
    each_source(definition, &mut |source, path| {
        if found.len() >= count_max {
            return;
        }
        let mut add = |whole: &str, expression: &Expression| {
            found.push(SandboxExpression {
                pointer: path.pointer(),
                source: expression.source().to_owned(),
                offset: whole.find(expression.source()).unwrap_or(0),
            });
        };
        match source {
            Source::Expression(source) | Source::EventExpression(source) => {
                let compiled = Expression::compile(source).ok();
                if let Some(expression) = compiled.filter(|compiled| compiled.class() == Class::Sandbox) {
                    add(source, &expression);
                }
            }
            Source::Template(source) => {
                if let Ok(template) = TextTemplate::compile(source) {
                    template
                        .sandbox_sources()
                        .for_each(|expression| add(source, expression));
                }
            }
            Source::Jinja(_) | Source::NoExpression(_) | Source::EventTemplate(_) => {}
        }
    });
    found
}

impl From<LangError> for LanguageError {
    fn from(error: LangError) -> Self {
        let message = match error.hint {
            Some(hint) => format!("{} ({hint})", error.message),
            None => error.message,
        };
        Self {
            code: error.code.as_str(),
            message,
            offset: error.span.map(|span| span.start),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use troupe_core::definition::LanguageChecker;

    use super::{Checker, sandbox_expressions};

    #[test]
    fn gives_each_fault_its_code_and_offset() {
        let checker = Checker::new().with_handlers(vec!["noop".into()]);
        assert_eq!(checker.expression("input.a > 1"), Ok(Vec::new()));
        let error = checker.expression("input output").unwrap_err();
        assert_eq!((error.code, error.offset), ("EXPRESSION_SYNTAX", Some(6)));
        assert_eq!(checker.template("{{ input.a").unwrap_err().code, "TEMPLATE_SYNTAX");
        assert_eq!(checker.schema(&json!({"type": 1})).unwrap_err().code, "SCHEMA_INVALID");
        assert_eq!(checker.cron("x").unwrap_err().code, "CRON_INVALID");
        assert_eq!(
            checker.function_code(" \n", "f").unwrap_err().code,
            "FUNCTION_CODE_INVALID"
        );
        assert_eq!(checker.function_code("function f() {}", "f"), Ok(()));
        assert_eq!(checker.known_handlers(), Some(vec!["noop".to_owned()]));
    }

    #[test]
    fn jinja_has_a_grammar_of_its_own() {
        let checker = Checker::new();
        for source in [
            "{{ input.a is defined }}",
            "{{ input.a and input.b }}",
            "{{- input.a -}}",
            "{{ input.x // 2 }}",
            "{# {{ #}x",
            "{% raw %}{{ not closed {% endraw %}",
        ] {
            assert_eq!(checker.jinja(source), Ok(()), "{source}");
        }
        for source in ["{% for x in %}", "{{ input.a | nofilter }}", "{{ input.a"] {
            assert_eq!(checker.jinja(source).unwrap_err().code, "TEMPLATE_SYNTAX", "{source}");
        }
    }

    #[test]
    fn names_that_nothing_binds_are_told_with_what_they_may_mean() {
        let checker = Checker::new();
        for (unknown, hint) in [
            (checker.expression("inpt.x > 1").unwrap(), Some("did you mean `input`?")),
            (
                checker.template("a {{ variabels.x }}").unwrap(),
                Some("did you mean `variables`?"),
            ),
            (checker.expression("total > 1").unwrap(), None),
        ] {
            assert_eq!(unknown.len(), 1);
            assert_eq!(unknown[0].hint.as_deref(), hint);
        }
        assert_eq!(checker.expression("new Date(input.a) > 1"), Ok(Vec::new()));
    }

    #[test]
    fn expressions_over_events_see_nothing_else_and_others_no_event() {
        let checker = Checker::new();
        let names = |unknown: Vec<super::UnknownName>| unknown.into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(checker.event_expression("event.data.total > 1"), Ok(Vec::new()));
        assert_eq!(checker.event_expression("new Date(event.time) > 1"), Ok(Vec::new()));
        assert_eq!(names(checker.event_expression("input.a + event.b").unwrap()), ["input"]);
        assert_eq!(names(checker.expression("event.data.total").unwrap()), ["event"]);
        assert_eq!(
            checker.event_template("{{ event.data.a }}/{{ event.verb }}"),
            Ok(Vec::new())
        );
        assert_eq!(
            names(checker.event_template("{{ variables.a }}").unwrap()),
            ["variables"]
        );
        for (beyond, code) in [
            ("{{ new Date(event.time) }}", "EXPRESSION_SYNTAX"),
            ("{{ secrets.KEY }}", "TEMPLATE_SYNTAX"),
            ("{{ event.", "TEMPLATE_SYNTAX"),
        ] {
            assert_eq!(checker.event_template(beyond).unwrap_err().code, code, "{beyond}");
        }
    }

    #[test]
    fn what_only_the_sandbox_knows_is_told_with_its_place() {
        let definition = json!({
            "id": "w", "settings": {"output": "(() => { return 1 +})()"},
            "nodes": [{"id": "a", "type": "http", "data": {"url": "x/{{ input.a }}/{{ new Date() }}", "output": "a+"}}],
            "edges": [{"source": "a", "target": "a", "condition": "input.a > 1"}],
        });
        let definition = serde_json::from_value(definition).unwrap();
        let found = sandbox_expressions(&definition, 9).into_iter();
        let found: Vec<_> = found.map(|found| (found.pointer, found.source, found.offset)).collect();
        let expected = [
            ("/settings/output", "(() => { return 1 +})()", 0),
            ("/nodes/0/data/url", "new Date()", 19),
        ];
        assert_eq!(
            found,
            expected.map(|(pointer, source, at)| (pointer.to_owned(), source.to_owned(), at))
        );
        assert_eq!(sandbox_expressions(&definition, 1).len(), 1);
    }
}
