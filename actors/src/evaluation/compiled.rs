//! A plan with everything that needs a language compiled once.

use std::sync::Arc;

use troupe_core::definition::WorkflowDefinition;
use troupe_core::execution::{Answer, Question, Scope};
use troupe_core::plan::Plan;
use troupe_core::{EdgeIx, ErrorInfo, ExecutionId, KeySpace, NodeIx, Value};
use troupe_lang::Expression;

use super::{LiveEvaluator, NoValue};

/// An executable workflow version with its expressions, templates and schemas.
#[derive(Debug)]
pub struct CompiledPlan {
    /// The plan.
    pub plan: Arc<Plan>,
    shards: u16,
    output: Option<Expression>,
    nodes: Vec<CompiledNode>,
    edges: Vec<Option<Expression>>,
}

/// What a node evaluates.
#[derive(Debug, Default)]
pub(super) struct CompiledNode {
    pub(super) input_mapping: Vec<(String, Expression)>,
    pub(super) output: Option<Expression>,
    pub(super) output_mapping: Vec<(String, Expression)>,
    pub(super) decision: Vec<Expression>,
}

impl CompiledPlan {
    /// Compiles everything a plan evaluates. `shards` is the deployment's number, for ids derived from keys.
    ///
    /// # Errors
    /// What cannot be compiled, for people; the validator refuses such definitions earlier, with a position.
    pub fn compile(plan: Arc<Plan>, definition: &WorkflowDefinition, shards: u16) -> Result<Self, String> {
        let _ = definition;
        let nodes = plan.nodes.iter().map(compile_node).collect::<Result<Vec<_>, _>>()?;
        let edges = plan.edges.iter().map(|edge| edge.condition.as_deref().map(expression).transpose());
        let edges = edges.collect::<Result<Vec<_>, _>>()?;
        let output = plan.settings.output.as_deref().map(expression).transpose()?;
        Ok(Self { shards, output, nodes, edges, plan })
    }

    /// The execution that a key of this workflow gives.
    #[must_use]
    pub fn key_id(&self, space: KeySpace, key: &str, ordinal: u64) -> ExecutionId {
        ExecutionId::derived(self.shards, space, self.plan.workflow.as_str(), key, ordinal)
    }

    pub(super) fn node(&self, ix: NodeIx) -> &CompiledNode {
        &self.nodes[ix.at()]
    }

    pub(super) fn condition(&self, ix: EdgeIx) -> Option<&Expression> {
        self.edges[ix.at()].as_ref()
    }

    pub(super) fn output(&self) -> Option<&Expression> {
        self.output.as_ref()
    }

    pub(super) fn check_start(&self, scope: &Scope<'_>) -> Result<(), ErrorInfo> {
        let _ = scope;
        Ok(())
    }

    pub(super) fn check_input(&self, node: NodeIx, input: Option<&Value>) -> Result<(), ErrorInfo> {
        let _ = (node, input);
        Ok(())
    }

    pub(super) fn check_output(&self, node: NodeIx, output: Option<&Value>) -> Result<(), ErrorInfo> {
        let _ = (node, output);
        Ok(())
    }
}

fn expression(source: &str) -> Result<Expression, String> {
    Expression::compile(source).map_err(|error| format!("{source:?}: {}", error.message))
}

fn compile_node(node: &troupe_core::plan::PlanNode) -> Result<CompiledNode, String> {
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
            node.data.get("output").and_then(serde_json::Value::as_str).map(expression).transpose()?
        } else {
            None
        },
        output_mapping: mapping("outputMapping")?,
        decision: decision.map(|(source, _)| expression(source)).collect::<Result<Vec<_>, _>>()?,
    })
}

impl LiveEvaluator<'_> {
    pub(super) fn prepare(
        &mut self,
        question: Question,
        node: NodeIx,
        scope: &Scope<'_>,
    ) -> Result<Answer, NoValue> {
        let compiled = self.compiled;
        let mapping = &compiled.node(node).input_mapping;
        let input = if mapping.is_empty() {
            None
        } else {
            let values = self.all(question, mapping.iter().map(|(_, expression)| expression), scope)?;
            let members = mapping.iter().zip(&values).map(|((name, _), value)| (name.as_str(), value));
            Some(Value::Inline(troupe_core::Json::object(members)))
        };
        Ok(Answer::Prepared { input, data: None })
    }
}
