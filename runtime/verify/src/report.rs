//! What a verification gives.

/// The codes of findings; each has a page in `docs/errors`.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)+
        /// Every code of findings.
        pub const CODES: &[&str] = &[$($name),+];
    };
}

codes! {
    /// A join that some outcome reaches and none satisfies.
    JOIN_NEVER_FIRES,
    /// A node that no outcome starts.
    NODE_NEVER_RUNS,
    /// An edge that no outcome takes, to a node that others reach.
    EDGE_NEVER_TAKEN,
    /// An execution completes though nothing of what it is for has.
    NOTHING_COMPLETED,
    /// A failure that nothing handles.
    UNHANDLED_FAILURE,
    /// Two nodes write a variable in either order.
    VARIABLE_RACE,
    /// A loop that goes round until its limit.
    LOOP_NEVER_LEFT,
    /// A wait that always is cut off before its end.
    WAIT_NEVER_ENDS,
    /// A wait that ends only if somebody outside ends it.
    WAIT_WITHOUT_DEADLINE,
    /// A node of a cancel region that has always ended, or never begun, before it could be canceled.
    CANCEL_WITHOUT_EFFECT,
    /// A decision that may match nothing.
    DECISION_WITHOUT_MATCH,
    /// An expression looks something up on what is not there.
    READ_OF_NOTHING,
    /// No outcome completes.
    NEVER_COMPLETES,
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It is so whatever the data is.
    Certain,
    /// It depends on data that nobody knows.
    Possible,
}

impl Certainty {
    /// `certain` or `possible`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Possible => "possible",
        }
    }
}

/// One step of an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub text: String,
    /// What data must be like for it: conditions of the definition.
    pub given: Vec<String>,
    /// What follows at once.
    pub then: Vec<String>,
}

/// Something wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its code, one of [`CODES`].
    pub code: &'static str,
    /// How sure it is.
    pub certainty: Certainty,
    /// Ids of the nodes that it is about, the first one foremost.
    pub nodes: Vec<String>,
    /// Ids of the edges that it is about.
    pub edges: Vec<String>,
    /// What is wrong, in one line.
    pub message: String,
    /// Why it is so.
    pub why: String,
    /// The shortest way known to where it shows.
    pub example: Vec<Step>,
}

/// Why a verification ended before it had seen everything.
pub use crate::explore::Bound;

/// What a verification found, and how much it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Certain findings first.
    pub findings: Vec<Finding>,
    /// States visited.
    pub states: usize,
    /// Different outcomes: completed, failed, canceled.
    pub outcomes: Outcomes,
    /// Which bound was hit; none when everything was seen. What is never so can only be told then.
    pub bound: Option<Bound>,
    /// What holds in every outcome, for people; empty where a bound was hit.
    pub proven: Vec<String>,
}

/// How many different ends there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Ended well.
    pub completed: usize,
    /// Ended with an error.
    pub failed: usize,
    /// Ended by a node that cancels.
    pub canceled: usize,
}

impl Outcomes {
    /// All of them.
    #[must_use]
    pub const fn all(self) -> usize {
        self.completed + self.failed + self.canceled
    }
}

impl Report {
    /// Whether something is wrong whatever the data is.
    #[must_use]
    pub fn has_certain(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.certainty == Certainty::Certain)
    }
}
