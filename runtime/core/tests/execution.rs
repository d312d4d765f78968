//! The execution core against its semantics: a reference interpreter on random executions, and one case a sentence.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod properties;
mod reference;
mod support;
mod table;
