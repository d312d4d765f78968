//! Analyses of workflow versions that were shown lately, read once: a version never changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use troupe_core::Json;
use troupe_ports::DefinitionStore;
use troupe_telemetry::CacheMetrics;

use crate::error::ApiError;

/// Most versions, and bytes of their analyses together, that are held.
const ENTRIES_MAX: usize = 256;
const BYTES_MAX: usize = 32 << 20;

/// The analysis of one version.
#[derive(Debug)]
pub(crate) struct Analysis {
    /// As it is shown.
    pub text: Json,
    /// The analysed paths as lists of node ids.
    pub paths: Vec<Vec<String>>,
    /// Whether there are more paths.
    pub truncated: bool,
}

/// What is read of an analysis.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paths {
    paths: Vec<AnalysedPath>,
    truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnalysedPath {
    node_sequence: Vec<String>,
}

/// Holds analyses; the least recently used go first.
pub(crate) struct Analyses {
    held: Mutex<VecDeque<(String, u32, Arc<Analysis>)>>,
    metrics: CacheMetrics,
}

impl Default for Analyses {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            metrics: CacheMetrics::new("analysis"),
        }
    }
}

impl Analyses {
    /// The analysis of a version; none if there is no such version.
    pub(crate) async fn of(
        &self,
        definitions: &dyn DefinitionStore,
        workflow: &str,
        version: u32,
    ) -> Result<Option<Arc<Analysis>>, ApiError> {
        let known = self.known(workflow, version);
        self.metrics.looked_up(known.is_some());
        if known.is_some() {
            return Ok(known);
        }
        let Some(stored) = definitions.get(workflow, Some(version)).await? else {
            return Ok(None);
        };
        let read: Paths = serde_json::from_str(stored.analysis.as_str()).map_err(|error| {
            let detail = format!("the analysis of workflow {workflow} version {version}: {error}");
            ApiError::new("DAMAGED", detail)
        })?;
        let analysis = Arc::new(Analysis {
            text: stored.analysis,
            paths: read.paths.into_iter().map(|path| path.node_sequence).collect(),
            truncated: read.truncated,
        });
        self.hold(workflow, version, Arc::clone(&analysis));
        Ok(Some(analysis))
    }

    fn known(&self, workflow: &str, version: u32) -> Option<Arc<Analysis>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let place = held.iter().position(|(id, of, _)| *of == version && id == workflow)?;
        let entry = held.remove(place)?;
        let analysis = Arc::clone(&entry.2);
        held.push_back(entry);
        Some(analysis)
    }

    fn hold(&self, workflow: &str, version: u32, analysis: Arc<Analysis>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(id, of, _)| *of != version || id != workflow);
        held.push_back((workflow.to_owned(), version, analysis));
        let mut bytes: usize = held.iter().map(|(_, _, analysis)| analysis.text.bytes()).sum();
        while held.len() > ENTRIES_MAX || bytes > BYTES_MAX {
            let Some((_, _, oldest)) = held.pop_front() else { break };
            bytes -= oldest.text.bytes();
        }
        self.metrics.entries(held.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analysis(bytes: usize) -> Arc<Analysis> {
        Arc::new(Analysis {
            text: Json::of(&"x".repeat(bytes - 2).into()),
            paths: Vec::new(),
            truncated: false,
        })
    }

    #[test]
    fn what_was_not_asked_for_longest_goes_first() {
        let analyses = Analyses::default();
        for version in 0..3 {
            analyses.hold("w", version, analysis(BYTES_MAX / 3));
        }
        assert!(analyses.known("w", 0).is_some());
        analyses.hold("v", 0, analysis(BYTES_MAX / 3));
        let held = [("w", 0), ("w", 1), ("w", 2), ("v", 0)].map(|(id, of)| analyses.known(id, of).is_some());
        assert_eq!(held, [true, false, true, true]);
        for version in 0..2 * ENTRIES_MAX as u32 {
            analyses.hold("many", version, analysis(10));
        }
        assert!(analyses.known("v", 0).is_none());
        assert!(analyses.known("many", 2 * ENTRIES_MAX as u32 - 1).is_some());
    }
}
