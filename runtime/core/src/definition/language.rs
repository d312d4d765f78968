//! What the validator asks of the expression languages.

/// A language problem inside one string of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageError {
    /// Stable code of the problem, more precise than the validator's own.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Byte offset of the problem in the string, where known.
    pub offset: Option<usize>,
}

/// A name in a source that nothing binds: probably misspelt, certainly an error when it is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// What it probably means.
    pub hint: Option<String>,
}

/// Checks strings and schemas of a definition without running anything.
///
/// A port: the languages live in another crate, and the core stays free of them.
pub trait LanguageChecker {
    /// Checks an expression: JavaScript, or JSONPath where it starts with `$`. Gives the names that nothing binds.
    ///
    /// # Errors
    ///
    /// The expression does not parse.
    fn expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError>;

    /// Checks a string that may hold `{{ … }}` parts. Gives the names in them that nothing binds.
    ///
    /// # Errors
    ///
    /// A part does not parse.
    fn template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError>;

    /// As [`LanguageChecker::expression`], of one that sees `event` and nothing else.
    ///
    /// # Errors
    ///
    /// The expression does not parse.
    fn event_expression(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError>;

    /// As [`LanguageChecker::template`], of one that sees `event` and nothing else and is evaluated where no sandbox is near.
    ///
    /// # Errors
    ///
    /// A part does not parse, is beyond the safe subset of JavaScript, or names a secret.
    fn event_template(&self, source: &str) -> Result<Vec<UnknownName>, LanguageError>;

    /// Checks a Jinja template.
    ///
    /// # Errors
    ///
    /// The template does not parse, or names a filter or a test that there is not.
    fn jinja(&self, source: &str) -> Result<(), LanguageError>;

    /// Checks a JSON Schema.
    ///
    /// # Errors
    ///
    /// The schema is not valid or refers to a remote one.
    fn schema(&self, schema: &serde_json::Value) -> Result<(), LanguageError>;

    /// Checks a cron expression.
    ///
    /// # Errors
    ///
    /// The expression does not parse.
    fn cron(&self, source: &str) -> Result<(), LanguageError>;

    /// Checks that JavaScript or TypeScript code parses and defines `function_name`.
    ///
    /// # Errors
    ///
    /// The code does not parse or defines no such function.
    fn function_code(&self, code: &str, function_name: &str) -> Result<(), LanguageError>;

    /// Names of the registered handlers; `None` where they are not known (remote workers register later).
    fn known_handlers(&self) -> Option<Vec<String>>;
}
