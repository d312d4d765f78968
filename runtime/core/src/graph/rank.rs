//! Ranks, the critical path and the width of a graph, on its components.

use super::components::Components;
use super::index::Graph;

/// Longest distance from a root of each node, the nodes of a cycle counting as one; −1 where unreached.
pub(super) fn ranks(graph: &Graph, components: &Components, depths: &[i64]) -> Vec<i64> {
    let mut rank = vec![-1_i64; components.count()];
    // Parents have greater numbers, so descending order finishes them first.
    for component in (0..components.count() as u32).rev() {
        let reached = components
            .members
            .of(component)
            .iter()
            .any(|&member| depths[member as usize] >= 0);
        if !reached {
            continue;
        }
        let own = rank[component as usize].max(0);
        rank[component as usize] = own;
        for &child in components.children.of(component) {
            rank[child as usize] = rank[child as usize].max(own + 1);
        }
    }
    graph.nodes().map(|at| rank[components.of(at) as usize]).collect()
}

/// Most nodes of one rank.
pub(super) fn width(ranks: &[i64]) -> usize {
    let mut counts = vec![0_usize; ranks.len() + 1];
    for &rank in ranks.iter().filter(|&&rank| rank >= 0) {
        counts[rank as usize] += 1;
    }
    counts.into_iter().max().unwrap_or(0)
}

/// The heaviest way from any root downwards, and its weight. Ties go to the child that comes first.
pub(super) fn critical_path(
    graph: &Graph,
    components: &Components,
    roots: &[u32],
    weight_of: impl Fn(u32) -> f64,
) -> (Vec<u32>, f64) {
    let count = components.count();
    let mut weight = vec![0.0_f64; count];
    let mut next: Vec<Option<u32>> = vec![None; count];
    for component in 0..count as u32 {
        let members = components
            .members
            .of(component)
            .iter()
            .filter(|&&member| graph.is_node(member));
        let own: f64 = members.map(|&member| weight_of(member)).sum();
        let mut heaviest = 0.0;
        for &child in components.children.of(component) {
            let has_nodes = components.members.of(child).iter().any(|&member| graph.is_node(member));
            if has_nodes && (next[component as usize].is_none() || weight[child as usize] > heaviest) {
                heaviest = weight[child as usize];
                next[component as usize] = Some(child);
            }
        }
        weight[component as usize] = own + heaviest;
    }
    let mut best: Option<u32> = None;
    for &root in roots {
        let component = components.of(root);
        if best.is_none_or(|best| weight[component as usize] > weight[best as usize]) {
            best = Some(component);
        }
    }
    let total = best.map_or(0.0, |component| weight[component as usize]);
    let mut sequence = Vec::new();
    while let Some(component) = best {
        sequence.extend_from_slice(components.members.of(component));
        best = next[component as usize];
    }
    (sequence, total)
}
