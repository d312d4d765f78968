//! A rerun: a new execution that takes over what another one gave, up to a node, and runs from there. See ADR 0019.

use minicbor::{Decode, Encode};

use crate::definition::{EdgeKind, NodeKind};
use crate::id::{EdgeIx, ExecutionId, LoopIx, NodeIx, NodeKey, Timestamp, Visit};
use crate::plan::{Plan, PlanEdge};
use crate::value::{ErrorInfo, Value};

use super::affected::Affected;
use super::state::{EdgeState, ExecutionState, Input, NodeFailure, NodeState, Phase};
use super::step::StepError;
use super::tx::Tx;

/// What a rerun takes over from another execution.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Rerun {
    /// The other execution.
    #[n(0)]
    pub of: ExecutionId,
    /// The node from which it runs.
    #[n(1)]
    pub from: NodeIx,
    /// What that node receives instead of what its edges carry.
    #[n(2)]
    pub input: Option<Value>,
    /// Why, for people.
    #[n(3)]
    pub reason: Option<String>,
    /// The nodes that do not run.
    #[n(4)]
    pub reused: Vec<Reused>,
}

/// The result of a node in another execution.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reused {
    /// The node.
    #[n(0)]
    pub node: NodeIx,
    /// How it ended.
    #[n(1)]
    pub result: ReusedResult,
    /// When.
    #[n(2)]
    pub ended_at: Option<Timestamp>,
    /// Its outgoing edges that were taken; the others are dead.
    #[n(3)]
    pub taken: Vec<EdgeIx>,
}

/// How a node ended in another execution.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ReusedResult {
    /// With this output.
    #[n(0)]
    Completed(#[n(0)] Value),
    /// With a failure that an edge handled.
    #[n(1)]
    Failed(#[n(0)] NodeFailure),
    /// It did not run.
    #[n(2)]
    Skipped,
    /// It was canceled.
    #[n(3)]
    Canceled,
}

/// Which execution another one runs again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RerunOf {
    /// The execution.
    #[n(0)]
    pub execution: ExecutionId,
    /// The node from which it runs.
    #[n(1)]
    pub from: NodeIx,
    /// What that node maps, until its edges decide again: it began whatever its join says, perhaps with another input.
    #[n(2)]
    pub input: Option<Input>,
}

/// A node that has run and will run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Its id.
    pub node: NodeKey,
    /// Its type.
    pub kind: NodeKind,
    /// How it stands: `completed`, `failed`, `canceled` or `running`.
    pub status: &'static str,
    /// Attempts that it has had in its latest visit.
    pub attempts: u32,
}

impl Repeated {
    /// The node, if it has run.
    pub(super) fn of(plan: &Plan, ix: NodeIx, node: &NodeState) -> Option<Self> {
        let shown = match (&node.phase, &node.ended) {
            (Phase::Pending, Some(ended)) => ended,
            _ => node,
        };
        let has_run = shown.scheduled_at.is_some() && !matches!(shown.phase, Phase::Skipped | Phase::Ready);
        let planned = plan.node(ix);
        has_run.then(|| Self {
            node: planned.key.clone(),
            kind: planned.kind,
            status: shown.phase.name(),
            attempts: u32::try_from(shown.attempts.len()).unwrap_or(u32::MAX)
                + u32::from(matches!(shown.phase, Phase::Running { .. } | Phase::Canceling { .. })),
        })
    }
}

/// A rerun before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerunPlan {
    /// What it takes over. `input` and `reason` are left to the caller.
    pub rerun: Rerun,
    /// The trigger that its start names: that of the other execution, where the version has it.
    pub trigger: Option<String>,
    /// The nodes that have run and will run again, in definition order.
    pub repeated: Vec<Repeated>,
}

fn refused(code: &str, message: String) -> ErrorInfo {
    ErrorInfo::new(code, message)
}

