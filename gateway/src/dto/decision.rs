//! Bodies of what operators decide of a node. Unknown fields are refused, as in those of starts and commands.

use serde_json::{Map, Value};
use troupe_core::definition::Path;
use troupe_core::{ErrorInfo, Json};

use super::start::{Reader, present};
use crate::error::ApiError;

/// `{output}`, of a completion and of a skip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputBody {
    /// What the node is to have given.
    pub output: Option<Json>,
}

impl OutputBody {
    /// Reads a body; an absent one gives no output.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        if let Some(mut fields) = reader.object(body, &Path::root(), &["output"]) {
            read.output = fields.remove("output").map(|value| Json::of(&value));
        }
        reader.finish(read)
    }
}

/// `{error: {code, message, details}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailBody {
    /// Why the node is to fail.
    pub error: ErrorInfo,
}

impl FailBody {
    /// Reads a body.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        let root = Path::root();
        let body = body.unwrap_or_else(|| Value::Object(Map::new()));
        let mut error = ErrorInfo::new("", "");
        if let Some(mut fields) = reader.object(body, &root, &["error"]) {
            let path = root.key("error");
            let given = present(&mut fields, "error").unwrap_or(Value::Null);
            if let Some(mut members) = reader.object(given, &path, &["code", "message", "details"]) {
                let mut text = |name: &'static str| {
                    let value = present(&mut members, name).unwrap_or(Value::Null);
                    reader.text(value, &path.key(name)).unwrap_or_default()
                };
                error = ErrorInfo::new(text("code"), text("message"));
                error.details = present(&mut members, "details").map(|details| Json::of(&details));
            }
        }
        reader.finish(Self { error })
    }
}

/// `{name: value}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariablesBody {
    /// Variables to set, in the order given.
    pub variables: Vec<(String, Json)>,
}

impl VariablesBody {
    /// Reads a body, which must set something.
    ///
    /// # Errors
    /// `INVALID_REQUEST`.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        let fields = reader.any_object(body.unwrap_or(Value::Null), &Path::root());
        let variables: Vec<(String, Json)> = fields
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, Json::of(&value)))
            .collect();
        if let Some((name, _)) = variables.iter().find(|(name, _)| name.is_empty()) {
            reader.wrong(&Path::root().key(name), "a name that is not empty");
        }
        reader.finish(Self { variables })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn decisions_are_read_whole_or_refused_with_places() {
        let pointers = |error: ApiError| -> Vec<String> {
            let errors = error.problem().errors;
            errors.into_iter().map(|item| item.pointer).collect()
        };
        assert_eq!(OutputBody::read(None).unwrap().output, None);
        let null = OutputBody::read(Some(json!({"output": null}))).unwrap();
        assert_eq!(null.output, Some(Json::null()), "null is an output");
        assert_eq!(
            pointers(OutputBody::read(Some(json!({"outptu": 1}))).unwrap_err()),
            ["/outptu"]
        );

        let failed = FailBody::read(Some(
            json!({"error": {"code": "NO", "message": "m", "details": {"a": 1}}}),
        ));
        let failed = failed.unwrap().error;
        assert_eq!((failed.code.as_str(), failed.message.as_str()), ("NO", "m"));
        assert_eq!(failed.details.unwrap().as_str(), r#"{"a":1}"#);
        assert_eq!(pointers(FailBody::read(None).unwrap_err()), ["/error"]);
        let wrong = FailBody::read(Some(json!({"error": {"code": "", "x": 1}}))).unwrap_err();
        assert_eq!(pointers(wrong), ["/error/x", "/error/code", "/error/message"]);

        let set = VariablesBody::read(Some(json!({"b": 1, "a": null}))).unwrap().variables;
        assert_eq!(set[0].0, "b");
        for wrong in [None, Some(json!([])), Some(json!({"": 1}))] {
            assert_eq!(VariablesBody::read(wrong).unwrap_err().code(), "INVALID_REQUEST");
        }
    }
}
