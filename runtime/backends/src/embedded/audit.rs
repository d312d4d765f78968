//! Audit rows in the derived file.

use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};
use troupe_core::Timestamp;
use troupe_ports::{AuditCursor, AuditId, AuditLog, AuditPage, AuditQuery, AuditRow, AuditTarget, StoreError};

use super::EmbeddedStore;
use super::log::integer;

/// Items of a page, whatever was asked for.
const PAGE_ITEMS_MAX: usize = 1_000;

fn record(connection: &Connection, rows: &[AuditRow]) -> rusqlite::Result<()> {
    let mut write = connection.prepare_cached(
        "INSERT INTO audit (id, at_ms, principal, action, target_kind, target_id, before, after, request, outcome)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?;
    for row in rows {
        write.execute(params![
            &row.id.0[..],
            row.at.0,
            row.principal,
            row.action,
            row.target.kind,
            row.target.id,
            row.before.as_ref().map(|hash| &hash[..]),
            row.after.as_ref().map(|hash| &hash[..]),
            row.request,
            row.outcome
        ])?;
    }
    Ok(())
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        id: AuditId(row.get(0)?),
        at: Timestamp(row.get(1)?),
        principal: row.get(2)?,
        action: row.get(3)?,
        target: AuditTarget {
            kind: row.get(4)?,
            id: row.get(5)?,
        },
        before: row.get(6)?,
        after: row.get(7)?,
        request: row.get(8)?,
        outcome: row.get(9)?,
    })
}

fn list(connection: &Connection, query: &AuditQuery) -> rusqlite::Result<AuditPage> {
    let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
    let mut conditions = vec!["true"];
    let mut values: Vec<Value> = Vec::new();
    if let Some(target) = &query.target {
        conditions.push("target_kind = ? AND target_id = ?");
        values.extend([Value::Text(target.kind.clone()), Value::Text(target.id.clone())]);
    }
    for (condition, text) in [("principal = ?", &query.principal), ("action = ?", &query.action)] {
        if let Some(text) = text {
            conditions.push(condition);
            values.push(Value::Text(text.clone()));
        }
    }
    for (condition, at) in [("at_ms >= ?", query.from), ("at_ms < ?", query.until)] {
        if let Some(at) = at {
            conditions.push(condition);
            values.push(Value::Integer(at.0));
        }
    }
    if let Some(after) = query.cursor {
        conditions.push("(at_ms, id) < (?, ?)");
        values.extend([Value::Integer(after.at.0), Value::Blob(after.id.0.to_vec())]);
    }
    values.push(Value::Integer(integer(limit as u64 + 1)));
    let sql = format!(
        "SELECT id, at_ms, principal, action, target_kind, target_id, before, after, request, outcome
         FROM audit WHERE {} ORDER BY at_ms DESC, id DESC LIMIT ?",
        conditions.join(" AND ")
    );
    let mut items: Vec<_> = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), row)?
        .collect::<rusqlite::Result<_>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(AuditCursor::from);
    Ok(AuditPage { items, next })
}

#[async_trait]
impl AuditLog for EmbeddedStore {
    async fn record(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        self.derived.run(move |derived| record(derived, &rows).map(Ok)).await
    }

    async fn list(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.derived_readers.read(move |derived| list(derived, &query)).await
    }
}
