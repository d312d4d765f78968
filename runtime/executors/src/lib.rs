//! Whoever does the work of nodes: registered handlers, sandboxed functions, HTTP calls and transformations.
//!
//! This crate knows no store, no actor and no log: it carries out one attempt at a time and reports what came of it.
//! It never runs user code in the engine's process: that is what the [`sandbox`] processes are for.

mod builtin;
pub mod codes;
pub mod function;
pub mod handler;
mod payload;
pub mod registry;
pub mod sandbox;

pub use function::FunctionExecutor;
pub use handler::{Handler, HandlerCall, HandlerError, HandlerRegistry, HandlerResult};
pub use registry::{Executors, ExecutorsBuilder};
pub use sandbox::{SandboxOptions, SandboxPool, run_child_if_requested};
