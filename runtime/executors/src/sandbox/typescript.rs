//! Takes the types out of TypeScript, leaving every position as it was; what is more than types (`enum`, `namespace`,
//! parameter properties) is compiled, and then positions move.
//!
//! The only user of the compiler crates: a build without TypeScript replaces this file.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use swc_common::errors::{DiagnosticBuilder, Emitter, Handler};
use swc_common::sync::Lrc;
use swc_common::{BytePos, GLOBALS, Globals, SourceMap};
use swc_ts_fast_strip::{Mode, Options, operate};

/// Why code cannot be stripped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    /// Line and column, from 1.
    pub(crate) position: Option<(usize, usize)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(out, "{} (line {line}, column {column})", self.message),
            None => out.write_str(&self.message),
        }
    }
}

/// A message and where it points.
type Diagnostic = (String, Option<BytePos>);

/// Keeps the first diagnostic.
#[derive(Clone, Default)]
struct First(Arc<Mutex<Option<Diagnostic>>>);

impl Emitter for First {
    fn emit(&mut self, diagnostic: &mut DiagnosticBuilder<'_>) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let at = diagnostic.span.primary_span().map(|span| span.lo);
            *first = Some((diagnostic.message(), at));
        }
    }
}

/// The code without types: replaced by spaces if that is enough, else compiled.
pub(crate) fn strip(code: &str) -> Result<String, Problem> {
    compile(code, Mode::StripOnly).or_else(|problem| compile(code, Mode::Transform).map_err(|_| problem))
}

fn compile(code: &str, mode: Mode) -> Result<String, Problem> {
    let sources: Lrc<SourceMap> = Lrc::default();
    let first = First::default();
    let handler = Handler::with_emitter(false, false, Box::new(first.clone()));
    let options = Options {
        mode,
        ..Options::default()
    };
    GLOBALS
        .set(&Globals::new(), || {
            operate(&sources, &handler, code.to_owned(), options)
        })
        .map(|output| output.code)
        .map_err(|error| {
            let kept = first.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((message, at)) = kept else {
                return Problem {
                    message: error.message,
                    position: None,
                };
            };
            let position = at.map(|at| {
                let place = sources.lookup_char_pos(at);
                (place.line, place.col.0 + 1)
            });
            Problem { message, position }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_become_spaces() {
        let code = "function f(a: number): number { return (a as any)! }";
        let stripped = strip(code).unwrap();
        assert_eq!(stripped.len(), code.len());
        assert!(
            !stripped.contains("number") && stripped.contains("return"),
            "{stripped}"
        );
    }

    #[test]
    fn what_is_more_than_a_type_is_compiled() {
        let code =
            "enum Color { Red = 'r' }\nnamespace N { export const a = 1 }\nfunction f(x: Color) { return [x, N.a] }";
        let compiled = strip(code).unwrap();
        assert!(
            compiled.contains("Color[\"Red\"] = \"r\"") && !compiled.contains(": Color"),
            "{compiled}"
        );
        assert!(!compiled.contains("namespace"), "{compiled}");
    }

    #[test]
    fn what_cannot_be_compiled_is_told_with_its_place() {
        let problem = strip("const a = 1;\nfunction (").unwrap_err();
        assert!(problem.position.is_some_and(|(line, _)| line == 2), "{problem}");
    }
}
