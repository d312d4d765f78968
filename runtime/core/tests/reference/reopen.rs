//! §6 and ADR 0019: failed nodes run again, or count as skipped after all; an execution that has ended goes on.

use std::collections::BTreeSet;

use serde_json::Value;

use super::definition::{join_field, node};
use super::loops::Loop;
use super::state::{Did, Edge, EndedVisit, Generation, NodeState, Phase, Reference, Refusal, Status};

/// What becomes of a failed node.
#[derive(Clone, Debug, PartialEq)]
pub enum Remedy {
    Retry,
    Skip(Option<Value>),
}

/// What runs again.
struct Again {
    nodes: BTreeSet<String>,
    /// Headers of loops around them: their generation is not over any more, or they are entered anew.
    loops: BTreeSet<String>,
}

impl Reference {
    /// These nodes; none means every one whose failure nothing handled.
    pub fn reopened(&mut self, at: i64, named: &[String], remedy: &Remedy) -> Result<Vec<Did>, Refusal> {
        self.at = at;
        if !self.is_over() {
            self.account();
        }
        let has_ended = self.may_reopen()?;
        let chosen = self.chosen(named)?;
        let is_first = |id: &String| chosen.contains(id) || (has_ended && self.nodes[id].cut_off);
        let first: Vec<String> = self.ids().into_iter().filter(is_first).collect();
        if first.is_empty() {
            return Err(Refusal::Refused("NOTHING_TO_RETRY"));
        }
        let again = self.runs_again(&first);
        if self.ended_by.as_ref().is_some_and(|end| !again.nodes.contains(end)) {
            return Err(Refusal::Refused("NOT_REOPENABLE"));
        }
        if has_ended {
            self.run += 1;
            (self.status, self.ended_by, self.timed_from) = (Status::Running, None, at);
            self.begin_clocks(self.in_force());
        }
        self.forget_failure(&again);
        let given: Vec<(String, NodeState)> = first.iter().map(|id| (id.clone(), self.nodes[id].clone())).collect();
        self.open_nodes(&again);
        self.open_edges(&again);
        for id in self.ids().into_iter().filter(|id| again.nodes.contains(id)) {
            // What arrived from outside counts as arrived now.
            let arrived = |edge: &usize| matches!(self.edges[*edge], Edge::Resolved(_));
            let is_first_pass = self.is_first_pass(&again, &id);
            let arrived = is_first_pass && self.entries(&id).iter().any(arrived);
            self.set(&id).first_arrival_at = arrived.then_some(at);
        }
        for (id, before) in given {
            // One that began before it may have ended it.
            if self.nodes[&id].phase != Phase::Pending {
                continue;
            }
            match remedy {
                Remedy::Skip(output) if chosen.contains(&id) => {
                    self.count_as_skipped(&again, &id, before, output.clone())
                }
                Remedy::Retry | Remedy::Skip(_) => self.begin_again(&again, &id, before),
            }
        }
        self.arrivals
            .extend(self.ids().into_iter().filter(|id| again.nodes.contains(id)));
        self.conclude()
    }

    /// Whether the execution has ended, and a run follows; where it still runs, the run goes on.
    fn may_reopen(&self) -> Result<bool, Refusal> {
        if self.has_undone() {
            return Err(Refusal::Refused("NOT_REOPENABLE"));
        }
        match self.status {
            Status::Running => Ok(false),
            Status::Failed | Status::Canceled if self.depth > 0 && self.attached => {
                Err(Refusal::Refused("CHILD_NOT_REOPENABLE"))
            }
            Status::Failed | Status::Canceled => Ok(true),
            Status::Pending
            | Status::Failing
            | Status::Canceling { .. }
            | Status::Undoing(_)
            | Status::Reporting
            | Status::Completed(_) => Err(Refusal::Refused("NOT_REOPENABLE")),
        }
    }

