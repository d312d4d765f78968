//! Bodies of starts and commands. Unknown fields are refused: a slip must not start something else.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use troupe_actors::{Command, KeyPolicy, OnClosed, OnOpen, StartRequest};
use troupe_core::control::Clocks;
use troupe_core::definition::{Path, Problems, code, did_you_mean_or_list};
use troupe_core::{CommandId, Json, Principal, WorkflowId};

use super::context::ErrorDto;
use crate::error::{ApiError, ErrorItem};

/// What a start takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartBody {
    /// The start payload; null unless given.
    pub input: Option<Json>,
    /// Variables; they override the definition's defaults.
    pub variables: Vec<(String, Json)>,
    /// Custom metadata.
    pub metadata: Option<Json>,
    /// The version; none: the latest.
    pub version: Option<u32>,
    /// Id of the trigger node that fires.
    pub trigger: Option<String>,
    /// Business key.
    pub execution_key: Option<String>,
    /// Priority 0–9.
    pub priority: Option<u8>,
    /// What another execution of the business key means.
    pub key_policy: KeyPolicy,
}

const FIELDS: &[&str] = &[
    "input",
    "variables",
    "metadata",
    "version",
    "trigger",
    "executionKey",
    "priority",
    "keyPolicy",
];

impl StartBody {
    /// Reads a body; an absent one starts with nothing.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        if let Some(mut fields) = reader.object(body, &Path::root(), FIELDS) {
            read.input = fields.remove("input").map(|value| Json::of(&value));
            let root = Path::root();
            read.variables = reader.members(&mut fields, "variables");
            if let Some(value) = present(&mut fields, "metadata") {
                let object = reader.any_object(value, &root.key("metadata"));
                read.metadata = object.map(|object| Json::of(&Value::Object(object)));
            }
            let version = present(&mut fields, "version");
            read.version = version.and_then(|value| reader.whole(&value, &root.key("version"), 1, u32::MAX));
            let priority = present(&mut fields, "priority");
            read.priority = priority
                .and_then(|value| reader.whole(&value, &root.key("priority"), 0, 9))
                .map(|value| value as u8);
            let trigger = present(&mut fields, "trigger");
            read.trigger = trigger.and_then(|value| reader.text(value, &root.key("trigger")));
            let key = present(&mut fields, "executionKey");
            read.execution_key = key.and_then(|value| reader.text(value, &root.key("executionKey")));
            if let Some(value) = present(&mut fields, "keyPolicy") {
                read.key_policy = reader.key_policy(value, &root.key("keyPolicy"));
            }
        }
        reader.finish(read)
    }

    /// The engine's request.
    #[must_use]
    pub fn into_request(self, workflow: WorkflowId, request_key: Option<String>, principal: &str) -> StartRequest {
        StartRequest {
            version: self.version,
            variables: self.variables,
            metadata: self.metadata,
            trigger: self.trigger,
            execution_key: self.execution_key,
            key_policy: self.key_policy,
            request_key,
            priority: self.priority,
            principal: Some(Principal::from(principal)),
            ..StartRequest::new(workflow, self.input.unwrap_or_else(Json::null))
        }
    }
}

/// What a command takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandBody {
    /// Why, for people.
    pub reason: Option<String>,
    /// How long running attempts may take to stop, in milliseconds.
    pub grace_ms: Option<u64>,
}

impl CommandBody {
    /// Reads a body; an absent one says nothing.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        if let Some(mut fields) = reader.object(body, &Path::root(), &["reason", "graceMs"]) {
            let root = Path::root();
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            let grace = present(&mut fields, "graceMs");
            read.grace_ms = grace
                .and_then(|value| reader.whole(&value, &root.key("graceMs"), 0, 3_600_000))
                .map(u64::from);
        }
        reader.finish(read)
    }

    /// The engine's command.
    #[must_use]
    pub fn into_command(self, id: Option<String>, principal: &str) -> Command {
        Command {
            principal: Some(Principal::from(principal)),
            command: id.map(CommandId::from),
            reason: self.reason,
            grace_ms: self.grace_ms,
            clocks: Clocks::Run,
        }
    }
}

