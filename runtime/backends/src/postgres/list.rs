//! The question that a list of executions asks.

use sqlx::postgres::PgArguments;
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::{ExecutionQuery, SoughtText};

use super::walk::{Place, Walk, at};
pub(super) use crate::lists::PAGE_ITEMS_MAX;
use crate::lists::{Ids, LOOKED_ROWS_MAX, ids, is_along_tag, named_ids, tag};

const COLUMNS: &str = "uuid_send(id), workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, \
    uuid_send(parent), workflow_name, tags, error_message";

/// The column that orders a list, before the ids.
const TIME: &str = "started_ms";

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

/// What leads to the rows of a page.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The list: to this row, if any are left behind it.
    Walk(Option<Place>),
    /// Their ids, which are few: they are looked up and sorted.
    Ids,
}

/// A statement with its arguments.
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) arguments: PgArguments,
    /// Most items of the page; one row more is asked for, to see whether there is another page.
    pub(super) limit: usize,
}

impl Question {
    /// None if nothing can match.
    pub(super) fn of(query: &ExecutionQuery, way: Way) -> sqlx::Result<Option<Self>> {
        let mut walk = Walk::default();
        lead(&mut walk, query);
        look(&mut walk, query);
        let mut table = if is_along_tag(query) { ALONG_TAG } else { "summary" }.to_owned();
        match ids(query) {
            Ids::All => {}
            Ids::Between(ids) => {
                let begin_so = between(&mut walk, "id", ids);
                match way {
                    Way::Walk(_) => walk.condition(begin_so),
                    // `OFFSET 0` keeps the planner from looking into it.
                    Way::Ids => {
                        table = format!("(SELECT * FROM summary WHERE {begin_so} ORDER BY id OFFSET 0) AS named")
                    }
                }
            }
            Ids::Nothing => return Ok(None),
        }
        let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
        let reach = match way {
            Way::Walk(reach) => reach,
            Way::Ids => None,
        };
        // Places are in the order of time: the later one of both.
        let begin = query.started_from.map(at).max(reach);
        let (sql, arguments) = walk.statement((&table, COLUMNS, TIME), begin, end(query), limit + 1)?;
        Ok(Some(Self { sql, arguments, limit }))
    }

    /// The statement for the last row that a page of a search looks at, whatever is found on the way. Before its place it tells
    /// whether ids are named that are no more than that.
    pub(super) fn reach(query: &ExecutionQuery) -> sqlx::Result<(String, PgArguments)> {
        let mut walk = Walk::default();
        lead(&mut walk, query);
        let are_few = match named_ids(query) {
            Some(ids) => {
                let begin_so = between(&mut walk, "named.id", ids);
                // In the order of the ids: whatever the planner takes them for, it reads their index.
                format!(
                    "NOT EXISTS (SELECT FROM summary AS named WHERE {begin_so} ORDER BY named.id OFFSET {LOOKED_ROWS_MAX})"
                )
            }
            None => "false".to_owned(),
        };
        let table = if is_along_tag(query) { "summary_tag" } else { "summary" };
        let begin = query.started_from.map(at);
        walk.reach((table, &are_few, TIME), begin, end(query), LOOKED_ROWS_MAX)
    }
}

/// That an id is one of these.
fn between(walk: &mut Walk, id: &str, [first, last]: [ExecutionId; 2]) -> String {
    let (first, last) = (walk.id(first.to_string()), walk.id(last.to_string()));
    format!("{id} BETWEEN {first} AND {last}")
}

/// Where the walk ends.
fn end(query: &ExecutionQuery) -> (Option<Timestamp>, Option<Place>) {
    let after = query.cursor.map(|after| (after.started_at, after.id.0));
    (query.started_until, after)
}

/// What leads to the rows: the first of these, and the status beside it where an index has both.
fn lead(walk: &mut Walk, query: &ExecutionQuery) {
    let along_tag = is_along_tag(query);
    let by_key = query.execution_key.is_some();
    if let Some(key) = &query.execution_key {
        let key = walk.whole_text(key);
        walk.key(KEY, format!("hashtextextended({key}, 0)"));
        walk.condition(format!("execution_key = {key}"));
    } else if let Some(parent) = query.parent {
        let parent = walk.id(parent.to_string());
        walk.key("parent", parent);
    } else if let Some(workflow) = &query.workflow_id {
        let workflow = walk.text(workflow);
        walk.key("workflow", workflow);
    } else if let Some(tagged) = query.tag.as_ref().filter(|_| along_tag) {
        let tagged = walk.whole_text(tag(tagged));
        walk.key("tag", tagged);
    }
    if let Some(status) = query.status.as_ref().filter(|_| !by_key && !along_tag) {
        let status = walk.text(status);
        walk.key("status", status);
    }
    if query.children || query.parent.is_some() {
        // Says to the planner that the partial indexes serve.
        walk.condition("parent IS NOT NULL");
    }
}

/// What is looked at row by row.
fn look(walk: &mut Walk, query: &ExecutionQuery) {
    let along_tag = is_along_tag(query);
    let by_key = query.execution_key.is_some();
    if let Some(parent) = query.parent.filter(|_| by_key) {
        let parent = walk.id(parent.to_string());
        walk.condition(format!("parent = {parent}"));
    }
    let is_led = by_key || query.parent.is_some();
    if let Some(workflow) = query.workflow_id.as_ref().filter(|_| is_led) {
        let workflow = walk.text(workflow);
        walk.condition(format!("workflow = {workflow}"));
    }
    if let Some(tagged) = query.tag.as_ref().filter(|_| !along_tag) {
        let tagged = walk.whole_text(tag(tagged));
        walk.condition(format!("{tagged} = ANY (tags)"));
    }
    if let Some(status) = query.status.as_ref().filter(|_| by_key || along_tag) {
        let status = walk.text(status);
        walk.condition(format!("status = {status}"));
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
}
