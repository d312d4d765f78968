//! The question that a list of executions asks.

use sqlx::postgres::PgArguments;
use troupe_ports::ExecutionQuery;

use super::walk::Walk;

/// Items of a page, whatever was asked for.
pub(super) const PAGE_ITEMS_MAX: usize = 1_000;

/// An id begins with its shard. A longer prefix names few executions, which are read by it and sorted; one that is no longer is met all along
/// the walk.
const SHARD_DIGITS: usize = 4;

const COLUMNS: &str = "uuid_send(id), workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, uuid_send(parent)";

/// A statement with its arguments.
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) arguments: PgArguments,
    /// Most items of the page; one row more is asked for, to see whether there is another page.
    pub(super) limit: usize,
}

impl Question {
    /// None if nothing can match.
    pub(super) fn of(query: &ExecutionQuery) -> sqlx::Result<Option<Self>> {
        let mut walk = Walk::default();
        if let Some(parent) = query.parent {
            let parent = walk.id(parent.to_string());
            walk.key("parent", parent);
        }
        if let Some(workflow) = &query.workflow_id {
            let workflow = walk.text(workflow);
            match query.parent {
                Some(_) => walk.condition(format!("workflow = {workflow}")),
                None => walk.key("workflow", workflow),
            }
        }
        if let Some(status) = &query.status {
            let status = walk.text(status);
            walk.key("status", status);
        }
        if query.children || query.parent.is_some() {
            // Says to the planner that the partial indexes serve.
            walk.condition("parent IS NOT NULL");
        }
        let mut table = "summary".to_owned();
        match query.id_prefix.as_deref().unwrap_or_default() {
            "" => {}
            prefix if prefix.len() <= 32 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let (first, last) = (walk.id(format!("{prefix:0<32}")), walk.id(format!("{prefix:f<32}")));
                let begin_so = format!("id BETWEEN {first} AND {last}");
                if prefix.len() <= SHARD_DIGITS {
                    walk.condition(begin_so);
                } else {
                    // `OFFSET 0` keeps the planner from looking into it.
                    table = format!("(SELECT * FROM summary WHERE {begin_so} OFFSET 0) AS named");
                }
            }
            _ => return Ok(None),
        }
        let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
        let after = query.cursor.map(|after| (after.started_at, after.id.0));
        let (sql, arguments) = walk.statement(
            (&table, COLUMNS, "started_ms"),
            query.started_from,
            (query.started_until, after),
            limit + 1,
        )?;
        Ok(Some(Self { sql, arguments, limit }))
    }
}
