//! Builds a [`Plan`] from a definition that the validator accepts.

use std::collections::BTreeMap;

use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use serde_json::Value as JsonValue;

use crate::definition::{
    EdgeKind, Node, NodeKind, OnFailure, OnUnsatisfied, Setting, Settings, WorkflowDefinition, WorkflowEdge,
    is_template,
};
use crate::id::{EdgeIx, NodeIx, NodeKey};
use crate::value::{Json, Value};

use super::{Decision, Join, Plan, PlanEdge, PlanNode, PlanSettings, Trigger};

/// Attempt timeout of a node that runs in process and names none, in milliseconds.
const ATTEMPT_TIMEOUT_DEFAULT_MS: u64 = 30_000;

/// Why a definition gives no plan. The validator reports the same, and more, with positions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two nodes share an id.
    #[error("two nodes have the id `{0}`")]
    DuplicateNode(String),
    /// A node's type is unknown.
    #[error("node `{0}` has an unknown type")]
    UnknownType(String),
    /// An edge names a node that is none.
    #[error("edge `{0}` has an unknown end")]
    UnknownEnd(String),
    /// The graph has a cycle.
    #[error("node `{0}` is on a cycle")]
    Cycle(String),
    /// A section has the wrong shape.
    #[error("{0}")]
    Invalid(String),
    /// More nodes or edges than an index counts.
    #[error("the graph is too large")]
    TooLarge,
}

impl Plan {
    /// Builds the plan of a definition.
    ///
    /// # Errors
    /// [`PlanError`] where the validator would have refused the definition.
    pub fn build(definition: &WorkflowDefinition) -> Result<Self, PlanError> {
        let mut by_key = BTreeMap::new();
        for (place, node) in definition.nodes.iter().enumerate() {
            let key = NodeKey::from(node.id.as_str());
            if by_key.insert(key, NodeIx(index(place)?)).is_some() {
                return Err(PlanError::DuplicateNode(node.id.clone()));
            }
        }
        let mut nodes = definition
            .nodes
            .iter()
            .map(|node| plan_node(node, &by_key))
            .collect::<Result<Vec<_>, _>>()?;
        let mut edges = Vec::with_capacity(definition.edges.len());
        for (place, edge) in definition.edges.iter().enumerate() {
            let planned = plan_edge(edge, &by_key)?;
            let ix = EdgeIx(index(place)?);
            nodes[planned.source.at()].outgoing.push(ix);
            nodes[planned.target.at()].incoming.push(ix);
            edges.push(planned);
        }
        for (node, written) in nodes.iter_mut().zip(&definition.nodes) {
            if node.kind == NodeKind::Decision {
                node.decision = Some(plan_decision(node, written, definition, &mut edges));
            }
        }
        let pick = |wanted: fn(&PlanNode) -> bool| {
            let places = nodes.iter().enumerate().filter(move |(_, node)| wanted(node));
            places
                .map(|(place, _)| index(place).map(NodeIx))
                .collect::<Result<Vec<_>, _>>()
        };
        let (roots, leaves) = (
            pick(|node| node.incoming.is_empty())?,
            pick(|node| node.outgoing.is_empty())?,
        );
        let settings = definition.settings().map_err(|problems| invalid(&problems))?;
        let plan = Self {
            workflow: definition.id.as_str().into(),
            version: definition.version,
            settings: plan_settings(settings),
            roots,
            leaves,
            nodes,
            edges,
            by_key,
        };
        plan.refuse_cycles()?;
        Ok(plan)
    }

    fn refuse_cycles(&self) -> Result<(), PlanError> {
        let ends = self.edges.iter().map(|edge| (edge.source.0, edge.target.0));
        match toposort(&DiGraph::<(), ()>::from_edges(ends), None) {
            Ok(_) => Ok(()),
            Err(cycle) => Err(PlanError::Cycle(self.nodes[cycle.node_id().index()].key.to_string())),
        }
    }
}

fn index(place: usize) -> Result<u32, PlanError> {
    // Transitions keep five bits for the verb.
    u32::try_from(place)
        .ok()
        .filter(|ix| *ix < 1 << 27)
        .ok_or(PlanError::TooLarge)
}

fn invalid(problems: &[crate::definition::Diagnostic]) -> PlanError {
    PlanError::Invalid(
        problems
            .first()
            .map(|problem| problem.message.clone())
            .unwrap_or_default(),
    )
}

