//! Roots, depths and depth-first order.

use std::collections::VecDeque;

use super::index::Graph;

/// Nodes without parents; where every node has one, the first of the array alone.
pub(super) fn roots(graph: &Graph) -> Vec<u32> {
    let roots: Vec<u32> = graph.nodes().filter(|&at| graph.parents.of(at).is_empty()).collect();
    if roots.is_empty() {
        graph.of_array.first().copied().into_iter().collect()
    } else {
        roots
    }
}

/// Fewest edges from any root; −1 where unreached. Ids that are no node are reached too.
pub(super) fn depths(graph: &Graph, roots: &[u32]) -> Vec<i64> {
    let mut depths = vec![-1; graph.ids.len()];
    let mut queue: VecDeque<u32> = roots.iter().copied().collect();
    for &root in roots {
        depths[root as usize] = 0;
    }
    while let Some(at) = queue.pop_front() {
        for &child in graph.children.of(at) {
            if depths[child as usize] < 0 {
                depths[child as usize] = depths[at as usize] + 1;
                queue.push_back(child);
            }
        }
    }
    depths
}

/// Reverse depth-first post-order from the roots, children in edge order, nodes only.
pub(super) fn execution_order(graph: &Graph, roots: &[u32]) -> Vec<u32> {
    let mut seen = vec![false; graph.ids.len()];
    let mut order = Vec::with_capacity(graph.node_count);
    let mut open: Vec<(u32, usize)> = Vec::new();
    for &root in roots {
        if std::mem::replace(&mut seen[root as usize], true) {
            continue;
        }
        open.push((root, 0));
        while let Some((at, next)) = open.last_mut() {
            match graph.children.of(*at).get(*next) {
                Some(&child) => {
                    *next += 1;
                    if graph.is_node(child) && !std::mem::replace(&mut seen[child as usize], true) {
                        open.push((child, 0));
                    }
                }
                None => {
                    order.push(*at);
                    open.pop();
                }
            }
        }
    }
    order.reverse();
    order
}
