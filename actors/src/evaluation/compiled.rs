//! A plan with everything that needs a language compiled once.

use std::sync::{Arc, OnceLock};

use troupe_core::definition::NodeKind;
use troupe_core::execution::{Answer, Entry, ExecutionState, Question, Scope, Verb};
use troupe_core::lifecycle::{self, LifecycleEvent};
use troupe_core::plan::{Plan, PlanNode};
use troupe_core::{BlobRef, EdgeIx, ErrorInfo, ExecutionId, Json, KeySpace, NodeIx, Timestamp, Value};
use troupe_lang::schema::{Schema, SchemaViolation};
use troupe_lang::template::{DataTemplate, Jinja};
use troupe_lang::{Expression, Names, Uses};
use troupe_telemetry::{EngineMetrics, WorkflowMetrics};

use super::payload::EventPayload;
use super::reuse::CacheKey;
use super::running::RunningAttempts;
use super::{EXPRESSION_ERROR, LiveEvaluator, NoScope, NoValue, part, scope, uses};
use crate::blobs::Contents;
use crate::resume::ResumeLinks;

/// Fields that nobody reads from resolved data: the plan or the compiled form has them. They would only cost log.
const PLAN_ONLY: [&str; 16] = [
    "compensation",
    "functionCode",
    "inputMapping",
    "outputMapping",
    "output",
    "inputSchema",
    "outputSchema",
    "payloadSchema",
    "transformationTemplate",
    "correlationKey",
    "retryPolicy",
    "taskDefinition",
    "join",
    "conditions",
    "concurrency",
    "metadata",
];
/// The same of nodes with children; elsewhere a field of such a name is one like any other, such as the body of a request.
const CHILDREN_ONLY: [&str; 3] = ["items", "while", "body"];

/// What a node that takes calls makes of one.
const CALL_TEMPLATE: &str = "transformationTemplate";
/// Characters that a message shows of a value of the wrong type.
const GIVEN_CHARS_SHOWN: usize = 100;

/// An executable workflow version with its expressions, templates and schemas.
#[derive(Debug)]
pub struct CompiledPlan {
    /// The plan.
    pub plan: Arc<Plan>,
    shards: u16,
    output: Option<Expression>,
    room_key: Option<Expression>,
    input_schema: Option<Schema>,
    payload: Option<EventPayload>,
    nodes: Vec<CompiledNode>,
    edges: Vec<Option<Expression>>,
    metrics: OnceLock<Arc<WorkflowMetrics>>,
    running: Arc<RunningAttempts>,
    pub(super) resume_links: Option<Arc<ResumeLinks>>,
}

/// What a node evaluates.
#[derive(Debug, Default)]
pub(super) struct CompiledNode {
    pub(super) input_mapping: Vec<(String, Expression)>,
    pub(super) output: Option<Expression>,
    pub(super) output_mapping: Vec<(String, Expression)>,
    pub(super) decision: Vec<Expression>,
    /// `items` of a `forEach`.
    pub(super) items: Option<Expression>,
    /// `while` of a `loop`.
    pub(super) holds_on: Option<Expression>,
    pub(super) concurrency_key: Option<Expression>,
    template: Option<Template>,
    delay: Option<Expression>,
    pub(super) input_schema: Option<Schema>,
    pub(super) output_schema: Option<Schema>,
    payload_schema: Option<Schema>,
    /// What it makes of a call.
    pub(super) call: Option<Template>,
    /// Under which key its outputs are reused.
    pub(super) cache: Option<CacheKey>,
    /// What the node's own expressions name while it runs.
    running: Option<Uses>,
}

#[derive(Debug)]
pub(super) struct Template {
    data: DataTemplate,
    uses: Uses,
}

