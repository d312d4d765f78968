//! Expressions: compiled once, evaluated often.
//!
//! A source that starts with `$` is JSONPath (RFC 9535) over an object of all names in scope; any other is
//! JavaScript. Most JavaScript of a workflow is loop-free and pure, and such a source is evaluated here, in about
//! a microsecond, with bounds on steps, memory and depth. What is outside this *safe subset* is
//! [`Class::Sandbox`]: the caller sends it to the sandbox process.
//!
//! The safe subset: literals, names of the scope, member and index access with `?.`, all operators that do not
//! assign, `?:`, template literals, arrays and objects with spread, arrow functions with an expression as their
//! body as callbacks, and the functions of [`SAFE_FUNCTIONS`] and [`SAFE_METHODS`].
//!
//! Values behave as in JavaScript, with four differences: integers beyond 2^53 keep their digits while they are
//! only passed on; a string that is cut inside a surrogate pair gets U+FFFD there; a result that JSON cannot hold
//! (`undefined`, `NaN`, a function) is null; `JSON.parse` refuses numbers beyond the range of a double and nesting
//! beyond 128.

mod ast;
mod convert;
mod eval;
mod globals;
mod methods;
mod number;
mod outline;
mod output;
mod parse;
mod scan;
mod text;
mod token;
mod uses;
mod value;

#[cfg(test)]
mod differential_tests;
#[cfg(test)]
mod tests;

/// What JSONPath shares with the evaluator of JavaScript: values and bounds.
pub(crate) mod jsonpath_values {
    pub(crate) use super::eval::Machine;
    pub(crate) use super::value::{Js, List, Object};

    /// Length of a text in characters, as JSONPath counts.
    pub(crate) fn text_length(text: &str) -> f64 {
        text.chars().count() as f64
    }
}

use serde_json::Value;

use self::ast::Expr;
use self::eval::Machine;
pub use self::outline::{Comparison, MemberAccess, Outline, ScopePath};
pub(crate) use self::scan::{Until, scan};
use self::token::Fault;
pub(crate) use self::uses::ScopeName;
pub use self::uses::{Names, SCOPE_NAMES, Uses};
use self::value::Js;
use crate::error::{EvalError, LangCode, LangError};
use crate::jsonpath::JsonPath;
use crate::limits::EXPRESSION_SOURCE_BYTES_MAX;
use crate::scope::Scope;

/// Functions of the safe subset.
pub const SAFE_FUNCTIONS: &[&str] = methods::GLOBAL_NAMES;
/// Methods of the safe subset.
pub const SAFE_METHODS: &[&str] = methods::METHOD_NAMES;

/// Who evaluates an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// [`Expression::evaluate`]: JavaScript of the safe subset.
    Safe,
    /// [`Expression::evaluate`]: JSONPath.
    JsonPath,
    /// The sandbox process, which is given [`Expression::source`].
    Sandbox,
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expression {
    source: Box<str>,
    uses: Uses,
    compiled: Compiled,
}

#[derive(Debug, Clone)]
enum Compiled {
    Safe(Expr),
    JsonPath(JsonPath),
    Sandbox { unknown: Vec<Box<str>> },
}

impl Expression {
    /// Compiles a source. White space around it and one `;` at its end are dropped.
    ///
    /// # Errors
    /// `EXPRESSION_SYNTAX` for what cannot be an expression, `EXPRESSION_LIMIT` for a source that is too long or
    /// nested too deeply. Most syntax errors inside a source for the sandbox are found there, not here.
    pub fn compile(source: &str) -> Result<Self, LangError> {
        if source.len() > EXPRESSION_SOURCE_BYTES_MAX {
            return Err(LangError::new(
                LangCode::ExpressionLimit,
                format!("expression is longer than {EXPRESSION_SOURCE_BYTES_MAX} bytes"),
            ));
        }
        let start = source.len() - source.trim_start_matches(text::is_space).len();
        let trimmed = text::trim(source);
        let trimmed = trimmed.strip_suffix(';').map_or(trimmed, str::trim_end);
        Self::compile_trimmed(trimmed).map_err(|error| error.shifted(start))
    }

