//! Audit rows.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use troupe_core::Timestamp;
use troupe_ports::{AuditCursor, AuditId, AuditLog, AuditPage, AuditQuery, AuditRow, AuditTarget, StoreError};

use super::PostgresStore;
use super::list::PAGE_ITEMS_MAX;
use super::text::{escaped, indexed, unescaped};
use super::walk::{Walk, at};

const RECORD: &str = "
INSERT INTO audit (id, at_ms, principal, action, target_kind, target_id, before, after, request, outcome)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[],
    $10::text[])
ON CONFLICT DO NOTHING";

const COLUMNS: &str =
    "uuid_send(id), at_ms, principal, action, target_kind, target_id, before, after, request, outcome";

/// [`COLUMNS`] as they are read.
type Row = (
    Vec<u8>,
    i64,
    Option<String>,
    String,
    String,
    String,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    Option<String>,
);

fn bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    let sized = bytes.try_into();
    sized.map_err(|_| StoreError::Damaged(format!("{} bytes in an audit row instead of {N}", bytes.len())))
}

fn decode(row: Row) -> Result<AuditRow, StoreError> {
    let (id, at, principal, action, kind, target, before, after, request, outcome) = row;
    Ok(AuditRow {
        id: AuditId(bytes(&id)?),
        at: Timestamp(at),
        principal: principal.map(unescaped),
        action: unescaped(action),
        target: AuditTarget {
            kind: unescaped(kind),
            id: unescaped(target),
        },
        before: before.as_deref().map(bytes).transpose()?,
        after: after.as_deref().map(bytes).transpose()?,
        request: request.map(unescaped),
        outcome: outcome.map(unescaped),
    })
}

pub(super) fn statement(query: &AuditQuery, rows: usize) -> sqlx::Result<(String, sqlx::postgres::PgArguments)> {
    let mut walk = Walk::default();
    if let Some(target) = &query.target {
        let (kind, id) = (walk.text(&target.kind), walk.text(&target.id));
        walk.key("target_kind", kind);
        walk.key("target_id", id);
    }
    if let Some(principal) = &query.principal {
        let principal = walk.text(principal);
        match query.target {
            Some(_) => walk.condition(format!("principal = {principal}")),
            None => {
                walk.key("principal", principal);
                walk.condition("principal IS NOT NULL");
            }
        }
    }
    if let Some(action) = &query.action {
        let action = walk.text(action);
        walk.condition(format!("action = {action}"));
    }
    let after = query.cursor.map(|after| (after.at, after.id.0));
    walk.statement(
        ("audit", COLUMNS, "at_ms"),
        query.from.map(at),
        (query.until, after),
        rows,
    )
}

#[async_trait]
impl AuditLog for PostgresStore {
    async fn record(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        let optional = |text: &Option<String>| text.as_deref().map(|text| indexed(text).into_owned());
        let kept = |text: &Option<String>| text.as_deref().map(|text| escaped(text).into_owned());
        let column = |of: &dyn Fn(&AuditRow) -> String| rows.iter().map(of).collect::<Vec<_>>();
        let hashes = |of: &dyn Fn(&AuditRow) -> Option<[u8; 32]>| {
            let hashes = rows.iter().map(|row| of(row).map(|hash| hash.to_vec()));
            hashes.collect::<Vec<_>>()
        };
        let mut connection = self.database.connection().await?;
        let asked = sqlx::query(RECORD)
            .bind(column(&|row| format!("{:032x}", u128::from_be_bytes(row.id.0))))
            .bind(rows.iter().map(|row| row.at.0).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| optional(&row.principal)).collect::<Vec<_>>())
            .bind(column(&|row| indexed(&row.action).into_owned()))
            .bind(column(&|row| indexed(&row.target.kind).into_owned()))
            .bind(column(&|row| indexed(&row.target.id).into_owned()))
            .bind(hashes(&|row| row.before))
            .bind(hashes(&|row| row.after))
            .bind(rows.iter().map(|row| kept(&row.request)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| kept(&row.outcome)).collect::<Vec<_>>())
            .execute(&mut *connection);
        self.database.answer(asked).await?;
        connection.give_back();
        Ok(())
    }

    async fn list(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
        let (sql, arguments) = statement(&query, limit + 1).map_err(|error| self.database.failure(&error))?;
        let mut connection = self.database.connection().await?;
        // The text has nothing of the caller's: that is in the arguments.
        let asked = sqlx::query_as_with(AssertSqlSafe(sql), arguments).fetch_all(&mut *connection);
        let rows: Vec<Row> = self.database.answer(asked).await?;
        connection.give_back();
        let more = rows.len() > limit;
        let items: Vec<_> = rows.into_iter().take(limit).map(decode).collect::<Result<_, _>>()?;
        let next = items.last().filter(|_| more).map(AuditCursor::from);
        Ok(AuditPage { items, next })
    }
}