    fn chosen(&self, named: &[String]) -> Result<BTreeSet<String>, Refusal> {
        let failed = |id: &String| self.nodes[id].phase == Phase::Failed;
        if named.is_empty() {
            let unhandled = self
                .ids()
                .into_iter()
                .filter(|id| failed(id) && !self.nodes[id].handled);
            let chosen: BTreeSet<String> = unhandled.collect();
            return self
                .ids()
                .iter()
                .try_for_each(|id| self.check_limit(&chosen, id))
                .map(|()| chosen);
        }
        let chosen: BTreeSet<String> = named.iter().cloned().collect();
        for id in self.ids().iter().filter(|id| chosen.contains(*id)) {
            let was_cut_off = self.is_over() && self.nodes[id].cut_off;
            if !(failed(id) || was_cut_off) {
                return Err(Refusal::Refused("NODE_NOT_FAILED"));
            }
            self.check_limit(&chosen, id)?;
        }
        Ok(chosen)
    }

    /// A header that hit `LOOP_LIMIT` would again.
    fn check_limit(&self, chosen: &BTreeSet<String>, id: &String) -> Result<(), Refusal> {
        if chosen.contains(id) && self.nodes[id].exceeded {
            Err(Refusal::Refused("NOT_REOPENABLE"))
        } else {
            Ok(())
        }
    }

    /// Those, and all that follows from them: within a loop what comes later in the generation, and what its exits lead to.
    fn runs_again(&self, first: &[String]) -> Again {
        let mut nodes: BTreeSet<String> = first.iter().cloned().collect();
        loop {
            let before = nodes.len();
            let touched: Vec<_> = self.loops.iter().filter(|the| !the.body.is_disjoint(&nodes)).collect();
            let follows = |edge: &usize| {
                let way = self.way(*edge);
                let leaves = || touched.iter().any(|the| the.is_exit(way));
                // What a back edge leads to is another pass.
                !self.is_back_edge(*edge) && (nodes.contains(&way.source) || leaves())
            };
            let reached: Vec<usize> = (0..self.edges.len()).filter(follows).collect();
            let loops = touched.iter().map(|the| the.header.clone()).collect();
            nodes.extend(reached.into_iter().map(|edge| self.way(edge).target.clone()));
            if nodes.len() == before {
                return Again { nodes, loops };
            }
        }
    }

    /// Whether the node waits for an edge that is decided anew.
    fn waits_again(&self, again: &Again, id: &str) -> bool {
        let goes_on = |the: &&Loop| again.loops.contains(&the.header);
        let leaves = |edge: usize| self.loops.iter().filter(goes_on).any(|the| the.is_exit(self.way(edge)));
        let entries = self.entries(id);
        let from_again = |edge: &usize| again.nodes.contains(&self.way(*edge).source);
        entries.iter().any(from_again) || entries.into_iter().any(leaves)
    }

    /// In a later pass a header has no edges from outside to wait for.
    fn is_first_pass(&self, again: &Again, id: &str) -> bool {
        let generation = self.generations.get(id);
        self.waits_again(again, id) || generation.is_none_or(|generation| generation.iteration == 1)
    }

    /// The execution's failure is that of the first node that stays failed, if one does.
    fn forget_failure(&mut self, again: &Again) {
        let by_one_that_stays = |node: &Option<String>| node.as_ref().is_some_and(|id| !again.nodes.contains(id));
        match &self.failure {
            Some((node, _)) if !by_one_that_stays(node) => {}
            _ => return,
        }
        let is_left = |id: &String| {
            let state = &self.nodes[id];
            state.phase == Phase::Failed && !state.handled && !again.nodes.contains(id)
        };
        let left = self.ids().into_iter().filter(is_left);
        let first = left.min_by_key(|id| self.nodes[id].failed_at);
        self.failure = None;
        if let Some(id) = first {
            let error = self.nodes[&id].error.clone().unwrap_or_default();
            self.blame(Some(&id), error);
        }
    }

