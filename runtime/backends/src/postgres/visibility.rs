//! Summaries of executions: written in batches, a statement each; read page by page along an index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{ExecutionCursor, ExecutionQuery, ExecutionSummary, Page, StoreError, VisibilityStore};

use super::PostgresStore;
use super::failure::Failure;
use super::list::{Question, Way};
use super::text::{array, escaped, indexed, unescaped};
use super::walk::Place;
use crate::lists::{NARROW, is_looked_for, is_search};

/// Summaries of a statement, so that none of them meets the statement timeout.
const STATEMENT_SUMMARIES_MAX: usize = 5_000;

/// Ids travel as text and as bytes, because the driver is built without its UUIDs; tags as a text a row, because `unnest` takes lists of
/// lists apart. Rows of tags are kept by the database. Returns the epoch that was issued after `$14`, if one was:
/// then nothing is written.
const PROJECT: &str = "
WITH later AS (
    SELECT epoch FROM epoch WHERE shard = $1 AND epoch > $14::bigint
), moved AS (
    INSERT INTO projected AS p (shard, position) SELECT $1::integer, $2::bigint WHERE NOT EXISTS (SELECT FROM later)
    ON CONFLICT (shard) DO UPDATE SET position = excluded.position WHERE p.position < excluded.position
), written AS (
    INSERT INTO summary AS s
        (id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent,
         workflow_name, error_message, folded, tags)
    SELECT id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent,
        workflow_name, error_message, folded, tags::text[]
    FROM unnest($3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::boolean[], $8::bigint[], $9::bigint[],
        $10::text[], $11::text[], $12::bigint[], $13::uuid[], $15::text[], $16::text[], $17::text[], $18::text[])
        AS given (id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent,
            workflow_name, error_message, folded, tags)
    WHERE NOT EXISTS (SELECT FROM later)
    ON CONFLICT (id) DO UPDATE SET workflow = excluded.workflow, version = excluded.version, status = excluded.status,
        paused = excluded.paused, started_ms = excluded.started_ms, ended_ms = excluded.ended_ms,
        error_code = excluded.error_code, execution_key = excluded.execution_key, seq = excluded.seq, parent = excluded.parent,
        workflow_name = excluded.workflow_name, error_message = excluded.error_message, folded = excluded.folded,
        tags = excluded.tags
    WHERE s.seq < excluded.seq
)
SELECT epoch FROM later";

/// Locks in one order, so that it and a projection do not wait for each other.
const FORGET: &str = "
WITH gone AS (SELECT id FROM summary WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE)
DELETE FROM summary USING gone WHERE summary.id = gone.id";

/// [`super::list::COLUMNS`] as they are read.
type Row = (
    Vec<u8>,
    String,
    i64,
    String,
    bool,
    i64,
    Option<i64>,
    Option<String>,
    Option<String>,
    i64,
    Option<Vec<u8>>,
    String,
    Vec<String>,
    Option<String>,
);

/// The server's integers are signed; what the engine counts stays far below.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Arrays of a statement, one a column.
#[derive(Default)]
struct Columns {
    ids: Vec<String>,
    workflows: Vec<String>,
    versions: Vec<i64>,
    statuses: Vec<String>,
    paused: Vec<bool>,
    started: Vec<i64>,
    ended: Vec<Option<i64>>,
    error_codes: Vec<Option<String>>,
    execution_keys: Vec<Option<String>>,
    seqs: Vec<i64>,
    parents: Vec<Option<String>>,
    workflow_names: Vec<String>,
    error_messages: Vec<Option<String>>,
    folded: Vec<Option<String>>,
    tags: Vec<String>,
}

impl Columns {
    fn push(&mut self, summary: &ExecutionSummary) {
        let optional = |text: &Option<String>| text.as_deref().map(|text| escaped(text).into_owned());
        self.ids.push(summary.id.to_string());
        self.workflows.push(indexed(&summary.workflow_id).into_owned());
        self.versions.push(i64::from(summary.version));
        self.statuses.push(indexed(&summary.status).into_owned());
        self.paused.push(summary.paused);
        self.started.push(summary.started_at.0);
        self.ended.push(summary.ended_at.map(|at| at.0));
        self.error_codes.push(optional(&summary.error_code));
        self.execution_keys.push(optional(&summary.execution_key));
        self.seqs.push(integer(summary.seq.0));
        self.parents.push(summary.parent.map(|parent| parent.to_string()));
        self.workflow_names.push(escaped(&summary.workflow_name).into_owned());
        self.error_messages.push(optional(&summary.error_message));
        self.folded.push(optional(&summary.folded_beyond_ascii()));
        self.tags.push(array(&summary.tags));
    }
}

