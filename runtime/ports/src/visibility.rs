//! Lists and searches of executions: a projection of the log, at most 250 ms behind.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use troupe_core::{ExecutionId, Seq, ShardId, Timestamp};

use crate::state::StoreError;

/// What lists show of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSummary {
    /// Its id.
    pub id: ExecutionId,
    /// The workflow.
    pub workflow_id: String,
    /// The version.
    pub version: u32,
    /// `pending`, `running`, `completed`, `failed` or `canceled`.
    pub status: String,
    /// No new attempt starts while set.
    pub paused: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Code of its error, if it failed.
    pub error_code: Option<String>,
    /// Business key.
    pub execution_key: Option<String>,
    /// Seq of the entry that this summary reflects; a lower one never overwrites a higher one.
    pub seq: Seq,
}

/// What to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionQuery {
    /// Only this workflow.
    pub workflow_id: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// Only ids that begin with these hexadecimal digits.
    pub id_prefix: Option<String>,
    /// Only those started at or after.
    pub started_from: Option<Timestamp>,
    /// Only those started before.
    pub started_until: Option<Timestamp>,
    /// Continue after this place (opaque, from [`Page::next`]).
    pub cursor: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; none at the end.
    pub next: Option<String>,
}

/// Keeps summaries of executions for lists and searches.
#[async_trait]
pub trait VisibilityStore: Send + Sync + 'static {
    /// Writes summaries of one shard and, with them, how far its log is projected (never back). A summary with a lower seq
    /// than the stored one changes nothing.
    async fn project(
        &self,
        shard: ShardId,
        summaries: Vec<ExecutionSummary>,
        up_to: troupe_core::LogPosition,
    ) -> Result<(), StoreError>;

    /// How far a shard's log is projected.
    async fn projected(&self, shard: ShardId) -> Result<troupe_core::LogPosition, StoreError>;

    /// Lists executions, newest first (by start, then by id).
    async fn list(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError>;

    /// Removes the summaries of executions whose archives went.
    async fn forget(&self, ids: &[ExecutionId]) -> Result<(), StoreError>;
}
