//! Typed views of `retryPolicy` and of a node's timeouts.

use serde_json::Value;

use super::kind::words;
use super::settings::errors_or;
use super::view::{Setting, View, is_template};
use super::{Diagnostic, Node, Path, Problems, code};

/// Attempts of a node whose policy names no number.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 3;
/// The most attempts a policy may ask for.
pub const MAX_ATTEMPTS_MOST: u32 = 1_000_000;
/// First backoff of a policy that names none, in milliseconds.
pub const INITIAL_DELAY_DEFAULT_MS: u64 = 1_000;
/// Growth of an exponential backoff that names none.
pub const MULTIPLIER_DEFAULT: f64 = 2.0;
/// The longest backoff, as a multiple of the first, of a policy that names none.
pub const MAX_DELAY_FACTOR: u64 = 100;

words! {
    /// How the backoff grows.
    BackoffStrategy {
        /// Always the initial delay.
        Fixed = "fixed",
        /// Multiplied after each attempt.
        Exponential = "exponential",
    }
}

words! {
    /// How a backoff is spread.
    Jitter {
        /// Not at all.
        None = "none",
        /// Evenly between nothing and the whole delay.
        Full = "full",
    }
}

/// The numbers of a backoff.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// How the delay grows.
    pub strategy: BackoffStrategy,
    /// The first delay, in milliseconds.
    pub initial_delay_ms: u64,
    /// Growth after each attempt.
    pub multiplier: f64,
    /// The longest delay, in milliseconds.
    pub max_delay_ms: u64,
    /// How the delay is spread.
    pub jitter: Jitter,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            max_attempts: MAX_ATTEMPTS_DEFAULT,
            strategy: BackoffStrategy::Exponential,
            initial_delay_ms: INITIAL_DELAY_DEFAULT_MS,
            multiplier: MULTIPLIER_DEFAULT,
            max_delay_ms: INITIAL_DELAY_DEFAULT_MS * MAX_DELAY_FACTOR,
            jitter: Jitter::Full,
        }
    }
}

/// A rule that overrides the policy for some errors.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryRule {
    /// Error codes the rule is for; `*` stands for any.
    pub errors: Vec<String>,
    /// The rule's own numbers; what it leaves out comes from the policy.
    pub backoff: Backoff,
}

/// How failed attempts are retried, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetrySettings {
    /// The policy's numbers.
    pub backoff: Backoff,
    /// If given, only these error codes are retried.
    pub retry_on: Option<Vec<String>>,
    /// These error codes are never retried; beats `retry_on`.
    pub do_not_retry_on: Vec<String>,
    /// The first rule that matches an error counts its own attempts.
    pub rules: Vec<RetryRule>,
}

/// The timeouts of a node, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// One attempt, from start to end.
    pub attempt_ms: Option<Setting<u64>>,
    /// From queued to leased.
    pub queue_ms: Option<Setting<u64>>,
    /// From one heartbeat to the next.
    pub heartbeat_ms: Option<Setting<u64>>,
    /// All attempts and backoffs together.
    pub total_ms: Option<Setting<u64>>,
}

const NUMBERS: [&str; 7] = [
    "maxAttempts",
    "backoffStrategy",
    "initialDelay",
    "multiplier",
    "maxDelay",
    "jitter",
    "errors",
];
const KNOWN: [&str; 9] = [
    "maxAttempts",
    "backoffStrategy",
    "initialDelay",
    "multiplier",
    "maxDelay",
    "jitter",
    "retryOn",
    "doNotRetryOn",
    "rules",
];
/// The timeout fields of a node.
pub(crate) const TIMEOUTS: [&str; 4] = ["timeout", "queueTimeout", "heartbeatTimeout", "totalTimeout"];

impl Node {
    /// The typed retry policy; `None` where the node gives none and the engine's default applies.
    ///
    /// # Errors
    ///
    /// Every setting of the wrong shape or out of range, with pointers relative to the node.
    pub fn retry(&self) -> Result<Option<RetrySettings>, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let retry = RetrySettings::read(self, &Path::root(), &mut problems);
        errors_or(retry, problems)
    }

    /// The typed timeouts.
    ///
    /// # Errors
    ///
    /// Every timeout of the wrong shape or out of range, with pointers relative to the node.
    pub fn timeouts(&self) -> Result<TimeoutSettings, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let timeouts = TimeoutSettings::read(self, &Path::root(), &mut problems);
        errors_or(timeouts, problems)
    }

    /// The object that holds `data.<name>`, and its place among [`Node::sources`]: `data`, `taskDefinition` or its `config`.
    pub(crate) fn source(&self, name: &str) -> Option<(&super::Object, usize)> {
        let present = |object: &super::Object| object.get(name).is_some_and(|value| !value.is_null());
        let mut sources = self.sources().into_iter().enumerate();
        sources.find_map(|(depth, source)| source.filter(|source| present(source)).map(|source| (source, depth)))
    }

    /// Calls `read` with a view of the object that holds `data.<name>`.
    pub(crate) fn with_holder<T>(
        &self,
        name: &str,
        path: &Path<'_>,
        read: impl FnOnce(&View<'_>) -> Option<T>,
    ) -> Option<T> {
        let (object, depth) = self.source(name)?;
        let data = path.key("data");
        let task = data.key("taskDefinition");
        let config = task.key("config");
        read(&View::new(object, [data, task, config][depth]))
    }
}

