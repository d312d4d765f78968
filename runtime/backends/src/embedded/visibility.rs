//! Summaries of executions in the derived file.

use async_trait::async_trait;
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{ExecutionCursor, ExecutionQuery, ExecutionSummary, Page, StoreError, VisibilityStore};

use super::log::integer;
use super::search::search;
use super::{EmbeddedStore, derived};
use crate::lists::{Ids, PAGE_ITEMS_MAX, ids, is_along_tag, is_search, tag};

/// What [`summary`] reads.
pub(super) const COLUMNS: &str =
    "s.id, s.workflow, s.version, s.status, s.paused, s.started_ms, s.ended_ms, s.error_code, s.execution_key, s.seq,
    s.parent, s.workflow_name, s.tags, s.error_message";
const TAGS_COLUMN: usize = 12;

/// Summaries along a tag. `CROSS`: the planner keeps this order.
pub(super) const ALONG_TAG: &str = "summary_tag AS t CROSS JOIN summary AS s ON s.id = t.id";

/// Summaries of ids that few begin. `LIMIT` keeps the planner from looking into it: it would walk along another index.
const BY_IDS: &str = "(SELECT * FROM summary WHERE id BETWEEN ? AND ? LIMIT -1) AS s";

fn project(
    connection: &Connection,
    shard: ShardId,
    summaries: &[ExecutionSummary],
    up_to: LogPosition,
) -> rusqlite::Result<()> {
    let mut write = connection.prepare_cached(
        "INSERT INTO summary
            (id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent, workflow_name, tags,
             error_message, folded)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT DO UPDATE SET workflow = ?2, version = ?3, status = ?4, paused = ?5, started_ms = ?6, ended_ms = ?7,
            error_code = ?8, execution_key = ?9, seq = ?10, parent = ?11, workflow_name = ?12, tags = ?13, error_message = ?14,
            folded = ?15
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
            summary.parent.as_ref().map(|parent| &parent.0[..]),
            summary.workflow_name,
            written_tags(&summary.tags)?,
            summary.error_message,
            summary.folded_beyond_ascii()
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

fn written_tags(tags: &[String]) -> rusqlite::Result<Option<String>> {
    if tags.is_empty() {
        return Ok(None);
    }
    let counted: Vec<&str> = tags.iter().map(|text| tag(text)).collect();
    let written = serde_json::to_string(&counted);
    written
        .map(Some)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn read_tags(written: Option<String>) -> rusqlite::Result<Vec<String>> {
    let read = written.as_deref().map_or_else(|| Ok(Vec::new()), serde_json::from_str);
    read.map_err(|error| rusqlite::Error::FromSqlConversionFailure(TAGS_COLUMN, Type::Text, error.into()))
}

pub(super) fn summary(row: &Row<'_>) -> rusqlite::Result<ExecutionSummary> {
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
        // None: an older release wrote the row.
        workflow_name: row.get::<_, Option<String>>(11)?.unwrap_or_default(),
        tags: read_tags(row.get(TAGS_COLUMN)?)?,
        error_message: row.get(13)?,
    })
}

/// What rows must meet, and the values that are named so.
#[derive(Default)]
pub(super) struct Filter {
    conditions: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl Filter {
    pub(super) fn add(&mut self, condition: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.conditions.push(condition.into());
        self.values.extend(values);
    }

    /// A text that must be met.
    pub(super) fn add_text(&mut self, condition: impl Into<String>, text: &str) {
        self.add(condition, [Value::Text(text.to_owned())]);
    }

    /// When executions started, and the cursor. `place`: the table that has the rows in the order of the list.
    pub(super) fn add_times(&mut self, query: &ExecutionQuery, place: &str) {
        if let Some(from) = query.started_from {
            self.add(format!("{place}.started_ms >= ?"), [Value::Integer(from.0)]);
        }
        if let Some(until) = query.started_until {
            self.add(format!("{place}.started_ms < ?"), [Value::Integer(until.0)]);
        }
        if let Some(after) = query.cursor {
            let after = [Value::Integer(after.started_at.0), Value::Blob(after.id.0.to_vec())];
            self.add(format!("({place}.started_ms, {place}.id) < (?, ?)"), after);
        }
    }

    /// False if nothing can match.
    pub(super) fn add_ids(&mut self, query: &ExecutionQuery, place: &str) -> bool {
        match ids(query) {
            Ids::All => {}
            Ids::Between(ends) => {
                let ends = ends.map(|id| Value::Blob(id.0.to_vec()));
                self.add(format!("{place}.id BETWEEN ? AND ?"), ends);
            }
            Ids::Nothing => return false,
        }
        true
    }

    /// All of it, as one condition.
    pub(super) fn sql(&self) -> String {
        if self.conditions.is_empty() {
            return "true".to_owned();
        }
        self.conditions.join(" AND ")
    }

    /// None if nothing can match.
    fn of(query: &ExecutionQuery, place: &str) -> Option<Self> {
        let mut filter = Self::default();
        if let Some(tagged) = &query.tag {
            filter.add_text("t.tag = ?", tag(tagged));
        }
        if let Some(key) = &query.execution_key {
            filter.add_text("s.execution_key = ?", key);
        }
        if let Some(workflow) = &query.workflow_id {
            filter.add_text("s.workflow = ?", workflow);
        }
        if let Some(status) = &query.status {
            filter.add_text("s.status = ?", status);
            if status != "completed" {
                // Says to the planner that the partial index serves.
                filter.add("s.status <> 'completed'", []);
            }
        }
        if let Some(parent) = query.parent {
            filter.add("s.parent = ?", [Value::Blob(parent.0.to_vec())]);
        }
        if query.children {
            filter.add("s.parent IS NOT NULL", []);
        }
        if !filter.add_ids(query, place) {
            return None;
        }
        filter.add_times(query, place);
        Some(filter)
    }
}

/// A list that an index leads to. `few`: the ids that it is about, if few begin so; they are read and sorted.
pub(super) fn list(
    connection: &Connection,
    query: &ExecutionQuery,
    few: Option<[ExecutionId; 2]>,
) -> rusqlite::Result<Page<ExecutionSummary>> {
    let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
    let (table, place) = match few {
        Some(_) => (BY_IDS, "s"),
        None if is_along_tag(query) => (ALONG_TAG, "t"),
        None => ("summary AS s", "s"),
    };
    let Some(filter) = Filter::of(query, place) else {
        return Ok(Page {
            items: Vec::new(),
            next: None,
        });
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM {table} WHERE {} ORDER BY {place}.started_ms DESC, {place}.id DESC LIMIT ?",
        filter.sql()
    );
    let named = few.into_iter().flatten().map(|id| Value::Blob(id.0.to_vec()));
    let mut values: Vec<Value> = named.collect();
    values.extend(filter.values);
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
        if is_search(&query) {
            return self
                .search_reader
                .run_for(move |derived, caller| search(derived, &query, caller))
                .await;
        }
        self.list_reader.read(move |derived| list(derived, &query, None)).await
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
