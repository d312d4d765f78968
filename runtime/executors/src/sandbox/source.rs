//! Wraps user code so that one call builds everything it uses, and finds out whether it is TypeScript.

use serde::{Deserialize, Serialize};

use super::protocol::Fault;
use super::typescript;
use crate::codes;

/// The function that code without a name must define.
const NAME_DEFAULT: &str = "handler";

/// Why an expression does not compile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpressionProblem {
    /// What is wrong.
    pub message: String,
    /// Where in the source, in bytes, if that is known.
    pub offset: Option<usize>,
    /// The source is right or wrong, but too much to compile.
    pub is_limit: bool,
}

/// Makes the factory that gives the function `name` of `code`; each call of it runs the code's top level anew.
///
/// Code that is JavaScript is taken as it is; else `export` is dropped, then types are.
pub(crate) fn function<T>(name: &str, code: &str, attempt: impl Fn(String) -> Result<T, Fault>) -> Result<T, Fault> {
    if !name.is_empty() && !is_identifier(name) {
        let message = format!("`functionName` must name a function of the code; `{name}` is no identifier");
        return Err(Fault::new(codes::FUNCTION_NOT_DEFINED, message, false));
    }
    let try_script = |script: &str| -> Result<T, Fault> {
        // The wrapper stays on the first line, so that positions in stacks are the user's.
        let by_name =
            |name: &str| format!("function(){{{script}\n;return typeof {name}===\"function\"?{name}:undefined}}");
        let whole = || format!("function(){{return ({script}\n)}}");
        if !name.is_empty() && mentions(script, name) {
            return attempt(by_name(name));
        }
        // The code may be nothing but a function, such as `(input) => input.total`.
        attempt(whole()).or_else(|_| attempt(by_name(if name.is_empty() { NAME_DEFAULT } else { name })))
    };
    let first = match try_script(code) {
        Err(fault) if is_syntax(&fault) => fault,
        other => return other,
    };
    let unexported = without_exports(code);
    if unexported != code
        && let Ok(made) = try_script(&unexported)
    {
        return Ok(made);
    }
    match typescript::strip(code) {
        Ok(stripped) => try_script(&without_exports(&stripped)).map_err(|_| code_invalid(first)),
        Err(problem) => {
            let mut fault = Fault::new(codes::FUNCTION_CODE_INVALID, problem.to_string(), false);
            fault.details = problem
                .position
                .map(|(line, column)| format!("{{\"line\":{line},\"column\":{column}}}"));
            Err(fault)
        }
    }
}

/// Makes the function of a scope that gives the expression's value.
pub(crate) fn expression<T>(
    names: &[&str],
    source: &str,
    attempt: impl Fn(String) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let names = names.join(",");
    // A source that closes the parenthesis around it does not also close a bracket: only one expression fits both.
    attempt(format!("function({{{names}}}){{return [{source}\n]}}"))
        .and_then(|_| attempt(format!("function({{{names}}}){{return ({source}\n)}}")))
        .map_err(code_invalid)
}

/// Where in an expression a syntax error is, in bytes, as the stack tells that [`expression`] gave with it.
pub(crate) fn offset_in_expression(names: &[&str], source: &str, stack: &str) -> Option<usize> {
    let mut numbers = stack.lines().next()?.trim_end().rsplit(':');
    let column: usize = numbers.next()?.parse().ok()?;
    let line: usize = numbers.next()?.parse().ok()?;
    let wrapper = if line == 1 {
        format!("(function({{{}}}){{return [", names.join(",")).len()
    } else {
        0
    };
    let lines = source.split_inclusive('\n').take(line.checked_sub(1)?);
    let start: usize = lines.map(str::len).sum();
    let offset = start + column.checked_sub(1)?.checked_sub(wrapper)?;
    (offset <= source.len() + 1).then_some(offset.min(source.len()))
}

/// Whether `name` stands in the code as a word of its own.
fn mentions(code: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(is_part);
    code.match_indices(name)
        .any(|(at, _)| !part(code[..at].chars().next_back()) && !part(code[at + name.len()..].chars().next()))
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn is_syntax(fault: &Fault) -> bool {
    fault.code == codes::FUNCTION_CODE_INVALID || fault.message.starts_with("SyntaxError")
}

fn code_invalid(mut fault: Fault) -> Fault {
    if is_syntax(&fault) {
        fault.code = codes::FUNCTION_CODE_INVALID.to_owned();
        fault.retryable = false;
    }
    fault
}

fn is_identifier(name: &str) -> bool {
    name.chars().all(is_part) && !name.starts_with(char::is_numeric) && !name.is_empty()
}

/// Blanks `export` and `export default` before declarations at the beginning of a line.
fn without_exports(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    for line in code.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let Some(rest) = line[indent..].strip_prefix("export ") else {
            out.push_str(line);
            continue;
        };
        let rest = rest.trim_start();
        let rest = rest.strip_prefix("default ").map_or(rest, str::trim_start);
        let declares = ["function", "async", "class", "const", "let", "var"];
        if declares.iter().any(|word| rest.starts_with(word)) {
            out.extend(std::iter::repeat_n(' ', line.len() - rest.len()));
            out.push_str(rest);
        } else {
            out.push_str(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exports_are_blanked_in_place() {
        let code =
            "export default async function f() {}\n  export const x = 1;\nconst s = 'export const';\nexport {s};";
        let expected =
            "               async function f() {}\n         const x = 1;\nconst s = 'export const';\nexport {s};";
        assert_eq!(without_exports(code), expected);
    }

    #[test]
    fn names_must_be_identifiers() {
        for (name, good) in [
            ("f", true),
            ("$a_1", true),
            ("größe", true),
            ("a.b", false),
            ("1a", false),
            ("a;b", false),
        ] {
            assert_eq!(is_identifier(name), good, "{name}");
        }
    }
}