fn plan_node(node: &Node, by_key: &BTreeMap<NodeKey, NodeIx>) -> Result<PlanNode, PlanError> {
    let kind = node.kind().ok_or_else(|| PlanError::UnknownType(node.id.clone()))?;
    let join = node.join().map_err(|problems| invalid(&problems))?;
    let mut required = Vec::with_capacity(join.required.len());
    for key in &join.required {
        let ix = by_key
            .get(key.as_str())
            .ok_or_else(|| PlanError::Invalid(format!("unknown required node `{key}`")))?;
        required.push(*ix);
    }
    let timeouts = node.timeouts().map_err(|problems| invalid(&problems))?;
    let fixed = |setting: &Option<Setting<u64>>| setting.as_ref().and_then(|setting| setting.fixed().copied());
    let data = folded_data(node);
    let present = |name: &str| data.get(name).is_some_and(|value| !value.is_null());
    let delay_expression =
        kind == NodeKind::Delay && data.get("delayType").and_then(JsonValue::as_str) == Some("expression");
    Ok(PlanNode {
        key: node.id.as_str().into(),
        kind,
        incoming: Vec::new(),
        outgoing: Vec::new(),
        join: Join {
            mode: join.mode,
            required,
            fails_unsatisfied: join.on_unsatisfied == OnUnsatisfied::Fail,
            timeout: join.timeout_ms.map(|ms| (ms, join.on_timeout)),
        },
        retry: node.retry().map_err(|problems| invalid(&problems))?.unwrap_or_default(),
        attempt_timeout_ms: fixed(&timeouts.attempt_ms).unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS),
        total_timeout_ms: fixed(&timeouts.total_ms),
        prepares: present("inputMapping") || delay_expression || has_template(&data),
        maps_input: present("inputMapping"),
        checks_input: present("inputSchema"),
        checks_output: present("outputSchema"),
        replaces_output: present("output") && kind != NodeKind::End,
        maps_output: present("outputMapping"),
        decision: None,
        first_failure_edge_only: data.get("errorMode").and_then(JsonValue::as_str) == Some("first"),
        trigger: plan_trigger(kind, &data),
        data,
    })
}

/// The node's data with `taskDefinition` folded in, and its `config` where that holds fields; direct fields win. Its `type`
/// and `name` say what the task is to whoever wrote it.
fn folded_data(node: &Node) -> serde_json::Map<String, JsonValue> {
    let mut data = node.data.clone();
    let [_, task, config] = node.sources();
    let Some(task) = task else { return data };
    data.shift_remove("taskDefinition");
    let describes = |name: &str| matches!(name, "type" | "name") || (name == "config" && config.is_some());
    let of_task = task.iter().filter(|(name, _)| !describes(name));
    for (name, value) in of_task.chain(config.into_iter().flatten()) {
        let slot = data.entry(name).or_insert(JsonValue::Null);
        if slot.is_null() {
            *slot = value.clone();
        }
    }
    data
}

/// Whether any string outside code and expressions holds a template. Iterative: data may nest deeply.
fn has_template(data: &serde_json::Map<String, JsonValue>) -> bool {
    let code = [
        "functionCode",
        "template",
        "transformationTemplate",
        "inputSchema",
        "outputSchema",
        "payloadSchema",
    ];
    let mut open: Vec<&JsonValue> = data
        .iter()
        .filter(|(name, _)| !code.contains(&name.as_str()))
        .map(|(_, value)| value)
        .collect();
    while let Some(value) = open.pop() {
        match value {
            JsonValue::String(text) if is_template(text) || text.contains("{{") => return true,
            JsonValue::Array(items) => open.extend(items),
            JsonValue::Object(fields) => open.extend(fields.values()),
            JsonValue::String(_) | JsonValue::Null | JsonValue::Bool(_) | JsonValue::Number(_) => {}
        }
    }
    false
}

fn plan_trigger(kind: NodeKind, data: &serde_json::Map<String, JsonValue>) -> Option<Trigger> {
    match kind {
        NodeKind::Webhook => Some(Trigger::Webhook),
        NodeKind::Trigger => Some(match data.get("triggerType").and_then(JsonValue::as_str) {
            Some("scheduled") => Trigger::Scheduled,
            Some("event") => Trigger::Event,
            Some("api") => Trigger::Api,
            _ => Trigger::Manual,
        }),
        NodeKind::Function
        | NodeKind::Http
        | NodeKind::Decision
        | NodeKind::Delay
        | NodeKind::Transformation
        | NodeKind::Custom
        | NodeKind::Subworkflow
        | NodeKind::ForEach
        | NodeKind::Loop
        | NodeKind::Database
        | NodeKind::Publish
        | NodeKind::End => None,
    }
}

fn plan_edge(edge: &WorkflowEdge, by_key: &BTreeMap<NodeKey, NodeIx>) -> Result<PlanEdge, PlanError> {
    let end = |key: &str| {
        by_key
            .get(key)
            .copied()
            .ok_or_else(|| PlanError::UnknownEnd(edge.id.clone()))
    };
    Ok(PlanEdge {
        id: edge.id.clone(),
        source: end(&edge.source)?,
        target: end(&edge.target)?,
        kind: edge
            .kind()
            .ok_or_else(|| PlanError::Invalid(format!("edge `{}` has an unknown type", edge.id)))?,
        condition: edge.condition.clone().filter(|condition| !condition.trim().is_empty()),
        errors: edge.errors.clone().unwrap_or_default(),
    })
}

