//! Which nodes run again when some do: those, and everything that follows from them.

use std::collections::BTreeSet;

use crate::id::{EdgeIx, LoopIx, NodeIx};
use crate::plan::Plan;

/// What runs again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Affected {
    /// The nodes, those that were asked for included.
    pub(super) nodes: BTreeSet<NodeIx>,
    /// Loops around them: the generation is not over any more, or the loop is entered anew.
    pub(super) loops: BTreeSet<LoopIx>,
}

impl Affected {
    /// What follows from `first`. Within a loop only what comes later in the same generation; what follows from a loop is
    /// decided anew together with it.
    pub(super) fn by(plan: &Plan, first: impl IntoIterator<Item = NodeIx>) -> Self {
        let mut found = Self::default();
        let mut open: Vec<NodeIx> = Vec::new();
        let mut reached: Vec<NodeIx> = first.into_iter().collect();
        loop {
            open.extend(reached.drain(..).filter(|ix| found.nodes.insert(*ix)));
            let Some(ix) = open.pop() else { return found };
            let forward = plan.node(ix).outgoing.iter().filter(|edge| !plan.is_back_edge(**edge));
            reached.extend(forward.map(|edge| plan.edge(*edge).target));
            let mut around = plan.node(ix).within;
            while let Some(one) = around {
                if found.loops.insert(one) {
                    reached.extend(exits(plan, one).map(|edge| plan.edge(edge).target));
                }
                around = plan.loops[one.at()].parent;
            }
        }
    }

    /// Whether an edge will be resolved anew.
    pub(super) fn decides(&self, plan: &Plan, edge: EdgeIx) -> bool {
        let planned = plan.edge(edge);
        let leaves = |one: &LoopIx| plan.holds(*one, planned.source) && !plan.holds(*one, planned.target);
        self.nodes.contains(&planned.source) || self.loops.iter().any(leaves)
    }

    /// Whether a node waits for an edge that will be resolved anew; back edges aside.
    pub(super) fn waits(&self, plan: &Plan, ix: NodeIx) -> bool {
        let mut entries = plan.node(ix).incoming.iter().filter(|edge| !plan.is_back_edge(**edge));
        entries.any(|edge| self.decides(plan, *edge))
    }
}

/// Edges that leave a loop; those that lead back to the header of one around it lead to its next pass.
fn exits(plan: &Plan, one: LoopIx) -> impl Iterator<Item = EdgeIx> {
    let outgoing = plan.loops[one.at()]
        .nodes
        .iter()
        .flat_map(|ix| &plan.node(*ix).outgoing);
    outgoing
        .copied()
        .filter(move |edge| !plan.is_back_edge(*edge) && !plan.holds(one, plan.edge(*edge).target))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `a>b` for each edge; what is affected by these nodes.
    fn affected(edges: &str, first: &str) -> String {
        let mut names: Vec<&str> = edges.split([' ', '>']).collect();
        names.sort_unstable();
        names.dedup();
        let nodes: Vec<_> = names
            .iter()
            .map(|name| json!({"id": name, "type": "function", "data": {"handlerId": "h"}}))
            .collect();
        let edges: Vec<_> = edges
            .split(' ')
            .enumerate()
            .map(|(place, edge)| {
                let (source, target) = edge.split_once('>').expect("an edge");
                json!({"id": format!("e{place}"), "source": source, "target": target})
            })
            .collect();
        let definition = json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": edges});
        let plan = Plan::build(&serde_json::from_value(definition).expect("a definition")).expect("it is valid");
        let first = first.split(' ').map(|name| plan.node_ix(name).expect("a node"));
        let found = Affected::by(&plan, first);
        let names: Vec<&str> = found.nodes.iter().map(|ix| plan.node(*ix).key.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn what_follows_from_a_node_runs_again_and_nothing_beside_it() {
        assert_eq!(affected("a>b a>c b>d c>d d>e", "b"), "b d e");
        assert_eq!(affected("a>b a>c b>d c>d d>e", "b c"), "b c d e");
        assert_eq!(affected("a>b b>c", "c"), "c");
    }

    #[test]
    fn in_a_loop_the_rest_of_the_generation_runs_again_and_what_leaves_the_loop() {
        let looped = "a>h h>p h>q p>q q>h h>x q>y";
        assert_eq!(affected(looped, "q"), "q x y");
        assert_eq!(affected(looped, "p"), "p q x y");
        assert_eq!(affected(looped, "h"), "h p q x y");
        assert_eq!(affected(looped, "a"), "a h p q x y");
    }

    #[test]
    fn a_loop_that_is_entered_anew_runs_whole_and_the_one_around_it_goes_on() {
        let nested = "r>o o>i i>j j>i j>z z>o z>x";
        assert_eq!(affected(nested, "j"), "j x z");
        assert_eq!(affected(nested, "o"), "i j o x z");
        assert_eq!(affected(nested, "i"), "i j x z");
        let shared = "r>o o>i i>j j>i j>o o>x j>y";
        assert_eq!(
            affected(shared, "j"),
            "j x y",
            "a way out of the inner loop may be the way back in the outer one"
        );
    }
}
