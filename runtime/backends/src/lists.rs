//! What stores of summaries have in common.

use troupe_core::ExecutionId;
use troupe_ports::ExecutionQuery;

/// Items of a page, whatever was asked for.
pub(crate) const PAGE_ITEMS_MAX: usize = 1_000;

/// Rows that are looked at for a page where they are looked at one by one: some tens of milliseconds.
pub(crate) const LOOKED_ROWS_MAX: usize = 10_000;

/// An id begins with its shard. The engine asks for the ids of one; all other beginnings are what people ask for.
const SHARD_DIGITS: usize = 4;

/// What whoever searched in vain may do.
pub(crate) const NARROW: &str =
    "a search looks at whatever its other filters leave: narrow it by workflow, status or time, or try again later";

/// Bytes of a tag that count; a store need not keep more. With every character escaped an index of PostgreSQL still takes it.
const TAG_BYTES_MAX: usize = 1_024;

/// What counts of a tag, wherever it is written or named: all of it, or the beginning of an absurd one.
pub(crate) fn tag(text: &str) -> &str {
    &text[..text.floor_char_boundary(TAG_BYTES_MAX)]
}

/// The ids that a list is about.
pub(crate) enum Ids {
    /// Whatever begins them.
    All,
    /// From the first to the last that begin so.
    Between([ExecutionId; 2]),
    /// None begins so.
    Nothing,
}

/// The ids that a list is about.
pub(crate) fn ids(query: &ExecutionQuery) -> Ids {
    let Some(prefix) = prefix(query) else { return Ids::All };
    match (format!("{prefix:0<32}").parse(), format!("{prefix:f<32}").parse()) {
        (Ok(first), Ok(last)) => Ids::Between([first, last]),
        // Too long, or other characters than hexadecimal digits.
        _ => Ids::Nothing,
    }
}

/// What ids begin with; an empty text begins all of them.
fn prefix(query: &ExecutionQuery) -> Option<&str> {
    query.id_prefix.as_deref().filter(|prefix| !prefix.is_empty())
}

/// Whether the beginning of ids is named that people ask for.
fn is_peoples_prefix(query: &ExecutionQuery) -> bool {
    prefix(query).is_some_and(|prefix| prefix.len() != SHARD_DIGITS)
}

fn has_text(query: &ExecutionQuery) -> bool {
    query.text.as_ref().is_some_and(|text| !text.is_empty())
}

/// Whether only people ask so. It may cost a lot, and must never stand before what the engine asks: that names no text, tag or
/// business key, and of ids the beginning that is a shard.
pub(crate) fn is_search(query: &ExecutionQuery) -> bool {
    query.text.is_some() || query.tag.is_some() || query.execution_key.is_some() || is_peoples_prefix(query)
}

/// The ids that people name, where nothing else is looked for row by row. If no more than [`LOOKED_ROWS_MAX`] begin so they are
/// looked up and sorted; else they are looked for. How many digits there are does not tell: ids go on with the time, and those
/// of one month, or all children of one group, begin alike.
pub(crate) fn named_ids(query: &ExecutionQuery) -> Option<[ExecutionId; 2]> {
    let is_looked_for = has_text(query) || query.tag.is_some() || query.execution_key.is_some();
    match ids(query) {
        Ids::Between(ids) if is_peoples_prefix(query) && !is_looked_for => Some(ids),
        _ => None,
    }
}

/// Whether no index leads to the rows alone, so that any number is looked at for each that is found. A page then looks at
/// [`LOOKED_ROWS_MAX`], tells what it found among them, and where the next one goes on.
pub(crate) fn is_looked_for(query: &ExecutionQuery) -> bool {
    let is_narrowed = query.children
        || query.workflow_id.is_some()
        || query.status.is_some()
        || query.parent.is_some()
        || prefix(query).is_some();
    let (by_tag, by_key) = (query.tag.is_some(), query.execution_key.is_some());
    has_text(query) || by_tag && by_key || (by_tag || by_key) && is_narrowed || named_ids(query).is_some()
}

