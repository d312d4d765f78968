//! Natural loops and how they nest, after Tarjan (1974) as Havlak (1997) writes it. Almost linear, no recursion.

use super::index::Adjacency;

const NONE: u32 = u32::MAX;

/// The loops of a graph.
#[derive(Debug, Default)]
pub(crate) struct LoopForest {
    /// Outer loops before those in them.
    pub(crate) loops: Vec<NaturalLoop>,
    /// Innermost loop of each node, a place in `loops`.
    pub(crate) innermost: Vec<Option<u32>>,
    /// Whether the search came to each node: one it did not is on a cycle that nothing enters, or behind one.
    pub(crate) reached: Vec<bool>,
    /// Cycles with several entries: two nodes by which each can be entered.
    pub(crate) irreducible: Vec<(u32, u32)>,
}

/// A cycle that is entered through one node.
#[derive(Debug)]
pub(crate) struct NaturalLoop {
    /// The node that every entry leads to.
    pub(crate) header: u32,
    /// The loop around it.
    pub(crate) parent: Option<u32>,
}

impl LoopForest {
    /// Finds the loops among `count` nodes. The search starts at `roots`; what they do not reach is in no loop.
    pub(crate) fn new(count: usize, edges: &[(u32, u32)], roots: &[u32]) -> Self {
        let down = Adjacency::new(count, edges);
        let turned: Vec<(u32, u32)> = edges.iter().map(|(source, target)| (*target, *source)).collect();
        let up = Adjacency::new(count, &turned);
        let search = Search::new(count, roots, &down);
        let mut sets = Sets((0..count as u32).collect());
        // The header of the loop around each node; a header's own loop is not around it.
        let mut around = vec![NONE; count];
        let mut headers = Vec::new();
        let mut irreducible = Vec::new();
        for &header in search.order.iter().rev() {
            let mut body = Vec::new();
            let mut take = |at: u32, body: &mut Vec<u32>| {
                if at != header && around[at as usize] == NONE {
                    around[at as usize] = header;
                    body.push(at);
                }
            };
            let mut is_loop = false;
            for &source in up.of(header).iter().filter(|source| search.is_below(**source, header)) {
                is_loop = true;
                take(sets.find(source), &mut body);
            }
            if !is_loop {
                continue;
            }
            headers.push(header);
            let mut is_natural = true;
            let mut next = 0;
            while let Some(&at) = body.get(next) {
                next += 1;
                for &source in up.of(at).iter().filter(|source| search.is_reached(**source)) {
                    if search.is_below(source, at) {
                        continue;
                    }
                    let source = sets.find(source);
                    if search.is_below(source, header) {
                        take(source, &mut body);
                    } else if std::mem::take(&mut is_natural) {
                        irreducible.push((header, at));
                    }
                }
            }
            for at in body {
                sets.0[at as usize] = header;
            }
        }
        // A header comes before everything in its loop.
        headers.reverse();
        let mut place = vec![None; count];
        for (number, header) in (0..).zip(&headers) {
            place[*header as usize] = Some(number);
        }
        let of_header = |at: u32| (at != NONE).then(|| place[at as usize]).flatten();
        let innermost = (0..count)
            .map(|at| place[at].or_else(|| of_header(around[at])))
            .collect();
        let natural = |header| NaturalLoop {
            header,
            parent: of_header(around[header as usize]),
        };
        Self {
            loops: headers.into_iter().map(natural).collect(),
            innermost,
            reached: (0..count as u32).map(|at| search.is_reached(at)).collect(),
            irreducible,
        }
    }
}

/// A depth-first search: who is below whom in its tree.
struct Search {
    order: Vec<u32>,
    number: Vec<u32>,
    last_below: Vec<u32>,
}

impl Search {
    fn new(count: usize, roots: &[u32], down: &Adjacency) -> Self {
        let mut search = Self {
            order: Vec::with_capacity(count),
            number: vec![NONE; count],
            last_below: vec![NONE; count],
        };
        let mut open: Vec<(u32, usize)> = Vec::new();
        for &root in roots {
            search.enter(root, &mut open);
            while let Some((at, position)) = open.last_mut() {
                let at = *at;
                match down.of(at).get(*position) {
                    Some(&to) => {
                        *position += 1;
                        search.enter(to, &mut open);
                    }
                    None => {
                        search.last_below[at as usize] = search.order.len() as u32 - 1;
                        open.pop();
                    }
                }
            }
        }
        search
    }

    fn enter(&mut self, at: u32, open: &mut Vec<(u32, usize)>) {
        if self.number[at as usize] == NONE {
            self.number[at as usize] = self.order.len() as u32;
            self.order.push(at);
            open.push((at, 0));
        }
    }

    fn is_reached(&self, at: u32) -> bool {
        self.number[at as usize] != NONE
    }

    /// Whether `at` is `above` or below it in the tree.
    fn is_below(&self, at: u32, above: u32) -> bool {
        let number = self.number[at as usize];
        number != NONE && (self.number[above as usize]..=self.last_below[above as usize]).contains(&number)
    }
}

/// Nodes of loops already found stand for their outermost header.
struct Sets(Vec<u32>);

impl Sets {
    fn find(&mut self, at: u32) -> u32 {
        let mut top = at;
        while self.0[top as usize] != top {
            top = self.0[top as usize];
        }
        let mut walk = at;
        while walk != top {
            walk = std::mem::replace(&mut self.0[walk as usize], top);
        }
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: usize, edges: &[(u32, u32)]) -> LoopForest {
        LoopForest::new(count, edges, &[0])
    }

    #[test]
    fn nested_loops_and_their_bodies() {
        // 0 -> 1 -> 2 -> 3 -> 2, 3 -> 4 -> 1, 4 -> 5, 5 -> 5
        let forest = found(6, &[(0, 1), (1, 2), (2, 3), (3, 2), (3, 4), (4, 1), (4, 5), (5, 5)]);
        let loops: Vec<_> = forest.loops.iter().map(|one| (one.header, one.parent)).collect();
        assert_eq!(loops, [(1, None), (2, Some(0)), (5, None)]);
        let inside = [None, Some(0), Some(1), Some(1), Some(0), Some(2)];
        assert_eq!(forest.innermost, inside);
        assert!(forest.irreducible.is_empty());
    }

    #[test]
    fn two_back_edges_to_one_header_are_one_loop() {
        let forest = found(4, &[(0, 1), (1, 2), (1, 3), (2, 1), (3, 1)]);
        assert_eq!(forest.loops.len(), 1);
        assert_eq!(forest.innermost, [None, Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn an_inner_cycle_with_two_entries_is_found() {
        // The loop of 1 holds the cycle of 2 and 3, which 1 enters at both.
        let forest = found(4, &[(0, 1), (1, 2), (1, 3), (2, 3), (3, 2), (3, 1)]);
        assert_eq!(forest.irreducible.len(), 1);
        let (one, other) = forest.irreducible[0];
        assert_eq!([one.min(other), one.max(other)], [2, 3]);
    }

    #[test]
    fn a_long_chain_of_nested_loops_is_walked_without_recursion() {
        let count = 50_000;
        let mut edges: Vec<(u32, u32)> = (1..count).map(|at| (at - 1, at)).collect();
        edges.extend((1..count / 2).map(|at| (count - at, at)));
        assert_eq!(found(count as usize, &edges).loops.len(), count as usize / 2 - 1);
    }
}
