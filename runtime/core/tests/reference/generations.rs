//! §2 and ADR 0015: how loops end their generations.

use serde_json::Value;

use super::definition::{edge_type, field, node};
use super::interpreter::failure;
use super::loops::Loop;
use super::state::{Edge, Generation, NodeState, Phase, Reference, Status};

/// Generations of a loop that names no `maxIterations`.
const ITERATIONS_MAX: u64 = 1_000;

impl Reference {
    /// A node has ended, or a loop with this header: perhaps a generation of the loop around it has.
    pub(super) fn note_end_of_generation(&mut self, id: &str) {
        let over = self
            .loops
            .iter()
            .find(|the| the.body.contains(id) && self.generation_is_over(the));
        self.over.extend(over.map(|the| the.header.clone()));
    }

    /// Every node of the loop with this header has ended.
    pub(super) fn end_generation(&mut self, header: &str) {
        let found = self.loops.iter().find(|the| the.header == header);
        let the = found.expect("every header has a loop").clone();
        let taken = self.edges_that(|edge, state| state == Edge::Held(true) && the.holds(edge));
        let fails = |edge: &usize| the.is_exit(self.way(*edge)) && edge_type(self.way(*edge)) == "failure";
        let back: Vec<usize> = taken
            .iter()
            .copied()
            .filter(|&edge| the.is_back_edge(self.way(edge)))
            .collect();
        let resolved = self.nodes[&the.header].data.get("maxIterations");
        let most = resolved.or(field(node(&self.definition, &the.header), "maxIterations"));
        let most = most.and_then(Value::as_u64);
        if taken.iter().any(fails) || !self.may_go_on(&back) {
            self.end_loop(&the);
        } else if u64::from(self.generations[&the.header].iteration) < most.unwrap_or(ITERATIONS_MAX) {
            self.begin_generation(&the, &back);
        } else {
            self.exceed_limit(&the, &back);
        }
    }

    /// Whether an edge has to wait for a loop that has not ended.
    pub(super) fn is_held(&self, edge: usize) -> bool {
        self.loops
            .iter()
            .any(|the| the.holds(self.way(edge)) && !self.generations[&the.header].finished)
    }

    /// What `execution.iteration` is to a node.
    pub(super) fn iteration(&self, id: &str) -> Option<u32> {
        self.loop_of(id).map(|the| self.generations[&the.header].iteration)
    }

    fn generation_is_over(&self, the: &Loop) -> bool {
        let has_ended = |the: &Loop| self.generations[&the.header].finished;
        !has_ended(the)
            && the.body.iter().all(|id| self.nodes[id].phase.is_terminal())
            && self
                .edges_that(|edge, state| the.body.contains(&edge.source) && state == Edge::Open)
                .is_empty()
            && self.loops.iter().all(|inner| !inner.is_within(the) || has_ended(inner))
    }

    fn edges_that(&self, holds: impl Fn(&troupe_core::definition::WorkflowEdge, Edge) -> bool) -> Vec<usize> {
        (0..self.edges.len())
            .filter(|&edge| holds(self.way(edge), self.edges[edge]))
            .collect()
    }

    /// Only an execution that runs freely goes on; one that fails fast does for clean-up.
    fn may_go_on(&self, back: &[usize]) -> bool {
        match self.status {
            _ if self.verdict.is_some() => false,
            Status::Running => !back.is_empty(),
            Status::Failing => back.iter().any(|&edge| self.is_cleanup_edge(edge)),
            Status::Pending
            | Status::Canceling { .. }
            | Status::Undoing(_)
            | Status::Reporting
            | Status::Completed(_)
            | Status::Failed
            | Status::Canceled => false,
        }
    }

    fn begin_generation(&mut self, the: &Loop, back: &[usize]) {
        let brought = self.carried(back);
        let cleanup = back.iter().any(|&edge| self.is_cleanup_edge(edge));
        let iteration = self.generations[&the.header].iteration + 1;
        for id in &the.body {
            self.visit_again(id);
        }
        for edge in self.edges_that(|edge, _| the.body.contains(&edge.source)) {
            self.edges[edge] = Edge::Open;
        }
        for inner in self.loops.iter().filter(|inner| inner.is_within(the)) {
            self.generations.insert(inner.header.clone(), Generation::first());
        }
        let generation = Generation {
            iteration,
            finished: false,
            cleanup,
            dropped: Vec::new(),
        };
        self.generations.insert(the.header.clone(), generation);
        self.set(&the.header).brought = Some(brought);
        self.become_ready(&the.header);
    }

    /// The header fails in a visit of its own and nothing but its exits can be taken.
    fn exceed_limit(&mut self, the: &Loop, back: &[usize]) {
        let input = self.carried(back);
        let cleanup = back.iter().any(|&edge| self.is_cleanup_edge(edge));
        self.visit_again(&the.header);
        let generation = self.generations.get_mut(&the.header).expect("every loop has one");
        generation.cleanup = cleanup;
        for edge in self.edges_that(|edge, _| the.is_exit(edge)) {
            self.edges[edge] = Edge::Held(false);
        }
        for edge in self.edges_that(|edge, _| the.is_back_edge(edge)) {
            self.edges[edge] = Edge::Resolved(false);
        }
        let exits = self.edges_that(|edge, _| edge.source == the.header && the.is_exit(edge));
        let state = self.set(&the.header);
        (state.input, state.exceeded) = (input.clone(), true);
        let error = failure("LOOP_LIMIT").error();
        let (taken, handled) = self.failed_with(&the.header, &error, input, &exits);
        self.ends.push((the.header.clone(), Phase::Failed));
        for edge in taken {
            self.load(edge);
            self.edges[edge] = Edge::Held(true);
        }
        // With no back edge left this generation is the last.
        self.note_end_of_generation(&the.header);
        if !handled {
            self.unhandled(&the.header, error);
        }
    }

    /// Exits resolve as they were decided, unless a loop around this one holds them too.
    fn end_loop(&mut self, the: &Loop) {
        let dropped = self.edges_that(|edge, state| the.is_back_edge(edge) && state == Edge::Held(true));
        let generation = self.generations.get_mut(&the.header).expect("every loop has one");
        (generation.finished, generation.dropped) = (true, dropped);
        for edge in self.edges_that(|edge, _| the.is_back_edge(edge)) {
            self.edges[edge] = Edge::Resolved(false);
        }
        for edge in self.edges_that(|edge, _| the.is_exit(edge)) {
            let Edge::Held(taken) = self.edges[edge] else {
                panic!("exit {edge} of a loop whose nodes have ended is not decided");
            };
            if !self.is_held(edge) {
                self.deliver(edge, taken);
            }
        }
        self.note_end_of_generation(&the.header);
    }

    fn visit_again(&mut self, id: &str) {
        let before = self.nodes[id].latest();
        assert!(before.phase.is_terminal(), "{id} is visited again before it has ended");
        *self.set(id) = NodeState::new(before.visit + 1, Some(before));
    }
}
