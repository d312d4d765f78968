//! Problems of a definition, shown in its text.

use std::fmt;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity as Level, SourceSpan};
use owo_colors::{OwoColorize, Stream};
use troupe_core::definition::{Checked, Diagnostic, Format, Position, WorkflowDefinition};

use super::failure::Failure;
use super::output::Output;
use crate::exit::Exit;
use crate::rules::Rules;

/// Problems shown with their place in the text; the rest is listed in one line each.
const SNIPPETS_MAX: usize = 50;

/// Reads and checks a file.
pub(super) async fn check_file(path: &Path, rules: &Rules) -> Result<(Vec<u8>, Checked), Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
    let format = path
        .extension()
        .and_then(|extension| Format::of_extension(&extension.to_string_lossy()));
    let checked = rules.check(&bytes, format).await?;
    Ok((bytes, checked))
}

/// Reads a file that must be valid; shows every problem otherwise.
pub(super) async fn valid_file(path: &Path, rules: &Rules, out: &Output) -> Result<WorkflowDefinition, Failure> {
    let (bytes, checked) = check_file(path, rules).await?;
    let errors = checked.diagnostics.iter().filter(|problem| problem.is_error()).count();
    match checked.definition {
        Some(definition) => {
            if !out.quiet && !out.json {
                show(path, &bytes, &checked.diagnostics, out);
            }
            Ok(definition)
        }
        None => {
            if !out.json {
                show(path, &bytes, &checked.diagnostics, out);
            }
            Err(invalid(path, errors, &checked.diagnostics, out))
        }
    }
}

fn invalid(path: &Path, errors: usize, problems: &[Diagnostic], out: &Output) -> Failure {
    let what = if errors == 1 {
        "1 problem".to_owned()
    } else {
        format!("{errors} problems")
    };
    let mut message = format!("{} is invalid: {what}", path.display());
    if out.json {
        let lines = problems.iter().map(|problem| one_line(path, problem));
        message = [message].into_iter().chain(lines).collect::<Vec<_>>().join("\n");
    }
    let mut failure = Failure::new(Exit::InvalidDefinition, message);
    failure.code = Some("INVALID_DEFINITION".into());
    failure
}

/// Shows problems on standard error.
pub(super) fn show(path: &Path, bytes: &[u8], problems: &[Diagnostic], out: &Output) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let name = path.display().to_string();
    let colours = "x"
        .if_supports_color(Stream::Stderr, |text| text.red())
        .to_string()
        .len()
        > 1;
    let theme = if colours {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_width(110);
    for (number, problem) in problems.iter().enumerate() {
        let mut shown = String::new();
        let report = InText::new(&name, text, problem);
        if number >= SNIPPETS_MAX || handler.render_report(&mut shown, &report).is_err() {
            shown = one_line(path, problem);
        }
        out.warn(shown.trim_end());
    }
}

/// `file:line:column: CODE: message (hint)`.
pub(super) fn one_line(path: &Path, problem: &Diagnostic) -> String {
    let place = problem
        .position
        .map(|place| format!(":{}:{}", place.line, place.column))
        .unwrap_or_default();
    format!("{}{place}: {problem}", path.display())
}

/// A problem with the text around it.
struct InText<'a> {
    problem: &'a Diagnostic,
    source: NamedSource<String>,
    span: Option<SourceSpan>,
}

impl<'a> InText<'a> {
    fn new(name: &str, text: &str, problem: &'a Diagnostic) -> Self {
        let span = problem.position.map(|place| span_at(text, place));
        Self {
            problem,
            source: NamedSource::new(name, text.to_owned()),
            span,
        }
    }
}

/// From the place to the end of the word, text or bracket that begins there.
fn span_at(text: &str, place: Position) -> SourceSpan {
    let lines = text.split_inclusive('\n');
    let before: usize = lines
        .clone()
        .take(place.line.saturating_sub(1) as usize)
        .map(str::len)
        .sum();
    let line = text[before..].split('\n').next().unwrap_or_default();
    let skip: usize = line
        .chars()
        .take(place.column.saturating_sub(1) as usize)
        .map(char::len_utf8)
        .sum();
    let rest = line[skip..].trim_end();
    let length = match rest.chars().next() {
        Some('"') => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
        Some('{' | '[') => 1,
        Some(_) => rest.find([',', '}', ']']).unwrap_or(rest.len()).max(1),
        None => 0,
    };
    (before + skip, length).into()
}

impl fmt::Debug for InText<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.problem, out)
    }
}

impl fmt::Display for InText<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.problem.message)
    }
}

impl std::error::Error for InText<'_> {}

impl miette::Diagnostic for InText<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.problem.code))
    }

    fn severity(&self) -> Option<Level> {
        Some(if self.problem.is_error() {
            Level::Error
        } else {
            Level::Warning
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem
            .hint
            .as_ref()
            .map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let pointer = Some(self.problem.pointer.clone()).filter(|pointer| !pointer.is_empty());
        let span = self.span?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(pointer, span))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_word_at_the_place() {
        let text = "{\n  \"é\": \"wörd\", \"n\": 12 }";
        let at = |line, column| span_at(text, Position { line, column });
        let cut = |span: SourceSpan| &text[span.offset()..span.offset() + span.len()];
        assert_eq!(cut(at(2, 8)), "\"wörd\"");
        assert_eq!(cut(at(2, 21)), "12 ");
        assert_eq!(cut(at(1, 1)), "{");
        assert_eq!(at(9, 9).len(), 0);
    }
}
