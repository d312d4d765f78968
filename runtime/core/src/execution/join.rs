//! Joins count messages: one an edge, taken or dead.

use crate::definition::{JoinMode, OnJoinTimeout};
use crate::id::NodeIx;
use crate::value::ErrorInfo;

use super::state::{EdgeState, Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// Code of a join that can no longer become ready.
const JOIN_UNSATISFIED: &str = "JOIN_UNSATISFIED";

/// What the arrived messages decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Ready,
    Skip,
    Unsatisfied,
}

impl Tx<'_> {
    /// Looks at a node that messages arrived at.
    pub(super) fn arrive(&mut self, ix: NodeIx) -> Result<(), StepError> {
        if self.node(ix).phase != Phase::Pending {
            return Ok(());
        }
        match self.verdict(ix) {
            Verdict::Wait => Ok(()),
            Verdict::Ready => self.fire(ix),
            Verdict::Skip => {
                self.skip(ix);
                Ok(())
            }
            Verdict::Unsatisfied => self.unsatisfied(ix),
        }
    }

    /// The join's deadline passed while it waited.
    pub(super) fn join_timed_out(&mut self, ix: NodeIx, then: OnJoinTimeout) -> Result<(), StepError> {
        match then {
            OnJoinTimeout::Fail => self.fail_join(ix, "the join's timeout passed before it was satisfied"),
            OnJoinTimeout::Skip => {
                self.skip(ix);
                Ok(())
            }
            OnJoinTimeout::Proceed if self.node(ix).taken > 0 && self.required(ix) == Required::Met => self.fire(ix),
            OnJoinTimeout::Proceed => self.unsatisfied(ix),
        }
    }

    fn unsatisfied(&mut self, ix: NodeIx) -> Result<(), StepError> {
        if self.planned(ix).join.fails_unsatisfied {
            return self.fail_join(ix, "the join can no longer be satisfied");
        }
        self.skip(ix);
        Ok(())
    }

    /// A join that fails never became ready: it has no input, and its failure counts unless the execution fails anyway.
    fn fail_join(&mut self, ix: NodeIx, message: &str) -> Result<(), StepError> {
        if self.state.status == Status::Failing && !self.node(ix).cleanup {
            self.cut_off(ix);
            self.skip(ix);
            return Ok(());
        }
        self.fail(ix, ErrorInfo::new(JOIN_UNSATISFIED, message))
    }

    /// The node will not run; nothing will come over its edges.
    pub(super) fn skip(&mut self, ix: NodeIx) {
        self.end_node(ix, Phase::Skipped, Verb::NodeSkipped);
        self.kill_edges(ix);
    }

    /// Resolves every outgoing edge as dead.
    pub(super) fn kill_edges(&mut self, ix: NodeIx) {
        let planned = self.planned(ix);
        for edge in &planned.outgoing {
            self.decide_edge(*edge, false);
        }
    }

    fn verdict(&self, ix: NodeIx) -> Verdict {
        let join = &self.planned(ix).join;
        let node = self.node(ix);
        let all = self.planned(ix).entries;
        let open = all - node.taken - node.dead;
        if node.dead == all {
            return Verdict::Skip;
        }
        if node.taken == 0 {
            return Verdict::Wait;
        }
        let required = self.required(ix);
        let (enough, possible) = match join.mode {
            JoinMode::All => (open == 0, true),
            JoinMode::AllSuccess => (node.taken == all, node.dead == 0),
            JoinMode::Any => (true, true),
            JoinMode::Quorum { count } => {
                let enough = node.taken + u32::from(self.plan.mutants.quorum_one_short) >= count;
                (enough, node.taken + open >= count)
            }
        };
        if !possible || required == Required::Lost {
            Verdict::Unsatisfied
        } else if enough && required == Required::Met {
            Verdict::Ready
        } else {
            Verdict::Wait
        }
    }

    /// A required source needs one of its edges; it is lost when all of them are dead.
    fn required(&self, ix: NodeIx) -> Required {
        let planned = self.planned(ix);
        let mut all = Required::Met;
        for source in &planned.join.required {
            let edges = planned
                .incoming
                .iter()
                .filter(|edge| self.plan.edge(**edge).source == *source && !self.plan.is_back_edge(**edge));
            let mut one = Required::Lost;
            for edge in edges {
                match self.state.edges[edge.at()] {
                    EdgeState::Taken => one = Required::Met,
                    EdgeState::Open | EdgeState::HeldTaken | EdgeState::HeldDead if one == Required::Lost => {
                        one = Required::Open;
                    }
                    EdgeState::Open | EdgeState::HeldTaken | EdgeState::HeldDead | EdgeState::Dead => {}
                }
            }
            match one {
                Required::Lost => return Required::Lost,
                Required::Open => all = Required::Open,
                Required::Met => {}
            }
        }
        all
    }
}

/// How the required sources stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    Met,
    Open,
    Lost,
}