impl CompiledPlan {
    /// Compiles everything a plan evaluates. `shards` is the deployment's number, for ids derived from keys.
    ///
    /// # Errors
    /// What cannot be compiled, for people; the validator refuses such definitions earlier, with a position.
    pub fn compile(plan: Arc<Plan>, shards: u16) -> Result<Self, String> {
        let nodes = plan.nodes.iter().chain(&plan.compensations);
        let nodes = nodes.map(|node| compile_node(&plan, node));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let edges = plan
            .edges
            .iter()
            .map(|edge| edge.condition.as_deref().map(expression).transpose());
        let edges = edges.collect::<Result<Vec<_>, _>>()?;
        let output = plan.settings.output.as_deref().map(expression).transpose()?;
        let room_key = plan
            .settings
            .concurrency
            .as_ref()
            .and_then(|limit| limit.key.as_deref());
        let room_key = room_key.map(expression).transpose()?;
        let input_schema = match &plan.settings.input_schema {
            Some(json) => Some(schema(&json.to_value().map_err(|error| error.to_string())?)?),
            None => None,
        };
        Ok(Self {
            shards,
            output,
            room_key,
            input_schema,
            payload: EventPayload::compile(&plan)?,
            nodes,
            edges,
            running: Arc::new(RunningAttempts::new(Arc::clone(&plan))),
            plan,
            metrics: OnceLock::new(),
            resume_links: None,
        })
    }

    /// Gives expressions the addresses of waiting nodes.
    #[must_use]
    pub fn with_resume_links(self, resume_links: Option<Arc<ResumeLinks>>) -> Self {
        Self { resume_links, ..self }
    }

    /// The events of an entry of an execution of it that are wanted, by their verb and by whether brokers publish them, as sinks
    /// publish them. A pure function.
    #[must_use]
    pub fn events(
        &self,
        id: ExecutionId,
        entry: &Entry,
        trace_parent: Option<&Arc<str>>,
        wanted: impl Fn(Verb, bool) -> bool,
    ) -> Vec<LifecycleEvent> {
        let mut events = lifecycle::derive_wanted(&self.plan, id, entry, wanted);
        if self.payload.is_none() && trace_parent.is_none() {
            return events;
        }
        for event in &mut events {
            let Some(mut outward) = event.outward.take() else {
                continue;
            };
            outward.payload = self.payload.as_ref().map(|payload| payload.of(&self.plan, event));
            outward.trace_parent = trace_parent.map(Arc::clone);
            event.outward = Some(outward);
        }
        events
    }

    /// Attempts of it that run.
    #[must_use]
    pub fn running(&self) -> &Arc<RunningAttempts> {
        &self.running
    }

    /// What counts for this workflow; looked up once.
    pub fn metrics(&self, engine: &EngineMetrics) -> &WorkflowMetrics {
        self.metrics
            .get_or_init(|| engine.workflow(self.plan.workflow.as_str()))
    }

    /// The execution that a key of this workflow gives.
    #[must_use]
    pub fn key_id(&self, space: KeySpace, key: &str, ordinal: u64) -> ExecutionId {
        ExecutionId::derived(self.shards, space, self.plan.workflow.as_str(), key, ordinal)
    }

    /// What the node's own expressions see while an attempt runs, beyond what a task carries anyway.
    ///
    /// # Errors
    /// Large values that are to be loaded first.
    pub fn scope_of_attempt(
        &self,
        ix: NodeIx,
        state: &ExecutionState,
        at: Timestamp,
        contents: &Contents,
    ) -> Result<Option<Json>, Vec<BlobRef>> {
        let Some(uses) = self.node(ix).running.as_ref() else {
            return Ok(None);
        };
        let scope = Scope {
            plan: &self.plan,
            state,
            node: Some(ix),
            input: None,
            output: None,
            error: None,
            at,
        };
        match scope::object(uses, &scope, self.resume_links.as_deref(), contents) {
            Ok(object) => Ok(Some(object)),
            Err(NoScope::Needs(blobs)) => Err(blobs),
            Err(NoScope::Unreadable(error)) => {
                // The expression sees `undefined` there, and its error names what is missing.
                tracing::warn!(id = %state.id, %ix, code = error.code, "part of an attempt's scope cannot be given");
                Ok(None)
            }
        }
    }

    pub(super) fn node(&self, ix: NodeIx) -> &CompiledNode {
        &self.nodes[ix.at()]
    }

    pub(super) fn condition(&self, ix: EdgeIx) -> Option<&Expression> {
        self.edges[ix.at()].as_ref()
    }

    pub(super) fn room_key(&self) -> Option<&Expression> {
        self.room_key.as_ref()
    }

    pub(super) fn output(&self) -> Option<&Expression> {
        self.output.as_ref()
    }

    pub(super) fn start_schema(&self) -> Option<&Schema> {
        self.input_schema.as_ref()
    }
}

