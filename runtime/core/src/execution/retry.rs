//! Whether and when a failed attempt is followed by another. Deterministic: the jitter is a hash.

use crate::definition::{Backoff, BackoffStrategy, Jitter, RetrySettings};
use crate::id::{ExecutionId, NodeIx};

use super::event::AttemptFailure;
use super::state::NodeState;

/// Codes that another attempt cannot mend.
const NEVER_RETRIED: [&str; 6] = [
    "SCHEMA_VIOLATION",
    "EXPRESSION_ERROR",
    "NO_MATCHING_CONDITION",
    "JOIN_UNSATISFIED",
    "HANDLER_NOT_FOUND",
    "QUEUE_TIMEOUT",
];

/// Delay before the next attempt in milliseconds; none when there is no next attempt.
///
/// `node` already records the attempt that failed.
pub(super) fn delay_ms(
    policy: &RetrySettings,
    execution: ExecutionId,
    ix: NodeIx,
    node: &NodeState,
    failure: &AttemptFailure,
) -> Option<u64> {
    let code = failure.error.code.as_str();
    if !failure.retryable || NEVER_RETRIED.contains(&code) || names(&policy.do_not_retry_on, code) {
        return None;
    }
    let rule = rule_for(policy, code);
    if rule.is_none() && policy.retry_on.as_ref().is_some_and(|codes| !names(codes, code)) {
        return None;
    }
    let same_rule = |code: &str| rule_for(policy, code) == rule;
    let errors = node
        .attempts
        .iter()
        .filter(|record| !record.was_interrupted())
        .filter_map(|r| r.error.as_ref());
    let failures = u32::try_from(errors.filter(|error| same_rule(&error.code)).count()).unwrap_or(u32::MAX);
    let backoff = rule.map_or(&policy.backoff, |place| &policy.rules[place].backoff);
    if failures >= backoff.max_attempts {
        return None;
    }
    let full_ms = full_delay_ms(backoff, failures);
    let drawn_ms = match backoff.jitter {
        Jitter::None => full_ms,
        Jitter::Full => (full_ms as f64 * fraction(execution, ix, node)) as u64,
    };
    Some(drawn_ms.max(failure.retry_after_ms.unwrap_or(0)))
}

/// The first rule that matches a code, by its place.
fn rule_for(policy: &RetrySettings, code: &str) -> Option<usize> {
    policy.rules.iter().position(|rule| names(&rule.errors, code))
}

fn names(codes: &[String], code: &str) -> bool {
    codes.iter().any(|listed| listed == code || listed == "*")
}

/// The delay after the n-th failure, before jitter.
fn full_delay_ms(backoff: &Backoff, failures: u32) -> u64 {
    let factor = match backoff.strategy {
        BackoffStrategy::Fixed => 1.0,
        BackoffStrategy::Exponential => backoff
            .multiplier
            .powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX)),
    };
    ((backoff.initial_delay_ms as f64 * factor) as u64).min(backoff.max_delay_ms)
}

/// A number in [0, 1) that only this attempt of this node of this execution has.
fn fraction(execution: ExecutionId, ix: NodeIx, node: &NodeState) -> f64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&execution.0);
    hasher.update(&ix.0.to_be_bytes());
    hasher.update(&node.visit.0.to_be_bytes());
    hasher.update(&node.next_attempt().0.to_be_bytes());
    (hasher.digest() >> 11) as f64 / (1_u64 << 53) as f64
}
