//! Drives the real core and the reference in lock-step.

pub mod choices;
pub mod definitions;
pub mod duo;
pub mod evaluator;
pub mod nodes;
pub mod script;