    fn compile_trimmed(source: &str) -> Result<Self, LangError> {
        if is_json_path(source) {
            let path = JsonPath::parse(source)?;
            return Ok(Self {
                source: source.into(),
                uses: path.uses(),
                compiled: Compiled::JsonPath(path),
            });
        }
        match parse::parse(source) {
            Ok((expr, uses)) => Ok(Self {
                source: source.into(),
                uses,
                compiled: Compiled::Safe(expr),
            }),
            Err(Fault::Error(error)) => Err(error),
            Err(Fault::Outside) => {
                let found = scan(source, Until::EndOfText)?;
                let compiled = match parse::unknown_names(source) {
                    Ok(unknown) => Compiled::Sandbox { unknown },
                    Err(Fault::Error(error)) if error.code == LangCode::ExpressionSyntax => return Err(error),
                    // Its depth is the sandbox's matter, and so is the rest of the language.
                    Err(Fault::Error(_) | Fault::Outside) => Compiled::Sandbox { unknown: Vec::new() },
                };
                Ok(Self {
                    source: source.into(),
                    uses: found.uses,
                    compiled,
                })
            }
        }
    }

    /// Who evaluates it.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self.compiled {
            Compiled::Safe(_) => Class::Safe,
            Compiled::JsonPath(_) => Class::JsonPath,
            Compiled::Sandbox { .. } => Class::Sandbox,
        }
    }

    /// The source without surrounding white space.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the scope it touches.
    #[must_use]
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// Names that neither the scope nor JavaScript binds, where the source is simple enough to tell.
    pub fn unknown_names(&self) -> impl Iterator<Item = &str> {
        let unknown: &[Box<str>] = match &self.compiled {
            Compiled::Sandbox { unknown } => unknown,
            Compiled::Safe(_) | Compiled::JsonPath(_) => &[],
        };
        unknown.iter().map(|name| &**name)
    }

    /// Evaluates to a value. A JSONPath gives null for no match, the value for one, and an array for several.
    ///
    /// # Errors
    /// Where JavaScript throws, at a limit of [`crate::limits`], and for an expression of [`Class::Sandbox`].
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, EvalError> {
        match &self.compiled {
            Compiled::Safe(expr) => {
                let mut machine = Machine::new(scope);
                let value = machine.eval(expr)?;
                machine.to_json(&value)
            }
            Compiled::JsonPath(path) => {
                let mut machine = Machine::new(scope);
                let value = path.evaluate(&mut machine)?;
                machine.to_json(&value)
            }
            Compiled::Sandbox { .. } => Err(needs_sandbox()),
        }
    }

    /// Evaluates as a condition, without building the value. A JSONPath holds when something matches, except for
    /// a single match that is falsy.
    ///
    /// # Errors
    /// As [`Expression::evaluate`].
    pub fn evaluate_condition(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        match &self.compiled {
            Compiled::Safe(expr) => Machine::new(scope).eval(expr).map(|value| value.truthy()),
            Compiled::JsonPath(path) => path.evaluate(&mut Machine::new(scope)).map(|value| value.truthy()),
            Compiled::Sandbox { .. } => Err(needs_sandbox()),
        }
    }

    /// Evaluates to compact JSON text, without building the value in between.
    ///
    /// # Errors
    /// As [`Expression::evaluate`].
    pub fn evaluate_to_text(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let mut machine = Machine::new(scope);
        let value = match &self.compiled {
            Compiled::Safe(expr) => machine.eval(expr)?,
            Compiled::JsonPath(path) => path.evaluate(&mut machine)?,
            Compiled::Sandbox { .. } => return Err(needs_sandbox()),
        };
        Ok(machine.stringify(&value)?.unwrap_or_else(|| "null".to_owned()))
    }

    /// What a template literal would show of a value; objects and arrays as compact JSON.
    pub(crate) fn show(value: &Value, out: &mut String) -> Result<(), EvalError> {
        let scope = Scope::new();
        Machine::new(&scope).show(&Js::from_json(value), out)
    }

    /// Evaluates to what a template literal would show; objects and arrays as compact JSON.
    pub(crate) fn evaluate_into(&self, scope: &Scope<'_>, out: &mut String) -> Result<(), EvalError> {
        let mut machine = Machine::new(scope);
        let value = match &self.compiled {
            Compiled::Safe(expr) => machine.eval(expr)?,
            Compiled::JsonPath(path) => path.evaluate(&mut machine)?,
            Compiled::Sandbox { .. } => return Err(needs_sandbox()),
        };
        machine.show(&value, out)
    }
}

fn needs_sandbox() -> EvalError {
    EvalError::new("this expression has to be evaluated in the sandbox")
}

/// `$`, followed by what may follow it in JSONPath; `$name` is a name of JavaScript.
fn is_json_path(source: &str) -> bool {
    source
        .strip_prefix('$')
        .is_some_and(|rest| !rest.starts_with(token::is_identifier_part) && !rest.starts_with("{"))
}

/// Whether a value counts as true in a condition.
#[must_use]
pub fn truthy(value: &Value) -> bool {
    Js::from_json(value).truthy()
}