/// Which edges belong to which condition. An edge's `condition` that is a condition's id is no expression; another one
/// must hold besides the condition that the edge belongs to.
fn plan_decision(node: &PlanNode, written: &Node, definition: &WorkflowDefinition, edges: &mut [PlanEdge]) -> Decision {
    let text = |value: &JsonValue, name: &str| value.get(name).and_then(JsonValue::as_str).map(str::to_owned);
    let listed = written
        .field("conditions")
        .and_then(JsonValue::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ids: Vec<String> = listed
        .iter()
        .map(|condition| text(condition, "id").unwrap_or_default())
        .collect();
    let mut decision = Decision {
        inclusive: written.text_field("mode") == Some("all"),
        conditions: listed
            .iter()
            .map(|item| (text(item, "expression").unwrap_or_default(), Vec::new()))
            .collect(),
        ..Decision::default()
    };
    let default = written.text_field("defaultPath");
    for ix in &node.outgoing {
        let edge = &definition.edges[ix.at()];
        match edges[ix.at()].kind {
            EdgeKind::Failure | EdgeKind::Always => continue,
            EdgeKind::Default | EdgeKind::Success => {}
        }
        let place = |name: &str| ids.iter().position(|id| id == name);
        let owner = edge.owner(|name| place(name).is_some()).and_then(place);
        if let Some(place) = owner {
            decision.conditions[place].1.push(*ix);
        } else if edges[ix.at()].condition.is_some() {
            decision.own.push(*ix);
        }
        if edge.condition.as_ref().is_some_and(|condition| ids.contains(condition)) {
            edges[ix.at()].condition = None;
        }
        let is_default =
            |name: &str| name == edge.id || name == edge.target || owner.is_some_and(|place| ids[place] == name);
        if default.is_some_and(is_default) {
            decision.default.push(*ix);
        }
    }
    decision
}

fn plan_settings(settings: Settings) -> PlanSettings {
    PlanSettings {
        timeout_ms: settings.timeout_ms,
        priority: settings.priority,
        continues_on_failure: settings.on_failure == OnFailure::Continue,
        output: settings.output,
        input_schema: settings.input_schema.as_ref().map(Json::of),
        variables: settings
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.clone())))
            .collect(),
        parallel_nodes_max: settings.max_parallel_nodes,
        retention_completed_ms: settings.retention.completed_ms,
        retention_failed_ms: settings.retention.failed_ms,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn built(count: u32, ends: &[(u32, u32)]) -> Result<Plan, PlanError> {
        let nodes: Vec<JsonValue> = (0..count)
            .map(|at| json!({"id": format!("n{at}"), "type": "function"}))
            .collect();
        let edges: Vec<JsonValue> = ends
            .iter()
            .map(|(from, to)| json!({"source": format!("n{from}"), "target": format!("n{to}")}))
            .collect();
        Plan::build(&serde_json::from_value(json!({"id": "w", "nodes": nodes, "edges": edges})).unwrap())
    }

    #[test]
    fn a_node_on_a_cycle_is_named_not_one_behind_it() {
        let refused = |ends| built(4, ends).unwrap_err();
        assert_eq!(refused(&[(2, 2), (2, 0)]), PlanError::Cycle("n2".to_owned()));
        let between = refused(&[(3, 1), (1, 2), (2, 1), (2, 0)]);
        assert!(
            matches!(&between, PlanError::Cycle(named) if named == "n1" || named == "n2"),
            "{between:?}"
        );
        assert!(built(4, &[(3, 1), (1, 2), (3, 2), (2, 0), (2, 0)]).is_ok());
    }

    #[test]
    fn a_task_definition_and_its_config_are_folded_into_the_data() {
        let folded = |kind: &str, data: JsonValue| {
            let definition = json!({"id": "w", "nodes": [{"id": "a", "type": kind, "data": data}], "edges": []});
            let plan = Plan::build(&serde_json::from_value(definition).unwrap()).unwrap();
            (
                JsonValue::Object(plan.nodes[0].data.clone()),
                plan.nodes[0].attempt_timeout_ms,
            )
        };
        let task = json!({
            "type": "http", "name": "call", "timeout": 7,
            "config": {"url": "https://a.test", "method": "GET", "timeout": 8, "headers": {"x": "1"}},
        });
        let data = json!({"method": "PUT", "headers": null, "taskDefinition": task});
        let expected = json!({"url": "https://a.test", "method": "PUT", "timeout": 7, "headers": {"x": "1"}});
        assert_eq!(folded("http", data), (expected, 7));
        let task = json!({"handlerId": "h", "inputMapping": {"a": "input"}, "config": {"timeout": 8}});
        let expected = json!({"handlerId": "h", "inputMapping": {"a": "input"}, "config": {"timeout": 8}});
        let default = ATTEMPT_TIMEOUT_DEFAULT_MS;
        assert_eq!(folded("function", json!({"taskDefinition": task})), (expected, default));
        let task = json!({"taskDefinition": {"config": {"cron": "* * * * *"}}});
        assert_eq!(folded("trigger", task).0, json!({"config": {"cron": "* * * * *"}}));
        assert_eq!(
            folded("function", json!({"taskDefinition": 5})).0,
            json!({"taskDefinition": 5})
        );
    }

    #[test]
    fn a_long_chain_is_planned_without_recursion() {
        let ends: Vec<(u32, u32)> = (1..30_000).map(|at| (at - 1, at)).collect();
        assert!(built(30_000, &ends).is_ok());
    }
}