/// The statements of a batch. A statement may name a row once only, and two that name several must do so in one order: so the
/// last word on each execution counts, by id.
fn batches(summaries: Vec<ExecutionSummary>) -> Vec<Columns> {
    let mut latest: BTreeMap<ExecutionId, ExecutionSummary> = BTreeMap::new();
    for summary in summaries {
        match latest.entry(summary.id) {
            Entry::Vacant(place) => {
                place.insert(summary);
            }
            Entry::Occupied(mut known) if known.get().seq < summary.seq => drop(known.insert(summary)),
            Entry::Occupied(_) => {}
        }
    }
    let latest: Vec<_> = latest.into_values().collect();
    let mut batches: Vec<Columns> = Vec::new();
    for chunk in latest.chunks(STATEMENT_SUMMARIES_MAX) {
        let mut columns = Columns::default();
        chunk.iter().for_each(|summary| columns.push(summary));
        batches.push(columns);
    }
    if batches.is_empty() {
        batches.push(Columns::default());
    }
    batches
}

/// The epoch that was issued after that of the writer, if one was: then nothing is written.
async fn write(
    connection: &mut PgConnection,
    (shard, epoch): (ShardId, Option<Epoch>),
    columns: Columns,
    up_to: LogPosition,
) -> sqlx::Result<Option<i64>> {
    let asked = sqlx::query_scalar(PROJECT)
        .bind(i32::from(shard.0))
        .bind(integer(up_to.0))
        .bind(columns.ids)
        .bind(columns.workflows)
        .bind(columns.versions)
        .bind(columns.statuses)
        .bind(columns.paused)
        .bind(columns.started)
        .bind(columns.ended)
        .bind(columns.error_codes)
        .bind(columns.execution_keys)
        .bind(columns.seqs)
        .bind(columns.parents)
        .bind(epoch.map_or(i64::MAX, |epoch| integer(epoch.0)))
        .bind(columns.workflow_names)
        .bind(columns.error_messages)
        .bind(columns.folded)
        .bind(columns.tags);
    asked.fetch_optional(connection).await
}

async fn remove(connection: &mut PgConnection, ids: &[ExecutionId]) -> sqlx::Result<()> {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    sqlx::query(FORGET).bind(ids).execute(connection).await.map(drop)
}

/// The epoch that was issued after that of the writer, if one was. Else none is until the transaction ends: whoever asks for one waits.
async fn later(connection: &mut PgConnection, shard: ShardId, epoch: Option<Epoch>) -> sqlx::Result<Option<i64>> {
    let Some(ours) = epoch else { return Ok(None) };
    let issued: Option<i64> = sqlx::query_scalar("SELECT epoch FROM epoch WHERE shard = $1 FOR SHARE")
        .bind(i32::from(shard.0))
        .fetch_optional(connection)
        .await?;
    Ok(issued.filter(|issued| *issued > integer(ours.0)))
}

/// As [`write()`].
async fn replace(
    connection: &mut PgConnection,
    (shard, epoch): (ShardId, Option<Epoch>),
    ahead: &[ExecutionId],
    left: Vec<ExecutionSummary>,
) -> sqlx::Result<Option<i64>> {
    let mut transaction = connection.begin().await?;
    if let Some(later) = later(&mut transaction, shard, epoch).await? {
        transaction.rollback().await?;
        return Ok(Some(later));
    }
    remove(&mut transaction, ahead).await?;
    if !left.is_empty() {
        for batch in batches(left) {
            write(&mut transaction, (shard, None), batch, LogPosition(0)).await?;
        }
    }
    transaction.commit().await?;
    Ok(None)
}

