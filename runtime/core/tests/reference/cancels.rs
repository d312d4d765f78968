//! §2: cancel regions, and what a join that became ready makes of its late arrivals.

use std::collections::BTreeSet;

use serde_json::Value;

use super::definition::{field, join_field, node, outgoing, texts};
use super::state::{Did, Phase, Reference};

impl Reference {
    /// `data.cancels` of a node that has completed.
    pub(super) fn cancel_region(&mut self, id: &str) {
        for listed in texts(field(node(&self.definition, id), "cancels")) {
            if !self.nodes[&listed].phase.is_terminal() {
                self.cancel_open(&listed);
            }
        }
    }

    /// `lateArrivals: "cancel"` of a join that becomes ready.
    pub(super) fn cancel_late_arrivals(&mut self, join: &str) {
        let written = node(&self.definition, join);
        let word = |name: &str| join_field(written, name).and_then(Value::as_str);
        if word("lateArrivals") != Some("cancel") || !matches!(word("mode"), Some("any" | "quorum")) {
            return;
        }
        let is_late = |id: &String| id != join && !self.nodes[id].phase.is_terminal() && self.reaches_only(id, join);
        let late: Vec<String> = self.ids().into_iter().filter(is_late).collect();
        for id in late {
            self.cancel_open(&id);
        }
    }

    /// Whether every way from a node over open edges comes to `join`; edges out of nodes that have not ended are open.
    fn reaches_only(&self, from: &str, join: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(id) = open.pop() {
            // A back edge leads elsewhere although the header it leads to has ended.
            let leads_on =
                |edge: &usize| self.is_back_edge(*edge) || !self.nodes[&self.way(*edge).target].phase.is_terminal();
            let mut leaving = outgoing(&self.definition, &id);
            leaving.retain(leads_on);
            if leaving.is_empty() || leaving.iter().any(|&edge| self.is_held(edge)) {
                return false;
            }
            let next = leaving.iter().map(|&edge| self.way(edge).target.clone());
            let on_the_way = next.filter(|target| target != join);
            open.extend(on_the_way.filter(|target| seen.insert(target.clone())));
        }
        true
    }

    fn cancel_open(&mut self, id: &str) {
        if self.nodes[id].phase == Phase::Running {
            self.did.push(Did::Abort { node: id.to_owned() });
        }
        self.cancel_node(id);
    }
}
