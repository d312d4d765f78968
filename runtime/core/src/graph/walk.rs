//! Roots, depths and depth-first order.

use std::collections::VecDeque;

use petgraph::visit::DfsPostOrder;

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

/// Depth-first post-order of everything the roots reach, children in edge order, ids that are no node included.
pub(super) fn post_order(graph: &Graph, roots: &[u32]) -> Vec<u32> {
    let mut order = Vec::with_capacity(graph.ids.len());
    let mut walk = DfsPostOrder::empty(graph);
    for &root in roots {
        walk.move_to(root);
        while let Some(at) = walk.next(graph) {
            order.push(at);
        }
    }
    order
}

/// Reverse depth-first post-order from the roots, nodes only.
pub(super) fn execution_order(graph: &Graph, roots: &[u32]) -> Vec<u32> {
    let mut order = post_order(graph, roots);
    // An id that is no node leads nowhere, so that leaving it out moves no other.
    order.retain(|&at| graph.is_node(at));
    order.reverse();
    order
}
