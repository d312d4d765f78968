//! The question that a list of executions asks.

use sqlx::postgres::PgArguments;
use troupe_ports::{ExecutionQuery, SoughtText};

use super::walk::Walk;
pub(super) use crate::lists::PAGE_ITEMS_MAX;
use crate::lists::{SHARD_DIGITS, is_along_tag};

const COLUMNS: &str = "uuid_send(id), workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, \
    uuid_send(parent), workflow_name, tags, error_message";

/// What a business key is looked up by; two may share it.
const KEY: &str = "hashtextextended(execution_key, 0)";

/// Summaries along a tag. `OFFSET 0` keeps the planner from beginning with the summaries.
const ALONG_TAG: &str = "summary_tag CROSS JOIN LATERAL (
    SELECT workflow, version, status, paused, ended_ms, error_code, execution_key, seq, parent, workflow_name, tags, error_message, folded
    FROM summary WHERE summary.id = summary_tag.id OFFSET 0
) AS tagged";

/// The texts that a row is searched for, in small letters.
const FOLDED: &str = "coalesce(folded, \
    lower(concat_ws(E'\\n', workflow, workflow_name, execution_key, error_message) COLLATE \"C\"))";

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
        let along_tag = is_along_tag(query);
        // The first of these leads; what follows has no index together with it, unless it is the status.
        let by_key = query.execution_key.is_some();
        if let Some(key) = &query.execution_key {
            let key = walk.whole_text(key);
            walk.key(KEY, format!("hashtextextended({key}, 0)"));
            walk.condition(format!("execution_key = {key}"));
        }
        if let Some(parent) = query.parent {
            let parent = walk.id(parent.to_string());
            equal(&mut walk, "parent", parent, !by_key);
        }
        if let Some(workflow) = &query.workflow_id {
            let workflow = walk.text(workflow);
            equal(&mut walk, "workflow", workflow, !by_key && query.parent.is_none());
        }
        if let Some(tag) = &query.tag {
            let tag = walk.text(tag);
            if along_tag {
                walk.key("tag", tag);
            } else {
                walk.condition(format!("{tag} = ANY (tags)"));
            }
        }
        if let Some(status) = &query.status {
            let status = walk.text(status);
            equal(&mut walk, "status", status, !by_key && !along_tag);
        }
        if query.children || query.parent.is_some() {
            // Says to the planner that the partial indexes serve.
            walk.condition("parent IS NOT NULL");
        }
        if let Some(SoughtText { folded, may_be_in_id }) = query.sought() {
            let text = walk.whole_text(&folded);
            let found = format!("strpos({FOLDED}, {text}) > 0");
            walk.condition(if may_be_in_id {
                format!("({found} OR strpos(encode(uuid_send(id), 'hex'), {text}) > 0)")
            } else {
                found
            });
        }
        let mut table = if along_tag { ALONG_TAG } else { "summary" }.to_owned();
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

/// A column that must equal something: one that leads, or one that is looked at row by row.
fn equal(walk: &mut Walk, column: &'static str, value: String, leads: bool) {
    if leads {
        walk.key(column, value);
    } else {
        walk.condition(format!("{column} = {value}"));
    }
}
