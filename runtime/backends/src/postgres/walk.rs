//! A list as a walk along one index, from where a page begins to where it is full.
//!
//! Left to itself the planner may walk along another index and skip what does not match, which it takes for cheap because it
//! supposes that what matches is spread evenly. Where it is not, such a list gets slower with every row. So a list is ordered also by
//! the columns that must be equal: that changes nothing, and only the index that begins with them has this order. They are not
//! compared by `=`, which would tell the planner that it changes nothing: the last of them is the first part of the bounds of a
//! range, at which the server begins and ends; one before that is looked up in an array of one. The sessions of the pool discourage
//! sorting, because the planner takes such a range for almost empty and would read it whole.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Encode, Postgres, Type};
use troupe_core::Timestamp;

use super::text::{escaped, indexed};

/// A place in an order of time: when, and the id of what then happened.
pub(super) type Place = (Timestamp, [u8; 16]);

/// Before every place.
pub(super) const FIRST: Place = (Timestamp(i64::MIN), [0; 16]);
/// Behind every place that there is.
const LAST: Place = (Timestamp(i64::MAX), [0xff; 16]);

/// The place before all that happens at a time.
pub(super) fn at(time: Timestamp) -> Place {
    (time, FIRST.1)
}

/// Builds the statement of a list. Newest first.
#[derive(Default)]
pub(super) struct Walk {
    arguments: PgArguments,
    /// Columns that must be equal, in the order of their index, and what they must equal.
    keys: Vec<(&'static str, String)>,
    conditions: Vec<String>,
    failed: Option<sqlx::error::BoxDynError>,
}

impl Walk {
    fn argument<'q, T: Encode<'q, Postgres> + Type<Postgres> + 'q>(&mut self, argument: T) -> String {
        if let Err(error) = self.arguments.add(argument) {
            self.failed = Some(error);
        }
        format!("${}", self.arguments.len())
    }

    /// An argument that is a text.
    pub(super) fn text(&mut self, text: &str) -> String {
        self.argument(indexed(text).into_owned())
    }

    /// An argument that is a text, all of it: no index holds it, or one that takes it as it is.
    pub(super) fn whole_text(&mut self, text: &str) -> String {
        self.argument(escaped(text).into_owned())
    }

    /// An argument that is an id, given by its hexadecimal digits: the driver is built without its UUIDs.
    pub(super) fn id(&mut self, digits: String) -> String {
        format!("{}::uuid", self.argument(digits))
    }

    /// A column that the index begins with, after those already named.
    pub(super) fn key(&mut self, column: &'static str, equals: String) {
        self.keys.push((column, equals));
    }

    /// Something that is looked at row by row.
    pub(super) fn condition(&mut self, condition: impl Into<String>) {
        self.conditions.push(condition.into());
    }

    /// The statement for at most `rows` rows of `table`, from `begin` on, those before `until` and `after` only. `time` is the column
    /// that orders them, before `id`.
    pub(super) fn statement(
        mut self,
        (table, columns, time): (&str, &str, &'static str),
        begin: Option<Place>,
        (until, after): (Option<Timestamp>, Option<Place>),
        rows: usize,
    ) -> sqlx::Result<(String, PgArguments)> {
        let walked = self.walked(table, time, begin, (until, after));
        let limit = self.argument(i64::try_from(rows).unwrap_or(i64::MAX));
        self.done(format!("SELECT {columns} FROM {walked} LIMIT {limit}"))
    }

    /// As [`Walk::statement`], for `before` and the place of the last one of `rows` rows; for none, if there are fewer.
    pub(super) fn reach(
        mut self,
        (table, before, time): (&str, &str, &'static str),
        begin: Option<Place>,
        (until, after): (Option<Timestamp>, Option<Place>),
        rows: usize,
    ) -> sqlx::Result<(String, PgArguments)> {
        let walked = self.walked(table, time, begin, (until, after));
        let passed = self.argument(i64::try_from(rows.saturating_sub(1)).unwrap_or(i64::MAX));
        self.done(format!(
            "SELECT {before}, {time}, uuid_send(id) FROM {walked} LIMIT 1 OFFSET {passed}"
        ))
    }

    /// The table, what its rows must meet, and their order.
    fn walked(
        &mut self,
        table: &str,
        time: &'static str,
        begin: Option<Place>,
        (until, after): (Option<Timestamp>, Option<Place>),
    ) -> String {
        let begin = begin.unwrap_or(FIRST);
        let end = until.map_or(LAST, at).min(after.unwrap_or(LAST));
        let mut order: Vec<_> = self.keys.iter().map(|(column, _)| *column).collect();
        order.extend([time, "id"]);
        let last = self.keys.pop();
        for (column, value) in &self.keys {
            self.conditions.push(format!("{column} = ANY (ARRAY[{value}])"));
        }
        let bounded = order[self.keys.len()..].join(", ");
        for (operator, (at, id)) in [(">=", begin), ("<", end)] {
            let mut values: Vec<_> = last.iter().map(|(_, value)| value.clone()).collect();
            values.push(self.argument(at.0));
            values.push(self.id(format!("{:032x}", u128::from_be_bytes(id))));
            self.conditions
                .push(format!("({bounded}) {operator} ({})", values.join(", ")));
        }
        format!(
            "{table} WHERE {} ORDER BY {} DESC",
            self.conditions.join(" AND "),
            order.join(" DESC, ")
        )
    }

    fn done(self, sql: String) -> sqlx::Result<(String, PgArguments)> {
        match self.failed {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => Ok((sql, self.arguments)),
        }
    }
}
