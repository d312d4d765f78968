//! Controls of a scope wider than one execution: in every shard's log, in force before they are acknowledged.

mod cancel;
mod load;
mod machine;
mod order;
mod sets;
mod shared;
mod spread;
#[cfg(test)]
mod spread_tests;

pub(crate) use cancel::cancel_stopped;
pub use cancel::{CLEAN_LOOKS, LOOK_EVERY, cancellation, open_executions, stopped};
pub use load::fold;
pub(crate) use load::load;
pub use machine::{ControlRequest, ControlsMachine, Decided, Origin};
pub use order::{behind, given_at};
pub use sets::ControlSets;
pub use shared::ShardControls;
pub(crate) use spread::{control, controls, learn, learn_from, planned, reconcile, sets};
