//! A node's data as its visit sees it: resolved where it has templates, else as written.

use serde_json::{Map, Value as JsonValue};

use crate::id::NodeIx;
use crate::value::{Composed, Parts, Value};

use super::tx::Tx;

/// The data of one node.
pub(super) struct Data<'a> {
    resolved: Option<JsonValue>,
    written: &'a Map<String, JsonValue>,
}

impl Data<'_> {
    /// A field, null included.
    pub(super) fn get(&self, name: &str) -> Option<&JsonValue> {
        self.resolved
            .as_ref()
            .map_or_else(|| self.written.get(name), |resolved| resolved.get(name))
    }

    /// A field that says something.
    pub(super) fn given(&self, name: &str) -> Option<&JsonValue> {
        self.get(name).filter(|value| !value.is_null())
    }
}

impl<'a> Tx<'a> {
    /// The node's data.
    ///
    /// # Errors
    /// Why the resolved data cannot be read, for people: it nests too deep.
    pub(super) fn data(&self, ix: NodeIx) -> Result<Data<'a>, String> {
        let resolved = match &self.node(ix).data {
            Some(Value::Inline(json)) => Some(json.to_value().map_err(|error| error.to_string())?),
            Some(Value::Composed(composed)) => Some(in_place(composed)?),
            Some(Value::Blob(_)) | None => None,
        };
        let written = &self.planned(ix).data;
        Ok(Data { resolved, written })
    }
}

/// The fields that lie in place; what the core reads is small, so of the others only the size is told.
fn in_place(composed: &Composed) -> Result<JsonValue, String> {
    let Parts::Object(members) = composed.parts() else {
        return Err("the node's data is no object".into());
    };
    let field = |value: &Value| match value {
        Value::Inline(json) => json.to_value().map_err(|error| error.to_string()),
        Value::Blob(_) | Value::Composed(_) => Ok(format!("(a value of {} bytes)", value.bytes()).into()),
    };
    let members = members.iter().map(|(name, value)| Ok((name.clone(), field(value)?)));
    Ok(JsonValue::Object(members.collect::<Result<_, String>>()?))
}
