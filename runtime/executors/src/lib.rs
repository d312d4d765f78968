//!
//! This crate knows no store, no actor and no log: it carries out one attempt at a time and reports what came of it.

mod builtin;
pub mod codes;
pub mod function;
pub mod handler;
mod payload;
pub mod registry;

pub use function::FunctionExecutor;
pub use handler::{Handler, HandlerCall, HandlerError, HandlerRegistry, HandlerResult};
pub use registry::{Executors, ExecutorsBuilder};
