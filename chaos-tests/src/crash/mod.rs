//! Kill and freeze engine processes at random moments, restart and replace them, and check what their clients, their effects,
//! their events and their log recorded.

pub mod bus;
mod calls;
pub mod checkers;
pub mod child;
pub(crate) mod clients;
pub(crate) mod door;
pub mod driver;
pub mod effects;
pub(crate) mod heal;
pub(crate) mod incarnation;
pub mod parked;
pub mod record;
pub(crate) mod rulings;
pub mod switches;
pub mod takeover;
pub(crate) mod witness;
pub mod workload;

pub use checkers::{Evidence, Violation, check};
pub use driver::{Campaign, Outcome};
pub use record::Record;
pub use takeover::Takeovers;