/// Whether a list is read along its tag, since nothing narrower leads to its rows; else the tag is looked at row by row. Most
/// executions complete, so that `completed` leads nowhere.
pub(crate) fn is_along_tag(query: &ExecutionQuery) -> bool {
    query.tag.is_some()
        && query.execution_key.is_none()
        && query.parent.is_none()
        && !query.children
        && query.workflow_id.is_none()
        && query.status.as_deref().is_none_or(|status| status == "completed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(change: impl FnOnce(&mut ExecutionQuery)) -> ExecutionQuery {
        let mut query = ExecutionQuery::default();
        change(&mut query);
        query
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn what_the_engine_asks_is_no_search() {
        let asked = [
            query(|query| {
                query.workflow_id = some("orders");
                query.status = some("running");
                query.id_prefix = some("0007");
            }),
            query(|query| {
                query.children = true;
                query.status = some("running");
                query.id_prefix = some("0007");
            }),
            query(|query| {
                query.parent = Some(ExecutionId([7; 16]));
                query.status = some("running");
            }),
            query(|query| query.id_prefix = some("0007")),
            query(|query| query.id_prefix = some("")),
            query(|_| {}),
        ];
        for query in asked {
            assert!(!is_search(&query) && !is_looked_for(&query), "{query:?}");
        }
    }

    #[test]
    fn what_an_index_leads_to_is_searched_whole_and_the_rest_is_looked_for() {
        let led = [
            query(|query| query.tag = some("billing")),
            query(|query| query.execution_key = some("key")),
            query(|query| query.text = some("")),
            // Nothing begins so.
            query(|query| query.id_prefix = some("x")),
        ];
        for query in led {
            assert!(is_search(&query) && !is_looked_for(&query), "{query:?}");
        }
        let looked_for = [
            query(|query| query.text = some("needle")),
            query(|query| query.id_prefix = some("f")),
            query(|query| query.id_prefix = some("00070")),
            query(|query| {
                query.id_prefix = some("00070");
                query.workflow_id = some("orders");
            }),
            query(|query| {
                query.tag = some("billing");
                query.status = some("completed");
            }),
            query(|query| {
                query.execution_key = some("key");
                query.workflow_id = some("orders");
            }),
            query(|query| {
                query.execution_key = some("key");
                query.tag = some("billing");
            }),
        ];
        for query in looked_for {
            assert!(is_search(&query) && is_looked_for(&query), "{query:?}");
        }
    }

    #[test]
    fn ids_are_counted_where_nothing_else_is_looked_for() {
        let named = |change: fn(&mut ExecutionQuery)| {
            let query = query(|query| {
                query.id_prefix = some("0007A");
                change(query);
            });
            named_ids(&query).map(|ids| ids.map(|id| id.to_string()))
        };
        let ends = [format!("0007a{}", "0".repeat(27)), format!("0007a{}", "f".repeat(27))];
        assert_eq!(named(|_| {}), Some(ends.clone()));
        assert_eq!(named(|query| query.workflow_id = some("orders")), Some(ends));
        let others: [fn(&mut ExecutionQuery); 7] = [
            |query| query.id_prefix = some("0007"),
            |query| query.id_prefix = some("0007 "),
            |query| query.id_prefix = some(&"0".repeat(33)),
            |query| query.id_prefix = some(""),
            |query| query.text = some("needle"),
            |query| query.tag = some("billing"),
            |query| query.execution_key = some("key"),
        ];
        for other in others {
            assert_eq!(named(other), None);
        }
    }

    #[test]
    fn of_an_absurd_tag_the_beginning_counts() {
        assert_eq!(tag("billing"), "billing");
        assert_eq!(tag(&"é".repeat(1_000)), "é".repeat(512));
        assert_eq!(tag(&format!("a{}", "é".repeat(1_000))), format!("a{}", "é".repeat(511)));
    }
}
