//! Strongly connected components, after Tarjan (1972), without recursion.

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
        let of = number(graph);
        let count = of.iter().max().map_or(0, |&last| last as usize + 1);
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

/// Numbers the components so that every edge leads to a smaller or equal number.
fn number(graph: &Graph) -> Vec<u32> {
    const UNSEEN: u32 = u32::MAX;
    let count = graph.ids.len();
    let mut order = vec![UNSEEN; count];
    let mut low = vec![0_u32; count];
    let mut of = vec![UNSEEN; count];
    let mut pending: Vec<u32> = Vec::new();
    let mut open: Vec<(u32, usize)> = Vec::new();
    let (mut clock, mut components) = (0_u32, 0_u32);
    for start in 0..count as u32 {
        if order[start as usize] != UNSEEN {
            continue;
        }
        open.push((start, 0));
        while let Some(&(at, next)) = open.last() {
            if next == 0 && order[at as usize] == UNSEEN {
                order[at as usize] = clock;
                low[at as usize] = clock;
                clock += 1;
                pending.push(at);
            }
            if let Some(&child) = graph.children.of(at).get(next) {
                if let Some(top) = open.last_mut() {
                    top.1 += 1;
                }
                if order[child as usize] == UNSEEN {
                    open.push((child, 0));
                } else if of[child as usize] == UNSEEN {
                    low[at as usize] = low[at as usize].min(order[child as usize]);
                }
                continue;
            }
            open.pop();
            if let Some(&(parent, _)) = open.last() {
                low[parent as usize] = low[parent as usize].min(low[at as usize]);
            }
            if low[at as usize] == order[at as usize] {
                while let Some(member) = pending.pop() {
                    of[member as usize] = components;
                    if member == at {
                        break;
                    }
                }
                components += 1;
            }
        }
    }
    of
}
