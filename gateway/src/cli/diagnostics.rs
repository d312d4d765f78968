//! Problems of a definition, shown in its text.

use std::fmt;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, Severity as Level};
use owo_colors::{OwoColorize, Stream};
use troupe_core::definition::{Checked, Diagnostic, Format, WorkflowDefinition};

use super::excerpt::{Excerpt, Lines};
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
    let lines = Lines::of(text);
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
        let in_text = number < SNIPPETS_MAX
            && handler
                .render_report(&mut shown, &InText::new(&name, &lines, problem))
                .is_ok();
        if !in_text {
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
    excerpt: Option<Excerpt>,
}

impl<'a> InText<'a> {
    fn new(name: &str, lines: &Lines<'_>, problem: &'a Diagnostic) -> Self {
        let excerpt = problem.position.map(|place| Excerpt::new(name, lines, place));
        Self { problem, excerpt }
    }
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
        let excerpt = self.excerpt.as_ref()?;
        Some(excerpt)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let pointer = Some(self.problem.pointer.clone()).filter(|pointer| !pointer.is_empty());
        let span = self.excerpt.as_ref()?.span();
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(pointer, span))))
    }
}