/// Details of the violations, so that whoever sent the value can mend it.
fn violated(violation: &SchemaViolation) -> ErrorInfo {
    let message = violation.violations.first().map_or_else(String::new, |first| {
        let place = if first.pointer.is_empty() {
            "the value"
        } else {
            &first.pointer
        };
        format!("{place}: {}", first.message)
    });
    let details = violation.violations.iter().map(|violation| {
        serde_json::json!({
            "pointer": violation.pointer,
            "schemaPointer": violation.schema_pointer,
            "message": violation.message,
        })
    });
    let details = Json::of(&serde_json::json!({
        "violations": details.collect::<Vec<_>>(),
        "truncated": violation.is_truncated,
    }));
    ErrorInfo {
        details: Some(details),
        ..ErrorInfo::new(SchemaViolation::CODE, message)
    }
}

/// Whether a document meets a schema; none is null.
pub(super) fn check(schema: &Schema, document: Option<&Json>) -> Result<(), ErrorInfo> {
    let value = document.map_or(Ok(serde_json::Value::Null), Json::to_value);
    let value = value.map_err(|error| ErrorInfo::new(SchemaViolation::CODE, error.to_string()))?;
    schema.validate(&value).map_err(|violation| violated(&violation))
}

fn schema(source: &serde_json::Value) -> Result<Schema, String> {
    Schema::compile(source).map_err(|error| error.message)
}

fn expression(source: &str) -> Result<Expression, String> {
    Expression::compile(source).map_err(|error| format!("{source:?}: {}", error.message))
}

fn compile_node(plan: &Plan, node: &PlanNode) -> Result<CompiledNode, String> {
    let mapping = |name: &str| match node.data.get(name) {
        None | Some(serde_json::Value::Null) => Ok(Vec::new()),
        Some(serde_json::Value::Object(fields)) => fields
            .iter()
            .map(|(key, source)| match source {
                serde_json::Value::String(source) => Ok((key.clone(), expression(source)?)),
                constant => Ok((key.clone(), expression(&constant.to_string())?)),
            })
            .collect(),
        Some(_) => Err(format!("`{name}` of node `{}` is no object", node.key)),
    };
    let decision = node.decision.iter().flat_map(|decision| &decision.conditions);
    Ok(CompiledNode {
        input_mapping: mapping("inputMapping")?,
        output: if node.replaces_output {
            node.data
                .get("output")
                .and_then(serde_json::Value::as_str)
                .map(expression)
                .transpose()?
        } else {
            None
        },
        output_mapping: mapping("outputMapping")?,
        decision: decision
            .map(|(source, _)| expression(source))
            .collect::<Result<Vec<_>, _>>()?,
        items: own_expression(node, NodeKind::ForEach, "items")?,
        holds_on: own_expression(node, NodeKind::Loop, "while")?,
        concurrency_key: concurrency_key(node)?,
        template: if node.prepares { template(node)? } else { None },
        delay: delay(node)?,
        input_schema: node_schema(node, "inputSchema", node.checks_input)?,
        output_schema: node_schema(node, "outputSchema", node.checks_output)?,
        payload_schema: node_schema(node, "payloadSchema", node.checks_payload)?,
        call: call_template(node)?,
        cache: CacheKey::compile(plan, node)?,
        running: uses_while_running(node)?,
    })
}

/// An expression that nodes of one type have; a list or another constant stands for itself.
fn own_expression(node: &PlanNode, kind: NodeKind, name: &str) -> Result<Option<Expression>, String> {
    match node.data.get(name).filter(|_| node.kind == kind) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(source)) => expression(source).map(Some),
        Some(constant) => expression(&constant.to_string()).map(Some),
    }
}

fn concurrency_key(node: &PlanNode) -> Result<Option<Expression>, String> {
    let limit = node.concurrency.as_ref();
    limit.and_then(|limit| limit.key.as_deref()).map(expression).transpose()
}

/// A transformation evaluates its source, its expression or its template while it runs, over the whole scope.
fn uses_while_running(node: &PlanNode) -> Result<Option<Uses>, String> {
    if node.kind != NodeKind::Transformation {
        return Ok(None);
    }
    let mut uses = Uses::default();
    let config = node.data.get("transformationConfig");
    let written = |name: &str| config.and_then(|config| config.get(name)?.as_str());
    // A source with a template is resolved before.
    let source = written("source").filter(|source| !source.contains("{{"));
    for text in [source, written("expression")].into_iter().flatten() {
        uses.merge(expression(text)?.uses());
    }
    if let Some(source) = node.data.get("template").and_then(serde_json::Value::as_str) {
        let template = Jinja::compile(source).map_err(|error| format!("`template` of node `{}`: {error}", node.key))?;
        uses.merge(template.uses());
    }
    // The task carries these anyway.
    (uses.input, uses.variables) = (false, Names::None);
    Ok(Some(uses))
}

