//! Collecting problems with the JSON pointer of each.

use super::{Diagnostic, Severity};

/// Problems listed before the rest is only counted: enough for any author, a bound for hostile input.
pub const PROBLEMS_LISTED_MAX: usize = 10_000;

/// Bytes of pointers, messages and hints listed before the rest is only counted: one long key may stand above many
/// problems.
const PROBLEMS_BYTES_MAX: usize = 4 << 20;

/// Characters of a message or a hint that are kept: it may quote what was written.
const TEXT_CHARS_MAX: usize = 2_000;

/// A word beyond this is no slip of a known one, and comparing takes the time of both lengths multiplied.
const WORD_BYTES_MAX: usize = 256;

/// A place inside a definition, built without allocation while walking down.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The whole document.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            parent: None,
            step: Step::Root,
        }
    }

    /// The field `key` of this object.
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// The element `index` of this array.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The JSON pointer (RFC 6901).
    #[must_use]
    pub fn pointer(&self) -> String {
        let mut steps = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            steps.push(path.step);
            at = path.parent;
        }
        let mut pointer = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key) => push_key(&mut pointer, key),
                Step::Index(index) => push_key(&mut pointer, &index.to_string()),
            }
        }
        pointer
    }
}

/// Appends one reference token to a JSON pointer, escaped.
pub(crate) fn push_key(pointer: &mut String, key: &str) {
    pointer.push('/');
    for character in key.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub struct Problems {
    listed: Vec<Diagnostic>,
    listed_bytes: usize,
    unlisted: usize,
    unlisted_errors: bool,
}

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, mut diagnostic: Diagnostic) {
        if self.is_full() {
            self.count(diagnostic.is_error());
            return;
        }
        clip(&mut diagnostic.message);
        diagnostic.hint.iter_mut().for_each(clip);
        let hint_bytes = diagnostic.hint.as_ref().map_or(0, String::len);
        self.listed_bytes += diagnostic.pointer.len() + diagnostic.message.len() + hint_bytes;
        self.listed.push(diagnostic);
    }

    /// Whether further problems are only counted.
    pub(crate) const fn is_full(&self) -> bool {
        self.listed.len() >= PROBLEMS_LISTED_MAX || self.listed_bytes >= PROBLEMS_BYTES_MAX
    }

    const fn count(&mut self, is_error: bool) {
        self.unlisted += 1;
        self.unlisted_errors |= is_error;
    }

    /// Adds what `make` gives, which is not asked when problems are only counted: pointers can be long.
    fn push_made(&mut self, is_error: bool, make: impl FnOnce() -> Diagnostic) {
        if self.is_full() {
            self.count(is_error);
        } else {
            self.push(make());
        }
    }

    /// Adds an error at `path`.
    pub fn error(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>) {
        self.push_made(true, || Diagnostic::error(code, path.pointer(), message));
    }

    /// Adds an error with a hint at `path`.
    pub fn error_hint(
        &mut self,
        code: &'static str,
        path: &Path<'_>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push_made(true, || {
            Diagnostic::error(code, path.pointer(), message).with_hint(hint)
        });
    }

    /// Adds a warning at `path`.
    pub fn warning(&mut self, code: &'static str, path: &Path<'_>, message: impl Into<String>) {
        self.push_made(false, || Diagnostic::warning(code, path.pointer(), message));
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The problems, errors first within each place's order of discovery, with a last one that counts what was not listed.
    #[must_use]
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        if self.unlisted > 0 {
            let mut more = Diagnostic::error(
                super::code::TOO_MANY_PROBLEMS,
                "",
                format!("{} more problems are not listed", self.unlisted),
            );
            if !self.unlisted_errors {
                more.severity = Severity::Warning;
            }
            self.listed.push(more);
        }
        self.listed
    }

    /// One line that names every error, or nothing when there is none.
    pub(crate) fn into_errors_text(self) -> Option<String> {
        let errors: Vec<String> = self
            .into_diagnostics()
            .iter()
            .filter(|diagnostic| diagnostic.is_error())
            .map(ToString::to_string)
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }
}

/// Cuts a text to what is kept of it.
fn clip(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

/// The candidate a mistyped word probably meant.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
    {
        let score = strsim::jaro_winkler(&lower, &candidate.to_lowercase()).max(
            strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase()),
        );
        if score >= 0.8 && best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The hint for a mistyped word.
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// The hint for a word outside a small vocabulary: the closest word, else all of them.
#[must_use]
pub fn did_you_mean_or_list(word: &str, vocabulary: &[&str]) -> Option<String> {
    did_you_mean(word, vocabulary.iter().copied()).or_else(|| Some(format!("one of: {}", vocabulary.join(", "))))
}
