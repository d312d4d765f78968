//! The shape of the configuration file. Unknown keys are refused, so a slip is never silently a default.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    pub(crate) listen: String,
    pub(crate) public_url: String,
    pub(crate) bootstrap_key: String,
    pub(crate) bootstrap_key_file: String,
    pub(crate) metrics_open: bool,
    pub(crate) state_dir: String,
    pub(crate) drain_ms: u64,
    pub(crate) engine: RawEngine,
    pub(crate) breakers: RawBreakers,
    pub(crate) store: RawStore,
    pub(crate) cluster: RawCluster,
    pub(crate) events: RawEvents,
    pub(crate) sandbox: RawSandbox,
    pub(crate) http: RawHttp,
    pub(crate) limits: RawLimits,
    pub(crate) log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEngine {
    pub(crate) shards: u64,
    pub(crate) format: u64,
    pub(crate) running_max: u64,
    pub(crate) attempts_max: u64,
    pub(crate) retention_ms: u64,
    pub(crate) tombstone_ms: u64,
    pub(crate) node_types: RawNodeTypes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNodeTypes {
    pub(crate) function: u64,
    pub(crate) http: u64,
    pub(crate) transformation: u64,
    pub(crate) custom: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBreakers {
    pub(crate) enabled: bool,
    pub(crate) window_ms: u64,
    pub(crate) calls_min: u64,
    pub(crate) failures_percent: u64,
    pub(crate) open_ms: u64,
    pub(crate) open_max_ms: u64,
    pub(crate) successes_min: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStore {
    pub(crate) state: String,
    pub(crate) definitions: String,
    pub(crate) events: String,
    pub(crate) prefix: String,
    pub(crate) ca_file: String,
    pub(crate) state_certificate_file: String,
    pub(crate) state_key_file: String,
    pub(crate) events_certificate_file: String,
    pub(crate) events_key_file: String,
    pub(crate) durability: String,
    pub(crate) settings_vouched: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCluster {
    pub(crate) address: String,
    pub(crate) secret: String,
    pub(crate) lease_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEvents {
    pub(crate) nodes: bool,
    pub(crate) exchange_type: String,
    pub(crate) declare: String,
    pub(crate) queues: Vec<RawQueue>,
    pub(crate) unroutable: String,
    pub(crate) batch_max: u64,
    pub(crate) batch_kib: u64,
    pub(crate) partitions: u64,
    pub(crate) spool_above_mib: u64,
    pub(crate) refuse_mib: u64,
    pub(crate) hold_mib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a `name`")]
pub(crate) struct RawQueue {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
    #[serde(default)]
    pub(crate) headers: Vec<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) dead_letter: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSandbox {
    pub(crate) processes: u64,
    pub(crate) memory_mib: u64,
    pub(crate) stack_kib: u64,
    pub(crate) output_kib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHttp {
    pub(crate) allow: Vec<String>,
    pub(crate) response_kib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLimits {
    pub(crate) body_kib: u64,
    pub(crate) output_kib: u64,
    pub(crate) execution_mib: u64,
    pub(crate) cached_outputs: u64,
    pub(crate) cached_mib: u64,
    pub(crate) nesting_max: u64,
    pub(crate) nodes_max: u64,
    pub(crate) edges_max: u64,
    pub(crate) wait_max_ms: u64,
    pub(crate) page_max: u64,
    pub(crate) streams_max: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) format: String,
    pub(crate) filter: String,
}
