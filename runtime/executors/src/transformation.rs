//! The `transformation` node type: `map`, `filter`, `reduce`, `enrichment`, or a Jinja `template`.
//!
//! A `source` without `{{` is an expression; what a template gave is a value and is never compiled.
//!
//! Expressions and templates see the names of the scope; the expression of `map`, `filter` and `reduce` also `item`, `index`
//! and `acc`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde_json::{Map, Value as JsonValue, json};
use tokio_util::sync::CancellationToken;
use troupe_core::{ErrorInfo, Json};
use troupe_lang::{Class, Expression, Scope};
use troupe_ports::{Clock, Executed, NodeExecutor, Rendered, Sandbox, SandboxJob, SystemClock, Task};

use crate::codes;
use crate::payload::{self, invalid};

/// Items that one transformation may go through.
pub const ITEMS_MAX: usize = 100_000;
/// Largest output, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// After so long other tasks get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Runs `transformation` nodes.
#[derive(Clone)]
pub struct TransformationExecutor {
    sandbox: Option<Arc<dyn Sandbox>>,
}

impl fmt::Debug for TransformationExecutor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TransformationExecutor")
            .field("sandbox", &self.sandbox.is_some())
            .finish()
    }
}

impl TransformationExecutor {
    /// Expressions that need the whole language go to `sandbox`, if there is one.
    #[must_use]
    pub fn new(sandbox: Option<Arc<dyn Sandbox>>) -> Self {
        Self { sandbox }
    }
}

impl NodeExecutor for TransformationExecutor {
    fn execute(&self, task: Task, cancel: CancellationToken) -> BoxFuture<'static, Executed> {
        let sandbox = self.sandbox.clone();
        Box::pin(async move {
            match transform(&task, sandbox.as_deref(), &cancel).await {
                Ok(output) => Executed::completed(output),
                Err(error) => {
                    let again = [codes::TIMEOUT, codes::SANDBOX_CRASHED, codes::SANDBOX_UNAVAILABLE];
                    let retryable = again.contains(&error.code.as_str());
                    Executed::failed(error, retryable)
                }
            }
        })
    }
}

/// What expressions see besides the item.
struct Given {
    input: JsonValue,
    variables: JsonValue,
    /// `trigger`, `nodes` and `execution`, as far as the node's expressions name them.
    others: Map<String, JsonValue>,
}

impl Given {
    fn of(task: &Task) -> Result<Self, ErrorInfo> {
        let unreadable = |error: serde_json::Error| invalid(format!("a value cannot be read: {error}"));
        let others = task.scope.as_ref().map(Json::to_value).transpose();
        Ok(Self {
            input: payload::inline(&task.input)?.to_value().map_err(unreadable)?,
            variables: payload::variables(task)?.to_value().map_err(unreadable)?,
            others: match others.map_err(unreadable)? {
                Some(JsonValue::Object(others)) => others,
                _ => Map::new(),
            },
        })
    }

    fn scope(&self) -> Scope<'_> {
        let scope = Scope::new()
            .bind("input", &self.input)
            .bind("variables", &self.variables);
        self.others
            .iter()
            .fold(scope, |scope, (name, value)| scope.bind(name, value))
    }
}

async fn transform(task: &Task, sandbox: Option<&dyn Sandbox>, cancel: &CancellationToken) -> Result<Json, ErrorInfo> {
    let data = payload::data(task)?;
    let none = Map::new();
    let config = match data.get("transformationConfig") {
        None | Some(JsonValue::Null) => &none,
        Some(JsonValue::Object(config)) => config,
        Some(_) => return Err(invalid("`transformationConfig` must be an object")),
    };
    let kind = kind(&data)?;
    let output = match data.get("template").and_then(JsonValue::as_str) {
        Some(template) => render(template, config, task, sandbox).await?,
        None => {
            let kind = kind.ok_or_else(|| invalid("`transformationType` is missing"))?;
            let run = Run {
                task,
                sandbox,
                cancel,
                given: &Given::of(task)?,
            };
            match kind {
                "enrichment" => Json::of(&enrich(run.source(config).await?, config)?),
                kind => run.each(kind, config).await?,
            }
        }
    };
    within_limit(output.bytes())?;
    Ok(output)
}

fn within_limit(bytes: usize) -> Result<(), ErrorInfo> {
    if bytes <= OUTPUT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the result has {bytes} bytes or more, the limit is {OUTPUT_BYTES_MAX}");
    Err(ErrorInfo::new(codes::OUTPUT_TOO_LARGE, message))
}

