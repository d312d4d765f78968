//! Explores every outcome of a definition with the real core, and reports what is wrong whatever happens.
//!
//! Every attempt completes, fails or takes too long; every timer fires as early as it can; what depends on data that
//! nobody knows is tried both ways, without a path contradicting itself. What is certain is told from what data decides.
//!
//! There is no I/O, no clock and no thread here: the caller bounds the states, and the time by a closure.

mod assumptions;
mod compiled;
mod explore;
mod findings;
mod independence;
mod moves;
mod observed;
mod oracle;
mod report;
mod rounds;
mod story;
mod symbols;
mod values;
mod world;
mod zone;

pub use report::*;

use fixedbitset::FixedBitSet;
use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::StepError;
use troupe_core::plan::PlanError;

use crate::compiled::Compiled;
use crate::explore::Search;

/// States visited unless the caller says otherwise.
pub const STATES_MAX_DEFAULT: usize = 200_000;

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// States visited at most.
    pub states_max: usize,
    /// Explores moves that commute in one order only, and merges states that differ in what nothing depends on any more.
    /// Without it the findings are the same, and the states many more.
    pub reduces: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            states_max: STATES_MAX_DEFAULT,
            reduces: true,
        }
    }
}

/// Why a definition cannot be verified. The validator reports the same, and more, with positions.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It gives no plan.
    #[error("{0}")]
    Plan(PlanError),
    /// An expression does not compile.
    #[error("{0}")]
    Expression(String),
    /// The core refuses a step that it offered: a fault of this program.
    #[error("the core refused a step: {0}")]
    Step(#[from] StepError),
}

/// Verifies a definition that the validator accepts. `should_stop` is asked before each state, with the number of those
/// visited.
///
/// # Errors
/// [`VerifyError`], for definitions that the validator refuses.
pub fn verify(
    definition: &WorkflowDefinition,
    options: Options,
    should_stop: &mut dyn FnMut(usize) -> bool,
) -> Result<Report, VerifyError> {
    let compiled = Compiled::new(definition)?;
    let mut sensitive = FixedBitSet::with_capacity(compiled.plan.nodes.len());
    loop {
        let mut search = Search::new(&compiled, options.reduces, &sensitive);
        search.run(options.states_max, should_stop)?;
        let reorders = &search.observed.reorders;
        if !search.is_reduced() || search.bound.is_some() || reorders.is_subset(&sensitive) {
            return Ok(findings::report(search)?);
        }
        // Which branch comes to such a join last tells more than the order of moves that commute.
        sensitive.union_with(reorders);
    }
}
