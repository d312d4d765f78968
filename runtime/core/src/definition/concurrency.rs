//! The typed view of `data.concurrency`: how many attempts that share a key may run at once.

use super::kind::words;
use super::settings::errors_or;
use super::view::{View, is_template};
use super::{Diagnostic, Node, Path, Problems, code};

words! {
    /// Among which attempts a concurrency limit counts.
    ConcurrencyScope {
        /// Those of one execution.
        Execution = "execution",
        /// Those of every execution of the workflow, bodies included.
        Workflow = "workflow",
        /// All.
        Global = "global",
    }
}

/// How many attempts that share a key may run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    /// So many; 1 is a mutex.
    pub limit: u32,
    /// The expression that gives the key; without it the node is its own key.
    pub key: Option<String>,
    /// Among which attempts.
    pub scope: ConcurrencyScope,
}

impl Node {
    /// The typed `data.concurrency`; none where the node has none.
    ///
    /// # Errors
    ///
    /// Every field of the wrong shape or out of range, with pointers relative to the node.
    pub fn concurrency(&self) -> Result<Option<ConcurrencyLimit>, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let limit = ConcurrencyLimit::read(self, &Path::root(), &mut problems);
        errors_or(limit, problems)
    }
}

impl ConcurrencyLimit {
    /// Reads the limit of the node at `path`, with defaults in place of what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        node.with_holder("concurrency", path, |holder| {
            let view = View::of(holder.value("concurrency")?, holder.path("concurrency"), problems)?;
            view.warn_of_slips(&["key", "limit", "scope"], problems);
            let limit = if view
                .value("limit")
                .and_then(|limit| limit.as_str())
                .is_some_and(is_template)
            {
                let message = "`limit` cannot be a template: it is fixed when the workflow is saved";
                problems.error(code::UNSUPPORTED, &view.path("limit"), message);
                None
            } else {
                view.whole("limit", 1, u64::from(u32::MAX), problems)
            };
            let scope = view.word("scope", ConcurrencyScope::WORDS, ConcurrencyScope::parse, problems);
            // That it is an expression is checked where all expressions are.
            let key = view.value("key").and_then(|key| key.as_str()).map(str::to_owned);
            if scope == Some(ConcurrencyScope::Global) && view.value("key").is_none() {
                let message = "a limit over all workflows needs `key`: without one it bounds this node alone";
                problems.error(code::MISSING_FIELD, &holder.path("concurrency"), message);
            }
            Some(Self {
                limit: limit.map_or(1, |limit| limit as u32),
                key,
                scope: scope.unwrap_or(ConcurrencyScope::Workflow),
            })
        })
    }
}
