//! Runs code that users wrote in processes that can do nothing but compute.
//!
//! The engine's side is [`SandboxPool`]; the process's side starts in [`run_child_if_requested`]. The engine's process
//! never parses or runs user code. See `docs/adr/0005-sandbox.md`.

mod child;
mod engine;
mod json;
mod lockdown;
mod memory;
mod options;
mod pool;
mod process;
mod programs;
mod protocol;
mod source;
mod template;
mod typescript;
mod worker;

pub use child::run_child_if_requested;
pub use lockdown::Lockdown;
pub use options::SandboxOptions;
pub use pool::{SandboxError, SandboxPool, SandboxStatus};
pub use source::ExpressionProblem;
