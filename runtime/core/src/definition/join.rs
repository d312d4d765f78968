//! Typed view of `data.join`.

use super::kind::words;
use super::settings::errors_or;
use super::view::View;
use super::{Diagnostic, Node, Path, Problems, code};

words! {
    /// The word of a join's mode.
    JoinModeWord {
        /// Decide when every message arrived.
        All = "all",
        /// Only if every edge is taken.
        AllSuccess = "allSuccess",
        /// At the first taken edge.
        Any = "any",
        /// At the n-th taken edge.
        Quorum = "quorum",
    }
}

/// When a join becomes ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinMode {
    /// When every message arrived and at least one edge is taken.
    #[default]
    All,
    /// Only if every edge is taken.
    AllSuccess,
    /// At the first taken edge.
    Any,
    /// At the n-th taken edge.
    Quorum {
        /// The n.
        count: u32,
    },
}

words! {
    /// What a join that can no longer become ready does.
    OnUnsatisfied {
        /// The node is skipped.
        Skip = "skip",
        /// The node fails with `JOIN_UNSATISFIED`.
        Fail = "fail",
    }
}

words! {
    /// What happens to branches still running when an `any` or `quorum` join fired.
    LateArrivals {
        /// They run on.
        Ignore = "ignore",
        /// Nodes that can now reach only the join are canceled.
        Cancel = "cancel",
    }
}

words! {
    /// What a join's deadline does.
    OnJoinTimeout {
        /// The node fails with `JOIN_UNSATISFIED`.
        Fail = "fail",
        /// The node is skipped.
        Skip = "skip",
        /// The node becomes ready with what arrived, if that suffices.
        Proceed = "proceed",
    }
}

/// How a node joins its incoming edges, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinSettings {
    /// When the join becomes ready.
    pub mode: JoinMode,
    /// Sources that must be among the taken, in every mode.
    pub required: Vec<String>,
    /// What happens when the join can no longer become ready.
    pub on_unsatisfied: OnUnsatisfied,
    /// What happens to branches still running after the join fired.
    pub late_arrivals: LateArrivals,
    /// Deadline in milliseconds from the first message.
    pub timeout_ms: Option<u64>,
    /// What the deadline does.
    pub on_timeout: OnJoinTimeout,
}

impl Default for JoinSettings {
    fn default() -> Self {
        Self {
            mode: JoinMode::All,
            required: Vec::new(),
            on_unsatisfied: OnUnsatisfied::Skip,
            late_arrivals: LateArrivals::Ignore,
            timeout_ms: None,
            on_timeout: OnJoinTimeout::Fail,
        }
    }
}

const KNOWN: &[&str] = &[
    "mode",
    "count",
    "required",
    "onUnsatisfied",
    "lateArrivals",
    "timeout",
    "onTimeout",
];

impl Node {
    /// The typed join settings; the default where the node gives none.
    ///
    /// # Errors
    ///
    /// Every join setting of the wrong shape or out of range, with pointers relative to the node.
    pub fn join(&self) -> Result<JoinSettings, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let join = JoinSettings::read(self, &Path::root(), &mut problems);
        errors_or(join, problems)
    }
}

impl JoinSettings {
    /// Reads the join settings of the node at `path`, with the default in place of what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Self {
        let mut join = Self::default();
        let Some(value) = node.data.get("join").filter(|value| !value.is_null()) else {
            return join;
        };
        let data = path.key("data");
        let at = data.key("join");
        let Some(view) = View::of(value, at, problems) else {
            return join;
        };
        view.warn_of_slips(KNOWN, problems);
        let count = view
            .whole("count", 1, u64::from(u32::MAX), problems)
            .map(|count| count as u32);
        let mode = view.word("mode", JoinModeWord::WORDS, JoinModeWord::parse, problems);
        join.mode = match (mode, count) {
            (None | Some(JoinModeWord::All), _) => JoinMode::All,
            (Some(JoinModeWord::AllSuccess), _) => JoinMode::AllSuccess,
            (Some(JoinModeWord::Any), _) => JoinMode::Any,
            (Some(JoinModeWord::Quorum), Some(count)) => JoinMode::Quorum { count },
            (Some(JoinModeWord::Quorum), None) => {
                if view.value("count").is_none() {
                    problems.error(code::MISSING_FIELD, &at, "a quorum join needs `count`");
                }
                JoinMode::Quorum { count: 1 }
            }
        };
        join.required = view.texts("required", problems).unwrap_or_default();
        if let Some(word) = view.word("onUnsatisfied", OnUnsatisfied::WORDS, OnUnsatisfied::parse, problems) {
            join.on_unsatisfied = word;
        }
        if let Some(word) = view.word("lateArrivals", LateArrivals::WORDS, LateArrivals::parse, problems) {
            join.late_arrivals = word;
        }
        join.timeout_ms = view.duration_ms("timeout", 1, problems);
        if let Some(word) = view.word("onTimeout", OnJoinTimeout::WORDS, OnJoinTimeout::parse, problems) {
            join.on_timeout = word;
        }
        if view.value("onTimeout").is_some() && view.value("timeout").is_none() {
            problems.warning(
                code::INVALID_VALUE,
                &view.path("onTimeout"),
                "`onTimeout` without `timeout` never applies",
            );
        }
        if mode != Some(JoinModeWord::Quorum) && view.value("count").is_some() {
            problems.warning(
                code::INVALID_VALUE,
                &view.path("count"),
                "`count` applies only to `mode: \"quorum\"`",
            );
        }
        join
    }
}