/// As [`write()`].
async fn rewind(
    connection: &mut PgConnection,
    (shard, epoch): (ShardId, Option<Epoch>),
    to: LogPosition,
) -> sqlx::Result<Option<i64>> {
    let mut transaction = connection.begin().await?;
    if let Some(later) = later(&mut transaction, shard, epoch).await? {
        transaction.rollback().await?;
        return Ok(Some(later));
    }
    sqlx::query("UPDATE projected SET position = $2 WHERE shard = $1 AND position > $2")
        .bind(i32::from(shard.0))
        .bind(integer(to.0))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(None)
}

/// `later`: what [`write()`] found.
fn unless_fenced((shard, epoch): (ShardId, Option<Epoch>), later: Option<i64>) -> Result<(), StoreError> {
    match later {
        None => Ok(()),
        Some(later) => Err(StoreError::Fenced {
            shard,
            owner: Epoch(later.unsigned_abs()),
            ours: epoch.unwrap_or_default(),
        }),
    }
}

impl PostgresStore {
    async fn write(
        &self,
        writer: (ShardId, Option<Epoch>),
        columns: Columns,
        up_to: LogPosition,
    ) -> Result<(), StoreError> {
        let mut connection = self.database.connection().await?;
        let asked = write(&mut connection, writer, columns, up_to);
        let later = self.database.answer(asked).await?;
        connection.give_back();
        unless_fenced(writer, later)
    }
}

fn id(bytes: &[u8]) -> Result<ExecutionId, StoreError> {
    let id = bytes.try_into();
    id.map(ExecutionId)
        .map_err(|_| StoreError::Damaged(format!("an execution id of {} bytes", bytes.len())))
}

fn summary(row: Row) -> Result<ExecutionSummary, StoreError> {
    let (bytes, workflow, version, status, paused, started, ended, error_code, execution_key, seq, parent, ..) = row;
    let (.., workflow_name, tags, error_message) = row;
    Ok(ExecutionSummary {
        id: id(&bytes)?,
        workflow_id: unescaped(workflow),
        version: u32::try_from(version)
            .map_err(|_| StoreError::Damaged(format!("version {version} of an execution's workflow")))?,
        status: unescaped(status),
        paused,
        started_at: Timestamp(started),
        ended_at: ended.map(Timestamp),
        error_code: error_code.map(unescaped),
        error_message: error_message.map(unescaped),
        execution_key: execution_key.map(unescaped),
        workflow_name: unescaped(workflow_name),
        tags: tags.into_iter().map(unescaped).collect(),
        parent: parent.as_deref().map(id).transpose()?,
        seq: Seq(seq.unsigned_abs()),
    })
}

/// What a page found.
#[derive(Default)]
struct Seen {
    /// One more than fit into the page, if there are as many.
    rows: Vec<Row>,
    limit: usize,
    /// The last row that was looked at, if any may be left behind it.
    reach: Option<Place>,
}

impl Seen {
    fn page(self) -> Result<Page<ExecutionSummary>, StoreError> {
        let is_full = self.rows.len() > self.limit;
        let items = self.rows.into_iter().take(self.limit).map(summary);
        let items: Vec<_> = items.collect::<Result<_, _>>()?;
        let reached = self.reach.map(|(started_at, id)| ExecutionCursor {
            started_at,
            id: ExecutionId(id),
        });
        let next = if is_full {
            items.last().map(ExecutionCursor::from)
        } else {
            reached
        };
        Ok(Page { items, next })
    }
}

/// Reads a page.
async fn look(connection: &mut PgConnection, query: &ExecutionQuery) -> sqlx::Result<Seen> {
    // Before the rows: whatever is written in between, none up to there is left out.
    let way = if is_looked_for(query) {
        way(connection, query).await?
    } else {
        Way::Walk(None)
    };
    let Some(Question { sql, arguments, limit }) = Question::of(query, way)? else {
        return Ok(Seen::default());
    };
    // The text has nothing of the caller's: that is in the arguments.
    let asked = sqlx::query_as_with(AssertSqlSafe(sql), arguments);
    let rows = asked.fetch_all(connection).await?;
    let reach = match way {
        Way::Walk(reach) => reach,
        Way::Ids => None,
    };
    Ok(Seen { rows, limit, reach })
}

