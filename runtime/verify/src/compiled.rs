//! A plan as it is explored, with every expression taken apart.

use fixedbitset::FixedBitSet;
use serde_json::Value as JsonValue;
use troupe_core::definition::{EdgeKind, JoinMode, NodeKind, WorkflowDefinition};
use troupe_core::plan::{Plan, PlanEdge, PlanNode};
use troupe_core::{EdgeIx, NodeIx};
use troupe_lang::template::TextTemplate;
use troupe_lang::{Expression, Names, Outline, Uses};

use crate::VerifyError;

/// Fields whose strings are no templates that a node resolves when it starts.
const NO_TEMPLATES: [&str; 17] = [
    "functionCode",
    "inputMapping",
    "outputMapping",
    "output",
    "inputSchema",
    "outputSchema",
    "payloadSchema",
    "transformationTemplate",
    "transformationConfig",
    "correlationKey",
    "retryPolicy",
    "taskDefinition",
    "join",
    "conditions",
    "compensation",
    "metadata",
    "template",
];
/// The same of nodes with children.
const OF_CHILDREN: [&str; 3] = ["items", "while", "body"];

/// An expression of the definition.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) expression: Expression,
    pub(crate) outline: Outline,
}

impl Source {
    fn new(text: &str) -> Result<Self, VerifyError> {
        let expression = Expression::compile(text)
            .map_err(|error| VerifyError::Expression(format!("`{text}`: {}", error.message)))?;
        let outline = expression.outline();
        Ok(Self { expression, outline })
    }

    fn of_compiled(expression: &Expression) -> Self {
        Self {
            outline: expression.outline(),
            expression: expression.clone(),
        }
    }

    /// As its author wrote it.
    pub(crate) fn text(&self) -> &str {
        self.expression.source()
    }
}

/// What a node evaluates.
#[derive(Debug, Default)]
pub(crate) struct CompiledNode {
    pub(crate) input_mapping: Vec<(String, Source)>,
    pub(crate) output: Option<Source>,
    pub(crate) output_mapping: Vec<(String, Source)>,
    pub(crate) decision: Vec<Source>,
    pub(crate) delay: Option<Source>,
    /// Expressions in its templates.
    pub(crate) templates: Vec<Source>,
    /// What all of it may read while the node starts and ends, the conditions of its edges included.
    pub(crate) uses: Uses,
}

/// The plan, and what its expressions are.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// With a question at every start of a node, so that it is noticed, and without what needs no exploring.
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<CompiledNode>,
    pub(crate) edges: Vec<Option<Source>>,
    pub(crate) output: Option<Source>,
    /// From which `execution.iteration` on its exact value decides nothing; none where it always may.
    pub(crate) iterations_told_apart: Option<u64>,
    /// Whether an unhandled failure ends the execution at once: `failFast`, and no clean-up.
    pub(crate) failures_end: bool,
    /// Whether the author has chosen what a failure does.
    pub(crate) failures_chosen: bool,
    /// Nodes whose input, or something made of it, a condition may read.
    pub(crate) flows: FixedBitSet,
    /// Nodes whose status, output or error each node reads.
    pub(crate) reads: Vec<FixedBitSet>,
    /// By node: whether nothing but what reads it by name depends on how it has ended.
    pub(crate) is_done_when_ended: Vec<bool>,
    /// By edge: whether nothing depends on how it was resolved once its target has ended.
    pub(crate) is_done_when_resolved: Vec<bool>,
    /// By edge: whether its target only counts it.
    pub(crate) is_counted_only: Vec<bool>,
}

