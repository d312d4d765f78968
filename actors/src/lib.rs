//! The engine: actors that carry out what the core decides.
//!
//! Every actor is a folder with a synchronous machine (`machine.rs`: message and time in, actions out; no tokio, no I/O)
//! and a thin ractor shell (`actor.rs`). The simulator drives the same machines with a simulated store and clock.
//! This crate names no backend and no wire type; [`EngineHandle`] is its only door.

#[cfg(test)]
extern crate self as troupe_actors;

pub mod attempt;
pub mod blobs;
pub mod breakers;
pub mod checkpointer;
pub mod committer;
pub mod context;
pub mod controls;
pub mod directory;
pub mod engine;
pub mod error;
pub mod evaluation;
pub mod execution;
pub mod format;
pub mod gauges;
pub mod handle;
mod keys;
mod lease;
pub mod options;
pub mod placement;
pub mod record;
mod reopen;
pub mod request;
mod rerun;
pub mod resume;
pub mod rooms;
pub mod shard;
mod shared_limits;
pub mod sinks;
mod start;
#[cfg(test)]
mod supervision_tests;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
mod task;
pub mod timers;

pub use attempt::AttemptWait;
pub use blobs::Contents;
pub use breakers::{BreakerHold, BreakerSettings, BreakerState, BreakerView};
pub use controls::{ControlRequest, ControlSets};
pub use error::{EngineError, NEWER_FORMAT_HINT};
pub use handle::{Engine, EngineHandle, EngineParts};
pub use options::{BacklogMarks, EngineOptions, Mutants};
pub use placement::Whereabouts;
pub use request::{
    Command, CommandOutcome, ControlOutcome, ControlView, EndWatch, Ended, EngineStatus, ExecutionView, Held,
    KeyPolicy, Learned, OnClosed, OnOpen, ReopenOutcome, ReopenRequest, RerunOutcome, RerunRequest, StartOutcome,
    StartRequest,
};
pub use rerun::values_of;
pub use resume::{RESUME_SECRET_BYTES, ResumeLinks};
pub use shard::DAMAGED_HINT;
pub use troupe_telemetry::StartCause;
