//! The random definitions of the core's own tests.

#[path = "../../../runtime/core/tests/support/aftermath.rs"]
pub mod aftermath;
#[path = "../../../runtime/core/tests/support/choices.rs"]
pub mod choices;
#[path = "../../../runtime/core/tests/support/definitions.rs"]
pub mod definitions;
#[path = "../../../runtime/core/tests/support/loops.rs"]
mod loops;
#[path = "../../../runtime/core/tests/support/nodes.rs"]
mod nodes;

/// When a simulated world begins, in epoch milliseconds: instants in definitions lie around it.
pub const EPOCH: i64 = 1_790_000_000_000;
