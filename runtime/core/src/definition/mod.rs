//! Workflow definitions: the wire format, its typed views, parsing with source positions, and validation.
//!
//! Knows nothing of any expression language: what needs one asks a [`LanguageChecker`].

pub mod code;
mod compensation;
mod concurrency;
mod diagnostic;
mod events;
mod join;
mod json;
mod kind;
mod language;
mod limits;
mod model;
mod parse;
mod problems;
pub mod read;
mod retry;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod trigger;
mod validate;
mod view;
mod webhook;
mod write;
mod yaml;

pub use compensation::COMPENSATION_KINDS;
pub use concurrency::{ConcurrencyLimit, ConcurrencyScope};
pub use diagnostic::{Diagnostic, Position, Severity};
pub use events::{EventExchange, EventSettings, ExchangeType, NodeEvents};
pub use join::{JoinMode, JoinModeWord, JoinSettings, LateArrivals, OnJoinTimeout, OnUnsatisfied};
pub use kind::{EdgeKind, NodeKind};
pub use language::{LanguageChecker, LanguageError, UnknownName};
pub use limits::{Limits, NESTING_HARD_MAX};
pub use model::{
    DefinitionMetadata, Node, NodeMetadata, NodePosition, Object, WorkflowDefinition, WorkflowEdge, field,
};
pub use parse::{Format, Parsed, parse, parse_json};
pub use problems::{PROBLEMS_LISTED_MAX, Path, Problems, closest, did_you_mean, did_you_mean_or_list};
pub use retry::{
    Backoff, BackoffStrategy, INITIAL_DELAY_DEFAULT_MS, Jitter, MAX_ATTEMPTS_DEFAULT, MAX_ATTEMPTS_MOST,
    MAX_DELAY_FACTOR, MULTIPLIER_DEFAULT, RetryRule, RetrySettings, TimeoutSettings,
};
pub use settings::{ConcurrencySettings, OnFailure, PRIORITY_DEFAULT, PRIORITY_MAX, RetentionSettings, Settings};
pub use source::SourceMap;
pub use trigger::{EventTrigger, PREFETCH_DEFAULT, StartMapping};
pub use validate::{Checked, Source, VERBATIM_FIELDS, check, each_source, validate};
pub use view::{DURATION_MAX_MS, Setting, is_template};
pub use webhook::{SignatureAlgorithm, SignatureEncoding, SignatureSettings, WebhookProvider, WebhookSettings};
pub use write::WriteError;
