//! What an expression sees, bound only as far as it looks.

use troupe_core::execution::Scope;
use troupe_core::{ErrorInfo, Json, Value};
use troupe_lang::{Binding, Names, Record, Uses};

use super::EXPRESSION_ERROR;

fn inline(value: &Value) -> Result<&Json, ErrorInfo> {
    match value {
        Value::Inline(json) => Ok(json),
        Value::Blob(_) => Err(ErrorInfo::new(
            EXPRESSION_ERROR,
            "the value is too large to be read by an expression",
        )),
    }
}

fn text(value: &Value) -> Result<Binding<'_>, ErrorInfo> {
    Ok(Binding::text(inline(value)?.as_str()))
}

/// Binds the names that `uses` lists.
pub(super) fn bind<'a>(uses: &Uses, scope: &Scope<'a>) -> Result<troupe_lang::Scope<'a>, ErrorInfo> {
    let mut bound = troupe_lang::Scope::new();
    if let Some(input) = scope.input.filter(|_| uses.input) {
        bound.set("input", text(input)?);
    }
    if let Some(output) = scope.output.filter(|_| uses.output) {
        bound.set("output", text(output)?);
    }
    if uses.trigger {
        bound.set("trigger", text(&scope.state.input)?);
    }
    if let Some(error) = scope.error.filter(|_| uses.error) {
        bound.set("error", parsed(&error.to_json())?);
    }
    if uses.execution {
        bound.set("execution", parsed(&scope.execution())?);
    }
    if !uses.variables.is_none() {
        let mut variables = Record::new();
        for (name, value) in scope
            .state
            .variables
            .iter()
            .filter(|(name, _)| uses.variables.contains(name))
        {
            variables.set(name, text(value)?);
        }
        bound.set("variables", variables);
    }
    if !uses.nodes.is_none() {
        let mut nodes = Record::new();
        for key in node_keys(&uses.nodes, scope) {
            if let Some(node) = node_record(key, scope)? {
                nodes.set(key, node);
            }
        }
        bound.set("nodes", nodes);
    }
    Ok(bound)
}

fn parsed(json: &Json) -> Result<serde_json::Value, ErrorInfo> {
    json.to_value()
        .map_err(|error| ErrorInfo::new(EXPRESSION_ERROR, error.to_string()))
}

/// Keys of the plan's nodes that are touched, in order of the definition.
fn node_keys<'a>(names: &Names, scope: &Scope<'a>) -> Vec<&'a str> {
    let plan = scope.plan;
    match names {
        Names::None => Vec::new(),
        Names::Some(names) => {
            let found = names.iter().filter_map(|name| plan.node_ix(name));
            found.map(|ix| plan.node(ix).key.as_str()).collect()
        }
        Names::All => plan.nodes.iter().map(|node| node.key.as_str()).collect(),
    }
}

fn node_of<'a>(key: &str, scope: &Scope<'a>) -> Option<(&'static str, Option<&'a Value>, Option<&'a ErrorInfo>)> {
    let node = scope.state.nodes.get(scope.plan.node_ix(key)?.at())?;
    let error = node.failure.as_ref().map(|failure| &failure.error);
    Some((node.phase.name(), node.output.as_ref(), error))
}

fn node_record<'a>(key: &str, scope: &Scope<'a>) -> Result<Option<Record<'a>>, ErrorInfo> {
    let Some((status, output, error)) = node_of(key, scope) else {
        return Ok(None);
    };
    let mut record = Record::new().with("status", serde_json::Value::from(status));
    if let Some(output) = output {
        record.set("output", text(output)?);
    }
    if let Some(error) = error {
        record.set("error", parsed(&error.to_json())?);
    }
    Ok(Some(record))
}

/// The same names as one JSON object, for the sandbox.
pub(super) fn object(uses: &Uses, scope: &Scope<'_>) -> Result<Json, ErrorInfo> {
    let mut members: Vec<(&str, Json)> = Vec::new();
    if let Some(input) = scope.input.filter(|_| uses.input) {
        members.push(("input", inline(input)?.clone()));
    }
    if let Some(output) = scope.output.filter(|_| uses.output) {
        members.push(("output", inline(output)?.clone()));
    }
    if uses.trigger {
        members.push(("trigger", inline(&scope.state.input)?.clone()));
    }
    if let Some(error) = scope.error.filter(|_| uses.error) {
        members.push(("error", error.to_json()));
    }
    if uses.execution {
        members.push(("execution", scope.execution()));
    }
    if !uses.variables.is_none() {
        let variables = scope
            .state
            .variables
            .iter()
            .filter(|(name, _)| uses.variables.contains(name));
        let variables = variables.map(|(name, value)| Ok((name.as_str(), inline(value)?)));
        let variables = variables.collect::<Result<Vec<_>, ErrorInfo>>()?;
        members.push(("variables", Json::object(variables)));
    }
    if !uses.nodes.is_none() {
        let mut nodes = Vec::new();
        for key in node_keys(&uses.nodes, scope) {
            let Some((status, output, error)) = node_of(key, scope) else {
                continue;
            };
            let status = Json::of(&serde_json::Value::from(status));
            let error = error.map(ErrorInfo::to_json);
            let output = output.map(inline).transpose()?;
            let members = [("status", Some(&status)), ("output", output), ("error", error.as_ref())];
            nodes.push((
                key,
                Json::object(members.into_iter().filter_map(|(name, json)| Some((name, json?)))),
            ));
        }
        members.push(("nodes", Json::object(nodes.iter().map(|(key, json)| (*key, json)))));
    }
    Ok(Json::object(members.iter().map(|(name, json)| (*name, json))))
}
