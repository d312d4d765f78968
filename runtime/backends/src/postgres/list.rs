//! The question that a list asks: always a walk along one index, from where the page begins to where it is full.
//!
//! Left to itself the planner may walk along another index and skip what does not match, which it takes for cheap because it
//! supposes that what matches is spread evenly. Where it is not, such a list gets slower with every execution. So the list is
//! ordered also by the columns that must be equal: that changes nothing, and only the index that begins with them has this order. They
//! are not compared by `=`, which would tell the planner that it changes nothing: the last of them is the first part of the bounds of
//! a range, at which the server begins and ends; one before that is looked up in an array of one.

use sqlx::Arguments;
use sqlx::postgres::PgArguments;
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::ExecutionQuery;

use super::text::indexed;

/// Items of a page, whatever was asked for.
const PAGE_ITEMS_MAX: usize = 1_000;

const FIRST_ID: ExecutionId = ExecutionId([0; 16]);
const LAST_ID: ExecutionId = ExecutionId([0xff; 16]);

/// Columns of an answer.
pub(super) const COLUMNS: &str = "uuid_send(id), workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, uuid_send(parent)";

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
        let Some(ids) = id_range(query.id_prefix.as_deref().unwrap_or_default()) else {
            return Ok(None);
        };
        let limit = query.limit.clamp(1, PAGE_ITEMS_MAX);
        let question = Self {
            sql: String::new(),
            arguments: PgArguments::default(),
            limit,
        };
        question.built(query, ids).map(Some).map_err(sqlx::Error::Encode)
    }

    fn built(mut self, query: &ExecutionQuery, ids: IdRange) -> Result<Self, sqlx::error::BoxDynError> {
        let mut keys = Vec::new();
        let mut conditions = Vec::new();
        if let Some(parent) = query.parent {
            keys.push(("parent", self.id(parent)?));
        }
        if let Some(workflow) = &query.workflow_id {
            let workflow = self.text(workflow)?;
            if query.parent.is_none() {
                keys.push(("workflow", workflow));
            } else {
                conditions.push(format!("workflow = {workflow}"));
            }
        }
        if let Some(status) = &query.status {
            keys.push(("status", self.text(status)?));
        }
        if query.children || query.parent.is_some() {
            // Says to the planner that the partial indexes serve.
            conditions.push("parent IS NOT NULL".to_owned());
        }
        if let Some((first, last)) = ids {
            conditions.push(format!("id BETWEEN {} AND {}", self.uuid(first)?, self.uuid(last)?));
        }
        let mut order: Vec<_> = keys.iter().map(|(column, _)| *column).collect();
        order.extend(["started_ms", "id"]);
        let last = keys.pop();
        for (column, value) in &keys {
            conditions.push(format!("{column} = ANY (ARRAY[{value}])"));
        }
        let columns = order[keys.len()..].join(", ");
        for (operator, (started, id)) in [(">=", from(query)), ("<", until(query))] {
            let mut values: Vec<_> = last.iter().map(|(_, value)| value.clone()).collect();
            values.extend([self.number(started.0)?, self.id(id)?]);
            conditions.push(format!("({columns}) {operator} ({})", values.join(", ")));
        }
        let rows = self.number(self.limit as i64 + 1)?;
        self.sql = format!(
            "SELECT {COLUMNS} FROM summary WHERE {} ORDER BY {} DESC LIMIT {rows}",
            conditions.join(" AND "),
            order.join(" DESC, "),
        );
        Ok(self)
    }

    /// Ids travel as text, because the driver is built without its UUIDs.
    fn uuid(&mut self, uuid: String) -> Result<String, sqlx::error::BoxDynError> {
        self.arguments.add(uuid)?;
        Ok(format!("${}::uuid", self.arguments.len()))
    }

    fn id(&mut self, id: ExecutionId) -> Result<String, sqlx::error::BoxDynError> {
        self.uuid(id.to_string())
    }

    fn text(&mut self, text: &str) -> Result<String, sqlx::error::BoxDynError> {
        self.arguments.add(indexed(text).into_owned())?;
        Ok(format!("${}", self.arguments.len()))
    }

    fn number(&mut self, number: i64) -> Result<String, sqlx::error::BoxDynError> {
        self.arguments.add(number)?;
        Ok(format!("${}", self.arguments.len()))
    }
}

/// The first place of the list's span.
fn from(query: &ExecutionQuery) -> (Timestamp, ExecutionId) {
    (query.started_from.unwrap_or(Timestamp(i64::MIN)), FIRST_ID)
}

/// The place behind the last one of the list's span: the newest one that may be listed comes before it.
fn until(query: &ExecutionQuery) -> (Timestamp, ExecutionId) {
    let end = match query.started_until {
        Some(until) => (until, FIRST_ID),
        None => (Timestamp(i64::MAX), LAST_ID),
    };
    match query.cursor {
        Some(after) => end.min((after.started_at, after.id)),
        None => end,
    }
}

/// The first and the last id that begin with some digits.
type IdRange = Option<(String, String)>;

/// None if no id begins so.
fn id_range(prefix: &str) -> Option<IdRange> {
    match prefix {
        "" => Some(None),
        prefix if prefix.len() <= 32 && prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(Some((format!("{prefix:0<32}"), format!("{prefix:f<32}"))))
        }
        _ => None,
    }
}
