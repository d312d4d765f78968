//! Searches: what people ask of lists beyond what an index leads to.
//!
//! A search steps along one index, row by row, and looks at each: the statement names the index and filters nothing, so that no step
//! is longer than a row. After so many rows, or so long, it tells what it found and where it was.

use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::{ExecutionCursor, ExecutionQuery, ExecutionSummary, Page, SoughtText, StoreError};

use super::log::integer;
use super::reader::Caller;
use super::visibility::{ALONG_TAG, COLUMNS, Filter, list, summary};
use super::writer::Ran;
use crate::lists::{LOOKED_ROWS_MAX, NARROW, PAGE_ITEMS_MAX, is_along_tag, is_looked_for, named_ids, tag};

/// How long a page is looked for.
const LOOKED_FOR_MAX: Duration = Duration::from_secs(1);
/// How long a search waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Columns of [`COLUMNS`], and the one behind them: whether the row is among those that are looked for.
const ID_COLUMN: usize = 0;
const STARTED_COLUMN: usize = 5;
const FOUND_COLUMN: usize = 14;

/// The texts that a row is searched for, in small letters.
const FOLDED: &str = "coalesce(s.folded, lower(s.workflow || char(10) || coalesce(s.workflow_name, '') || char(10)
    || coalesce(s.execution_key, '') || char(10) || coalesce(s.error_message, '')))";

/// The rows that are looked at: those of the first index of these that there is something to begin with. Returns the table, with
/// that index, and the part of it that has the rows in the order of the list.
fn lead(query: &ExecutionQuery) -> (&'static str, &'static str, Filter) {
    let mut filter = Filter::default();
    let (table, place) = if let Some(key) = &query.execution_key {
        filter.add_text("s.execution_key = ?", key);
        ("summary AS s INDEXED BY summary_key", "s")
    } else if let Some(parent) = query.parent {
        filter.add("s.parent = ?", [Value::Blob(parent.0.to_vec())]);
        ("summary AS s INDEXED BY summary_parent", "s")
    } else if is_along_tag(query)
        && let Some(tagged) = &query.tag
    {
        filter.add_text("t.tag = ?", tag(tagged));
        (ALONG_TAG, "t")
    } else if let Some(status) = query.status.as_deref().filter(|status| *status != "completed") {
        filter.add_text("s.status = ?", status);
        filter.add("s.status <> 'completed'", []);
        ("summary AS s INDEXED BY summary_status", "s")
    } else if let Some(workflow) = &query.workflow_id {
        filter.add_text("s.workflow = ?", workflow);
        ("summary AS s INDEXED BY summary_workflow", "s")
    } else {
        ("summary AS s INDEXED BY summary_started", "s")
    };
    filter.add_times(query, place);
    (table, place, filter)
}

/// What is looked for among them; what leads is true of all. None if nothing can match.
fn looked_for(query: &ExecutionQuery) -> Option<Filter> {
    let mut filter = Filter::default();
    if !filter.add_ids(query, "s") {
        return None;
    }
    if let Some(workflow) = &query.workflow_id {
        filter.add_text("s.workflow = ?", workflow);
    }
    if let Some(status) = &query.status {
        filter.add_text("s.status = ?", status);
    }
    if let Some(parent) = query.parent {
        filter.add("s.parent = ?", [Value::Blob(parent.0.to_vec())]);
    }
    if query.children {
        filter.add("s.parent IS NOT NULL", []);
    }
    if let Some(tagged) = query.tag.as_ref().filter(|_| !is_along_tag(query)) {
        let has_tag =
            "EXISTS (SELECT 1 FROM summary_tag AS o WHERE o.tag = ? AND o.started_ms = s.started_ms AND o.id = s.id)";
        filter.add_text(has_tag, tag(tagged));
    }
    if let Some(SoughtText { folded, may_be_in_id }) = query.sought() {
        if may_be_in_id {
            let anywhere = format!("(instr({FOLDED}, ?) > 0 OR instr(lower(hex(s.id)), ?) > 0)");
            filter.add(anywhere, [Value::Text(folded.clone()), Value::Text(folded)]);
        } else {
            filter.add_text(format!("instr({FOLDED}, ?) > 0"), &folded);
        }
    }
    Some(filter)
}

/// The statement that steps from row to row. None if nothing can match.
fn statement(query: &ExecutionQuery) -> Option<(String, Vec<Value>)> {
    let found = looked_for(query)?;
    let (table, place, walk) = lead(query);
    let sql = format!(
        "SELECT {COLUMNS}, ({}) FROM {table} WHERE {} ORDER BY {place}.started_ms DESC, {place}.id DESC",
        found.sql(),
        walk.sql()
    );
    let mut values = found.values;
    values.extend(walk.values);
    Some((sql, values))
}

/// Whether no more executions have these ids than a page looks at.
fn are_few(connection: &Connection, [first, last]: [ExecutionId; 2]) -> rusqlite::Result<bool> {
    let mut one_more =
        connection.prepare_cached("SELECT 1 FROM summary WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT 1 OFFSET ?3")?;
    let passed = integer(LOOKED_ROWS_MAX as u64);
    Ok(!one_more.exists(params![&first.0[..], &last.0[..], passed])?)
}

/// A page of a search. It is given up, and answered with whatever it has, once its caller is gone.
pub(super) fn search(
    connection: &Connection,
    query: &ExecutionQuery,
    caller: &Caller<'_>,
) -> Ran<Page<ExecutionSummary>, StoreError> {
    if caller.asked.elapsed() > TURN_WAIT_MAX {
        return Ok(Err(StoreError::Unavailable(format!(
            "other searches took more than {} ms; {NARROW}",
            TURN_WAIT_MAX.as_millis()
        ))));
    }
    let few = match named_ids(query) {
        Some(ids) if are_few(connection, ids)? => Some(ids),
        _ => None,
    };
    if few.is_some() || !is_looked_for(query) {
        return list(connection, query, few).map(Ok);
    }
    let (mut items, mut reached) = (Vec::new(), None);
    let Some((sql, values)) = statement(query) else {
        return Ok(Ok(Page { items, next: None }));
    };
    let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
    let (begun, mut looked_at) = (Instant::now(), 0);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        if row.get::<_, Option<bool>>(FOUND_COLUMN)? == Some(true) {
            items.push(summary(row)?);
            if items.len() > limit {
                break;
            }
        }
        looked_at += 1;
        if looked_at == LOOKED_ROWS_MAX || begun.elapsed() >= LOOKED_FOR_MAX || (caller.is_gone)() {
            reached = Some(ExecutionCursor {
                started_at: Timestamp(row.get(STARTED_COLUMN)?),
                id: ExecutionId(row.get(ID_COLUMN)?),
            });
            break;
        }
    }
    let is_full = items.len() > limit;
    items.truncate(limit);
    let next = if is_full {
        items.last().map(ExecutionCursor::from)
    } else {
        reached
    };
    Ok(Ok(Page { items, next }))
}

#[cfg(test)]
mod tests;