    /// Each gets its next visit; one that has not begun keeps its own.
    fn open_nodes(&mut self, again: &Again) {
        for id in self.ids().into_iter().filter(|id| again.nodes.contains(id)) {
            if matches!(self.nodes[&id].phase, Phase::Running | Phase::Canceling) {
                self.did.push(Did::Abort { node: id.clone() });
            }
            self.part_with_children(&id);
            let state = self.set(&id);
            let has_begun = match state.phase {
                Phase::Pending => false,
                Phase::Ready => state.ran,
                _ => true,
            };
            if !has_begun {
                *state = NodeState::new(state.visit, state.ended.take());
                continue;
            }
            let was_open = !state.phase.is_terminal();
            if was_open {
                state.phase = Phase::Canceled;
            }
            let ended: EndedVisit = state.latest();
            *state = NodeState::new(ended.visit + 1, Some(ended));
            if was_open {
                self.ends.push((id, Phase::Canceled));
            }
        }
        self.waiting.retain(|id| !again.nodes.contains(id));
    }

    /// Edges from outside keep their resolution; a loop that goes on holds again what had been decided.
    fn open_edges(&mut self, again: &Again) {
        for edge in 0..self.edges.len() {
            if again.nodes.contains(&self.way(edge).source) {
                self.edges[edge] = Edge::Open;
                continue;
            }
            let goes_on = |the: &&Loop| again.loops.contains(&the.header);
            if !self.loops.iter().filter(goes_on).any(|the| the.holds(self.way(edge))) {
                continue;
            }
            let wanted = self
                .generations
                .values()
                .any(|generation| generation.dropped.contains(&edge));
            self.edges[edge] = match self.edges[edge] {
                Edge::Open => Edge::Open,
                Edge::Held(taken) => Edge::Held(taken),
                Edge::Resolved(taken) => Edge::Held(taken || wanted),
            };
        }
        for header in &again.loops {
            let anew = self.waits_again(again, header);
            let generation = self.generations.get_mut(header).expect("every loop has one");
            if anew {
                *generation = Generation::first();
            } else {
                generation.finished = false;
                generation.dropped.clear();
            }
        }
    }

    /// It completes with this output, or is skipped without one. Should it fail, it is retried with what it had received, or
    /// where that is decided anew, as its edges will say.
    fn count_as_skipped(&mut self, again: &Again, id: &str, before: NodeState, output: Option<Value>) {
        match output {
            None => self.skip(id),
            Some(output) => {
                let waits = self.waits_again(again, id);
                let state = self.set(id);
                state.input = before.input;
                if !waits {
                    (state.raw, state.mapped, state.brought) = (before.raw, before.mapped, before.brought);
                    (state.data, state.ready_at) = (before.data, before.ready_at);
                }
                self.skip_with(id, output);
                if waits {
                    // In this visit it has received nothing.
                    self.set(id).input = Value::Null;
                }
            }
        }
    }

    /// Where it had been ready it is again, with the same input.
    fn begin_again(&mut self, again: &Again, id: &str, before: NodeState) {
        if self.waits_again(again, id) {
            return;
        }
        if before.ready_at.is_none() {
            // Its edges decide.
            if self.entries(id).is_empty() {
                self.become_ready(id);
            }
            return;
        }
        let has_moved_on = !self.is_first_pass(again, id) || self.fires_early(id);
        let state = self.set(id);
        (state.brought, state.raw) = (before.brought, before.raw);
        if before.mapped && has_moved_on {
            (state.input, state.data, state.mapped) = (before.input, before.data, true);
            self.begin_as_prepared(id);
        } else {
            self.begin_with(id);
        }
    }

    /// Whether the join may fire before all its edges have arrived.
    fn fires_early(&self, id: &str) -> bool {
        let written = node(&self.definition, id);
        let word = |name: &str| join_field(written, name).and_then(Value::as_str);
        let proceeds = join_field(written, "timeout").is_some() && word("onTimeout") == Some("proceed");
        proceeds || matches!(word("mode"), Some("any" | "quorum"))
    }
}
