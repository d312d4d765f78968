//! §6 and §8.1: failures that nothing handles, and the clean-up that survives them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::definition::edge_type;
use super::loops::Loop;
use super::state::{Did, Edge, Phase, Reference, Status};

impl Reference {
    /// A node failed and no failure edge of it was taken.
    pub(super) fn unhandled(&mut self, id: &str, error: Value) {
        if self.status != Status::Running {
            return;
        }
        self.blame_first(Some(id), error);
        if self.definition.settings.get("onFailure").and_then(Value::as_str) != Some("continue") {
            self.stop_all_but_cleanup();
        }
    }

    /// §6, failFast: what is not clean-up stops.
    fn stop_all_but_cleanup(&mut self) {
        self.status = Status::Failing;
        for id in self.ids() {
            let phase = self.nodes[&id].phase;
            if phase == Phase::Pending || phase.is_terminal() || self.is_cleanup(&id) {
                continue;
            }
            self.cut_off(&id);
            if phase == Phase::Ready && !self.nodes[&id].ran {
                self.skip(&id);
                continue;
            }
            if phase == Phase::Running {
                self.did.push(Did::Abort { node: id.clone() });
            }
            self.cancel_node(&id);
        }
    }

    /// Whether what a taken edge leads to is clean-up by it.
    pub(super) fn is_cleanup_edge(&self, edge: usize) -> bool {
        edge_type(self.way(edge)) == "always" || self.is_cleanup(&self.way(edge).source)
    }

    /// §8.1: everything reached through any taken `always` edge, transitively, and generations that clean-up started.
    pub(super) fn is_cleanup(&self, id: &str) -> bool {
        let started = |the: &&Loop| self.generations[&the.header].cleanup;
        let mut reached: BTreeSet<String> = BTreeSet::new();
        for the in self.loops.iter().filter(started) {
            reached.extend(the.body.iter().cloned());
        }
        loop {
            let before = reached.len();
            for (way, state) in self.definition.edges.iter().zip(&self.edges) {
                if *state == Edge::Resolved(true) && (edge_type(way) == "always" || reached.contains(&way.source)) {
                    reached.insert(way.target.clone());
                }
            }
            if reached.len() == before {
                return reached.contains(id);
            }
        }
    }
}
