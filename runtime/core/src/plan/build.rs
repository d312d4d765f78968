//! Builds a [`Plan`] from a definition that the validator accepts.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;

use crate::definition::{
    COMPENSATION_KINDS, EdgeKind, LateArrivals, Node, NodeKind, OnFailure, OnUnsatisfied, Setting, Settings,
    WorkflowDefinition, WorkflowEdge, is_template,
};
use crate::graph::LoopForest;
use crate::id::{EdgeIx, LoopIx, NodeIx, NodeKey, WorkflowId};
use crate::value::{Json, Value};

use super::{CoreMutants, Decision, Join, LOOP_DEPTH_MAX, Plan, PlanEdge, PlanLoop, PlanNode, PlanSettings, Trigger};

/// Attempt timeout of a node that runs in process and names none, in milliseconds.
const ATTEMPT_TIMEOUT_DEFAULT_MS: u64 = 30_000;
/// For how long an output may be reused where the definition does not say, in milliseconds.
const CACHE_TTL_DEFAULT_MS: u64 = 3_600_000;
/// Generations of a loop whose header names no limit.
const ITERATIONS_MAX_DEFAULT: u64 = 1_000;

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
    /// The graph has a cycle with several entries, or with none.
    #[error("node `{0}` is on a cycle that has not one entry, or behind one")]
    Cycle(String),
    /// Loops nest too deep.
    #[error("the loop of node `{0}` is nested too deep")]
    LoopDepth(String),
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
        for (place, (node, written)) in nodes.iter_mut().zip(&definition.nodes).enumerate() {
            let from_elsewhere = |edge: &EdgeIx| edges[edge.at()].source.at() != place;
            if node.kind == NodeKind::Webhook && node.incoming.iter().any(from_elsewhere) {
                // It waits for a call; as a root it starts executions.
                node.trigger = None;
            }
            if node.kind == NodeKind::Decision {
                node.decision = Some(plan_decision(node, written, definition, &mut edges));
            }
        }
        // An edge that leads back to its own node makes no other one of it.
        let from_elsewhere = |(place, node): (usize, &PlanNode)| {
            let from_itself = |edge: &EdgeIx| edges[edge.at()].source.at() == place;
            !node.incoming.iter().all(from_itself)
        };
        let places = |wanted: &dyn Fn((usize, &PlanNode)) -> bool| {
            let found = nodes.iter().enumerate().filter(|node| wanted(*node));
            found
                .map(|(place, _)| index(place).map(NodeIx))
                .collect::<Result<Vec<_>, _>>()
        };
        let (roots, leaves) = (
            places(&|node| !from_elsewhere(node))?,
            places(&|(_, node)| node.outgoing.is_empty())?,
        );
        let settings = definition.settings().map_err(|problems| invalid(&problems))?;
        let compensations = if settings.compensate {
            plan_compensations(&mut nodes, definition)?
        } else {
            Vec::new()
        };
        let mut plan = Self {
            workflow: definition.id.as_str().into(),
            version: definition.version,
            name: definition.name.clone(),
            tags: definition.metadata.tags.clone(),
            settings: plan_settings(settings),
            roots,
            leaves,
            nodes,
            edges,
            compensations,
            loops: Vec::new(),
            mutants: CoreMutants::default(),
            by_key,
        };
        plan.find_loops()?;
        plan.rank();
        Ok(plan)
    }

    /// Longest ways, in topological order of the edges that are no back edges (Kahn 1962).
    fn rank(&mut self) {
        let mut missing: Vec<u32> = self.nodes.iter().map(|node| node.entries).collect();
        let mut order: Vec<NodeIx> = self.roots.clone();
        let mut next = 0;
        while let Some(&at) = order.get(next) {
            next += 1;
            for edge in self.nodes[at.at()].outgoing.clone() {
                if self.is_back_edge(edge) {
                    continue;
                }
                let target = self.edge(edge).target;
                self.nodes[target.at()].depth = self.nodes[target.at()].depth.max(self.nodes[at.at()].depth + 1);
                missing[target.at()] -= 1;
                if missing[target.at()] == 0 {
                    order.push(target);
                }
            }
        }
        for at in order.into_iter().rev() {
            let ways = self.nodes[at.at()]
                .outgoing
                .iter()
                .filter(|edge| !self.is_back_edge(**edge));
            let longest = ways
                .map(|edge| self.node(self.edge(*edge).target).criticality + 1)
                .max();
            self.nodes[at.at()].criticality = longest.unwrap_or(0);
        }
    }

    fn find_loops(&mut self) -> Result<(), PlanError> {
        let ends: Vec<(u32, u32)> = self.edges.iter().map(|edge| (edge.source.0, edge.target.0)).collect();
        let roots: Vec<u32> = self.roots.iter().map(|root| root.0).collect();
        let forest = LoopForest::new(self.nodes.len(), &ends, &roots);
        let door = forest.irreducible.first().map(|(door, _)| *door as usize);
        if let Some(at) = door.or_else(|| forest.reached.iter().position(|reached| !reached)) {
            return Err(PlanError::Cycle(self.nodes[at].key.to_string()));
        }
        let mut depths: Vec<usize> = Vec::with_capacity(forest.loops.len());
        for found in &forest.loops {
            let header = &self.nodes[found.header as usize];
            let depth = found.parent.map_or(1, |parent| depths[parent as usize] + 1);
            if depth > LOOP_DEPTH_MAX {
                return Err(PlanError::LoopDepth(header.key.to_string()));
            }
            depths.push(depth);
            let written = header.data.get("maxIterations").and_then(JsonValue::as_u64);
            self.loops.push(PlanLoop {
                header: NodeIx(found.header),
                parent: found.parent.map(LoopIx),
                nodes: Vec::new(),
                edges: Vec::new(),
                iterations_max: written.unwrap_or(ITERATIONS_MAX_DEFAULT),
            });
        }
        for (place, innermost) in (0..).zip(forest.innermost) {
            self.nodes[place as usize].within = innermost.map(LoopIx);
            let mut at = innermost.map(LoopIx);
            while let Some(ix) = at {
                self.loops[ix.at()].nodes.push(NodeIx(place));
                at = self.loops[ix.at()].parent;
            }
        }
        for (place, (source, target)) in (0..).zip(ends) {
            if !self.is_back_edge(EdgeIx(place)) {
                self.nodes[target as usize].entries += 1;
            }
            let mut at = self.nodes[source as usize].within;
            while let Some(ix) = at {
                if self.holds(ix, NodeIx(target)) {
                    self.loops[ix.at()].edges.push(EdgeIx(place));
                }
                at = self.loops[ix.at()].parent;
            }
        }
        Ok(())
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
    let mut cancels = Vec::new();
    for key in node
        .field("cancels")
        .and_then(JsonValue::as_array)
        .into_iter()
        .flatten()
    {
        let ix = key.as_str().and_then(|key| by_key.get(key));
        cancels.push(*ix.ok_or_else(|| PlanError::Invalid(format!("unknown node {key} to cancel")))?);
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
            cancels_late: join.late_arrivals == LateArrivals::Cancel,
            timeout: join.timeout_ms.map(|ms| (ms, join.on_timeout)),
        },
        retry: node.retry().map_err(|problems| invalid(&problems))?.unwrap_or_default(),
        wait_timeout_ms: fixed(&timeouts.attempt_ms),
        heartbeat_timeout_ms: fixed(&timeouts.heartbeat_ms),
        attempt_timeout_ms: fixed(&timeouts.attempt_ms).unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS),
        queue_timeout_ms: fixed(&timeouts.queue_ms),
        total_timeout_ms: fixed(&timeouts.total_ms),
        prepares: present("inputMapping") || delay_expression || has_template(kind, &data),
        maps_input: present("inputMapping"),
        checks_input: present("inputSchema"),
        checks_output: present("outputSchema"),
        replaces_output: present("output"),
        maps_output: present("outputMapping"),
        checks_payload: present("payloadSchema"),
        transforms_call: present("transformationTemplate"),
        decision: None,
        first_failure_edge_only: data.get("errorMode").and_then(JsonValue::as_str) == Some("first"),
        trigger: plan_trigger(kind, &data),
        within: None,
        entries: 0,
        depth: 0,
        criticality: 0,
        cancels,
        cache_ttl_ms: cache_ttl_ms(kind, &data),
        concurrency: node.concurrency().map_err(|problems| invalid(&problems))?.map(Box::new),
        compensation: None,
        data,
    })
}

