//! One execution: a machine that steps, and an actor that saves and acts.

mod actor;
pub mod load;
pub mod machine;
pub mod view;

pub use actor::{ExecutionActor, ExecutionArguments, ExecutionMessage, Respond, StartInput};