/// What a pause of one execution takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PauseBody {
    /// Why, for people.
    pub reason: Option<String>,
    /// What timers and deadlines do meanwhile.
    pub clocks: Clocks,
}

/// The words of `clocks`.
pub(super) const CLOCKS: [(&str, Clocks); 2] = [("run", Clocks::Run), ("freeze", Clocks::Freeze)];

impl PauseBody {
    /// Reads a body; an absent one lets the clocks run.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        if let Some(mut fields) = reader.object(body, &Path::root(), &["reason", "clocks"]) {
            let root = Path::root();
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            if let Some(value) = present(&mut fields, "clocks") {
                read.clocks = reader.word(value, &root.key("clocks"), &CLOCKS).unwrap_or_default();
            }
        }
        reader.finish(read)
    }

    /// The engine's command.
    #[must_use]
    pub fn into_command(self, id: Option<String>, principal: &str) -> Command {
        Command {
            clocks: self.clocks,
            ..CommandBody {
                reason: self.reason,
                grace_ms: None,
            }
            .into_command(id, principal)
        }
    }
}

/// Takes a member that is there and not null.
pub(super) fn present(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

#[derive(Default)]
pub(super) struct Reader {
    problems: Problems,
}

impl Reader {
    pub(super) fn wrong(&mut self, path: &Path<'_>, expected: &str) {
        self.problems
            .error(code::FIELD_TYPE, path, format!("{expected} is expected"));
    }

    pub(super) fn any_object(&mut self, value: Value, path: &Path<'_>) -> Option<Map<String, Value>> {
        match value {
            Value::Object(fields) => Some(fields),
            _ => {
                self.wrong(path, "an object");
                None
            }
        }
    }

    pub(super) fn object(&mut self, value: Value, path: &Path<'_>, known: &[&str]) -> Option<Map<String, Value>> {
        let fields = self.any_object(value, path)?;
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let hint = did_you_mean_or_list(name, known);
            self.problems.error_hint(
                code::UNKNOWN_FIELD,
                &path.key(name),
                format!("`{name}` is not known here"),
                hint,
            );
        }
        Some(fields)
    }

    pub(super) fn text(&mut self, value: Value, path: &Path<'_>) -> Option<String> {
        match value {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.wrong(path, "a text that is not empty");
                None
            }
        }
    }

    pub(super) fn whole(&mut self, value: &Value, path: &Path<'_>, least: u32, most: u32) -> Option<u32> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let fits = number.filter(|number| (least..=most).contains(number));
        if fits.is_none() {
            let message = format!("a whole number from {least} to {most} is expected");
            self.problems.error(code::INVALID_VALUE, path, message);
        }
        fits
    }

    pub(super) fn truth(&mut self, value: &Value, path: &Path<'_>) -> bool {
        let truth = value.as_bool();
        if truth.is_none() {
            self.wrong(path, "true or false");
        }
        truth.unwrap_or_default()
    }

    pub(super) fn word<T: Copy>(&mut self, value: Value, path: &Path<'_>, words: &[(&str, T)]) -> Option<T> {
        let found = value
            .as_str()
            .and_then(|word| words.iter().find(|(known, _)| *known == word));
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problems.error(
                code::INVALID_VALUE,
                path,
                format!("one of {} is expected", list.join(", ")),
            );
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A member that may be absent, true or false; false unless it says otherwise.
    pub(super) fn flag(&mut self, fields: &mut Map<String, Value>, name: &'static str) -> bool {
        match present(fields, name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.wrong(&Path::root().key(name), "true or false");
                false
            }
        }
    }

    /// Members by name, of a member that may be absent.
    pub(super) fn members(&mut self, fields: &mut Map<String, Value>, name: &'static str) -> Vec<(String, Json)> {
        let Some(value) = present(fields, name) else {
            return Vec::new();
        };
        let object = self.any_object(value, &Path::root().key(name)).unwrap_or_default();
        let member = |(name, value): (String, Value)| (name, Json::of(&value));
        object.into_iter().map(member).collect()
    }

    fn key_policy(&mut self, value: Value, path: &Path<'_>) -> KeyPolicy {
        let mut policy = KeyPolicy::default();
        let Some(mut fields) = self.object(value, path, &["onOpen", "onClosed"]) else {
            return policy;
        };
        if let Some(value) = present(&mut fields, "onOpen") {
            let words = [
                ("fail", OnOpen::Fail),
                ("useExisting", OnOpen::UseExisting),
                ("terminateExisting", OnOpen::TerminateExisting),
            ];
            policy.on_open = self.word(value, &path.key("onOpen"), &words).unwrap_or_default();
        }
        if let Some(value) = present(&mut fields, "onClosed") {
            let words = [
                ("allow", OnClosed::Allow),
                ("allowFailedOnly", OnClosed::AllowFailedOnly),
                ("reject", OnClosed::Reject),
            ];
            policy.on_closed = self.word(value, &path.key("onClosed"), &words).unwrap_or_default();
        }
        policy
    }

    pub(super) fn finish<T>(self, read: T) -> Result<T, ApiError> {
        if self.problems.is_empty() {
            return Ok(read);
        }
        let diagnostics = self.problems.into_diagnostics();
        let errors: Vec<ErrorItem> = diagnostics.iter().map(ErrorItem::from).collect();
        let detail = diagnostics
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        Err(ApiError::new("INVALID_REQUEST", detail).with_errors(errors))
    }
}

