//! One string with `{{ … }}` parts.

use serde_json::Value;

use crate::error::{EvalError, LangCode, LangError};
use crate::expression::{Class, Expression, Until, Uses, scan};
use crate::limits::{EXPRESSION_STRING_BYTES_MAX, TEMPLATE_PARTS_MAX, TEMPLATE_SOURCE_BYTES_MAX};
use crate::scope::Scope;

/// What the sandbox gave for each of the sources that were handed out, in their order.
pub type SandboxAnswers<'v> = &'v [Value];

/// A compiled string.
#[derive(Debug, Clone)]
pub struct TextTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(Box<str>),
    Expression(Box<Expression>),
    Secret(Box<str>),
}

/// How a `{` is written in a string with secrets where it could be taken for the start of one.
const ESCAPED_BRACE: &str = "{{\"{\"}}";

impl TextTemplate {
    /// Splits a string at its `{{ … }}` and compiles each inside.
    ///
    /// # Errors
    /// `TEMPLATE_SYNTAX` where a part is not closed, is empty, or uses `secrets` other than as `{{ secrets.NAME }}`; the errors of
    /// [`Expression::compile`] for what is inside, with spans into the whole string.
    pub fn compile(source: &str) -> Result<Self, LangError> {
        if source.len() > TEMPLATE_SOURCE_BYTES_MAX {
            let message = format!("template is longer than {TEMPLATE_SOURCE_BYTES_MAX} bytes");
            return Err(LangError::new(LangCode::TemplateSyntax, message));
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(offset) = source[at..].find("{{") {
            let open = at + offset;
            if open > at {
                parts.push(Part::Text(source[at..open].into()));
            }
            let inner = &source[open + 2..];
            let found = scan(inner, Until::ClosingBraces).map_err(|error| error.shifted(open + 2))?;
            let Some(length) = found.end else {
                let error = LangError {
                    span: Some(open..open + 2),
                    ..LangError::new(LangCode::TemplateSyntax, "`{{` without `}}`")
                };
                return Err(error.with_hint("write a literal `{{` as `{{ \"{{\" }}`"));
            };
            let uses_secrets = found.names.iter().any(|name| name == "secrets");
            parts.push(Part::compile(&inner[..length], uses_secrets).map_err(|error| error.shifted(open + 2))?);
            if parts.len() > TEMPLATE_PARTS_MAX {
                let message = format!("template has more than {TEMPLATE_PARTS_MAX} parts");
                return Err(LangError::new(LangCode::TemplateSyntax, message));
            }
            at = open + 2 + length + 2;
        }
        if at < source.len() {
            parts.push(Part::Text(source[at..].into()));
        }
        Ok(Self { parts })
    }

    /// Whether the string has no `{{ … }}`.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The names of the scope that the parts touch.
    #[must_use]
    pub fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        self.expressions().for_each(|expression| uses.merge(expression.uses()));
        uses
    }

