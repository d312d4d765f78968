//! An event trigger of the latest version of a workflow, ready to judge messages.

use std::sync::Arc;

use serde_json::{Map, Value};
use troupe_core::definition::StartMapping;
use troupe_core::{Json, WorkflowId};
use troupe_lang::{Binding as Bound, Class, Expression, Scope, truthy};
use troupe_ports::{Sandbox, SandboxJob, StoredDefinition};

use super::Binding;
use crate::auth::sha256;

/// Evaluation steps that an expression may take in this process.
const STEPS_MAX: u64 = 1_000_000;
/// Longest request key that stays readable; longer ones are hashed.
const KEY_BYTES_MAX: usize = 200;

/// An event trigger.
#[derive(Debug)]
pub(super) struct Trigger {
    pub(super) workflow: WorkflowId,
    version: u32,
    pub(super) node: String,
    pub(super) binding: Binding,
    pub(super) prefetch: u16,
    filter: Option<Expression>,
    mapping: Option<Mapping>,
    dedupe_key: Option<Expression>,
}

#[derive(Debug)]
enum Mapping {
    Whole(Expression),
    Members(Vec<(String, Expression)>),
}

/// Why a message starts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The filter leaves it out.
    Filtered,
    /// An expression fails on it, whoever asks.
    Failed(String),
    /// There is no sandbox to ask now.
    NotNow(String),
}

/// What a message starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) input: Json,
    /// The same for a message that comes again; none: it has no id, and the trigger names no key.
    pub(super) key: Option<String>,
}

/// The event triggers of a definition. Those of a stored one compile: the validator has seen to it.
pub(super) fn triggers_of(stored: &StoredDefinition, prefix: &str) -> Vec<Arc<Trigger>> {
    let mut triggers = Vec::new();
    for node in &stored.definition.nodes {
        let Ok(Some(read)) = node.event_trigger() else { continue };
        let compile = |source: &String| Expression::compile(source);
        let compiled = || {
            let mapping = match &read.mapping {
                None => None,
                Some(StartMapping::Whole(source)) => Some(Mapping::Whole(compile(source)?)),
                Some(StartMapping::Members(members)) => {
                    let members = members
                        .iter()
                        .map(|(name, source)| Ok((name.clone(), compile(source)?)));
                    Some(Mapping::Members(members.collect::<Result<_, _>>()?))
                }
            };
            Ok::<_, troupe_lang::LangError>(Trigger {
                workflow: stored.workflow.clone(),
                version: stored.version,
                node: node.id.clone(),
                binding: Binding::of(prefix, stored.workflow.as_str(), &node.id, &read),
                prefetch: read.prefetch,
                filter: read.filter.as_ref().map(compile).transpose()?,
                mapping,
                dedupe_key: read.dedupe_key.as_ref().map(compile).transpose()?,
            })
        };
        match compiled() {
            Ok(trigger) => triggers.push(Arc::new(trigger)),
            Err(error) => {
                let (workflow, node) = (&stored.workflow, &node.id);
                tracing::error!(%workflow, node, error = error.message, "an event trigger does not compile");
            }
        }
    }
    triggers
}

impl Trigger {
    /// What the event starts. `id`: the one that its sender gave it.
    pub(super) async fn judge(&self, event: &Json, id: Option<&str>, sandbox: &dyn Sandbox) -> Result<Start, Unfit> {
        if let Some(filter) = &self.filter {
            let value = self.evaluate(filter, "filter", event, sandbox).await?;
            if !truthy(&value) {
                return Err(Unfit::Filtered);
            }
        }
        let key = match &self.dedupe_key {
            None => id.map(str::to_owned),
            Some(expression) => {
                let value = self.evaluate(expression, "dedupeKey", event, sandbox).await?;
                Some(match value {
                    Value::String(text) if !text.is_empty() => text,
                    Value::Number(number) => number.to_string(),
                    Value::Bool(truth) => truth.to_string(),
                    Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                        return Err(Unfit::Failed("`dedupeKey` gives no text or number".to_owned()));
                    }
                })
            }
        };
        let input = match &self.mapping {
            None => {
                let event = event.to_value().map_err(|error| Unfit::Failed(error.to_string()))?;
                Json::of(&event["data"])
            }
            Some(Mapping::Whole(expression)) => Json::of(&self.evaluate(expression, "mapping", event, sandbox).await?),
            Some(Mapping::Members(members)) => {
                let mut object = Map::new();
                for (name, expression) in members {
                    object.insert(name.clone(), self.evaluate(expression, name, event, sandbox).await?);
                }
                Json::of(&Value::Object(object))
            }
        };
        let key = key.map(|key| self.request_key(&key));
        Ok(Start { input, key })
    }

    /// Apart from those of other triggers and of clients; in characters that a header takes.
    fn request_key(&self, key: &str) -> String {
        let whole = format!("event:{}:{key}", self.node);
        if whole.len() <= KEY_BYTES_MAX && whole.bytes().all(|byte| byte.is_ascii_graphic()) {
            return whole;
        }
        let hash: String = sha256(whole.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("event:sha256:{hash}")
    }

    async fn evaluate(
        &self,
        expression: &Expression,
        what: &str,
        event: &Json,
        sandbox: &dyn Sandbox,
    ) -> Result<Value, Unfit> {
        let failed = |why: &str| Unfit::Failed(format!("`{what}`: {why}"));
        match expression.class() {
            Class::Safe | Class::JsonPath => {
                let scope = Scope::new()
                    .bind("event", Bound::text(event.as_str()))
                    .with_steps_max(STEPS_MAX);
                expression.evaluate(&scope).map_err(|error| failed(error.message()))
            }
            Class::Sandbox => {
                let job = SandboxJob {
                    workflow: self.workflow.clone(),
                    version: self.version,
                    source: expression.source().into(),
                    scope: Json::object([("event", event)]),
                };
                match sandbox.evaluate(job).await {
                    Ok(value) => value.to_value().map_err(|error| failed(&error.to_string())),
                    Err(error) if error.code == "EXPRESSION_ERROR" => Err(failed(&error.message)),
                    Err(error) => Err(Unfit::NotNow(error.message)),
                }
            }
        }
    }
}