fn kind(data: &Map<String, JsonValue>) -> Result<Option<&str>, ErrorInfo> {
    match data.get("transformationType").and_then(JsonValue::as_str) {
        None => Ok(None),
        Some(kind @ ("map" | "filter" | "reduce" | "enrichment")) => Ok(Some(kind)),
        Some(other) => Err(invalid(format!("`{other}` is none of map, filter, reduce, enrichment"))),
    }
}

fn expression_error(message: impl fmt::Display) -> ErrorInfo {
    ErrorInfo::new(codes::EXPRESSION_ERROR, message.to_string())
}

/// The rendered text; with `format: "json"` what it says. The sandbox renders: a template may take any time.
async fn render(
    template: &str,
    config: &Map<String, JsonValue>,
    task: &Task,
    sandbox: Option<&dyn Sandbox>,
) -> Result<Json, ErrorInfo> {
    let Some(sandbox) = sandbox else {
        let message = "templates are rendered in the sandbox, and this engine runs without one";
        return Err(ErrorInfo::new(codes::TEMPLATE_ERROR, message));
    };
    let rendered = match config.get("format").and_then(JsonValue::as_str) {
        Some("json") => Rendered::Json,
        Some(_) | None => Rendered::Text,
    };
    let (input, variables) = (payload::inline(&task.input)?, payload::variables(task)?);
    let mut scope = format!("{{\"input\":{},\"variables\":{}", input.as_str(), variables.as_str());
    // `trigger`, `nodes` and `execution` are members of an object already.
    match task.scope.as_ref().and_then(|others| others.as_str().strip_prefix('{')) {
        Some(members) if members != "}" => scope.extend([",", members]),
        Some(_) | None => scope.push('}'),
    }
    let job = SandboxJob {
        workflow: task.plan.workflow.clone(),
        version: task.plan.version,
        source: template.into(),
        scope: Json::from_trusted(scope),
    };
    sandbox.render(job, rendered).await
}

/// The source with `fields` put over it; of a list, over every object in it.
fn enrich(source: JsonValue, config: &Map<String, JsonValue>) -> Result<JsonValue, ErrorInfo> {
    let Some(JsonValue::Object(fields)) = config.get("fields") else {
        return Err(invalid("an enrichment needs `transformationConfig.fields`, an object"));
    };
    let over = |value: JsonValue| match value {
        JsonValue::Object(mut object) => {
            object.extend(fields.clone());
            Ok(JsonValue::Object(object))
        }
        JsonValue::Null => Ok(JsonValue::Object(fields.clone())),
        _ => Err(invalid("an enrichment needs an object, or a list of objects")),
    };
    match source {
        JsonValue::Array(items) if items.len() > ITEMS_MAX => Err(too_many(items.len())),
        JsonValue::Array(items) => items
            .into_iter()
            .map(over)
            .collect::<Result<Vec<_>, _>>()
            .map(JsonValue::Array),
        other => over(other),
    }
}

fn too_many(count: usize) -> ErrorInfo {
    ErrorInfo::new(
        codes::INPUT_TOO_LARGE,
        format!("the source has {count} items, the limit is {ITEMS_MAX}"),
    )
}

struct Run<'a> {
    task: &'a Task,
    sandbox: Option<&'a dyn Sandbox>,
    cancel: &'a CancellationToken,
    given: &'a Given,
}