    /// The secrets it names.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| {
            if let Part::Secret(name) = part {
                Some(&**name)
            } else {
                None
            }
        })
    }

    /// The sources that only the sandbox can evaluate, in the order their answers are expected.
    pub fn sandbox_sources(&self) -> impl Iterator<Item = &Expression> {
        self.expressions()
            .filter(|expression| expression.class() == Class::Sandbox)
    }

    /// The expressions in it, in order.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| {
            if let Part::Expression(inner) = part {
                Some(&**inner)
            } else {
                None
            }
        })
    }

    /// Evaluates: a string that is one `{{ … }}` alone keeps the type of the value, any other gives a string.
    /// Secrets stay as `{{ secrets.NAME }}`.
    ///
    /// # Errors
    /// Those of [`Expression::evaluate`], and where `answers` are fewer than [`TextTemplate::sandbox_sources`].
    pub fn evaluate(&self, scope: &Scope<'_>, answers: SandboxAnswers<'_>) -> Result<Value, EvalError> {
        self.evaluate_next(scope, &mut answers.iter())
    }

    pub(super) fn evaluate_next<'v>(
        &self,
        scope: &Scope<'_>,
        answers: &mut impl Iterator<Item = &'v Value>,
    ) -> Result<Value, EvalError> {
        if let [Part::Expression(expression)] = &self.parts[..] {
            return match expression.class() {
                Class::Sandbox => next(answers).cloned(),
                Class::Safe | Class::JsonPath => expression.evaluate(scope),
            };
        }
        let has_secrets = self.secrets().next().is_some();
        let (mut out, mut literal) = (String::new(), String::new());
        for part in &self.parts {
            match part {
                Part::Text(text) => literal.push_str(text),
                Part::Secret(name) => {
                    push_escaped(&literal, &mut out);
                    literal.clear();
                    out.push_str(&marker(name));
                }
                Part::Expression(expression) => match expression.class() {
                    Class::Sandbox => Expression::show(next(answers)?, &mut literal)?,
                    Class::Safe | Class::JsonPath => expression.evaluate_into(scope, &mut literal)?,
                },
            }
            if out.len() + literal.len() > EXPRESSION_STRING_BYTES_MAX {
                return Err(EvalError::new("template gives a string that is too long"));
            }
        }
        if !has_secrets {
            return Ok(Value::String(literal));
        }
        push_escaped(&literal, &mut out);
        Ok(Value::String(out))
    }

    /// Puts secrets into a string that [`TextTemplate::evaluate`] gave. What a value contributed is never read as
    /// a secret, whatever it says.
    ///
    /// # Errors
    /// The resolver's own.
    pub fn resolve_secrets<E>(
        &self,
        evaluated: &str,
        resolver: &mut impl FnMut(&str) -> Result<String, E>,
    ) -> Result<String, E> {
        if self.secrets().next().is_none() {
            return Ok(evaluated.to_owned());
        }
        let mut out = String::with_capacity(evaluated.len());
        let mut rest = evaluated;
        while let Some(open) = rest.find("{{") {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some(behind) = rest.strip_prefix(ESCAPED_BRACE) {
                out.push('{');
                rest = behind;
            } else if let Some((name, behind)) = self.marker_at(rest) {
                out.push_str(&resolver(name)?);
                rest = behind;
            } else {
                out.push_str("{{");
                rest = &rest[2..];
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// A marker that `text` starts with, of a secret that this template names.
    fn marker_at<'t>(&'t self, text: &'t str) -> Option<(&'t str, &'t str)> {
        self.secrets()
            .find_map(|name| text.strip_prefix(marker(name).as_str()).map(|behind| (name, behind)))
    }
}

impl Part {
    fn compile(source: &str, uses_secrets: bool) -> Result<Self, LangError> {
        let trimmed = source.trim();
        if trimmed.is_empty() {
            let error = LangError::new(LangCode::TemplateSyntax, "`{{ }}` is empty");
            return Err(LangError {
                span: Some(0..source.len()),
                ..error
            });
        }
        if !uses_secrets {
            return Expression::compile(source).map(|expression| Self::Expression(Box::new(expression)));
        }
        match trimmed.strip_prefix("secrets.") {
            Some(name) if is_secret_name(name) => Ok(Self::Secret(name.into())),
            _ => {
                let error = LangError::new(LangCode::TemplateSyntax, "`secrets` cannot be part of an expression");
                let error = LangError {
                    span: Some(0..source.len()),
                    ..error
                };
                Err(error.with_hint("write `{{ secrets.NAME }}` by itself, with text around it"))
            }
        }
    }
}

fn next<'v>(answers: &mut impl Iterator<Item = &'v Value>) -> Result<&'v Value, EvalError> {
    answers
        .next()
        .ok_or_else(|| EvalError::new("this template has to be evaluated in the sandbox first"))
}

fn is_secret_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn marker(name: &str) -> String {
    format!("{{{{ secrets.{name} }}}}")
}

/// Writes text next to secrets so that every `{{` in the whole is a marker or an escape of ours.
fn push_escaped(literal: &str, out: &mut String) {
    let mut characters = literal.chars().peekable();
    while let Some(c) = characters.next() {
        let could_open = c == '{' && matches!(characters.peek(), None | Some('{'));
        if could_open {
            out.push_str(ESCAPED_BRACE)
        } else {
            out.push(c)
        }
    }
}
