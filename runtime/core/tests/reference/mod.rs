//! A small, slow interpreter of the execution semantics, written from their text alone.
//!
//! It shares nothing with the real core: not the plan, not the state, not a line of the execution module. Everything is
//! looked up by name in the definition, and what follows from the state is computed anew each time it is asked for; only the
//! loops of a definition, which never change, are found once.

mod cancels;
mod children;
mod compensations;
mod controls;
mod deadlines;
mod definition;
mod ends;
mod error_workflows;
mod fail_fast;
mod generations;
mod interpreter;
mod interventions;
mod joins;
pub mod language;
mod loops;
mod outcome;
mod progress;
mod reopen;
pub mod rerun;
mod retries;
mod reuse;
mod scope;
mod state;
mod waits;

pub use children::{ChildEnd, ChildReport, Tell};
pub use compensations::UNDOES;
pub use controls::{Control, Scope};
pub use interventions::Decision;
pub use reopen::Remedy;
pub use retries::Failure;
pub use state::{Did, Edge, Phase, Reference, Refusal, Status};
