//! Jinja templates, bounded in memory and output.

use std::collections::BTreeSet;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use super::jinja_names::{Named, filters_and_tests};
use crate::error::{EvalError, LangCode, LangError};
use crate::expression::{ScopeName, Uses};
use crate::limits::{JINJA_FUEL, JINJA_OUTPUT_BYTES_MAX, JINJA_SOURCE_BYTES_MAX};
use crate::scope::Scope;

const NAME: &str = "template";

/// A compiled Jinja template over the names of the scope.
///
/// It includes and imports nothing, escapes nothing, and fails on a member of what is undefined. Rendering may take any
/// time in spite of its fuel: render in a process that can be killed.
#[derive(Debug)]
pub struct Jinja {
    environment: Environment<'static>,
    uses: Uses,
}

impl Jinja {
    /// Compiles a template.
    ///
    /// # Errors
    /// `TEMPLATE_SYNTAX`, with the line in the message; also for a filter or a test that there is not.
    pub fn compile(source: &str) -> Result<Self, LangError> {
        if source.len() > JINJA_SOURCE_BYTES_MAX {
            let message = format!("template is longer than {JINJA_SOURCE_BYTES_MAX} bytes");
            return Err(LangError::new(LangCode::TemplateSyntax, message));
        }
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(JINJA_FUEL));
        environment.set_debug(false);
        environment.set_recursion_limit(64);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| {
                let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
                let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                LangError {
                    span: error.range(),
                    ..LangError::new(LangCode::TemplateSyntax, format!("{text}{line}"))
                }
            })?;
        check_names(&environment, source)?;
        let mut uses = Uses::default();
        if let Ok(template) = environment.get_template(NAME) {
            for path in template.undeclared_variables(true) {
                let (name, member) = match path.split_once('.') {
                    Some((name, rest)) => (name, rest.split('.').next()),
                    None => (path.as_str(), None),
                };
                if let Some(name) = ScopeName::parse(name) {
                    uses.touch(name, member);
                }
            }
        }
        Ok(Self { environment, uses })
    }

    /// The names of the scope that it touches.
    #[must_use]
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Renders with the names of the scope as variables; a name that is not bound is undefined.
    ///
    /// # Errors
    /// What the template raises, and the limits on fuel and output.
    pub fn render(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let template = self.environment.get_template(NAME).map_err(|error| failure(&error))?;
        let mut context = serde_json::Map::new();
        for (name, binding) in scope.root().entries() {
            if ScopeName::parse(name).is_some_and(|name| self.uses.touches(name)) {
                context.insert((*name).to_owned(), binding.to_value()?);
            }
        }
        let mut output = Bounded { bytes: Vec::new() };
        template
            .render_captured_to(minijinja::value::Serde(context), &mut output)
            .map_err(|error| failure(&error))?;
        String::from_utf8(output.bytes).map_err(|_| EvalError::new("template gives no text"))
    }
}

fn check_names(environment: &Environment<'_>, source: &str) -> Result<(), LangError> {
    let mut state = environment.empty_state();
    let mut seen = BTreeSet::new();
    for (named, span) in filters_and_tests(source) {
        let name = &source[span.clone()];
        if !seen.insert((named, name)) {
            continue;
        }
        // Called without a value, one that there is fails in another way, if at all.
        let (word, outcome) = match named {
            Named::Filter => ("filter", state.apply_filter(name, &[]).map(drop)),
            Named::Test => ("test", state.perform_test(name, &[]).map(drop)),
        };
        let is_unknown =
            |error: &minijinja::Error| matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest);
        if outcome.is_err_and(|error| is_unknown(&error)) {
            let line = source[..span.start].matches('\n').count() + 1;
            return Err(LangError {
                span: Some(span.clone()),
                ..LangError::new(
                    LangCode::TemplateSyntax,
                    format!("there is no {word} `{name}`, in line {line}"),
                )
            });
        }
    }
    Ok(())
}

fn failure(error: &minijinja::Error) -> EvalError {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    let text = match error.kind() {
        ErrorKind::OutOfFuel => "template takes too many steps".to_owned(),
        ErrorKind::WriteFailure => format!("template gives more than {JINJA_OUTPUT_BYTES_MAX} bytes"),
        kind => error
            .detail()
            .map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    EvalError::new(format!("{text}{line}"))
}

struct Bounded {
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > JINJA_OUTPUT_BYTES_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
