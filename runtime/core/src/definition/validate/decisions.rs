//! Decision nodes: every edge must be choosable.

use std::collections::{HashMap, HashSet};

use super::{Context, EDGES, NODES};
use crate::definition::problems::{did_you_mean, did_you_mean_or_list};
use crate::definition::view::View;
use crate::definition::{Diagnostic, EdgeKind, Node, NodeKind, Path, Problems, WorkflowEdge, code};

pub(super) fn check(context: &mut Context<'_>) {
    for (at, node) in context
        .nodes()
        .filter(|(_, node)| node.kind() == Some(NodeKind::Decision))
    {
        let path = NODES.index(at);
        node.with_holder("mode", &path, |view| {
            view.word(
                "mode",
                &["first", "all"],
                |word| ["first", "all"].contains(&word).then_some(()),
                &mut context.problems,
            )
        });
        let ids = read_conditions(node, &path, &mut context.problems);
        check_edges(context, at, node, &ids);
    }
}

/// The ids of the conditions, in order.
fn read_conditions<'a>(node: &'a Node, path: &Path<'_>, problems: &mut Problems) -> Vec<&'a str> {
    let Some((holder, place)) = node.source("conditions") else {
        return Vec::new();
    };
    let data = path.key("data");
    let task = data.key("taskDefinition");
    let config = task.key("config");
    let holds = [data, task, config][place];
    let at = holds.key("conditions");
    let Some(items) = holder.get("conditions").and_then(serde_json::Value::as_array) else {
        problems.error(code::FIELD_TYPE, &at, "`conditions` must be a list of {id, expression}");
        return Vec::new();
    };
    let mut ids = Vec::with_capacity(items.len());
    let mut seen = HashSet::new();
    for (number, item) in items.iter().enumerate() {
        let place = at.index(number);
        let Some(view) = View::of(item, place, problems) else {
            continue;
        };
        for name in ["id", "expression"] {
            let text = view.text(name, problems);
            if view.value(name).is_none() || text.is_some_and(|text| text.trim().is_empty()) {
                problems.error(code::MISSING_FIELD, &place, format!("a condition needs an `{name}`"));
            }
        }
        if let Some(id) = item.get("id").and_then(serde_json::Value::as_str) {
            if !seen.insert(id) {
                let message = format!("the condition id `{id}` occurs twice");
                problems.error(code::DUPLICATE_CONDITION, &place.key("id"), message);
            }
            ids.push(id);
        }
    }
    ids
}

/// The condition of a decision an edge belongs to.
pub(super) fn owner<'a>(edge: &'a WorkflowEdge, ids: &HashSet<&str>) -> Option<&'a str> {
    edge.owner(|name| ids.contains(name))
}

fn check_edges(context: &mut Context<'_>, at: usize, node: &Node, listed: &[&str]) {
    let ids: HashSet<&str> = listed.iter().copied().collect();
    let default = node.text_field("defaultPath");
    let chosen: Vec<usize> = context.outgoing[at]
        .iter()
        .copied()
        .filter(|&edge| matches!(context.edge(edge).kind(), Some(EdgeKind::Default | EdgeKind::Success)))
        .collect();
    let mut owned: HashMap<&str, usize> = HashMap::new();
    let mut default_found = false;
    for &place in &chosen {
        let edge = context.edge(place);
        let owner = owner(edge, &ids);
        if let Some(owner) = owner {
            *owned.entry(owner).or_default() += 1;
        }
        let is_default = default.is_some_and(|name| name == edge.id || name == edge.target || owner == Some(name));
        default_found |= is_default;
        let expression = edge.condition.as_deref().filter(|text| !text.trim().is_empty());
        match (owner, expression) {
            (Some(_), _) => {}
            (None, Some(text)) => warn_of_mistyped_condition(&mut context.problems, place, text, listed),
            (None, None) if is_default => {}
            (None, None) => refuse_unmatched(&mut context.problems, place, edge, listed),
        }
    }
    let path = NODES.index(at);
    for (number, id) in listed.iter().enumerate().filter(|(_, id)| !owned.contains_key(*id)) {
        let pointer = format!("{}/data/conditions/{number}", path.pointer());
        let message = format!("no edge belongs to the condition `{id}`, so it chooses nothing");
        context
            .problems
            .push(Diagnostic::warning(code::CONDITION_WITHOUT_EDGE, pointer, message));
    }
    if let Some(name) = default.filter(|_| !default_found) {
        let mut known: Vec<&str> = listed.to_vec();
        for &place in &chosen {
            known.extend([context.edge(place).id.as_str(), context.edge(place).target.as_str()]);
        }
        let message = format!("`{name}` names no edge of this decision, nor a target or condition of one");
        let hint = did_you_mean_or_list(name, &known).filter(|_| !known.is_empty());
        let data = path.key("data");
        context
            .problems
            .error_hint(code::UNKNOWN_DEFAULT_PATH, &data.key("defaultPath"), message, hint);
    }
}

