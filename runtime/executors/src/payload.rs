//! Reads what a task carries.

use std::borrow::Cow;

use serde_json::{Map, Value as JsonValue};
use troupe_core::plan::PlanNode;
use troupe_core::{ErrorInfo, Json, Value};
use troupe_ports::Task;

use crate::codes;

/// The document itself; executors get their payloads in place.
///
/// # Errors
/// `PAYLOAD_NOT_LOADED` when it is a reference.
pub(crate) fn inline(value: &Value) -> Result<&Json, ErrorInfo> {
    value.as_inline().ok_or_else(|| {
        let bytes = value.bytes();
        let message = format!("a payload of {bytes} bytes was not loaded before the attempt started");
        ErrorInfo::new(codes::PAYLOAD_NOT_LOADED, message)
    })
}

/// The node's data: with templates resolved where it has any, else as the plan has it.
///
/// # Errors
/// `PAYLOAD_NOT_LOADED`, or `NODE_DATA_INVALID` when the resolved data is no object.
pub(crate) fn data(task: &Task) -> Result<Cow<'_, Map<String, JsonValue>>, ErrorInfo> {
    data_of(task.node(), task.data.as_ref())
}

/// A node's data, `resolved` where it has templates.
pub(crate) fn data_of<'a>(
    node: &'a PlanNode,
    resolved: Option<&Value>,
) -> Result<Cow<'a, Map<String, JsonValue>>, ErrorInfo> {
    let Some(resolved) = resolved else {
        return Ok(Cow::Borrowed(&node.data));
    };
    match inline(resolved)?.to_value() {
        Ok(JsonValue::Object(object)) => Ok(Cow::Owned(object)),
        Ok(_) => Err(invalid("the node's data must be an object")),
        Err(error) => Err(invalid(format!("the node's data cannot be read: {error}"))),
    }
}

/// An error about the node's data.
pub(crate) fn invalid(message: impl Into<String>) -> ErrorInfo {
    ErrorInfo::new(codes::NODE_DATA_INVALID, message)
}

/// Variables as one JSON object.
///
/// # Errors
/// `PAYLOAD_NOT_LOADED` when one of them is a reference.
pub(crate) fn variables(task: &Task) -> Result<Json, ErrorInfo> {
    if task.variables.is_empty() {
        return Ok(Json::from_trusted("{}"));
    }
    let mut members = Vec::with_capacity(task.variables.len());
    for (name, value) in task.variables.iter() {
        members.push((name.as_str(), inline(value)?));
    }
    Ok(Json::object(members))
}
