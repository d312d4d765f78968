//! The languages of a workflow definition: expressions, templates, JSON Schema and cron.
//!
//! Everything here is parsing, checking and evaluating of text and values. There is no I/O, no clock, no
//! randomness and no thread: a result depends on the arguments alone, and every function ends within the
//! limits of [`limits`] whatever the input is.
//!
//! * [`expression`]: conditions and mappings; a safe subset of JavaScript, JSONPath, or a source for the sandbox
//! * [`template`]: `{{ … }}` in the strings of a node's data, and Jinja templates
//! * [`schema`]: JSON Schema without remote references
//! * [`cron`]: cron patterns
//! * [`checker`]: the checks that the validator of definitions asks for

pub mod checker;
pub mod cron;
mod error;
pub mod expression;
mod jsonpath;
pub mod limits;
pub mod schema;
mod scope;
pub mod template;

pub use error::{EvalError, LangCode, LangError};
pub use expression::{Class, Comparison, Expression, MemberAccess, Names, Outline, ScopePath, Uses, truthy};
pub use scope::{Binding, Record, Scope};
