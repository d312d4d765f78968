//! Bodies and answers of what runs again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use troupe_actors::{ReopenOutcome, RerunOutcome, RerunRequest};
use troupe_core::definition::Path;
use troupe_core::execution::Repeated;
use troupe_core::{ExecutionId, Json, Principal};

use super::start::{Reader, present};
use crate::error::ApiError;

/// `{from, input, version, variables, reason, dryRun}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RerunBody {
    /// The node from which it runs.
    pub from: String,
    /// What that node receives instead.
    pub input: Option<Json>,
    /// The version to run.
    pub version: Option<u32>,
    /// Variables; they override those of the other execution.
    pub variables: Vec<(String, Json)>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Only tells what would run again.
    pub dry_run: bool,
}

impl RerunBody {
    /// Reads a body, which must name a node.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        let mut read = Self::default();
        let root = Path::root();
        let known = ["from", "input", "version", "variables", "reason", "dryRun"];
        let body = body.unwrap_or_else(|| Value::Object(Map::new()));
        if let Some(mut fields) = reader.object(body, &root, &known) {
            let from = present(&mut fields, "from").unwrap_or(Value::Null);
            read.from = reader.text(from, &root.key("from")).unwrap_or_default();
            read.input = fields.remove("input").map(|value| Json::of(&value));
            let version = present(&mut fields, "version");
            read.version = version.and_then(|value| reader.whole(&value, &root.key("version"), 1, u32::MAX));
            read.variables = reader.members(&mut fields, "variables");
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            read.dry_run = reader.flag(&mut fields, "dryRun");
        }
        reader.finish(read)
    }

    /// The engine's request.
    #[must_use]
    pub fn into_request(self, request_key: Option<String>, principal: &str) -> RerunRequest {
        RerunRequest {
            from: self.from,
            input: self.input,
            version: self.version,
            variables: self.variables,
            reason: self.reason,
            request_key,
            principal: Some(Principal::from(principal)),
            dry_run: self.dry_run,
        }
    }
}

/// `{nodes, reason, dryRun}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryBody {
    /// The failed nodes; none means every one whose failure nothing handled.
    pub nodes: Vec<String>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Only tells what would run again.
    pub dry_run: bool,
}

impl RetryBody {
    /// Reads a body; an absent one retries everything that failed.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        let root = Path::root();
        if let Some(mut fields) = reader.object(body, &root, &["nodes", "reason", "dryRun"]) {
            let path = root.key("nodes");
            match present(&mut fields, "nodes") {
                None => {}
                Some(Value::Array(nodes)) if !nodes.is_empty() => {
                    let nodes = nodes.into_iter().enumerate();
                    read.nodes = nodes
                        .filter_map(|(place, node)| reader.text(node, &path.index(place)))
                        .collect();
                }
                Some(_) => reader.wrong(&path, "a list of node ids that is not empty"),
            }
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            read.dry_run = reader.flag(&mut fields, "dryRun");
        }
        reader.finish(read)
    }
}

/// `{output, reason, dryRun}`, of a skip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipBody {
    /// What the node is to have given; none: it gives nothing.
    pub output: Option<Json>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Only tells what would run again.
    pub dry_run: bool,
}

impl SkipBody {
    /// Reads a body; an absent one gives no output.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>) -> Result<Self, ApiError> {
        let Some(body) = body else { return Ok(Self::default()) };
        let mut reader = Reader::default();
        let mut read = Self::default();
        let root = Path::root();
        if let Some(mut fields) = reader.object(body, &root, &["output", "reason", "dryRun"]) {
            read.output = fields.remove("output").map(|value| Json::of(&value));
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            read.dry_run = reader.flag(&mut fields, "dryRun");
        }
        reader.finish(read)
    }
}

/// A retry or a skip, or what one would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReopenedDto {
    /// The execution.
    pub id: String,
    /// The run that goes on: the next one where the execution had ended.
    pub run: u32,
    /// Seq of the entry that applied it; absent of a dry run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sequence: Option<u64>,
    /// Attempts that still run.
    pub draining: u32,
    /// Whether the execution stood there already.
    pub unchanged: bool,
    /// Nothing was changed.
    pub dry_run: bool,
    /// The nodes that have run and run again, in the definition's order.
    pub repeats: Vec<RepeatDto>,
}

