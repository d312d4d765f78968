//! §4: whether a failed attempt is followed by another, and how long after at the earliest and latest.

use serde_json::Value;
use troupe_core::definition::Node;

use super::definition::{field, texts};

/// A failed attempt, as its executor reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub details: Option<Value>,
    pub retryable: bool,
    pub retry_after_ms: Option<i64>,
}

impl Failure {
    /// The error as failure edges and expressions see it.
    pub fn error(&self) -> Value {
        let mut error = serde_json::json!({"message": self.message, "code": self.code});
        if let Some(details) = &self.details {
            error["details"] = details.clone();
        }
        error
    }
}

const NEVER: [&str; 6] = [
    "SCHEMA_VIOLATION",
    "EXPRESSION_ERROR",
    "NO_MATCHING_CONDITION",
    "JOIN_UNSATISFIED",
    "HANDLER_NOT_FOUND",
    "QUEUE_TIMEOUT",
];

/// The least and the greatest delay before the next attempt; none when there is no next one.
///
/// `codes` are the error codes of all failed attempts of the visit, the newest one last.
pub fn next(node: &Node, codes: &[String], failure: &Failure) -> Option<(i64, i64)> {
    let policy = field(node, "retryPolicy").cloned().unwrap_or(Value::Null);
    let code = failure.code.as_str();
    let lists = |name: &str| texts(policy.get(name)).iter().any(|listed| listed == code);
    if !failure.retryable || NEVER.contains(&code) || lists("doNotRetryOn") {
        return None;
    }
    if policy.get("retryOn").is_some_and(|listed| !listed.is_null()) && !lists("retryOn") {
        return None;
    }
    let rules = policy
        .get("rules")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let rule_of = |code: &str| {
        rules.iter().position(|rule| {
            texts(rule.get("errors"))
                .iter()
                .any(|listed| listed == "*" || listed == code)
        })
    };
    let rule = rule_of(code);
    let failed = codes.iter().filter(|code| rule_of(code) == rule).count() as i64;
    let own = rule.map(|rule| &rules[rule]);
    let number = |name: &str| {
        own.and_then(|rule| rule.get(name))
            .or_else(|| policy.get(name))
            .and_then(Value::as_f64)
    };
    let word = |name: &str| {
        own.and_then(|rule| rule.get(name))
            .or_else(|| policy.get(name))
            .and_then(Value::as_str)
    };
    if failed >= number("maxAttempts").map_or(3, |most| most as i64) {
        return None;
    }
    let initial = number("initialDelay").unwrap_or(1000.0);
    let most = number("maxDelay").unwrap_or(initial * 100.0);
    let multiplier = if word("backoffStrategy") == Some("fixed") {
        1.0
    } else {
        number("multiplier").unwrap_or(2.0)
    };
    let delay = (initial * multiplier.powi(failed as i32 - 1)).min(most) as i64;
    let least = if word("jitter") == Some("none") { delay } else { 0 };
    let floor = failure.retry_after_ms.unwrap_or(0);
    Some((least.max(floor), delay.max(floor)))
}