/// What a rerun of `source` from a node of `plan`, perhaps of another version, takes over and repeats. `has_input`: the node
/// is given an input.
///
/// Every node is taken over that has a result there and does not follow from one that runs: those that failed unhandled, were
/// cut off by the end of the execution, undone or have not ended run again, a loop as a whole.
///
/// # Errors
/// `RERUN_IN_LOOP`: the node is within a loop. `RERUN_EDGES_CHANGED`: an edge out of a node that is taken over is not the same
/// in both versions. `RERUN_WITHOUT_INPUT`: nothing led to the node, and it is given no input.
pub fn rerun(
    of: &Plan,
    source: &ExecutionState,
    plan: &Plan,
    from: NodeIx,
    has_input: bool,
) -> Result<RerunPlan, ErrorInfo> {
    let head = head_of(plan, from);
    if head != from {
        let message = format!(
            "`{}` is within a loop, which is repeated as a whole: rerun from its header `{}`",
            plan.node(from).key,
            plan.node(head).key
        );
        return Err(refused("RERUN_IN_LOOP", message));
    }
    let there = |ix: NodeIx| of.node_ix(plan.node(ix).key.as_str());
    let has_result = |ix: NodeIx| there(ix).is_some_and(|there| has_result(of, source, there));
    let again = indices(plan).filter(|ix| !has_result(*ix)).map(|ix| head_of(plan, ix));
    let affected = Affected::by(plan, again.chain([from]));
    let mut reused = Vec::new();
    for ix in indices(plan).filter(|ix| !affected.nodes.contains(ix)) {
        let Some(there) = there(ix) else { continue };
        reused.push(reuse(of, source, there, plan, ix)?);
    }
    let taken = |edge: &EdgeIx| reused.iter().any(|one| one.taken.contains(edge));
    let is_root = plan.node(from).entries == 0;
    if !is_root && !has_input && !plan.node(from).incoming.iter().any(taken) {
        let message = format!("nothing led to `{}`: give it an input", plan.node(from).key);
        return Err(refused("RERUN_WITHOUT_INPUT", message));
    }
    let repeated = affected.nodes.iter().filter_map(|ix| {
        let node = &source.nodes[there(*ix)?.at()];
        Repeated::of(plan, *ix, node)
    });
    let fires = |name: &&String| {
        let named = plan.node_ix(name);
        named.is_some_and(|ix| plan.roots.contains(&ix) && plan.node(ix).trigger.is_some())
    };
    Ok(RerunPlan {
        repeated: repeated.collect(),
        trigger: source.trigger.as_ref().filter(fires).cloned(),
        rerun: Rerun {
            of: source.id,
            from,
            input: None,
            reason: None,
            reused,
        },
    })
}

fn indices(plan: &Plan) -> impl Iterator<Item = NodeIx> + use<> {
    (0..u32::try_from(plan.nodes.len()).unwrap_or(u32::MAX)).map(NodeIx)
}

/// The header of the outermost loop around a node; the node itself outside loops.
fn head_of(plan: &Plan, ix: NodeIx) -> NodeIx {
    let mut head = ix;
    let mut around = plan.node(ix).within;
    while let Some(one) = around {
        head = plan.loops[one.at()].header;
        around = plan.loops[one.at()].parent;
    }
    head
}

/// Whether a node has ended in a way that still counts.
fn has_result(plan: &Plan, state: &ExecutionState, ix: NodeIx) -> bool {
    let node = &state.nodes[ix.at()];
    match node.phase {
        Phase::Completed => !state.was_undone(ix),
        Phase::Failed => is_handled(plan, state, ix),
        Phase::Skipped | Phase::Canceled => node.cut_off.is_none(),
        Phase::Pending
        | Phase::Ready
        | Phase::Running { .. }
        | Phase::Backoff { .. }
        | Phase::Delaying { .. }
        | Phase::Turning { .. }
        | Phase::Waiting { .. }
        | Phase::Parenting
        | Phase::Canceling { .. } => false,
    }
}

/// Whether a failure edge of a failed node was taken.
pub(super) fn is_handled(plan: &Plan, state: &ExecutionState, ix: NodeIx) -> bool {
    let handles = |edge: &&EdgeIx| plan.edge(**edge).kind == EdgeKind::Failure && is_taken(state, **edge);
    let failure = state.nodes[ix.at()].failure.as_ref();
    let kept = failure.and_then(|failure| failure.handled);
    kept.unwrap_or_else(|| plan.node(ix).outgoing.iter().any(|edge| handles(&edge)))
}

fn is_taken(state: &ExecutionState, edge: EdgeIx) -> bool {
    matches!(state.edges[edge.at()], EdgeState::Taken | EdgeState::HeldTaken)
}

/// A node's result, with its edges as the other version has them.
fn reuse(of: &Plan, source: &ExecutionState, there: NodeIx, plan: &Plan, ix: NodeIx) -> Result<Reused, ErrorInfo> {
    let node = &source.nodes[there.at()];
    let result = match (&node.phase, &node.output, &node.failure) {
        (Phase::Completed, Some(output), _) => ReusedResult::Completed(output.clone()),
        (Phase::Failed, _, Some(failure)) => ReusedResult::Failed((**failure).clone()),
        (Phase::Canceled, ..) => ReusedResult::Canceled,
        _ => ReusedResult::Skipped,
    };
    let mut taken = Vec::new();
    for edge in &plan.node(ix).outgoing {
        let Some(known) = same_edge(of, there, plan, *edge) else {
            let message = format!(
                "the edge from `{}` to `{}` is not in version {}, or is another one there: rerun from `{}` or before it",
                plan.node(ix).key,
                plan.node(plan.edge(*edge).target).key,
                of.version,
                plan.node(ix).key,
            );
            return Err(refused("RERUN_EDGES_CHANGED", message));
        };
        if is_taken(source, known) {
            taken.push(*edge);
        }
    }
    Ok(Reused {
        node: ix,
        result,
        ended_at: node.ended_at,
        taken,
    })
}

