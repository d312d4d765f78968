//! Settings of the pool.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`super::SandboxPool`].
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The program to start; it must call [`super::run_child_if_requested`] first. None: this one.
    pub program: Option<PathBuf>,
    /// Processes that are always there.
    pub processes: usize,
    /// Processes while long calls hold the others.
    pub processes_max: usize,
    /// Calls that may wait for a process; further ones fail with `SANDBOX_UNAVAILABLE`, worth a retry.
    pub queue_max: usize,
    /// Memory of one workflow version's code, in bytes.
    pub memory_bytes: usize,
    /// Stack of one call, in bytes.
    pub stack_bytes: usize,
    /// Largest input with its context, in bytes.
    pub input_bytes_max: usize,
    /// Largest output, in bytes.
    pub output_bytes_max: usize,
    /// Lines that one call may log.
    pub log_lines_max: usize,
    /// Bytes that one call may log.
    pub log_bytes_max: usize,
    /// How long one expression may run.
    pub expression_timeout: Duration,
    /// How long after its deadline a process is killed that has not given up by itself.
    pub kill_grace: Duration,
    /// How long a new process may take until it is ready.
    pub start_timeout: Duration,
    /// Answers the probe of [`super::SandboxPool::probe`]; for tests of the lock.
    pub probe: bool,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            program: None,
            processes: cores,
            processes_max: cores * 4,
            queue_max: 100_000,
            memory_bytes: 64 * 1024 * 1024,
            stack_bytes: 1024 * 1024,
            input_bytes_max: 16 * 1024 * 1024,
            output_bytes_max: 1024 * 1024,
            log_lines_max: 1_000,
            log_bytes_max: 64 * 1024,
            expression_timeout: Duration::from_secs(1),
            kill_grace: Duration::from_millis(250),
            start_timeout: Duration::from_secs(10),
            probe: false,
        }
    }
}
