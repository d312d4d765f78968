//! Chaos: processes that die and machines that are simulated, with checkers over what was recorded.
//!
//! The checkers know the public contract (C1 to C13 of the durability design) and nothing of how it is kept.

pub mod campaign;
pub mod chaos;
pub mod crash;
#[allow(
    missing_docs,
    unreachable_pub,
    reason = "tests of the core that this crate reads too"
)]
pub mod generator;
pub mod mutants;
/// The interpreter written from the text of the semantics alone, which also judges the core in the core's own tests.
#[allow(
    missing_docs,
    unreachable_pub,
    reason = "tests of the core that this crate reads too"
)]
#[path = "../../runtime/core/tests/reference/mod.rs"]
pub mod reference;
pub mod shrink;
pub mod world;
