//! Strongly connected components and the acyclic graph between them.

use petgraph::algo::kosaraju_scc;

use super::index::{Adjacency, Graph};

/// The components of a graph and the acyclic graph between them.
#[derive(Debug)]
pub(super) struct Components {
    /// Component of each id. Every edge leads to a component of a smaller or equal number.
    pub(super) of: Vec<u32>,
    /// Members of each component, ascending.
    pub(super) members: Adjacency,
    /// Components a component's edges lead to, itself excluded; repeats are possible.
    pub(super) children: Adjacency,
    /// Whether a component holds a cycle.
    pub(super) cyclic: Vec<bool>,
}

impl Components {
    pub(super) fn new(graph: &Graph) -> Self {
        // Kosaraju's, because petgraph's version of it does not recurse; components come in reverse topological order.
        let found = kosaraju_scc(graph);
        let count = found.len();
        let mut of = vec![0_u32; graph.ids.len()];
        for (number, members) in (0..).zip(&found) {
            for &member in members {
                of[member as usize] = number;
            }
        }
        let membership: Vec<(u32, u32)> = (0..of.len() as u32).map(|at| (of[at as usize], at)).collect();
        let members = Adjacency::new(count, &membership);
        let mut cyclic: Vec<bool> = (0..count as u32)
            .map(|component| members.of(component).len() > 1)
            .collect();
        let mut between = Vec::new();
        for at in graph.nodes() {
            let from = of[at as usize];
            for &child in graph.children.of(at) {
                let to = of[child as usize];
                if from != to {
                    between.push((from, to));
                } else if at == child {
                    cyclic[from as usize] = true;
                }
            }
        }
        Self {
            children: Adjacency::new(count, &between),
            of,
            members,
            cyclic,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.cyclic.len()
    }

    pub(super) fn of(&self, at: u32) -> u32 {
        self.of[at as usize]
    }

    /// The components that hold a cycle, by their first member.
    pub(super) fn cycles(&self) -> Vec<&[u32]> {
        let mut cycles: Vec<&[u32]> = (0..self.count() as u32)
            .filter(|&component| self.cyclic[component as usize])
            .map(|component| self.members.of(component))
            .collect();
        cycles.sort_unstable_by_key(|members| members.first().copied());
        cycles
    }
}
