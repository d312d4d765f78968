//! What a node cancels besides itself: its cancel region, and branches that can reach only a join that has fired.

use std::collections::BTreeMap;

use crate::definition::JoinMode;
use crate::id::NodeIx;

use super::state::{EdgeState, Status};
use super::step::StepError;
use super::tx::Tx;

impl Tx<'_> {
    /// The node has completed: the nodes of its cancel region end.
    pub(super) fn cancel_region(&mut self, ix: NodeIx) {
        let planned = self.planned(ix);
        for other in &planned.cancels {
            if !self.node(*other).phase.is_terminal() {
                self.cancel_node(*other);
            }
        }
    }

    /// A join lets its node start; what can reach only that join ends before, where it says so.
    pub(super) fn fire(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let join = &self.planned(ix).join;
        let early = match join.mode {
            JoinMode::Any | JoinMode::Quorum { .. } => true,
            JoinMode::All | JoinMode::AllSuccess => false,
        };
        let starts = self.state.status != Status::Failing || self.node(ix).cleanup;
        if early && join.cancels_late && starts {
            for late in self.reaching_only(ix) {
                self.cancel_node(late);
            }
        }
        self.ready(ix)
    }

    /// Nodes that have not ended and can now reach only this join: every way from them over open edges comes to it without
    /// leaving a loop. In definition order.
    fn reaching_only(&self, join: NodeIx) -> Vec<NodeIx> {
        let within = self.planned(join).within.and_then(|within| {
            let own = &self.plan.loops[within.at()];
            // What leads to a header comes from outside its loop.
            if own.header == join { own.parent } else { Some(within) }
        });
        let mut found = Vec::new();
        // Ways on from a node that do not surely come to the join; those that do are taken off.
        let mut elsewhere: BTreeMap<NodeIx, usize> = BTreeMap::new();
        let mut open = vec![join];
        let mut next = 0;
        while let Some(&at) = open.get(next) {
            next += 1;
            let planned = self.planned(at);
            for edge in &planned.incoming {
                let source = self.plan.edge(*edge).source;
                let is_open = self.state.edges[edge.at()] == EdgeState::Open && !self.plan.is_back_edge(*edge);
                if !is_open || self.node(source).phase.is_terminal() {
                    continue;
                }
                let left = elsewhere.entry(source).or_insert_with(|| self.ways_on(source, join));
                *left -= 1;
                // What is in a loop of its own may go round once more, whatever its ways on look like in this generation.
                if *left == 0 && self.planned(source).within == within {
                    found.push(source);
                    open.push(source);
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// How many of its edges lead on to nodes that have not ended, the join among them.
    fn ways_on(&self, ix: NodeIx, join: NodeIx) -> usize {
        let planned = self.planned(ix);
        let leads_on = |edge: &&crate::id::EdgeIx| {
            let target = self.plan.edge(**edge).target;
            self.plan.is_back_edge(**edge) || target == join || !self.node(target).phase.is_terminal()
        };
        planned.outgoing.iter().filter(leads_on).count()
    }
}
