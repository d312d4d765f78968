//! One shard: owns its lease, its log and the actors of its executions.

mod acquire;
mod actor;
mod format;
mod lists;
mod loss;
mod lost_word;
pub mod machine;
mod mail;
mod open;
mod recovering;
mod resume;
mod route;
mod tail;
mod went_back;

pub(crate) use actor::forget;
pub use actor::{CLOSED, DAMAGED_HINT, FENCED, HALTED, ShardActor, ShardArguments, ShardMessage};
pub use mail::{Mail, send_to_relative};
pub use route::{deliver, spawn_execution};
