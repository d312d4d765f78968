//! Groups of nodes that can run side by side or follow one another.

use std::collections::HashSet;

use super::components::Components;
use super::index::Graph;
use super::paths::Path;

/// Convergence points looked for at once: one bit each.
const BLOCK: usize = 256;
type Mask = [u64; BLOCK / 64];

/// The branch points whose children all reach one common convergence point, each as a strict descendant.
///
/// If a common convergence point can reach another convergence point, that one is common too. So only components with no
/// convergence point below them matter, a block of them at a time, spread upwards over their ancestors alone.
pub(super) fn rejoining_branches(graph: &Graph, components: &Components) -> Vec<u32> {
    let count = components.count();
    let mut converges = vec![false; count];
    for at in graph.nodes().filter(|&at| graph.is_convergence(at)) {
        converges[components.of(at) as usize] = true;
    }
    // Children have smaller numbers, so ascending order sees them first.
    let mut below = vec![false; count];
    for component in 0..count as u32 {
        below[component as usize] = components
            .children
            .of(component)
            .iter()
            .any(|&child| converges[child as usize] || below[child as usize]);
    }
    let strictly_below = |at: u32| {
        let component = components.of(at) as usize;
        below[component] || (components.cyclic[component] && converges[component])
    };
    let mut undecided: Vec<u32> = graph
        .nodes()
        .filter(|&at| graph.is_branch(at) && graph.children.of(at).iter().all(|&child| strictly_below(child)))
        .collect();
    let lowest: Vec<u32> = (0..count as u32)
        .filter(|&component| converges[component as usize] && !below[component as usize])
        .collect();
    let parents = component_parents(components);
    let mut rejoining = Vec::new();
    let mut spread = Spread {
        reach: vec![[0; BLOCK / 64]; count],
        touched: Vec::new(),
        queued: vec![false; count],
    };
    for block in lowest.chunks(BLOCK) {
        if undecided.is_empty() {
            break;
        }
        let own = |component: u32| block.binary_search(&component).ok();
        spread.run(block, &parents);
        undecided.retain(|&branch| {
            let mut common: Mask = [u64::MAX; BLOCK / 64];
            for &child in graph.children.of(branch) {
                let component = components.of(child);
                let mut reach = spread.reach[component as usize];
                if let (true, Some(bit)) = (components.cyclic[component as usize], own(component)) {
                    reach[bit / 64] |= 1 << (bit % 64);
                }
                for (common, reach) in common.iter_mut().zip(reach) {
                    *common &= reach;
                }
            }
            let found = common.iter().any(|&word| word != 0);
            if found {
                rejoining.push(branch);
            }
            !found
        });
        spread.clear();
    }
    rejoining.sort_unstable();
    rejoining
}

fn component_parents(components: &Components) -> super::index::Adjacency {
    let mut pairs = Vec::new();
    for component in 0..components.count() as u32 {
        pairs.extend(
            components
                .children
                .of(component)
                .iter()
                .map(|&child| (child, component)),
        );
    }
    super::index::Adjacency::new(components.count(), &pairs)
}

/// Which members of a block each component has strictly below it.
struct Spread {
    reach: Vec<Mask>,
    touched: Vec<u32>,
    queued: Vec<bool>,
}

impl Spread {
    fn run(&mut self, block: &[u32], parents: &super::index::Adjacency) {
        let mut open: Vec<u32> = block.to_vec();
        for &component in block {
            self.queued[component as usize] = true;
        }
        while let Some(component) = open.pop() {
            self.touched.push(component);
            for &parent in parents.of(component) {
                if !std::mem::replace(&mut self.queued[parent as usize], true) {
                    open.push(parent);
                }
            }
        }
        // Parents have greater numbers, so ascending order finishes a component before its parents read it.
        self.touched.sort_unstable();
        for &component in &self.touched {
            let mut reach = self.reach[component as usize];
            if let Ok(bit) = block.binary_search(&component) {
                reach[bit / 64] |= 1 << (bit % 64);
            }
            for &parent in parents.of(component) {
                for (above, reach) in self.reach[parent as usize].iter_mut().zip(reach) {
                    *above |= reach;
                }
            }
        }
    }

    fn clear(&mut self) {
        for component in self.touched.drain(..) {
            self.reach[component as usize] = [0; BLOCK / 64];
            self.queued[component as usize] = false;
        }
    }
}

/// Cuts each path into runs free of branch and convergence nodes, each such node a run of its own; later equal runs go.
pub(super) fn sequential_runs(graph: &Graph, paths: &[Path]) -> Vec<Vec<u32>> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut seen: HashSet<Vec<u32>> = HashSet::new();
    let mut keep = |run: &[u32]| {
        if !run.is_empty() && !seen.contains(run) {
            seen.insert(run.to_vec());
            runs.push(run.to_vec());
        }
    };
    for path in paths {
        let mut start = 0;
        for (at, &node) in path.sequence.iter().enumerate() {
            if graph.is_branch(node) || graph.is_convergence(node) {
                keep(&path.sequence[start..at]);
                keep(&[node]);
                start = at + 1;
            }
        }
        keep(&path.sequence[start..]);
    }
    runs
}
