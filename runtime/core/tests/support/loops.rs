//! Loops of random graphs: which nodes make one, and the edges that its shape needs.

use std::collections::BTreeSet;

use super::choices::Choices;
use super::definitions::Way;

/// A stretch of the nodes' numbers that is entered at its first one only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub first: usize,
    pub last: usize,
}

impl Stretch {
    fn holds(self, node: usize) -> bool {
        (self.first..=self.last).contains(&node)
    }
}

/// Stretches of `count` nodes, outer ones first: one lies within another or apart from it, and no two begin at one node.
pub fn stretches(tapes: &[Vec<u16>], count: usize) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for tape in tapes {
        let mut choices = Choices::new(tape);
        // Only a node that leads back to itself alone may be a root.
        let (first, length) = if choices.one_in(8) {
            (0, 0)
        } else {
            let length = *choices.pick(&[1, 2, 3, 0, 5, 8]);
            match found.iter().max_by_key(|stretch| stretch.last - stretch.first) {
                Some(outer) if outer.first < outer.last && choices.one_in(2) => {
                    (outer.first + 1 + choices.below(outer.last - outer.first), length)
                }
                _ => (1 + choices.below(count - 1), length),
            }
        };
        // Something must be left to lead out to.
        let mut last = (first + length).min(count.saturating_sub(2)).max(first);
        for _ in 0..=found.len() {
            for other in &found {
                if other.holds(first) {
                    last = last.min(other.last);
                } else if first < other.first && other.first <= last {
                    last = last.max(other.last);
                }
            }
        }
        if found.iter().all(|other| other.first != first) {
            found.push(Stretch { first, last });
        }
    }
    found.sort_by_key(|stretch| (stretch.first, std::cmp::Reverse(stretch.last)));
    found
}

/// Adds exits and whatever makes every node of a stretch reachable from its first one, and leads all entries there.
pub fn shape(ways: &mut Vec<Way>, stretches: &[Stretch], tapes: &[Vec<u16>], count: usize) {
    for (stretch, tape) in stretches.iter().zip(tapes) {
        let mut choices = Choices::new(tape.get(4..).unwrap_or_default());
        if stretch.last + 1 < count {
            for _ in 0..=choices.below(2) {
                let source = stretch.first + choices.below(stretch.last + 1 - stretch.first);
                let target = stretch.last + 1 + choices.below(count - stretch.last - 1);
                ways.push(Way::random(&mut choices, source, target));
            }
        }
    }
    for way in ways.iter_mut() {
        let entered = stretches
            .iter()
            .find(|stretch| stretch.holds(way.target) && !stretch.holds(way.source));
        if let Some(entered) = entered {
            way.target = entered.first;
        }
    }
    for stretch in stretches.iter().filter(|stretch| stretch.first < stretch.last) {
        for node in stretch.first..=stretch.last {
            if node > 0 && ways.iter().all(|way| way.target != node) {
                ways.push(Way::plain(node - 1, node));
            }
        }
    }
}

/// Edges from within each stretch to its first node, but none of a loop that nothing leaves.
pub fn back_edges(
    ways: &[Way],
    stretches: &[Stretch],
    tapes: &[Vec<u16>],
    may_lead: impl Fn(usize) -> bool,
) -> Vec<Way> {
    let mut back = Vec::new();
    for (stretch, tape) in stretches.iter().zip(tapes) {
        let mut choices = Choices::new(tape.get(14..).unwrap_or_default());
        for _ in 0..=*choices.pick(&[0, 0, 1, 2]) {
            let source = stretch.last - choices.below(stretch.last + 1 - stretch.first);
            if may_lead(source) {
                back.push(Way::back(&mut choices, source, stretch.first));
            }
        }
    }
    loop {
        let all: Vec<&Way> = ways.iter().chain(&back).collect();
        let is_left = |body: &BTreeSet<usize>| {
            all.iter()
                .any(|way| body.contains(&way.source) && !body.contains(&way.target))
        };
        let endless = bodies(ways, &back).into_iter().find(|(_, body)| !is_left(body));
        let Some((header, _)) = endless else { return back };
        back.retain(|way| way.target != header);
    }
}

/// Header and nodes of each loop, inner ones first.
pub fn bodies(ways: &[Way], back: &[Way]) -> Vec<(usize, BTreeSet<usize>)> {
    let headers: BTreeSet<usize> = back.iter().map(|way| way.target).collect();
    let body = |header: usize| {
        let mut body = BTreeSet::from([header]);
        let mut open: Vec<usize> = back
            .iter()
            .filter(|way| way.target == header)
            .map(|way| way.source)
            .collect();
        while let Some(node) = open.pop() {
            if body.insert(node) {
                let coming = ways.iter().chain(back).filter(|way| way.target == node);
                open.extend(coming.map(|way| way.source));
            }
        }
        (header, body)
    };
    let mut found: Vec<_> = headers.into_iter().map(body).collect();
    found.sort_by_key(|(_, body)| body.len());
    found
}

/// The innermost loop of a node.
pub fn innermost(bodies: &[(usize, BTreeSet<usize>)], node: usize) -> Option<usize> {
    bodies
        .iter()
        .find(|(_, body)| body.contains(&node))
        .map(|(header, _)| *header)
}

/// How often each loop may go round: seldom enough that all generations of one entry fit in a step of the core.
pub fn limits(bodies: &[(usize, BTreeSet<usize>)], tapes: &[Vec<u16>]) -> Vec<u64> {
    const GENERATIONS_MAX: u64 = 60;
    let drawn = |place: usize| {
        let tape = tapes.get(place).map_or([].as_slice(), Vec::as_slice);
        *Choices::new(tape.get(22..).unwrap_or_default()).pick(&[2, 3, 1, 4, 5, 2, 3])
    };
    let mut limits: Vec<u64> = (0..bodies.len()).map(drawn).collect();
    let generations = |limits: &[u64]| -> u64 {
        let of_loop = |(_, body): &(usize, BTreeSet<usize>)| -> u64 {
            let around = bodies
                .iter()
                .zip(limits)
                .filter(|((_, outer), _)| body.is_subset(outer));
            around.map(|(_, limit)| limit).product()
        };
        bodies.iter().map(of_loop).sum()
    };
    while generations(&limits) > GENERATIONS_MAX {
        let most = limits.iter().max().copied().unwrap_or(1);
        limits
            .iter_mut()
            .filter(|limit| **limit == most)
            .for_each(|limit| *limit -= 1);
    }
    limits
}
