//! The Prometheus recorder and what it exposes.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::catalogue::{Kind, METRICS, describe_all};

/// Samples of histograms gather until they are folded; without a scrape only this folds them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExpositionError {
    /// The exporter refused its settings.
    #[error("the metrics recorder refused its settings: {0}")]
    Settings(String),
    /// A recorder is installed already.
    #[error("a metrics recorder is already installed in this process")]
    Installed,
    /// The upkeep thread could not be started.
    #[error("no thread for the upkeep of metrics: {0}")]
    Thread(#[from] std::io::Error),
}

/// The process's metrics, ready to scrape. Dropping it ends the upkeep, not the recorder.
#[derive(Debug)]
pub struct Exposition {
    handle: PrometheusHandle,
    /// Closing it ends the upkeep thread.
    _upkeep: Sender<()>,
}

impl Exposition {
    /// Installs the process's recorder, describes the catalogue and folds samples every 5 s.
    ///
    /// # Errors
    /// See [`ExpositionError`].
    pub fn install() -> Result<Self, ExpositionError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| ExpositionError::Installed)?;
        describe_all();
        let (stop, stopped) = channel::<()>();
        let folded = handle.clone();
        thread::Builder::new().name("metrics-upkeep".into()).spawn(move || {
            while stopped.recv_timeout(UPKEEP) == Err(RecvTimeoutError::Timeout) {
                folded.run_upkeep();
            }
        })?;
        Ok(Self { handle, _upkeep: stop })
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// A recorder with the catalogue's buckets.
pub(crate) fn recorder() -> Result<PrometheusRecorder, ExpositionError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
                .map_err(|error| ExpositionError::Settings(error.to_string()))?;
        }
    }
    Ok(builder.build_recorder())
}
