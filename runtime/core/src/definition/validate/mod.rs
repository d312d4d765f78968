//! The one validator of definitions: reports all problems, each with a code, a JSON pointer and often a hint.
//!
//! Every check walks the arrays or the graph without recursion and in about linear time, so that a definition at the
//! limits is checked in about a second. What needs an expression language is asked of a [`LanguageChecker`].

mod aftermath;
mod children;
mod cycles;
mod decisions;
mod identity;
mod joins;
mod kinds;
mod languages;
mod loops;
mod sources;
mod support;
mod variables;
mod warnings;
mod webhooks;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use self::sources::{Source, VERBATIM_FIELDS, each_source};

use super::parse::{Format, Parsed, parse};
use crate::graph::LoopForest;

use super::problems::{Path, Problems, did_you_mean};
use super::{Diagnostic, LanguageChecker, Limits, Node, Settings, WorkflowDefinition, WorkflowEdge};

/// Comparisons of mistyped ids with known ones before hints stop: a definition of wrong ids alone must stay cheap.
const HINT_COMPARISONS_MAX: usize = 300_000;

static ROOT: Path<'static> = Path::root();
static NODES: Path<'static> = ROOT.key("nodes");
static EDGES: Path<'static> = ROOT.key("edges");
static SETTINGS: Path<'static> = ROOT.key("settings");

/// A text after parsing and validating.
#[derive(Debug)]
pub struct Checked {
    /// The definition, if it could be read and has no error.
    pub definition: Option<WorkflowDefinition>,
    /// Every problem, with its place in the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses and validates a text.
#[must_use]
pub fn check(bytes: &[u8], format: Option<Format>, checker: Option<&dyn LanguageChecker>, limits: &Limits) -> Checked {
    match parse(bytes, format, limits) {
        Err(diagnostics) => Checked {
            definition: None,
            diagnostics,
        },
        Ok(Parsed {
            definition,
            mut diagnostics,
            source,
        }) => {
            let mut found = validate(&definition, checker, limits);
            source.locate(&mut found);
            diagnostics.append(&mut found);
            let valid = !diagnostics.iter().any(Diagnostic::is_error);
            Checked {
                definition: valid.then_some(definition),
                diagnostics,
            }
        }
    }
}

/// Validates a definition. Without a checker, expressions, templates, schemas, cron and code are not looked into.
#[must_use]
pub fn validate(
    definition: &WorkflowDefinition,
    checker: Option<&dyn LanguageChecker>,
    limits: &Limits,
) -> Vec<Diagnostic> {
    let mut context = Context::new(definition, checker, limits);
    if identity::within_limits(&mut context) {
        identity::check(&mut context);
        cycles::check(&mut context);
        kinds::check(&mut context);
        decisions::check(&mut context);
        joins::check(&mut context);
        loops::check(&mut context);
        children::check(&mut context);
        webhooks::check(&mut context);
        support::check(&mut context);
        aftermath::check(&mut context);
        languages::check(&mut context);
        warnings::check(&mut context);
        variables::check(&mut context);
    }
    context.problems.into_diagnostics()
}

/// What the checks share.
struct Context<'a> {
    definition: &'a WorkflowDefinition,
    checker: Option<&'a dyn LanguageChecker>,
    limits: &'a Limits,
    settings: Settings,
    /// Place of each id in the node array; the first of duplicates.
    index: HashMap<&'a str, usize>,
    /// Places of the source and target of each edge whose ends are nodes.
    ends: Vec<Option<(usize, usize)>>,
    /// Edges out of each node whose ends are nodes, in array order.
    outgoing: Vec<Vec<usize>>,
    /// Edges into each node whose ends are nodes, in array order.
    incoming: Vec<Vec<usize>>,
    loops: LoopForest,
    problems: Problems,
    comparisons_left: usize,
}

impl<'a> Context<'a> {
    fn new(definition: &'a WorkflowDefinition, checker: Option<&'a dyn LanguageChecker>, limits: &'a Limits) -> Self {
        let mut problems = Problems::default();
        let settings = Settings::read(&definition.settings, &mut problems);
        let mut index = HashMap::with_capacity(definition.nodes.len());
        for (at, node) in definition.nodes.iter().enumerate() {
            index.entry(node.id.as_str()).or_insert(at);
        }
        let mut outgoing = vec![Vec::new(); definition.nodes.len()];
        let mut incoming = outgoing.clone();
        let place = |id: &str| index.get(id).copied();
        let both = |edge: &WorkflowEdge| place(&edge.source).zip(place(&edge.target));
        let ends: Vec<Option<(usize, usize)>> = definition.edges.iter().map(both).collect();
        for (at, end) in ends.iter().enumerate() {
            if let Some((source, target)) = *end {
                outgoing[source].push(at);
                incoming[target].push(at);
            }
        }
        let mut context = Self {
            definition,
            checker,
            limits,
            settings,
            index,
            ends,
            outgoing,
            incoming,
            loops: LoopForest::default(),
            problems,
            comparisons_left: HINT_COMPARISONS_MAX,
        };
        let edges: Vec<(u32, u32)> = context
            .ends
            .iter()
            .flatten()
            .map(|end| (end.0 as u32, end.1 as u32))
            .collect();
        let roots: Vec<u32> = context.roots().into_iter().map(|root| root as u32).collect();
        context.loops = LoopForest::new(definition.nodes.len(), &edges, &roots);
        context
    }

    /// Whether a loop holds a node, perhaps in an inner loop.
    fn holds(&self, outer: u32, node: usize) -> bool {
        let mut around = self.loops.innermost[node];
        // Outer loops come first.
        while let Some(at) = around.filter(|at| *at > outer) {
            around = self.loops.loops[at as usize].parent;
        }
        around == Some(outer)
    }

    /// Whether an edge of `outgoing` or `incoming` leads back to the header of a loop around its source.
    fn is_back_edge(&self, edge: usize) -> bool {
        let (source, target) = (self.source(edge), self.target(edge));
        self.loops.innermost[target]
            .is_some_and(|at| self.loops.loops[at as usize].header as usize == target && self.holds(at, source))
    }

    /// Edges into a node that are no back edges: those its join counts.
    fn entries(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        self.incoming[at]
            .iter()
            .copied()
            .filter(|edge| !self.is_back_edge(*edge))
    }

    fn nodes(&self) -> impl Iterator<Item = (usize, &'a Node)> + use<'a> {
        self.definition.nodes.iter().enumerate()
    }

    fn edge(&self, at: usize) -> &'a WorkflowEdge {
        &self.definition.edges[at]
    }

    /// Array place of the source of an edge in `outgoing` or `incoming`.
    fn source(&self, edge: usize) -> usize {
        self.ends[edge].expect("only edges between nodes are listed at nodes").0
    }

    /// Array place of the target of an edge in `outgoing` or `incoming`.
    fn target(&self, edge: usize) -> usize {
        self.ends[edge].expect("only edges between nodes are listed at nodes").1
    }

    /// Nodes that start by themselves: no edge comes in from another node.
    fn roots(&self) -> Vec<usize> {
        let from_elsewhere = |at: usize| self.incoming[at].iter().any(|&edge| self.source(edge) != at);
        (0..self.definition.nodes.len())
            .filter(|&at| !from_elsewhere(at))
            .collect()
    }

    /// The hint for a mistyped node id, while the budget lasts.
    fn node_hint(&mut self, id: &str) -> Option<String> {
        let nodes = &self.definition.nodes;
        self.comparisons_left = self.comparisons_left.checked_sub(nodes.len())?;
        did_you_mean(id, nodes.iter().map(|node| node.id.as_str()))
    }
}
