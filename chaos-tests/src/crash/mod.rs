//! Kill an engine process at random moments, restart it, and check what its clients, its effects and its log recorded.

pub mod checkers;
pub mod child;
pub mod driver;
pub mod record;
pub mod workload;

pub use checkers::{Evidence, Violation, check};
pub use driver::{Campaign, Outcome};
pub use record::Record;