impl ReopenedDto {
    /// The answer to a retry or a skip in `id`.
    #[must_use]
    pub fn of(id: ExecutionId, outcome: &ReopenOutcome) -> Self {
        let command = outcome.command;
        Self {
            id: id.to_string(),
            run: outcome.run.0,
            sequence: command.map(|command| command.seq.0),
            draining: command.map_or(0, |command| command.draining),
            unchanged: command.is_some_and(|command| command.unchanged),
            dry_run: command.is_none(),
            repeats: outcome.repeated.iter().map(RepeatDto::from).collect(),
        }
    }
}

/// A node that has run and runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepeatDto {
    /// The node.
    pub node_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it stood: `completed`, `failed`, `canceled` or `running`.
    pub status: String,
    /// Attempts that it has had.
    pub attempts: u32,
    /// Whether a node of its type may change something outside.
    pub side_effects: bool,
}

impl From<&Repeated> for RepeatDto {
    fn from(repeated: &Repeated) -> Self {
        Self {
            node_id: repeated.node.to_string(),
            kind: repeated.kind.as_str().to_owned(),
            status: repeated.status.to_owned(),
            attempts: repeated.attempts,
            side_effects: repeated.kind.has_side_effects(),
        }
    }
}

/// A rerun, or what one would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RerunDto {
    /// The new execution; absent of a dry run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// The execution that it runs again.
    pub rerun_of: String,
    /// The workflow.
    pub workflow_id: String,
    /// The version that it runs.
    pub version: u32,
    /// Seq of a durable entry of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sequence: Option<u64>,
    /// Whether it was there before.
    pub existing: bool,
    /// Nothing was started.
    pub dry_run: bool,
    /// The nodes that have run and run again, in the definition's order.
    pub repeats: Vec<RepeatDto>,
}

impl RerunDto {
    /// The answer to a rerun of `of`.
    #[must_use]
    pub fn of(of: ExecutionId, outcome: &RerunOutcome) -> Self {
        let started = outcome.started;
        Self {
            id: started.map(|started| started.id.to_string()),
            rerun_of: of.to_string(),
            workflow_id: outcome.workflow.to_string(),
            version: outcome.version,
            sequence: started.map(|started| started.seq.0),
            existing: started.is_some_and(|started| started.existing),
            dry_run: started.is_none(),
            repeats: outcome.repeated.iter().map(RepeatDto::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn retries_and_skips_are_read_whole_or_refused_with_places() {
        let pointers = |error: ApiError| -> Vec<String> {
            let errors = error.problem().errors;
            errors.into_iter().map(|item| item.pointer).collect()
        };
        assert_eq!(RetryBody::read(None).unwrap(), RetryBody::default());
        let read = RetryBody::read(Some(json!({"nodes": ["a"], "reason": "r", "dryRun": true}))).unwrap();
        assert_eq!(
            (read.nodes.as_slice(), read.reason.as_deref(), read.dry_run),
            (&["a".to_owned()][..], Some("r"), true)
        );
        let wrong = RetryBody::read(Some(json!({"nodes": ["a", 1], "dryRun": 1, "node": "a"}))).unwrap_err();
        assert_eq!(pointers(wrong), ["/node", "/nodes/1", "/dryRun"]);
        assert_eq!(
            pointers(RetryBody::read(Some(json!({"nodes": []}))).unwrap_err()),
            ["/nodes"]
        );
        let skip = SkipBody::read(Some(json!({"output": null, "reason": "r"}))).unwrap();
        assert_eq!(
            (skip.output, skip.reason.as_deref(), skip.dry_run),
            (Some(Json::null()), Some("r"), false)
        );
        assert_eq!(
            pointers(SkipBody::read(Some(json!({"outptu": 1}))).unwrap_err()),
            ["/outptu"]
        );
    }

    #[test]
    fn a_rerun_is_read_whole_or_refused_with_places() {
        let body =
            json!({"from": "n", "input": null, "version": 2, "variables": {"a": 1}, "reason": "r", "dryRun": true});
        let read = RerunBody::read(Some(body)).unwrap();
        let expected = RerunBody {
            from: "n".into(),
            input: Some(Json::null()),
            version: Some(2),
            variables: vec![("a".into(), Json::of(&json!(1)))],
            reason: Some("r".into()),
            dry_run: true,
        };
        assert_eq!(read, expected);
        let body = json!({"from": 1, "version": 0, "variables": [], "reason": "", "dryRun": "yes", "form": 1});
        let errors = RerunBody::read(Some(body)).unwrap_err().problem().errors;
        let pointers: Vec<_> = errors.into_iter().map(|error| error.pointer).collect();
        assert_eq!(
            pointers,
            ["/form", "/from", "/version", "/variables", "/reason", "/dryRun"]
        );
        assert_eq!(RerunBody::read(None).unwrap_err().code(), "INVALID_REQUEST");
    }
}
