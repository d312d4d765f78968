//! A small, slow interpreter of the execution semantics, written from their text alone.
//!
//! It shares nothing with the real core: not the plan, not the state, not a line of the execution module. Everything is
//! looked up by name in the definition, and what follows from the state is computed anew each time it is asked for.

mod deadlines;
mod definition;
mod interpreter;
mod joins;
pub mod language;
mod outcome;
mod retries;

pub use interpreter::{Did, Phase, Reference, Refusal, Status};
pub use retries::Failure;
