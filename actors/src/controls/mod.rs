//! Controls of a scope wider than one execution: in every shard's log, in force before they are acknowledged.

mod cancel;
mod load;
mod machine;
mod shared;
mod spread;
#[cfg(test)]
mod spread_tests;

pub(crate) use cancel::{cancel_stopped, stopped};
pub(crate) use load::load;
pub use machine::{ControlRequest, ControlsMachine, Decided};
pub use shared::ShardControls;
pub(crate) use spread::{control, controls, reconcile};