fn node_schema(node: &PlanNode, name: &str, used: bool) -> Result<Option<Schema>, String> {
    let source = node.data.get(name).filter(|_| used);
    source
        .map(|source| schema(source).map_err(|why| format!("`{name}` of node `{}`: {why}", node.key)))
        .transpose()
}

fn template(node: &PlanNode) -> Result<Option<Template>, String> {
    let has_children = matches!(node.kind, NodeKind::ForEach | NodeKind::Loop);
    let is_read = |name: &str| !(PLAN_ONLY.contains(&name) || has_children && CHILDREN_ONLY.contains(&name));
    let fields = node.data.iter().filter(|(name, _)| is_read(name));
    let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
    let data = DataTemplate::compile(&serde_json::Value::Object(fields.collect())).map_err(|errors| {
        let texts = errors
            .iter()
            .map(|(pointer, error)| format!("`{}{pointer}`: {}", node.key, error.message));
        texts.collect::<Vec<_>>().join("; ")
    })?;
    let uses = data.uses();
    Ok((!data.is_static() || node.kind == NodeKind::Delay).then_some(Template { data, uses }))
}

/// What a node that waits for a call makes of it.
fn call_template(node: &PlanNode) -> Result<Option<Template>, String> {
    let source = node.data.get(CALL_TEMPLATE).filter(|_| node.transforms_call);
    let Some(source) = source else { return Ok(None) };
    // Within its field: a member named like a field of expressions, such as `output`, is none.
    let data = DataTemplate::compile(&serde_json::json!({ CALL_TEMPLATE: source })).map_err(|errors| {
        let texts = errors
            .iter()
            .map(|(pointer, error)| format!("`{}{pointer}`: {}", node.key, error.message));
        texts.collect::<Vec<_>>().join("; ")
    })?;
    let uses = data.uses();
    Ok(Some(Template { data, uses }))
}

/// `delayValue` is an expression where `delayType` says so.
fn delay(node: &PlanNode) -> Result<Option<Expression>, String> {
    let text = |name: &str| node.data.get(name).and_then(serde_json::Value::as_str);
    if node.kind != NodeKind::Delay || text("delayType") != Some("expression") {
        return Ok(None);
    }
    match node.data.get("delayValue") {
        Some(serde_json::Value::String(source)) => expression(source).map(Some),
        Some(constant) => expression(&constant.to_string()).map(Some),
        None => Ok(None),
    }
}

/// A timeout that is a template must give milliseconds: the default would hide the mistake.
fn check_timeouts(written: &serde_json::Value, resolved: &serde_json::Value) -> Result<(), ErrorInfo> {
    for name in ["timeout", "queueTimeout", "totalTimeout", "heartbeatTimeout"] {
        let is_template = |text: &str| text.contains("{{");
        if !written
            .get(name)
            .and_then(serde_json::Value::as_str)
            .is_some_and(is_template)
        {
            continue;
        }
        let given = resolved.get(name).unwrap_or(&serde_json::Value::Null);
        if !given.as_f64().is_some_and(|ms| ms >= 0.0) {
            let shown: String = given.to_string().chars().take(GIVEN_CHARS_SHOWN).collect();
            let message = format!("`{name}` must give a number of milliseconds, it gave {shown}");
            return Err(ErrorInfo::new("NODE_DATA_INVALID", message));
        }
    }
    Ok(())
}

