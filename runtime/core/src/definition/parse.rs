//! From bytes to a definition, keeping source positions.

use serde_json::Value;

use super::source::{SourceMap, position_at};
use super::{Diagnostic, Limits, Path, Problems, WorkflowDefinition, code, json, read, yaml};

/// The language a definition is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, strict.
    Json,
    /// YAML 1.2, one document.
    Yaml,
}

impl Format {
    /// Guesses from the first character that is not white space: JSON starts a definition with a brace.
    #[must_use]
    pub fn sniff(text: &str) -> Self {
        if text.trim_start().starts_with(['{', '[']) {
            Self::Json
        } else {
            Self::Yaml
        }
    }

    /// The format a file extension stands for.
    #[must_use]
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// A definition that could be read, perhaps with problems.
#[derive(Debug)]
pub struct Parsed {
    /// The definition, with defaults in place of fields of the wrong shape.
    pub definition: WorkflowDefinition,
    /// Problems met while reading, located.
    pub diagnostics: Vec<Diagnostic>,
    /// Where every value stands.
    pub source: SourceMap,
}

impl Parsed {
    /// The definition, if no error was met while reading it.
    ///
    /// # Errors
    ///
    /// Every problem met, warnings included, when one of them is an error.
    pub fn into_definition(self) -> Result<WorkflowDefinition, Vec<Diagnostic>> {
        if self.diagnostics.iter().any(Diagnostic::is_error) {
            Err(self.diagnostics)
        } else {
            Ok(self.definition)
        }
    }
}

/// A parsed document before it is read as a definition.
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) source: SourceMap,
    /// Problems that do not stop the parser, such as duplicate keys.
    pub(crate) problems: Problems,
}

/// Parses a definition; without `format` it is guessed.
///
/// # Errors
///
/// One diagnostic with line and column where the text cannot be parsed at all: `DEFINITION_TOO_LARGE`,
/// `INVALID_UTF8`, `INVALID_JSON`, `INVALID_YAML`, `NESTING_TOO_DEEP` or `TOO_MANY_VALUES`.
pub fn parse(bytes: &[u8], format: Option<Format>, limits: &Limits) -> Result<Parsed, Vec<Diagnostic>> {
    let document = document(bytes, format, limits).map_err(|diagnostic| vec![*diagnostic])?;
    let Document {
        value,
        source,
        mut problems,
    } = document;
    let definition = read::definition(value, &Path::root(), &mut problems);
    let mut diagnostics = problems.into_diagnostics();
    source.locate(&mut diagnostics);
    Ok(Parsed {
        definition,
        diagnostics,
        source,
    })
}

/// Parses a JSON text that is no definition, just as strictly.
///
/// # Errors
///
/// Every problem, with line and column: those of [`parse`], and `DUPLICATE_KEY`.
pub fn parse_json(bytes: &[u8], limits: &Limits) -> Result<Value, Vec<Diagnostic>> {
    let document = document(bytes, Some(Format::Json), limits).map_err(|diagnostic| vec![*diagnostic])?;
    let mut diagnostics = document.problems.into_diagnostics();
    if diagnostics.is_empty() {
        return Ok(document.value);
    }
    document.source.locate(&mut diagnostics);
    Err(diagnostics)
}

fn document(bytes: &[u8], format: Option<Format>, limits: &Limits) -> Result<Document, Box<Diagnostic>> {
    // Offsets are kept in 32 bits.
    let bytes_max = limits.bytes_max.min(u32::MAX as usize);
    if bytes.len() > bytes_max {
        let message = format!("{} bytes are more than the limit of {bytes_max}", bytes.len());
        return Err(Box::new(Diagnostic::error(code::DEFINITION_TOO_LARGE, "", message)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let before = String::from_utf8_lossy(valid);
            let message = format!("the byte at offset {} is not UTF-8", error.valid_up_to());
            return Err(fault(code::INVALID_UTF8, &before, before.len(), message));
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format.unwrap_or_else(|| Format::sniff(text)) {
        Format::Json => json::document(text, limits),
        Format::Yaml => yaml::document(text, limits),
    }
}

/// A problem that ends parsing, at a byte offset of the text.
pub(crate) fn fault(code: &'static str, text: &str, offset: usize, message: impl Into<String>) -> Box<Diagnostic> {
    let mut diagnostic = Diagnostic::error(code, "", message);
    diagnostic.position = Some(position_at(text, offset));
    Box::new(diagnostic)
}

/// What is wrong with a key that an object has twice; its first characters are enough to know it by.
pub(crate) fn twice(key: &str) -> String {
    format!("the key `{key:.200}` occurs twice in one object")
}
