//! Whoever does the work of nodes: registered handlers, sandboxed functions, HTTP calls and transformations.
//!
//! This crate knows no store, no actor and no log: it carries out one attempt at a time and reports what came of it.
//! It never runs user code in the engine's process: that is what the [`sandbox`] processes are for.

mod builtin;
pub mod codes;
pub mod function;
pub mod handler;
pub mod http;
mod payload;
pub mod registry;
pub mod sandbox;
pub mod secrets;
pub mod transformation;

pub use function::FunctionExecutor;
pub use handler::{Handler, HandlerCall, HandlerError, HandlerRegistry, HandlerResult};
pub use http::{EgressPolicy, HttpExecutor, HttpOptions};
pub use registry::{Executors, ExecutorsBuilder};
pub use sandbox::{ExpressionProblem, SandboxOptions, SandboxPool, run_child_if_requested};
pub use secrets::EnvSecrets;
pub use transformation::TransformationExecutor;
