//! The root of the supervision tree: opens shards, and opens one again that failed.

mod actor;
mod failures;

pub use actor::{EngineActor, EngineMessage};