fn refuse_unmatched(problems: &mut Problems, place: usize, edge: &WorkflowEdge, listed: &[&str]) {
    let near = [&edge.source_handle, &edge.label]
        .into_iter()
        .flatten()
        .find_map(|name| did_you_mean(name, listed.iter().copied()));
    let hint = near.unwrap_or_else(|| {
        "give it the id of a condition as `condition`, `sourceHandle` or `label`, an expression of its own, or make it \
         the `defaultPath`"
            .to_owned()
    });
    let message = format!(
        "the edge to `{}` belongs to no condition of the decision, so it is never taken",
        edge.target
    );
    problems.error_hint(code::DECISION_EDGE_UNMATCHED, &EDGES.index(place), message, hint);
}

/// A lone word that is nearly a condition's id is a slip, though it parses as an expression.
fn warn_of_mistyped_condition(problems: &mut Problems, place: usize, text: &str, listed: &[&str]) {
    let lone = text
        .chars()
        .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '-'));
    if let Some(hint) = did_you_mean(text, listed.iter().copied()).filter(|_| lone) {
        let path = EDGES.index(place);
        let message = format!("`{text}` is no condition of the decision, so it is read as an expression");
        let diagnostic = Diagnostic::warning(code::DECISION_EDGE_UNMATCHED, path.key("condition").pointer(), message);
        problems.push(diagnostic.with_hint(hint));
    }
}

/// The condition ids of a decision; none for other nodes.
pub(super) fn condition_ids(node: &Node) -> HashSet<&str> {
    if node.kind() != Some(NodeKind::Decision) {
        return HashSet::new();
    }
    let listed = node
        .field("conditions")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten();
    listed
        .filter_map(|item| item.get("id").and_then(serde_json::Value::as_str))
        .collect()
}

/// What a fork chooses.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Choice {
    Failure,
    Success,
    Condition(String),
    Edge(usize),
}

/// The mutually exclusive choices of a fork behind these edges of it; none where one of them excludes nothing.
pub(super) fn choices(
    context: &Context<'_>,
    fork: usize,
    edges: impl Iterator<Item = usize>,
) -> Option<HashSet<Choice>> {
    let node = &context.definition.nodes[fork];
    let exclusive = node.kind() == Some(NodeKind::Decision) && node.text_field("mode") != Some("all");
    let conditions = condition_ids(node);
    let mut choices = HashSet::new();
    for place in edges {
        let edge = context.edge(place);
        choices.insert(match edge.kind()? {
            EdgeKind::Always => return None,
            EdgeKind::Failure => Choice::Failure,
            EdgeKind::Default | EdgeKind::Success if exclusive => match owner(edge, &conditions) {
                Some(id) => Choice::Condition(id.to_owned()),
                None => Choice::Edge(place),
            },
            EdgeKind::Default | EdgeKind::Success => Choice::Success,
        });
    }
    Some(choices)
}
