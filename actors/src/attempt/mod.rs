//! One attempt of a node: a linked actor that waits for its turn, runs the executor and reports.

mod actor;
pub mod machine;

pub use actor::{AttemptArguments, AttemptHandle, NodeAttemptActor};
