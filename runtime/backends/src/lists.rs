//! What stores of summaries have in common.

use troupe_ports::ExecutionQuery;

/// Items of a page, whatever was asked for.
pub(crate) const PAGE_ITEMS_MAX: usize = 1_000;

/// An id begins with its shard. A longer prefix names few executions; one that is no longer is met all along a list.
pub(crate) const SHARD_DIGITS: usize = 4;

/// Whether a list is read along its tag, since nothing narrower leads to its rows; else the tag is looked at row by row. Most
/// executions complete, so that `completed` leads nowhere.
pub(crate) fn is_along_tag(query: &ExecutionQuery) -> bool {
    query.tag.is_some()
        && query.execution_key.is_none()
        && query.parent.is_none()
        && query.workflow_id.is_none()
        && query.status.as_deref().is_none_or(|status| status == "completed")
        && query
            .id_prefix
            .as_ref()
            .is_none_or(|prefix| prefix.len() <= SHARD_DIGITS)
}
