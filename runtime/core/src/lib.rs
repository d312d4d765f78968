//! The pure core of Troupe: definitions, graph analysis, the executable plan and the execution state machine.
//!
//! Nothing in this crate knows tokio, a clock, randomness or I/O: time is an argument, effects are data.

#![warn(clippy::iter_over_hash_type)]

pub mod control;
pub mod definition;
pub mod execution;
pub mod format;
pub mod graph;
pub mod id;
pub mod lifecycle;
pub mod placement;
pub mod plan;
pub mod value;

pub use format::{FormatRange, FormatTerms, StateFormat};
pub use id::*;
pub use value::{BlobRef, Composed, ErrorInfo, INLINE_BYTES_MAX, Json, Parts, Value};
