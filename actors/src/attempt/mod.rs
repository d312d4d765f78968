//! One attempt of a node: a linked actor that waits for its turn, runs the executor and reports.

mod actor;
pub mod leave;
pub mod machine;
mod payloads;
pub mod permits;
pub(crate) mod shared_slots;
pub mod slots;
mod turn;

pub use actor::{AttemptArguments, AttemptHandle, NodeAttemptActor};
pub use turn::{AttemptWait, AttemptWaits};
