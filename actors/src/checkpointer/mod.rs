//! Moves the log into segments, snapshots and archives in the background, and knows what the log alone still holds.

mod actor;
pub mod archive;
mod expire;
pub mod machine;
mod write;

pub use actor::{CheckpointerActor, CheckpointerArguments, CheckpointerMessage};
pub use machine::{CheckpointItem, Pending};
