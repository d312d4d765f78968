//! One execution: a machine that steps, and an actor that saves and acts.

mod actor;
mod answers;
mod children;
pub mod error_workflow;
pub mod family;
mod jobs;
pub mod load;
mod loading;
pub mod machine;
mod message;
mod perform;
mod protocol;
mod reuse;
mod supersede;
pub mod view;

pub use actor::ExecutionActor;
pub use message::{ExecutionArguments, ExecutionMessage, Respond, StartInput, Viewed};
