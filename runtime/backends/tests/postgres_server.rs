//! What PostgreSQL does beyond the suites: crashes, stalls, TLS, replicas that start at once, and whoever else is in the database.
#![allow(clippy::unwrap_used)]

#[path = "support/postgres.rs"]
mod support;

#[path = "postgres_server/concurrency.rs"]
mod concurrency;
#[path = "postgres_server/failures.rs"]
mod failures;
#[path = "postgres_server/schema.rs"]
mod schema;
#[path = "postgres_server/searches.rs"]
mod searches;
#[path = "postgres_server/texts.rs"]
mod texts;
#[path = "postgres_server/tls.rs"]
mod tls;

use troupe_core::definition::WorkflowDefinition;
use troupe_core::{ExecutionId, Json, Seq, ShardId, Timestamp};
use troupe_ports::ExecutionSummary;

const SHARD: ShardId = ShardId(0);
const NOW: Timestamp = Timestamp(7);

fn definition(id: &str, description: &str) -> WorkflowDefinition {
    let text = serde_json::json!({ "id": id, "name": id, "description": description, "nodes": [], "edges": [] });
    serde_json::from_value(text).unwrap()
}

fn analysis() -> Json {
    Json::of(&serde_json::json!({}))
}

fn summary(number: u64, seq: u64) -> ExecutionSummary {
    ExecutionSummary {
        id: ExecutionId::fresh(SHARD, NOW, number),
        workflow_id: "orders".to_owned(),
        version: 1,
        status: "running".to_owned(),
        paused: false,
        started_at: Timestamp(i64::try_from(number).unwrap()),
        ended_at: None,
        error_code: None,
        error_message: None,
        execution_key: None,
        workflow_name: String::new(),
        tags: Vec::new(),
        parent: None,
        seq: Seq(seq),
    }
}