impl LiveEvaluator<'_> {
    /// `inputMapping`, then the templates over what it gave: that is the node's input. A compensation's see what its mapping
    /// sees.
    pub(super) fn prepare(&mut self, question: Question, ix: NodeIx, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let compiled = self.compiled;
        let node = compiled.node(ix);
        let mapping = &node.input_mapping;
        let mapped = self.all(question, mapping.iter().map(|(_, expression)| expression), scope)?;
        let input_of = |values: &[Value]| {
            let members = mapping.iter().zip(values);
            Value::object(members.map(|((name, _), value)| (name.as_str(), value)))
        };
        let is_compensation = ix.at() >= compiled.plan.nodes.len();
        let data = match &node.template {
            Some(template) => {
                let given = (!mapping.is_empty() && !is_compensation).then(|| {
                    let values: Vec<Value> = mapped.iter().cloned().map(Value::from).collect();
                    input_of(&values)
                });
                let seen = Scope {
                    input: given.as_ref().or(scope.input),
                    ..*scope
                };
                Some(self.data(question, mapping.len(), template, node.delay.as_ref(), &seen)?)
            }
            None => None,
        };
        let mapped = self.recorded_all(mapped, scope)?;
        let input = (!mapping.is_empty()).then(|| input_of(&mapped));
        let data = match data {
            Some(data) => Some(self.recorded_in_parts(Json::of(&data), scope)?),
            None => None,
        };
        Ok(Answer::Prepared { input, data })
    }

    /// Whether the body of a call meets the node's schema.
    pub(super) fn check_payload(&mut self, node: NodeIx, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let unreadable = |error: serde_json::Error| ErrorInfo::new(SchemaViolation::CODE, error.to_string());
        let schema = self.compiled.node(node).payload_schema.as_ref();
        if let (Some(schema), Some(call)) = (schema, scope.output) {
            let call = self.document(call)?.to_value().map_err(unreadable)?;
            check(schema, Some(&Json::of(&call["body"])))?;
        }
        Ok(Answer::Valid)
    }

    /// What a call's template gives.
    pub(super) fn of_call(&mut self, question: Question, node: NodeIx, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let missing = || ErrorInfo::new(EXPRESSION_ERROR, "the definition has no such template");
        let template = self.compiled.node(node).call.as_ref().ok_or_else(missing)?;
        let mut data = self.data(question, 0, template, None, scope)?;
        let made = Json::of(&data[CALL_TEMPLATE].take());
        Ok(Answer::Value(self.recorded(made, scope)?))
    }

    fn data(
        &mut self,
        question: Question,
        parts_before: usize,
        template: &Template,
        delay: Option<&Expression>,
        scope: &Scope<'_>,
    ) -> Result<serde_json::Value, NoValue> {
        let unreadable = |error: serde_json::Error| ErrorInfo::new(EXPRESSION_ERROR, error.to_string());
        let (_, sandbox) = uses(template.data.sandbox_sources());
        let (delay, mut data) = self.seeing((&template.uses, sandbox), scope, |evaluator, seen| {
            let mut answers = Vec::new();
            let mut pending = false;
            let mut parts = parts_before;
            for source in template.data.sandbox_sources() {
                match evaluator.sandboxed(part(question, parts), source, seen) {
                    Ok(answer) => answers.push(answer.to_value().map_err(unreadable)?),
                    Err(NoValue::Pending) => pending = true,
                    Err(threw) => return Err(threw),
                }
                parts += 1;
            }
            let delay = delay
                .map(|expression| evaluator.value(part(question, parts), expression, scope))
                .transpose()?;
            if pending {
                return Err(NoValue::Pending);
            }
            let data = template
                .data
                .evaluate(&seen.bound, &answers)
                .map_err(|error| ErrorInfo::new(error.code(), error.message()))?;
            Ok((delay, data))
        })?;
        check_timeouts(template.data.data(), &data)?;
        if let (Some(delay), Some(fields)) = (delay, data.as_object_mut()) {
            fields.insert("delayValue".into(), delay.to_value().map_err(unreadable)?);
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_transformation_is_given_what_its_source_names() {
        let of = |source: &str| {
            let config = json!({"source": source, "expression": "item"});
            let data = json!({"transformationType": "map", "transformationConfig": config});
            let definition = json!({
                "id": "w",
                "nodes": [{"id": "n", "type": "transformation", "data": data}],
                "edges": [],
            });
            let plan = Plan::build(&serde_json::from_value(definition).unwrap()).unwrap();
            let compiled = CompiledPlan::compile(Arc::new(plan), 1).unwrap();
            compiled.nodes[0].running.clone().unwrap()
        };
        let uses = of("trigger.on ? nodes.first.output : [execution.id]");
        assert!(
            uses.trigger && uses.execution && uses.nodes.contains("first"),
            "{uses:?}"
        );
        // What its template gave is a value, so nothing is evaluated while the node runs.
        assert!(of("{{ nodes.first.output }}").nodes.is_none());
    }
}
