//! Named workloads on the same engine as the gateway's, measured, and afterwards checked: a run that lost or repeated
//! anything prints no figure.

mod check;
mod events;
mod load;
mod measure;
mod recover;
mod workload;

use std::path::PathBuf;

use serde::Serialize;
use troupe_config::Settings;

pub(crate) use recover::{RECOVER_RUNNING, load_and_wait};
pub(crate) use workload::{Handler, Workload};

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) workload: Workload,
    pub(crate) executions: usize,
    pub(crate) nodes: usize,
    pub(crate) concurrency: usize,
    pub(crate) handler: Handler,
    /// Starts a second, at most; none: as many as there is concurrency for.
    pub(crate) rate: Option<usize>,
    /// Engines that share the store.
    pub(crate) members: usize,
    /// Directory of the store.
    pub(crate) state: PathBuf,
    pub(crate) settings: Settings,
    /// The file that the settings were read from, if one is named.
    pub(crate) config: Option<PathBuf>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: &'static str,
    pub(crate) members: usize,
    pub(crate) executions: u64,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    pub(crate) executions_per_s: f64,
    pub(crate) steps_per_s: f64,
    pub(crate) latency_ms: Latency,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_per_execution_bytes: f64,
    pub(crate) cpu_seconds: f64,
    /// CPU time a step, in microseconds: of all engines, and of whoever drives them.
    pub(crate) cpu_us_per_step: f64,
    pub(crate) commits: u64,
    pub(crate) commit_batch_mean: f64,
    pub(crate) fsyncs: u64,
    pub(crate) node_actors: u64,
    /// What reached the event broker, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Events>,
    /// Memory a child execution, where children are the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_per_child_bytes: Option<f64>,
    /// How long the first and the last thousand children took, in milliseconds, where children are the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thousand_ms: Option<[f64; 2]>,
    /// Entries in the history of the parent, where children are the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent_entries: Option<u64>,
}

/// What reached the event broker.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Events {
    /// Events it confirmed.
    pub(crate) confirmed: u64,
    /// Messages they travelled in.
    pub(crate) messages: u64,
    /// From the first start until it had confirmed the last of them.
    pub(crate) seconds: f64,
    /// Records that were sent later than this many milliseconds after their entries were made are less than one in a hundred: a bound of
    /// a bucket, which the true 99th percentile does not pass.
    pub(crate) lag_p99_within_ms: f64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] troupe_actors::EngineError),
    /// The product could not be put together.
    #[error("{0}")]
    Setup(String),
    /// A child process or a file failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Something acknowledged is missing, or something happened twice.
    #[error("{invariant} does not hold: {what}")]
    Violated {
        /// `C1` or `C2`.
        invariant: &'static str,
        /// What is wrong.
        what: String,
    },
    /// It did not come to an end.
    #[error("nothing moved for {seconds} s: {what}")]
    Stuck {
        /// How long.
        seconds: u64,
        /// What was waited for.
        what: String,
    },
}

/// Runs a workload and checks it.
pub(crate) async fn run(job: &Job) -> Result<Report, BenchError> {
    match job.workload {
        Workload::Recover => recover::run(job).await,
        Workload::Chain | Workload::Fan | Workload::Parked | Workload::Start | Workload::Each | Workload::Loop => {
            load::run(job).await
        }
    }
}
