//! Reads typed views out of the raw parts of a definition (`data`, `settings`) without taking them apart.

use serde_json::Value;

use super::problems::{did_you_mean, did_you_mean_or_list};
use super::read::{describe, whole};
use super::{Object, Path, Problems, code};

/// The longest duration a definition may ask for: a thousand years, far from the end of `Timestamp`.
pub const DURATION_MAX_MS: u64 = 31_556_952_000_000;

/// A setting that is known now, or a template resolved when the node becomes ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting<T> {
    /// Known now.
    Fixed(T),
    /// A `{{ … }}` template that gives the value.
    Template(String),
}

impl<T> Setting<T> {
    /// The value, where it is known now.
    pub const fn fixed(&self) -> Option<&T> {
        match self {
            Self::Fixed(value) => Some(value),
            Self::Template(_) => None,
        }
    }
}

/// Whether a string holds a `{{ … }}` template.
#[must_use]
pub fn is_template(text: &str) -> bool {
    text.find("{{").is_some_and(|start| text[start..].contains("}}"))
}

/// One object under inspection.
pub(crate) struct View<'a> {
    object: &'a Object,
    path: Path<'a>,
}

impl<'a> View<'a> {
    pub(crate) const fn new(object: &'a Object, path: Path<'a>) -> Self {
        Self { object, path }
    }

    /// Views `value`, which ought to be an object.
    pub(crate) fn of(value: &'a Value, path: Path<'a>, problems: &mut Problems) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self { object, path }),
            other => {
                problems.error(
                    code::FIELD_TYPE,
                    &path,
                    format!("expected an object, this is {}", describe(other)),
                );
                None
            }
        }
    }

    pub(crate) fn path(&self, name: &'a str) -> Path<'_> {
        self.path.key(name)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &str, value: &Value, problems: &mut Problems) {
        let message = format!("`{name}` must be {expected}, this is {}", describe(value));
        problems.error(code::FIELD_TYPE, &self.path.key(name), message);
    }

    pub(crate) fn text(&self, name: &str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.value(name)?;
        if value.as_str().is_none() {
            self.wrong(name, "a string", value, problems);
        }
        value.as_str()
    }

    pub(crate) fn object(&self, name: &str, problems: &mut Problems) -> Option<&'a Object> {
        let value = self.value(name)?;
        if value.as_object().is_none() {
            self.wrong(name, "an object", value, problems);
        }
        value.as_object()
    }

    pub(crate) fn boolean(&self, name: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.value(name)?;
        if value.as_bool().is_none() {
            self.wrong(name, "true or false", value, problems);
        }
        value.as_bool()
    }

    /// A list of strings; a single string stands for a list of one.
    pub(crate) fn texts(&self, name: &str, problems: &mut Problems) -> Option<Vec<String>> {
        match self.value(name)? {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            other => {
                self.wrong(name, "a list of strings", other, problems);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn whole(&self, name: &str, least: u64, most: u64, problems: &mut Problems) -> Option<u64> {
        let value = self.value(name)?;
        let number = value
            .as_u64()
            .or_else(|| whole(value.as_f64()?))
            .filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let message = format!("`{name}` must be a whole number from {least} to {most}");
            let code = if value.is_number() {
                code::INVALID_VALUE
            } else {
                code::FIELD_TYPE
            };
            problems.error(code, &self.path.key(name), message);
        }
        number
    }

    /// A number of at least `least`.
    pub(crate) fn number(&self, name: &str, least: f64, problems: &mut Problems) -> Option<f64> {
        let value = self.value(name)?;
        let number = value.as_f64().filter(|&number| number >= least);
        if number.is_none() {
            let code = if value.is_number() {
                code::INVALID_VALUE
            } else {
                code::FIELD_TYPE
            };
            problems.error(
                code,
                &self.path.key(name),
                format!("`{name}` must be a number of at least {least}"),
            );
        }
        number
    }

    /// A duration in milliseconds, at least `least`.
    pub(crate) fn duration_ms(&self, name: &str, least: u64, problems: &mut Problems) -> Option<u64> {
        self.whole(name, least, DURATION_MAX_MS, problems)
    }

    /// A duration in milliseconds, or a template that gives one.
    pub(crate) fn duration_setting(&self, name: &str, problems: &mut Problems) -> Option<Setting<u64>> {
        match self.value(name)? {
            Value::String(text) if is_template(text) => Some(Setting::Template(text.clone())),
            _ => self.duration_ms(name, 1, problems).map(Setting::Fixed),
        }
    }

    /// One word of a closed vocabulary.
    pub(crate) fn word<T>(
        &self,
        name: &str,
        words: &[&str],
        parse: impl FnOnce(&str) -> Option<T>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.text(name, problems)?;
        let word = parse(text);
        if word.is_none() {
            let message = format!("`{text}` is not a value of `{name}`");
            problems.error_hint(
                code::INVALID_VALUE,
                &self.path.key(name),
                message,
                did_you_mean_or_list(text, words),
            );
        }
        word
    }

    /// Refuses every field that is not known.
    pub(crate) fn refuse_others(&self, known: &[&str], problems: &mut Problems) {
        for name in self.object.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("`{name}` is not known here");
            let hint = did_you_mean_or_list(name, known);
            problems.error_hint(code::UNKNOWN_FIELD, &self.path.key(name), message, hint);
        }
    }

    /// Warns of fields nobody reads when they look like a slip of a known one.
    pub(crate) fn warn_of_slips(&self, known: &[&str], problems: &mut Problems) {
        for name in self.object.keys().filter(|name| !known.contains(&name.as_str())) {
            if let Some(hint) = did_you_mean(name, known.iter().copied()) {
                let diagnostic = super::Diagnostic::warning(
                    code::UNKNOWN_FIELD,
                    self.path.key(name).pointer(),
                    format!("nothing reads the field `{name}`"),
                );
                problems.push(diagnostic.with_hint(hint));
            }
        }
    }
}
