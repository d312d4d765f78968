//! Answers the core's questions in the language of the tests.

use serde_json::{Map, Value as JsonValue, json};
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Answer, Evaluator, Pending, Question, Scope};
use troupe_core::{ErrorInfo, Json, NodeIx, Value};

use crate::reference::language::{self, THROWN, Thrown};

/// Answers so many questions, then has no answer.
pub struct Mini {
    pub patience: usize,
}

impl Mini {
    /// Answers every question.
    pub fn patient() -> Self {
        Self { patience: usize::MAX }
    }
}

impl Evaluator for Mini {
    fn evaluate(&mut self, question: Question, scope: &Scope<'_>) -> Result<Answer, Pending> {
        self.patience = self.patience.checked_sub(1).ok_or(Pending)?;
        let threw = |code| Answer::Threw(Box::new(ErrorInfo::new(code, THROWN)));
        Ok(answer(question, scope).unwrap_or_else(threw))
    }
}

fn answer(question: Question, scope: &Scope<'_>) -> Result<Answer, &'static str> {
    let expression_error = |Thrown| "EXPRESSION_ERROR";
    let data = |node: NodeIx, name: &str| scope.plan.node(node).data.get(name).cloned().unwrap_or(JsonValue::Null);
    let seen = seen(scope);
    let checked = |schema: &JsonValue, value: &JsonValue| {
        if language::meets(schema, value) {
            Ok(Answer::Valid)
        } else {
            Err("SCHEMA_VIOLATION")
        }
    };
    let truth = |expression: &str| {
        let value = language::evaluate(expression, &seen).map_err(expression_error)?;
        let explained = (!value.is_boolean()).then(|| Json::of(&value));
        Ok(Answer::Truth {
            taken: language::truthy(&value),
            seen: explained,
        })
    };
    let value = |expression: &str| {
        language::evaluate(expression, &seen)
            .map(|value| Answer::Value(Value::from(value)))
            .map_err(expression_error)
    };
    match question {
        Question::StartSchema => {
            let schema = scope
                .plan
                .settings
                .input_schema
                .as_ref()
                .map(parsed_json)
                .unwrap_or_default();
            checked(&schema, &seen["input"])
        }
        Question::InputSchema(node) => checked(&data(node, "inputSchema"), &seen["input"]),
        Question::OutputSchema(node) => checked(&data(node, "outputSchema"), &seen["output"]),
        Question::Prepare(node) => prepare(scope, node, &seen).map_err(expression_error),
        Question::Output(node) => value(data(node, "output").as_str().unwrap_or("throw")),
        Question::OutputMapping(node) => {
            let values = mapped(&data(node, "outputMapping"), &seen).map_err(expression_error)?;
            Ok(Answer::Variables(
                values
                    .into_iter()
                    .map(|(name, value)| (name, Value::from(value)))
                    .collect(),
            ))
        }
        Question::Condition(edge) => truth(scope.plan.edge(edge).condition.as_deref().unwrap_or("throw")),
        Question::DecisionCondition(node, place) => {
            let decision = scope
                .plan
                .node(node)
                .decision
                .as_ref()
                .expect("only decisions have conditions");
            truth(&decision.conditions[place as usize].0)
        }
        Question::PayloadSchema(node) => checked(&data(node, "payloadSchema"), &seen["output"]["body"]),
        Question::CallOutput(node) => {
            let template = data(node, "transformationTemplate");
            language::template(template.as_str().unwrap_or("{{throw}}"), &seen)
                .map(|value| Answer::Value(Value::from(value)))
                .map_err(expression_error)
        }
        Question::Items(node) => value(data(node, "items").as_str().unwrap_or("throw")),
        Question::RoomKey => {
            let limit = scope.plan.settings.concurrency.as_ref();
            value(limit.and_then(|limit| limit.key.as_deref()).unwrap_or("throw"))
        }
        Question::ConcurrencyKey(node) => value(data(node, "concurrency")["key"].as_str().unwrap_or("throw")),
        Question::While(node) => truth(data(node, "while").as_str().unwrap_or("throw")),
        Question::Keep(_) | Question::Cache(_) => Ok(Answer::Valid),
        Question::ExecutionOutput => value(scope.plan.settings.output.as_deref().unwrap_or("throw")),
    }
}

fn prepare(scope: &Scope<'_>, ix: NodeIx, seen: &JsonValue) -> Result<Answer, Thrown> {
    let node = scope.plan.node(ix);
    let mut seen = seen.clone();
    let mut input = None;
    if node.maps_input {
        let values = JsonValue::Object(mapped(&node.data["inputMapping"], &seen)?);
        // The templates of a compensation see what its node received.
        if !scope.plan.is_compensation(ix) {
            seen["input"] = values.clone();
        }
        input = Some(Value::from(values));
    }
    let mut data = node.data.clone();
    let mut resolved = false;
    let is_expression = node.kind == NodeKind::Delay && node.data.get("delayType") == Some(&json!("expression"));
    for (name, field) in &mut data {
        let Some(text) = field.as_str().map(str::to_owned) else {
            continue;
        };
        if name == "transformationTemplate" {
            continue;
        }
        if name == "delayValue" && is_expression {
            *field = language::evaluate(&text, &seen)?;
            resolved = true;
        } else if text.starts_with("{{") {
            *field = language::template(&text, &seen)?;
            resolved = true;
        }
    }
    Ok(Answer::Prepared {
        input,
        data: resolved.then(|| Value::from(JsonValue::Object(data))),
    })
}

fn mapped(mapping: &JsonValue, seen: &JsonValue) -> Result<Map<String, JsonValue>, Thrown> {
    let entries = mapping.as_object().ok_or(Thrown)?;
    let one = |(name, expression): (&String, &JsonValue)| {
        Ok((
            name.clone(),
            language::evaluate(expression.as_str().ok_or(Thrown)?, seen)?,
        ))
    };
    entries.iter().map(one).collect()
}

/// The scope as one JSON object.
fn seen(scope: &Scope<'_>) -> JsonValue {
    let state = scope.state;
    let error = |error: &ErrorInfo| parsed_json(&error.to_json());
    let nodes: Map<String, JsonValue> = scope
        .plan
        .nodes
        .iter()
        .filter_map(|node| {
            let (status, output, failure) = scope.latest(node.key.as_str())?;
            let entry = json!({"status": status, "output": output.map(parsed), "error": failure.map(error)});
            Some((node.key.to_string(), entry))
        })
        .collect();
    let variables: Map<String, JsonValue> = state
        .variables
        .iter()
        .map(|(name, value)| (name.clone(), parsed(value)))
        .collect();
    let mut seen = json!({
        "trigger": parsed(&state.input),
        "variables": variables,
        "nodes": nodes,
        "execution": parsed_json(&scope.execution()),
    });
    let extra = [("input", scope.input), ("output", scope.output)];
    for (name, value) in extra.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        seen[name] = parsed(value);
    }
    if let Some(failure) = scope.error {
        seen["error"] = error(failure);
    }
    seen
}

/// A value of the tests as JSON.
pub fn parsed(value: &Value) -> JsonValue {
    parsed_json(&value.shown())
}

fn parsed_json(json: &Json) -> JsonValue {
    json.to_value().expect("values of the tests are shallow")
}