impl Compiled {
    pub(crate) fn new(definition: &WorkflowDefinition) -> Result<Self, VerifyError> {
        let mut plan = Plan::build(definition).map_err(VerifyError::Plan)?.without_aftermath();
        let edges = plan
            .edges
            .iter()
            .map(|edge| edge.condition.as_deref().map(Source::new).transpose());
        let edges = edges.collect::<Result<Vec<_>, _>>()?;
        let mut nodes = plan.nodes.iter().map(compile_node).collect::<Result<Vec<_>, _>>()?;
        for (place, node) in nodes.iter_mut().enumerate() {
            for edge in &plan.nodes[place].outgoing {
                if let Some(source) = &edges[edge.at()] {
                    node.uses.merge(source.expression.uses());
                }
            }
        }
        let output = plan.settings.output.as_deref().map(Source::new).transpose()?;
        for node in &mut plan.nodes {
            node.prepares = true;
            node.total_timeout_ms = None;
            if has_children(node.kind) {
                // From outside it is an attempt like others: an output or a failure, whenever the children give it.
                node.kind = NodeKind::Function;
            }
            let waits = node.kind == NodeKind::Webhook && node.trigger.is_none();
            if waits && node.data.get("timeout").is_some_and(JsonValue::is_string) {
                // Data gives it: the zone knows that it is not to be taken at its word.
                node.wait_timeout_ms = Some(1);
            }
        }
        let has_cleanup = plan.edges.iter().any(|edge| edge.kind == EdgeKind::Always);
        let chosen = |name: &str| definition.settings.get(name).is_some_and(|value| !value.is_null());
        let mut compiled = Self {
            failures_end: !plan.settings.continues_on_failure && !has_cleanup,
            failures_chosen: chosen("onFailure") || chosen("errorWorkflow"),
            flows: FixedBitSet::new(),
            reads: nodes.iter().map(|node| named_nodes(&node.uses.nodes, &plan)).collect(),
            is_done_when_ended: Vec::new(),
            is_done_when_resolved: Vec::new(),
            is_counted_only: Vec::new(),
            iterations_told_apart: None,
            plan,
            nodes,
            edges,
            output,
        };
        compiled.iterations_told_apart = compiled.iterations();
        compiled.flows = compiled.flows();
        compiled.find_done();
        Ok(compiled)
    }

    /// Loops visit nodes again, leaves tell what an execution has done, and clean-up follows edges backwards.
    fn find_done(&mut self) {
        let plan = &self.plan;
        let has_no_cleanup = self.failures_end || plan.settings.continues_on_failure;
        let of_output = self
            .output
            .as_ref()
            .map(|source| named_nodes(&source.expression.uses().nodes, plan));
        let is_read = |place: usize| of_output.as_ref().is_some_and(|named| named.contains(place));
        let is_outside = |place: usize| plan.nodes[place].within.is_none();
        let nodes =
            plan.nodes.iter().enumerate().map(|(place, node)| {
                has_no_cleanup && is_outside(place) && !node.outgoing.is_empty() && !is_read(place)
            });
        let of_edges = |wanted: &dyn Fn(usize) -> bool| -> Vec<bool> {
            let edges = plan.edges.iter();
            let outside = |edge: &PlanEdge| is_outside(edge.source.at()) && is_outside(edge.target.at());
            edges
                .map(|edge| has_no_cleanup && outside(edge) && wanted(edge.target.at()))
                .collect()
        };
        let counts = |target: usize| {
            let join = &plan.nodes[target].join;
            let waits = join.mode == JoinMode::All && join.required.is_empty() && join.timeout.is_none();
            waits && !self.flows.contains(target)
        };
        let (ended, resolved, counted) = (nodes.collect(), of_edges(&|_| true), of_edges(&counts));
        (
            self.is_done_when_ended,
            self.is_done_when_resolved,
            self.is_counted_only,
        ) = (ended, resolved, counted);
    }

