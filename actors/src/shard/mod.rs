//! One shard: owns its lease, its log and the actors of its executions.

mod actor;
pub mod machine;
mod open;
mod route;

pub use actor::{CLOSED, FENCED, HALTED, ShardActor, ShardArguments, ShardMessage};
pub use route::{deliver, spawn_execution};