/// The edge of another version that says the same: by its id where that helps, else the only one.
fn same_edge(of: &Plan, there: NodeIx, plan: &Plan, edge: EdgeIx) -> Option<EdgeIx> {
    let wanted = plan.edge(edge);
    let target = of.node_ix(plan.node(wanted.target).key.as_str())?;
    let says_the_same = |known: &PlanEdge| {
        known.target == target
            && known.kind == wanted.kind
            && known.condition == wanted.condition
            && known.errors == wanted.errors
    };
    let asked = condition_of(plan, edge);
    let outgoing = of.node(there).outgoing.iter().copied();
    let same = outgoing.filter(|known| says_the_same(of.edge(*known)) && condition_of(of, *known) == asked);
    let same: Vec<EdgeIx> = same.collect();

    let named = same.iter().find(|known| of.edge(**known).id == wanted.id);
    named.copied().or(match same.as_slice() {
        [only] => Some(*only),
        _ => None,
    })
}

/// The condition of a decision that an edge belongs to.
fn condition_of(plan: &Plan, edge: EdgeIx) -> Option<&str> {
    let decision = plan.node(plan.edge(edge).source).decision.as_ref()?;
    let mut conditions = decision.conditions.iter();
    let (expression, _) = conditions.find(|(_, edges)| edges.contains(&edge))?;
    Some(expression)
}

impl Tx<'_> {
    /// Takes over what the other execution gave, before anything runs.
    pub(super) fn take_over(&mut self, rerun: &Rerun) -> Result<(), StepError> {
        let fits = |reused: &Reused| {
            let outgoing = self.plan.nodes.get(reused.node.at()).map(|node| &node.outgoing);
            outgoing.is_some_and(|outgoing| reused.taken.iter().all(|edge| outgoing.contains(edge)))
        };
        if rerun.from.at() >= self.plan.nodes.len() || !rerun.reused.iter().all(fits) {
            return Err(StepError::Corrupt("a rerun takes over what the plan does not have"));
        }
        for reused in &rerun.reused {
            self.update(reused.node, |node| {
                node.visit = Visit(0);
                node.ended_at = reused.ended_at;
                node.phase = match &reused.result {
                    ReusedResult::Completed(output) => {
                        node.output = Some(output.clone());
                        Phase::Completed
                    }
                    ReusedResult::Failed(failure) => {
                        node.failure = Some(Box::new(failure.clone()));
                        Phase::Failed
                    }
                    ReusedResult::Skipped => Phase::Skipped,
                    ReusedResult::Canceled => Phase::Canceled,
                };
            });
        }
        for reused in &rerun.reused {
            for edge in &self.planned(reused.node).outgoing {
                if self.plan.is_back_edge(*edge) {
                    self.set_edge(*edge, EdgeState::Dead);
                } else {
                    self.pass_edge(*edge, reused.taken.contains(edge), None);
                }
            }
        }
        // A loop is taken over as a whole, or not at all.
        for (place, planned) in self.plan.loops.iter().enumerate().rev() {
            if self.node(planned.header).phase.is_terminal() {
                let ix = LoopIx(u32::try_from(place).unwrap_or(u32::MAX));
                self.update_loop(ix, |one| one.finished = true);
            }
        }
        Ok(())
    }

    /// What the node from which a rerun runs maps, while its edges have not decided anew.
    pub(super) fn first_input(&self, ix: NodeIx) -> Option<Input> {
        let of = self.state.rerun_of.as_deref().filter(|of| of.from == ix)?;
        of.input.clone()
    }

    /// The edges of a node decide: what a rerun gave it counts no more.
    pub(super) fn forget_first_input(&mut self, ix: NodeIx) {
        if self.first_input(ix).is_some() {
            let of = self
                .state
                .rerun_of
                .clone()
                .map(|of| Box::new(RerunOf { input: None, ..*of }));
            self.set_rerun_of(of);
        }
    }

    /// The node from which the rerun runs starts at once, whatever its join says.
    pub(super) fn run_from(&mut self, rerun: &Rerun) -> Result<(), StepError> {
        let ix = rerun.from;
        if self.node(ix).phase != Phase::Pending {
            return Ok(());
        }
        let given = rerun.input.clone().filter(|_| self.planned(ix).entries > 0);
        let input = match given {
            Some(given) => Input::Carried(given),
            None => self.state.taken_input(self.plan, ix),
        };
        if self.planned(ix).maps_input && self.planned(ix).entries > 0 {
            let first = Some(input.clone());
            let of = self.state.rerun_of.clone();
            self.set_rerun_of(of.map(|of| Box::new(RerunOf { input: first, ..*of })));
        }
        self.ready_with(ix, input)
    }
}
