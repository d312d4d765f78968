//! What lists show of a shard's executions, for whoever takes it.

use troupe_core::{ExecutionId, ShardId};
use troupe_ports::{ExecutionQuery, ExecutionSummary, StoreError, VisibilityStore};

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::execution::load::{Loaded, load};
use crate::execution::view::summary;

/// Executions listed at once.
pub(super) const LIST_ROWS: usize = 1_000;

/// The rows of a shard, page by page. A page that failed is asked for again.
pub(super) struct Rows {
    query: ExecutionQuery,
    is_over: bool,
}

impl Rows {
    /// Those of a shard's rows that `query` wants.
    pub(super) fn of(shard: ShardId, query: ExecutionQuery) -> Self {
        let query = ExecutionQuery {
            id_prefix: Some(format!("{:04x}", shard.0)),
            limit: LIST_ROWS,
            ..query
        };
        Self { query, is_over: false }
    }

    /// The next page; none at the end.
    pub(super) async fn next(
        &mut self,
        lists: &dyn VisibilityStore,
    ) -> Result<Option<Vec<ExecutionSummary>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        let page = lists.list(self.query.clone()).await?;
        self.is_over = page.next.is_none();
        self.query.cursor = page.next;
        Ok(Some(page.items))
    }
}

/// What lists are to show of an execution.
pub(super) enum Shown {
    /// This.
    As(Box<ExecutionSummary>),
    /// Nothing: there is none, or it was let go.
    Nothing,
    /// Nobody knows: it cannot be read, and is set aside by whoever needs it.
    Unknown,
}

/// What lists are to show of an execution of a shard that is being opened.
pub(super) async fn shown(context: &ShardContext, id: ExecutionId) -> Result<Shown, EngineError> {
    match load(context, id).await {
        Ok(Loaded::Found(found)) => Ok(Shown::As(Box::new(summary(&found.state, &found.compiled.plan)))),
        Ok(Loaded::Missing | Loaded::Tombstone(_)) => Ok(Shown::Nothing),
        Err(error @ (EngineError::Unavailable(_) | EngineError::Elsewhere(_) | EngineError::Fenced)) => Err(error),
        Err(error) => {
            tracing::error!(%id, %error, "what is listed of an execution cannot be known");
            Ok(Shown::Unknown)
        }
    }
}

/// Summaries of those that can be listed.
pub(super) async fn summaries<'a>(
    context: &ShardContext,
    ids: impl IntoIterator<Item = &'a ExecutionId>,
) -> Result<Vec<ExecutionSummary>, EngineError> {
    let mut summaries = Vec::new();
    for id in ids {
        if let Shown::As(summary) = shown(context, *id).await? {
            summaries.push(*summary);
        }
    }
    Ok(summaries)
}