    /// Every expression with an influence on what runs.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        let of_nodes = self.nodes.iter().flat_map(|node| {
            let mapped = node
                .input_mapping
                .iter()
                .chain(&node.output_mapping)
                .map(|(_, source)| source);
            mapped.chain(&node.output).chain(&node.decision).chain(&node.delay)
        });
        of_nodes.chain(self.edges.iter().flatten())
    }

    fn iterations(&self) -> Option<u64> {
        let mut most = 0;
        let exact = self.sources().filter(|source| source.expression.uses().execution);
        for source in exact {
            most = most.max(compared_iterations(&source.outline)?);
        }
        Some(most)
    }

    /// A node's input matters where it reads it, or passes it on to where something does.
    fn flows(&self) -> FixedBitSet {
        let plan = &self.plan;
        let mut flows = FixedBitSet::with_capacity(plan.nodes.len());
        let mut open = Vec::new();
        let is_named = |place: usize| self.reads.iter().any(|named| named.contains(place));
        for (place, node) in self.nodes.iter().enumerate() {
            // What passes its input on is read where its output is.
            let is_read = node.uses.output || is_named(place);
            if node.uses.input || (is_read && !plan.nodes[place].kind.has_attempts()) {
                open.push(place);
            }
        }
        while let Some(place) = open.pop() {
            if flows.put(place) {
                continue;
            }
            for edge in &plan.nodes[place].incoming {
                let edge = plan.edge(*edge);
                let source = &plan.nodes[edge.source.at()];
                let passes = !source.kind.has_attempts()
                    || matches!(edge.kind, EdgeKind::Failure | EdgeKind::Always)
                    || self.nodes[edge.source.at()]
                        .output
                        .as_ref()
                        .is_some_and(|output| output.expression.uses().input);
                if passes {
                    open.push(edge.source.at());
                }
            }
        }
        flows
    }

    /// The key of a node.
    pub(crate) fn key(&self, ix: NodeIx) -> &str {
        self.plan.node(ix).key.as_str()
    }

    /// An edge, for people.
    pub(crate) fn edge_name(&self, ix: EdgeIx) -> String {
        let edge = self.plan.edge(ix);
        format!("{} → {}", self.key(edge.source), self.key(edge.target))
    }

    /// Whether a failure of the node leads anywhere.
    pub(crate) fn failure_leads_on(&self, ix: NodeIx) -> bool {
        let leads = |edge: &EdgeIx| matches!(self.plan.edge(*edge).kind, EdgeKind::Failure | EdgeKind::Always);
        self.plan.node(ix).outgoing.iter().any(leads)
    }

    pub(crate) fn node_ixs(&self) -> impl Iterator<Item = NodeIx> + use<> {
        (0..u32::try_from(self.plan.nodes.len()).unwrap_or(u32::MAX)).map(NodeIx)
    }

    pub(crate) fn edge_ixs(&self) -> impl Iterator<Item = EdgeIx> + use<> {
        (0..u32::try_from(self.plan.edges.len()).unwrap_or(u32::MAX)).map(EdgeIx)
    }
}

fn has_children(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::Subworkflow | NodeKind::ForEach | NodeKind::Loop)
}

/// One more than the largest number that `execution.iteration` is compared with, if that is all that is done with it.
fn compared_iterations(outline: &Outline) -> Option<u64> {
    let all = |parts: &[&Outline]| {
        parts
            .iter()
            .try_fold(0, |most, part| Some(most.max(compared_iterations(part)?)))
    };
    match outline {
        Outline::Undefined | Outline::Constant(_) => Some(0),
        Outline::Path(path) if path.name != "execution" => Some(0),
        Outline::Path(path) => match path.members.first() {
            Some(member) if member.name != "iteration" => Some(0),
            Some(_) | None => None,
        },
        Outline::Not(operand) => compared_iterations(operand),
        Outline::And(parts) | Outline::Or(parts) | Outline::Coalesce(parts) => all(&[&parts.0, &parts.1]),
        Outline::Conditional(parts) => all(&[&parts.0, &parts.1, &parts.2]),
        Outline::Compare(_, parts) => match (&parts.0, &parts.1) {
            (Outline::Path(path), Outline::Constant(constant)) | (Outline::Constant(constant), Outline::Path(path))
                if path.name == "execution" && path.members.len() == 1 =>
            {
                constant.as_f64().map(|number| number.max(0.0) as u64 + 1)
            }
            (left, right) => all(&[left, right]),
        },
        Outline::Object(members) => members
            .iter()
            .try_fold(0, |most, (_, part)| Some(most.max(compared_iterations(part)?))),
        Outline::Closed(_) => None,
    }
}