impl TimeoutSettings {
    /// Reads the timeouts of the node at `path`, leaving out what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Self {
        let [attempt_ms, queue_ms, heartbeat_ms, total_ms] =
            TIMEOUTS.map(|name| node.with_holder(name, path, |view| view.duration_setting(name, problems)));
        Self {
            attempt_ms,
            queue_ms,
            heartbeat_ms,
            total_ms,
        }
    }
}

impl RetrySettings {
    /// Reads the retry policy of the node at `path`, with defaults in place of what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        node.with_holder("retryPolicy", path, |holder| {
            let value = holder.value("retryPolicy")?;
            let view = View::of(value, holder.path("retryPolicy"), problems)?;
            view.warn_of_slips(&KNOWN, problems);
            let backoff = read_backoff(&view, None, problems);
            Some(Self {
                backoff,
                retry_on: view.texts("retryOn", problems),
                do_not_retry_on: view.texts("doNotRetryOn", problems).unwrap_or_default(),
                rules: read_rules(&view, &backoff, problems),
            })
        })
    }
}

fn read_rules(policy: &View<'_>, base: &Backoff, problems: &mut Problems) -> Vec<RetryRule> {
    let at = policy.path("rules");
    let items = match policy.value("rules") {
        None => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            problems.error(code::FIELD_TYPE, &at, "`rules` must be a list of objects");
            return Vec::new();
        }
    };
    let read = |(index, item): (usize, &Value)| {
        let view = View::of(item, at.index(index), problems)?;
        view.warn_of_slips(&NUMBERS, problems);
        let errors = view.texts("errors", problems).unwrap_or_default();
        if errors.is_empty() {
            problems.error(
                code::MISSING_FIELD,
                &at.index(index),
                "a retry rule needs `errors`, a list of error codes",
            );
        }
        Some(RetryRule {
            errors,
            backoff: read_backoff(&view, Some(base), problems),
        })
    };
    items.iter().enumerate().filter_map(read).collect()
}

fn read_backoff(view: &View<'_>, base: Option<&Backoff>, problems: &mut Problems) -> Backoff {
    let fallback = base.copied().unwrap_or_default();
    for name in ["maxAttempts", "initialDelay", "multiplier", "maxDelay"] {
        if view.value(name).and_then(Value::as_str).is_some_and(is_template) {
            let message =
                format!("`{name}` of a retry policy cannot be a template: it is fixed when the workflow is saved");
            problems.error(code::UNSUPPORTED, &view.path(name), message);
            return fallback;
        }
    }
    let initial = view.duration_ms("initialDelay", 0, problems);
    let initial_delay_ms = initial.unwrap_or(fallback.initial_delay_ms);
    let most = view.duration_ms("maxDelay", 0, problems);
    // A rule that changes the first delay alone keeps the policy's ceiling; a policy derives its own.
    let max_delay_ms = most.unwrap_or(match base {
        Some(base) => base.max_delay_ms.max(initial_delay_ms),
        None => initial_delay_ms
            .saturating_mul(MAX_DELAY_FACTOR)
            .min(super::DURATION_MAX_MS),
    });
    if most.is_some() && max_delay_ms < initial_delay_ms {
        let message = format!("`maxDelay` {max_delay_ms} is below `initialDelay` {initial_delay_ms} and wins");
        problems.warning(code::INVALID_VALUE, &view.path("maxDelay"), message);
    }
    let attempts = view.whole("maxAttempts", 1, u64::from(MAX_ATTEMPTS_MOST), problems);
    Backoff {
        max_attempts: attempts.map_or(fallback.max_attempts, |attempts| attempts as u32),
        strategy: view
            .word(
                "backoffStrategy",
                BackoffStrategy::WORDS,
                BackoffStrategy::parse,
                problems,
            )
            .unwrap_or(fallback.strategy),
        initial_delay_ms,
        multiplier: view.number("multiplier", 1.0, problems).unwrap_or(fallback.multiplier),
        max_delay_ms,
        jitter: view
            .word("jitter", Jitter::WORDS, Jitter::parse, problems)
            .unwrap_or(fallback.jitter),
    }
}
