//! Drives the real core and the reference in lock-step.

pub mod aftermath;
pub mod again;
pub mod alone;
pub mod cases;
pub mod choices;
pub mod compare;
pub mod definitions;
pub mod duo;
pub mod evaluator;
pub mod loops;
pub mod nodes;
pub mod script;
pub mod solo;
pub mod stimulus;

pub use duo::EPOCH;
