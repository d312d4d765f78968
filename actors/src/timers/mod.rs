//! Wakes executions when they are due; keeps a bounded window of the store's timers in memory.

mod actor;
pub mod machine;

pub use actor::{TimersActor, TimersArguments, TimersMessage};
