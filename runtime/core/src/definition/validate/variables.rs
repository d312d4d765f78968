//! Variables that branches running side by side write: the later commit wins, which is rarely meant.
//!
//! A pair of writers is fine when one reaches the other, or when a fork that both lie behind takes at most one of their
//! branches. The search is bounded; what exceeds the bound is not warned of.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::{Context, NODES, decisions};
use crate::definition::problems::push_key;
use crate::definition::{Diagnostic, code};

/// Edges followed in all before the search gives up.
const STEPS_MAX: usize = 5_000_000;

pub(super) fn check(context: &mut Context<'_>) {
    let mut writers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, node) in context.nodes() {
        for name in node
            .field("outputMapping")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|map| map.keys())
        {
            writers.entry(name).or_default().push(at);
        }
    }
    let mut search = Search {
        context,
        steps_left: STEPS_MAX,
    };
    let mut found = Vec::new();
    for (name, nodes) in writers.iter().filter(|(_, nodes)| nodes.len() > 1) {
        match search.parallel_pair(nodes) {
            Err(OutOfSteps) => break,
            Ok(None) => {}
            Ok(Some((first, second))) => found.push((*name, first, second)),
        }
    }
    for (name, first, second) in found {
        let nodes = &context.definition.nodes;
        let mut pointer = format!("{}/data/outputMapping", NODES.index(second).pointer());
        push_key(&mut pointer, name);
        let message = format!(
            "`{}` and `{}` may run side by side and both write the variable `{name}`: the later one wins",
            nodes[first].id, nodes[second].id
        );
        context
            .problems
            .push(Diagnostic::warning(code::PARALLEL_VARIABLE_WRITE, pointer, message));
    }
}

struct OutOfSteps;

struct Search<'a, 'b> {
    context: &'a Context<'b>,
    steps_left: usize,
}

impl Search<'_, '_> {
    /// The first two of these nodes that may run side by side.
    fn parallel_pair(&mut self, nodes: &[usize]) -> Result<Option<(usize, usize)>, OutOfSteps> {
        let mut above: HashMap<usize, HashSet<usize>> = HashMap::new();
        for &at in nodes {
            above.insert(at, self.ancestors(at)?);
        }
        for (number, &second) in nodes.iter().enumerate() {
            for &first in &nodes[..number] {
                let (ahead, behind) = (&above[&first], &above[&second]);
                self.spend(1)?;
                if ahead.contains(&second) || behind.contains(&first) {
                    continue;
                }
                if !self.exclude_each_other(first, second, ahead, behind)? {
                    return Ok(Some((first, second)));
                }
            }
        }
        Ok(None)
    }

    fn spend(&mut self, steps: usize) -> Result<(), OutOfSteps> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(OutOfSteps)?;
        Ok(())
    }

    /// The node itself and everything it can be reached from.
    fn ancestors(&mut self, at: usize) -> Result<HashSet<usize>, OutOfSteps> {
        let mut found = HashSet::from([at]);
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            self.spend(self.context.incoming[at].len() + 1)?;
            for edge in self.context.entries(at) {
                let source = self.context.source(edge);
                if found.insert(source) {
                    open.push(source);
                }
            }
        }
        Ok(found)
    }

    /// Whether some fork, without which neither runs, takes either the branches to one or those to the other.
    fn exclude_each_other(
        &mut self,
        first: usize,
        second: usize,
        ahead: &HashSet<usize>,
        behind: &HashSet<usize>,
    ) -> Result<bool, OutOfSteps> {
        let mut forks: Vec<usize> = ahead.intersection(behind).copied().collect();
        forks.sort_unstable();
        for fork in forks {
            self.spend(self.context.outgoing[fork].len() + 1)?;
            let into = |nodes: &HashSet<usize>| {
                let leads = |edge: &usize| nodes.contains(&self.context.target(*edge));
                let edges = self.context.outgoing[fork].iter().copied().filter(leads);
                decisions::choices(self.context, fork, edges)
            };
            let (to_first, to_second) = (into(ahead), into(behind));
            let apart = match (to_first, to_second) {
                (Some(one), Some(other)) => one.is_disjoint(&other),
                _ => false,
            };
            if apart && !self.runs_without(fork, first)? && !self.runs_without(fork, second)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `at` can be reached from a root with `fork` taken out.
    fn runs_without(&mut self, fork: usize, at: usize) -> Result<bool, OutOfSteps> {
        let mut seen = HashSet::from([at, fork]);
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            self.spend(self.context.incoming[at].len() + 1)?;
            if self.context.entries(at).next().is_none() {
                return Ok(true);
            }
            for edge in self.context.entries(at) {
                let source = self.context.source(edge);
                if seen.insert(source) {
                    open.push(source);
                }
            }
        }
        Ok(false)
    }
}