fn compile_node(node: &PlanNode) -> Result<CompiledNode, VerifyError> {
    let mapping = |name: &str| match node.data.get(name) {
        Some(JsonValue::Object(fields)) => fields
            .iter()
            .map(|(key, source)| {
                let text = source.as_str().map_or_else(|| source.to_string(), str::to_owned);
                Ok((key.clone(), Source::new(&text)?))
            })
            .collect::<Result<Vec<_>, VerifyError>>(),
        Some(_) | None => Ok(Vec::new()),
    };
    let text = |name: &str| node.data.get(name).and_then(JsonValue::as_str);
    let output = text("output")
        .filter(|_| node.replaces_output)
        .map(Source::new)
        .transpose()?;
    let is_expression = node.kind == NodeKind::Delay && text("delayType") == Some("expression");
    let delay = match node.data.get("delayValue").filter(|_| is_expression) {
        Some(JsonValue::String(source)) => Some(Source::new(source)?),
        Some(constant) => Some(Source::new(&constant.to_string())?),
        None => None,
    };
    let conditions = node.decision.iter().flat_map(|decision| &decision.conditions);
    let mut compiled = CompiledNode {
        input_mapping: mapping("inputMapping")?,
        output,
        output_mapping: mapping("outputMapping")?,
        decision: conditions
            .map(|(source, _)| Source::new(source))
            .collect::<Result<_, _>>()?,
        delay,
        templates: templates(node),
        uses: Uses::default(),
    };
    let mapped = compiled
        .input_mapping
        .iter()
        .chain(&compiled.output_mapping)
        .map(|(_, source)| source);
    let all = mapped
        .chain(&compiled.output)
        .chain(&compiled.decision)
        .chain(&compiled.delay);
    let mut uses = Uses::default();
    all.chain(&compiled.templates)
        .for_each(|source| uses.merge(source.expression.uses()));
    compiled.uses = uses;
    Ok(compiled)
}

/// Templates that do not compile are the validator's matter.
fn templates(node: &PlanNode) -> Vec<Source> {
    let mut found = Vec::new();
    let of_children = |name: &str| has_children(node.kind) && OF_CHILDREN.contains(&name);
    let is_read = |name: &str| !NO_TEMPLATES.contains(&name) && !of_children(name);
    let fields = node.data.iter().filter(|(name, _)| is_read(name));
    let mut open: Vec<&JsonValue> = fields.map(|(_, value)| value).collect();
    while let Some(value) = open.pop() {
        match value {
            JsonValue::String(text) if text.contains("{{") => {
                let compiled = TextTemplate::compile(text).ok();
                found.extend(
                    compiled
                        .iter()
                        .flat_map(TextTemplate::expressions)
                        .map(Source::of_compiled),
                );
            }
            JsonValue::Array(items) => open.extend(items),
            JsonValue::Object(fields) => open.extend(fields.values()),
            JsonValue::String(_) | JsonValue::Null | JsonValue::Bool(_) | JsonValue::Number(_) => {}
        }
    }
    found
}

/// The members of `names` among the node keys of a plan.
pub(crate) fn named_nodes(names: &Names, plan: &Plan) -> FixedBitSet {
    let mut found = FixedBitSet::with_capacity(plan.nodes.len());
    match names {
        Names::None => {}
        Names::Some(names) => {
            found.extend(names.iter().filter_map(|name| plan.node_ix(name)).map(NodeIx::at));
        }
        Names::All => found.insert_range(..),
    }
    found
}