/// How far a page of a search looks, and along what.
async fn way(connection: &mut PgConnection, query: &ExecutionQuery) -> sqlx::Result<Way> {
    let (sql, arguments) = Question::reach(query)?;
    let asked = sqlx::query_as_with(AssertSqlSafe(sql), arguments);
    let last: Option<(bool, i64, Vec<u8>)> = asked.fetch_optional(connection).await?;
    let Some((are_few, started, id)) = last else {
        // To the end of the list, which is near.
        return Ok(Way::Walk(None));
    };
    if are_few {
        return Ok(Way::Ids);
    }
    let id: Result<[u8; 16], _> = id.try_into();
    let id = id.map_err(|_| sqlx::Error::Decode("an execution id of another length".into()))?;
    Ok(Way::Walk(Some((Timestamp(started), id))))
}

/// A failure of a search, with what may help.
fn narrowed(failure: Failure) -> StoreError {
    match failure {
        Failure::Unavailable(why) => StoreError::Unavailable(format!("{why}; {NARROW}")),
        Failure::Damaged(why) => StoreError::Damaged(why),
    }
}

impl PostgresStore {
    /// A page of what only people ask for, over connections of its own.
    async fn search(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError> {
        let searches = Arc::clone(&self.searches);
        let mut connection = searches.connection().await.map_err(narrowed)?;
        // The server does not notice that a caller went away. So the search runs to its end whoever waits for it, and until then no
        // other one has its place.
        let looked = tokio::spawn(async move {
            let seen = searches.answer(Box::pin(look(&mut connection, &query))).await?;
            connection.give_back();
            Ok::<_, Failure>(seen)
        });
        match looked.await {
            Ok(seen) => seen.map_err(narrowed)?.page(),
            Err(error) => Err(StoreError::Unavailable(format!("a search ended early: {error}"))),
        }
    }
}

#[async_trait]
impl VisibilityStore for PostgresStore {
    async fn project(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        summaries: Vec<ExecutionSummary>,
        up_to: LogPosition,
    ) -> Result<(), StoreError> {
        let mut batches = batches(summaries);
        let last = batches.pop();
        for batch in batches {
            // Not there yet: what a crash leaves away is projected again.
            self.write((shard, epoch), batch, LogPosition(0)).await?;
        }
        match last {
            Some(batch) => self.write((shard, epoch), batch, up_to).await,
            None => Ok(()),
        }
    }

    async fn rewind(&self, shard: ShardId, epoch: Option<Epoch>, to: LogPosition) -> Result<(), StoreError> {
        let mut connection = self.database.connection().await?;
        let asked = rewind(&mut connection, (shard, epoch), to);
        let later = self.database.answer(Box::pin(asked)).await?;
        connection.give_back();
        unless_fenced((shard, epoch), later)
    }

    async fn correct(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        ahead: &[ExecutionId],
        left: Vec<ExecutionSummary>,
    ) -> Result<(), StoreError> {
        let mut connection = self.database.connection().await?;
        let asked = replace(&mut connection, (shard, epoch), ahead, left);
        let later = self.database.answer(Box::pin(asked)).await?;
        connection.give_back();
        unless_fenced((shard, epoch), later)
    }

    async fn projected(&self, shard: ShardId) -> Result<LogPosition, StoreError> {
        let mut connection = self.database.connection().await?;
        let asked = sqlx::query_scalar("SELECT position FROM projected WHERE shard = $1")
            .bind(i32::from(shard.0))
            .fetch_optional(&mut *connection);
        let position: Option<i64> = self.database.answer(asked).await?;
        connection.give_back();
        Ok(LogPosition(position.map_or(0, i64::unsigned_abs)))
    }

    async fn list(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError> {
        if is_search(&query) {
            return self.search(query).await;
        }
        let mut connection = self.database.connection().await?;
        let asked = look(&mut connection, &query);
        let seen = self.database.answer(Box::pin(asked)).await?;
        connection.give_back();
        seen.page()
    }

    async fn forget(&self, shard: ShardId, epoch: Option<Epoch>, ids: &[ExecutionId]) -> Result<(), StoreError> {
        self.correct(shard, epoch, ids, Vec::new()).await
    }
}