impl Run<'_> {
    /// The expression that the plan has in this field of the configuration. Resolved data is never looked at: what a
    /// template gave is a value, whatever it says, and must not run.
    fn written(&self, name: &str) -> Option<&str> {
        let config = self.task.node().data.get("transformationConfig")?;
        config.get(name)?.as_str()
    }

    /// What is transformed: `source` (an expression, or the value that its template gave), else the input.
    async fn source(&self, config: &Map<String, JsonValue>) -> Result<JsonValue, ErrorInfo> {
        if let Some(source) = self.written("source").filter(|source| !source.contains("{{")) {
            let expression = Expression::compile(source).map_err(expression_error)?;
            return match expression.class() {
                Class::Sandbox => {
                    let answer = self.in_sandbox(expression.source(), None, None).await?;
                    answer.to_value().map_err(expression_error)
                }
                Class::Safe | Class::JsonPath => expression.evaluate(&self.given.scope()).map_err(expression_error),
            };
        }
        Ok(match config.get("source") {
            None | Some(JsonValue::Null) => self.given.input.clone(),
            Some(value) => value.clone(),
        })
    }

    /// `map`, `filter` and `reduce`.
    async fn each(&self, kind: &str, config: &Map<String, JsonValue>) -> Result<Json, ErrorInfo> {
        let written = self.written("expression");
        let written = written.ok_or_else(|| invalid(format!("`{kind}` needs `transformationConfig.expression`")))?;
        let items = match self.source(config).await? {
            JsonValue::Array(items) => items,
            _ => {
                return Err(invalid(format!(
                    "`{kind}` needs a list; name one in `transformationConfig.source`"
                )));
            }
        };
        if items.len() > ITEMS_MAX {
            return Err(too_many(items.len()));
        }
        let initial = config.get("initial");
        if kind == "reduce" && items.is_empty() && initial.is_none() {
            return Err(invalid(
                "`reduce` of an empty list needs `transformationConfig.initial`",
            ));
        }
        let expression = Expression::compile(written).map_err(expression_error)?;
        if expression.class() != Class::Sandbox {
            return self.evaluate_each(kind, &expression, items, initial).await;
        }
        // One call for the whole list: a call an item would cost a round trip each.
        let body = expression.source();
        let source = match (kind, initial) {
            ("map" | "filter", _) => format!("items.{kind}((item, index) => ({body}\n))"),
            (_, Some(_)) => format!("items.reduce((acc, item, index) => ({body}\n), initial)"),
            (_, None) => format!("items.reduce((acc, item, index) => ({body}\n))"),
        };
        self.in_sandbox(&source, Some(JsonValue::Array(items)), initial).await
    }

    async fn evaluate_each(
        &self,
        kind: &str,
        expression: &Expression,
        items: Vec<JsonValue>,
        initial: Option<&JsonValue>,
    ) -> Result<Json, ErrorInfo> {
        // As text, so that what a small expression makes of many items is noticed before it fills the memory.
        let mut collected = String::from("[");
        let mut acc = initial.cloned();
        let mut turn = Instant::now();
        for (index, item) in items.iter().enumerate() {
            if SystemClock.now() >= self.task.deadline || self.cancel.is_cancelled() {
                return Err(ErrorInfo::new(
                    codes::TIMEOUT,
                    "the transformation ran past its deadline",
                ));
            }
            let scope = self
                .given
                .scope()
                .bind("item", item)
                .bind("index", JsonValue::from(index));
            let failed = |error| expression_error(format!("item {index}: {error}"));
            let kept = match kind {
                "map" => Some(expression.evaluate_to_text(&scope).map_err(failed)?),
                "filter" if expression.evaluate_condition(&scope).map_err(failed)? => Some(item.to_string()),
                "filter" => None,
                _ => {
                    let next = match acc.take() {
                        None => item.clone(),
                        Some(acc) => expression.evaluate(&scope.bind("acc", acc)).map_err(failed)?,
                    };
                    acc = Some(next);
                    None
                }
            };
            if let Some(text) = kept {
                if collected.len() > 1 {
                    collected.push(',');
                }
                collected.push_str(&text);
                within_limit(collected.len())?;
            }
            if turn.elapsed() > TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
        if kind == "reduce" {
            return Ok(Json::of(&acc.unwrap_or_default()));
        }
        collected.push(']');
        Ok(Json::from_trusted(collected))
    }

    async fn in_sandbox(
        &self,
        source: &str,
        items: Option<JsonValue>,
        initial: Option<&JsonValue>,
    ) -> Result<Json, ErrorInfo> {
        let Some(sandbox) = self.sandbox else {
            let message = "the expression needs the whole language, and this engine runs without a sandbox";
            return Err(expression_error(message));
        };
        let Given {
            input,
            variables,
            others,
        } = self.given;
        let mut scope = json!({"input": input, "variables": variables});
        for (name, value) in others {
            scope[name] = value.clone();
        }
        for (name, value) in [("items", items.as_ref()), ("initial", initial)] {
            if let Some(value) = value {
                scope[name] = value.clone();
            }
        }
        let job = SandboxJob {
            workflow: self.task.plan.workflow.clone(),
            version: self.task.plan.version,
            source: source.into(),
            scope: Json::of(&scope),
        };
        sandbox.evaluate(job).await
    }
}
