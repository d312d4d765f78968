//! Group commit: while one append is in flight the next batch gathers; no artificial delay.

mod actor;
pub mod kept;
pub mod machine;

pub use actor::{CommitterActor, CommitterArguments, CommitterMessage, ControlNotify, HeldCommit, NotRestored, Notify};
