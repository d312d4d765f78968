//! Summaries of executions in the derived file.

use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{ExecutionCursor, ExecutionQuery, ExecutionSummary, Page, StoreError, VisibilityStore};

use super::log::integer;
use super::{EmbeddedStore, derived};

/// Items of a page, whatever was asked for.
const PAGE_ITEMS_MAX: usize = 1_000;

fn project(
    connection: &Connection,
    shard: ShardId,
    summaries: &[ExecutionSummary],
    up_to: LogPosition,
) -> rusqlite::Result<()> {
    let mut write = connection.prepare_cached(
        "INSERT INTO summary
            (id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT DO UPDATE SET workflow = ?2, version = ?3, status = ?4, paused = ?5, started_ms = ?6, ended_ms = ?7,
            error_code = ?8, execution_key = ?9, seq = ?10, parent = ?11
         WHERE seq < ?10",
    )?;
    for summary in summaries {
        write.execute(params![
            &summary.id.0[..],
            summary.workflow_id,
            summary.version,
            summary.status,
            summary.paused,
            summary.started_at.0,
            summary.ended_at.map(|at| at.0),
            summary.error_code,
            summary.execution_key,
            integer(summary.seq.0),
            summary.parent.as_ref().map(|parent| &parent.0[..])
        ])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO projected (shard, position) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET position = ?2 WHERE position < ?2",
        )?
        .execute(params![shard.0, integer(up_to.0)])?;
    Ok(())
}

fn summary(row: &Row<'_>) -> rusqlite::Result<ExecutionSummary> {
    Ok(ExecutionSummary {
        id: ExecutionId(row.get(0)?),
        workflow_id: row.get(1)?,
        version: row.get(2)?,
        status: row.get(3)?,
        paused: row.get(4)?,
        started_at: Timestamp(row.get(5)?),
        ended_at: row.get::<_, Option<i64>>(6)?.map(Timestamp),
        error_code: row.get(7)?,
        execution_key: row.get(8)?,
        seq: Seq(row.get::<_, i64>(9)?.unsigned_abs()),
        parent: row.get::<_, Option<[u8; 16]>>(10)?.map(ExecutionId),
    })
}

/// Ids that begin with hexadecimal digits: the first and the last of them; none if the text has other characters.
fn id_range(prefix: &str) -> Option<(ExecutionId, ExecutionId)> {
    if prefix.len() > 32 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some((
        format!("{prefix:0<32}").parse().ok()?,
        format!("{prefix:f<32}").parse().ok()?,
    ))
}

fn list(connection: &Connection, query: &ExecutionQuery) -> rusqlite::Result<Page<ExecutionSummary>> {
    let nothing = Page {
        items: Vec::new(),
        next: None,
    };
    let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
    let mut conditions = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(workflow) = &query.workflow_id {
        conditions.push("workflow = ?");
        values.push(Value::Text(workflow.clone()));
    }
    if let Some(status) = &query.status {
        conditions.push("status = ?");
        values.push(Value::Text(status.clone()));
        if status != "completed" {
            // Says to the planner that the partial index serves.
            conditions.push("status <> 'completed'");
        }
    }
    if let Some(parent) = query.parent {
        conditions.push("parent = ?");
        values.push(Value::Blob(parent.0.to_vec()));
    }
    if query.children {
        conditions.push("parent IS NOT NULL");
    }
    if let Some(prefix) = &query.id_prefix {
        let Some((first, last)) = id_range(&prefix.to_ascii_lowercase()) else {
            return Ok(nothing);
        };
        conditions.push("id BETWEEN ? AND ?");
        values.extend([Value::Blob(first.0.to_vec()), Value::Blob(last.0.to_vec())]);
    }
    if let Some(from) = query.started_from {
        conditions.push("started_ms >= ?");
        values.push(Value::Integer(from.0));
    }
    if let Some(until) = query.started_until {
        conditions.push("started_ms < ?");
        values.push(Value::Integer(until.0));
    }
    if let Some(after) = query.cursor {
        conditions.push("(started_ms, id) < (?, ?)");
        values.extend([Value::Integer(after.started_at.0), Value::Blob(after.id.0.to_vec())]);
    }
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    };
    let sql = format!(
        "SELECT id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent
         FROM summary {filter} ORDER BY started_ms DESC, id DESC LIMIT ?"
    );
    values.push(Value::Integer(integer(limit as u64 + 1)));
    let mut items: Vec<_> = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), summary)?
        .collect::<rusqlite::Result<_>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(ExecutionCursor::from);
    Ok(Page { items, next })
}

fn forget(connection: &Connection, ids: &[ExecutionId]) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM summary WHERE id = ?1")?;
    for id in ids {
        delete.execute([&id.0[..]])?;
    }
    Ok(())
}

/// Nobody was issued a later epoch than the writer's, or it names none.
fn admitted(derived: &Connection, shard: ShardId, epoch: Option<Epoch>) -> rusqlite::Result<Result<(), StoreError>> {
    let owner = derived::shard_of(derived, shard)?.epoch;
    Ok(match epoch {
        Some(ours) if owner > ours => Err(StoreError::Fenced { shard, owner, ours }),
        Some(_) | None => Ok(()),
    })
}

#[async_trait]
impl VisibilityStore for EmbeddedStore {
    async fn project(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        summaries: Vec<ExecutionSummary>,
        up_to: LogPosition,
    ) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        self.derived
            .run(move |derived| match admitted(derived, shard, epoch)? {
                Ok(()) => project(derived, shard, &summaries, up_to).map(Ok),
                Err(fenced) => Ok(Err(fenced)),
            })
            .await
    }

    async fn rewind(&self, shard: ShardId, epoch: Option<Epoch>, to: LogPosition) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        self.derived
            .run(move |derived| {
                if let Err(fenced) = admitted(derived, shard, epoch)? {
                    return Ok(Err(fenced));
                }
                derived
                    .prepare_cached("UPDATE projected SET position = ?2 WHERE shard = ?1 AND position > ?2")?
                    .execute(params![shard.0, integer(to.0)])?;
                Ok(Ok(()))
            })
            .await
    }

    async fn correct(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        ahead: &[ExecutionId],
        left: Vec<ExecutionSummary>,
    ) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        let ahead = ahead.to_vec();
        self.derived
            .run(move |derived| {
                if let Err(fenced) = admitted(derived, shard, epoch)? {
                    return Ok(Err(fenced));
                }
                forget(derived, &ahead)?;
                project(derived, shard, &left, LogPosition(0)).map(Ok)
            })
            .await
    }

    async fn projected(&self, shard: ShardId) -> Result<LogPosition, StoreError> {
        self.derived_readers
            .read(move |derived| {
                let position: Option<i64> = derived
                    .prepare_cached("SELECT position FROM projected WHERE shard = ?1")?
                    .query_row([shard.0], |row| row.get(0))
                    .optional()?;
                Ok(LogPosition(position.map_or(0, i64::unsigned_abs)))
            })
            .await
    }

    async fn list(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError> {
        self.derived_readers.read(move |derived| list(derived, &query)).await
    }

    async fn forget(&self, shard: ShardId, epoch: Option<Epoch>, ids: &[ExecutionId]) -> Result<(), StoreError> {
        self.check_shard(shard)?;
        let ids = ids.to_vec();
        self.derived
            .run(move |derived| match admitted(derived, shard, epoch)? {
                Ok(()) => forget(derived, &ids).map(Ok),
                Err(fenced) => Ok(Err(fenced)),
            })
            .await
    }
}