/// For how long outputs of a node with attempts may be reused, where it says so.
fn cache_ttl_ms(kind: NodeKind, data: &serde_json::Map<String, JsonValue>) -> Option<u64> {
    let cache = data.get("cache").filter(|_| kind.has_attempts())?;
    cache.get("key").filter(|key| !key.is_null())?;
    let whole = |ttl: &JsonValue| ttl.as_u64().or_else(|| ttl.as_f64().map(|ms| ms as u64));
    Some(cache.get("ttl").and_then(whole).unwrap_or(CACHE_TTL_DEFAULT_MS))
}

/// What undoes the nodes: each a node without edges, behind them all.
fn plan_compensations(nodes: &mut [PlanNode], definition: &WorkflowDefinition) -> Result<Vec<PlanNode>, PlanError> {
    let mut compensations = Vec::new();
    let count = nodes.len();
    for (node, written) in nodes.iter_mut().zip(&definition.nodes) {
        let Some(compensation) = written.compensation() else {
            continue;
        };
        let planned = plan_node(&compensation, &BTreeMap::new())?;
        if !COMPENSATION_KINDS.contains(&planned.kind) {
            let message = format!("a node of type `{}` undoes nothing", planned.kind.as_str());
            return Err(PlanError::Invalid(message));
        }
        node.compensation = Some(NodeIx(index(count + compensations.len())?));
        compensations.push(planned);
    }
    Ok(compensations)
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
fn has_template(kind: NodeKind, data: &serde_json::Map<String, JsonValue>) -> bool {
    let code = [
        "compensation",
        "functionCode",
        "template",
        "transformationTemplate",
        "inputSchema",
        "outputSchema",
        "payloadSchema",
        "correlationKey",
    ];
    // Fields of one type of node that other types may have for something else.
    let of_kind: &[&str] = match kind {
        NodeKind::ForEach | NodeKind::Loop => &["body", "items", "while"],
        NodeKind::Webhook => &["secret"],
        _ => &[],
    };
    let mut open: Vec<&JsonValue> = data
        .iter()
        .filter(|(name, _)| !code.contains(&name.as_str()) && !of_kind.contains(&name.as_str()))
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
        compensates: settings.compensate,
        error_workflow: settings.error_workflow.map(WorkflowId::from),
        parallel_nodes_max: settings.max_parallel_nodes,
        concurrency: settings.concurrency,
        events: settings.events,
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
    fn what_is_a_template_depends_on_the_node() {
        let prepares = |kind: &str, data: JsonValue| {
            let node = json!({"id": "n", "type": kind, "data": data});
            let definition = json!({"id": "w", "nodes": [node], "edges": []});
            Plan::build(&serde_json::from_value(definition).unwrap()).unwrap().nodes[0].prepares
        };
        let body = json!({"url": "https://a.test", "body": {"a": "{{ input.a }}"}});
        assert!(prepares("http", body.clone()));
        assert!(!prepares("forEach", body));
        assert!(!prepares("webhook", json!({"secret": "{{ secrets.KEY }}"})));
    }

    #[test]
    fn a_cycle_has_one_entry() {
        assert_eq!(built(2, &[(0, 0), (0, 1)]).unwrap().loops.len(), 1);
        assert_eq!(built(4, &[(0, 1), (1, 2), (2, 1), (2, 3)]).unwrap().loops.len(), 1);
        let unentered = built(4, &[(3, 0), (1, 2), (2, 1)]).unwrap_err();
        assert_eq!(unentered, PlanError::Cycle("n1".to_owned()));
        let doors = built(4, &[(0, 1), (0, 2), (1, 2), (2, 1), (2, 3)]).unwrap_err();
        assert!(matches!(doors, PlanError::Cycle(_)), "{doors:?}");
    }

    #[test]
    fn a_loop_holds_its_nodes_and_those_of_inner_loops() {
        let plan = built(5, &[(0, 1), (1, 2), (2, 2), (2, 3), (3, 1), (3, 4)]).unwrap();
        let [outer, inner] = plan.loops.as_slice() else {
            panic!("{:?}", plan.loops)
        };
        assert_eq!((outer.header, outer.parent), (NodeIx(1), None));
        assert_eq!((inner.header, inner.parent), (NodeIx(2), Some(LoopIx(0))));
        assert_eq!(outer.nodes, [NodeIx(1), NodeIx(2), NodeIx(3)]);
        assert_eq!(outer.edges, [EdgeIx(1), EdgeIx(2), EdgeIx(3), EdgeIx(4)]);
        assert_eq!(
            (inner.nodes.as_slice(), inner.edges.as_slice()),
            (&[NodeIx(2)][..], &[EdgeIx(2)][..])
        );
        let entries: Vec<u32> = plan.nodes.iter().map(|node| node.entries).collect();
        assert_eq!(entries, [0, 1, 1, 1, 1]);
        let ranks: Vec<(u32, u32)> = plan.nodes.iter().map(|node| (node.depth, node.criticality)).collect();
        assert_eq!(ranks, [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]);
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
