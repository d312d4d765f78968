//! Chaos: processes that die and machines that are simulated, with checkers over what was recorded.
//!
//! The checkers know the public contract (C1 to C13 of the durability design) and nothing of how it is kept.

pub mod crash;
pub mod world;