/// A start that is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartedDto {
    /// The execution.
    pub id: String,
    /// The workflow.
    pub workflow_id: String,
    /// Where it stands; absent where it ended so long ago that its archive is gone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<String>,
    /// Seq of a durable entry of it.
    pub sequence: u64,
    /// Whether it was there before.
    pub existing: bool,
    /// Its output, if the request waited and it completed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Json>,
    /// Its error, if the request waited and it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorDto>,
}

/// A command that is durable and not yet applied: its shard had no owner that could be asked, and gets it as soon as there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedDto {
    /// The execution, where its id is known; that of a start is not there yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// Always `queued`.
    status: String,
    /// The `Idempotency-Key` under which the same request tells what came of it; absent for a start under a business key, which is its key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idempotency_key: Option<String>,
}

impl QueuedDto {
    const STATUS: &str = "queued";

    /// A command for this execution under this key.
    #[must_use]
    pub fn new(id: Option<String>, idempotency_key: Option<String>) -> Self {
        Self {
            id,
            status: Self::STATUS.to_owned(),
            idempotency_key,
        }
    }

    /// Reads an answer; none: it is another one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(text).ok()?;
        (read.status == Self::STATUS).then_some(read)
    }
}

/// A command that is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandDto {
    /// The execution.
    pub id: String,
    /// Seq of the entry that applied it.
    pub sequence: u64,
    /// Attempts that still run.
    pub draining: u32,
    /// Whether the execution stood there already.
    pub unchanged: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_whole_body_is_read() {
        let body = StartBody::read(Some(json!({
            "input": {"a": [1]}, "variables": {"x": 1}, "metadata": {"by": "me"}, "version": 2, "trigger": "t",
            "executionKey": "k", "priority": 9, "keyPolicy": {"onOpen": "useExisting", "onClosed": "reject"},
        })))
        .unwrap();
        assert_eq!(body.input.as_ref().map(Json::as_str), Some(r#"{"a":[1]}"#));
        assert_eq!(
            body.key_policy,
            KeyPolicy {
                on_open: OnOpen::UseExisting,
                on_closed: OnClosed::Reject
            }
        );
        assert_eq!((body.version, body.priority), (Some(2), Some(9)));
        assert_eq!(StartBody::read(None).unwrap(), StartBody::default());
        assert_eq!(
            StartBody::read(Some(json!({"version": null}))).unwrap(),
            StartBody::default()
        );
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let wrong = json!({"inptu": 1, "variables": [], "version": 0, "priority": 10, "trigger": "",
            "keyPolicy": {"onOpen": "maybe"}});
        let error = StartBody::read(Some(wrong)).unwrap_err().problem();
        let mut pointers: Vec<_> = error.errors.iter().map(|item| item.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(
            pointers,
            [
                "/inptu",
                "/keyPolicy/onOpen",
                "/priority",
                "/trigger",
                "/variables",
                "/version"
            ]
        );
        let slip = error.errors.iter().find(|item| item.pointer == "/inptu").unwrap();
        assert_eq!(slip.hint.as_deref(), Some("did you mean `input`?"));
    }
}
