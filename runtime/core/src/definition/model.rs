//! The wire format: what users write, kept whole.
//!
//! Fields the specification names are typed; everything else survives in the `extra` maps, so that a definition
//! written by a newer or foreign tool is stored and served back unharmed. A known field whose value has the wrong
//! shape is also kept in `extra`, under its own name, and reported by [`super::read`].

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::read;

/// A JSON object with its keys in the order they were written.
pub type Object = Map<String, Value>;

/// A workflow as its author wrote it: the specification's `WorkflowDefinition` with additive extensions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowDefinition {
    /// Unique name of the workflow; empty when the author left it to the store.
    pub id: String,
    /// Human-readable name.
    pub name: String,
    /// What the workflow is for.
    pub description: String,
    /// Version of the definition, from 1.
    pub version: u32,
    /// The steps, in array order.
    pub nodes: Vec<Node>,
    /// The transitions, in array order.
    pub edges: Vec<WorkflowEdge>,
    /// Workflow-wide settings, raw; see [`super::Settings`] for the typed view.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub settings: Object,
    /// Who made the definition and when.
    pub metadata: DefinitionMetadata,
    /// The analysis that came with the definition, never trusted, only carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processed_graph: Option<Value>,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

impl WorkflowDefinition {
    /// The body of a node as a definition of its own, of this one's version; none where the node has no readable body.
    #[must_use]
    pub fn body_of(&self, node: &str) -> Option<Self> {
        let node = self.nodes.iter().find(|known| known.id == node)?;
        let mut body = node.field("body")?.as_object()?.clone();
        body.insert("id".into(), node.id.as_str().into());
        body.insert("name".into(), node.name.as_str().into());
        body.insert("version".into(), self.version.into());
        serde_json::from_value(Value::Object(body)).ok()
    }
}

/// Provenance of a definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionMetadata {
    /// Creation time, RFC 3339 as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Time of the last change, RFC 3339 as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// Author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Labels for searching.
    pub tags: Vec<String>,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

/// One step of a workflow.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Unique within the definition.
    pub id: String,
    /// The node type as written; see [`Node::kind`].
    #[serde(rename = "type")]
    pub node_type: String,
    /// Human-readable name; `<type> Node` when the author gave none.
    pub name: String,
    /// What the step is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The workflow the node says it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Version of the node, from 1.
    pub version: u32,
    /// Place in the visual editor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<NodePosition>,
    /// The node's configuration, raw.
    pub data: Object,
    /// Provenance of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<NodeMetadata>,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

/// Place of a node in the visual editor.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodePosition {
    /// Horizontal coordinate.
    #[serde(serialize_with = "serialize_coordinate")]
    pub x: f64,
    /// Vertical coordinate.
    #[serde(serialize_with = "serialize_coordinate")]
    pub y: f64,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

/// Provenance of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetadata {
    /// Creation time, RFC 3339 as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Time of the last change, RFC 3339 as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// Author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Labels for searching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Group in an editor's palette.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Whether other workflows may reuse the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_public: Option<bool>,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

/// A transition between two nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkflowEdge {
    /// Unique within the definition; derived from its ends when the author gave none.
    pub id: String,
    /// Id of the node the edge leaves.
    pub source: String,
    /// Id of the node the edge enters.
    pub target: String,
    /// The edge type as written; see [`WorkflowEdge::kind`].
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub edge_type: Option<String>,
    /// Text shown on the edge; on decisions also the id of the condition it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Expression (or, on decisions, a condition id) that decides whether the edge is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Port of the source the edge leaves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_handle: Option<String>,
    /// Port of the target the edge enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_handle: Option<String>,
    /// Error codes a failure edge is for; `*` stands for any. Absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<String>>,
    /// Free data of the edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Fields the specification does not name.
    #[serde(flatten)]
    pub extra: Object,
}

impl Node {
    /// Looks a configuration field up: `data.<name>`, else `data.taskDefinition.<name>`, else
    /// `data.taskDefinition.config.<name>` (see [`Node::config_holds_fields`]). A `null` counts as absent.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        let mut found = self.sources().into_iter().flatten().map(|source| source.get(name));
        found.find_map(|value| value.filter(|value| !value.is_null()))
    }

    /// Where configuration fields may stand; the first one that has a field wins.
    pub(crate) fn sources(&self) -> [Option<&Object>; 3] {
        let task = self.data.get("taskDefinition").and_then(Value::as_object);
        let config = task.and_then(|task| task.get("config")).and_then(Value::as_object);
        [Some(&self.data), task, config.filter(|_| self.config_holds_fields())]
    }

    /// Whether the fields of the node's type may stand in `taskDefinition.config`. A trigger has a field `config`, and what
    /// a handler finds there is its own affair.
    #[must_use]
    pub fn config_holds_fields(&self) -> bool {
        use super::NodeKind;
        match self.kind() {
            Some(NodeKind::Trigger | NodeKind::Function | NodeKind::Custom) | None => false,
            Some(
                NodeKind::Http
                | NodeKind::Webhook
                | NodeKind::Decision
                | NodeKind::Transformation
                | NodeKind::Delay
                | NodeKind::Subworkflow
                | NodeKind::ForEach
                | NodeKind::Loop
                | NodeKind::Database
                | NodeKind::Publish
                | NodeKind::End,
            ) => true,
        }
    }

    /// Looks a configuration field up as text.
    #[must_use]
    pub fn text_field(&self, name: &str) -> Option<&str> {
        self.field(name).and_then(Value::as_str)
    }

    /// The node's type, if this release knows it.
    #[must_use]
    pub fn kind(&self) -> Option<super::NodeKind> {
        super::NodeKind::parse(&self.node_type)
    }
}

impl WorkflowEdge {
    /// The condition of a decision that the edge belongs to: its `condition` names it, else its `sourceHandle`, else its
    /// `label`. `is_id` tells the ids of the decision's conditions.
    #[must_use]
    pub fn owner(&self, is_id: impl Fn(&str) -> bool) -> Option<&str> {
        [&self.condition, &self.source_handle, &self.label]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|name| is_id(name))
    }

    /// The edge's type, if this release knows it; an absent type is [`super::EdgeKind::Default`].
    #[must_use]
    pub fn kind(&self) -> Option<super::EdgeKind> {
        match self.edge_type.as_deref() {
            None => Some(super::EdgeKind::Default),
            Some(text) => super::EdgeKind::parse(text),
        }
    }
}

/// Looks a configuration field of a node up; see [`Node::field`].
#[must_use]
pub fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Value> {
    node.field(name)
}

/// Editors write whole pixels; printing them without a fraction keeps a stored file as its author wrote it.
fn serialize_coordinate<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const LARGEST_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < LARGEST_EXACT_INTEGER {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

macro_rules! deserialize_by_reader {
    ($type:ty, $reader:path) => {
        impl<'de> Deserialize<'de> for $type {
            /// Reads through [`Value`]; every field of the wrong shape is named in the error.
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = Value::deserialize(deserializer)?;
                let mut problems = read::Problems::default();
                let read = $reader(value, &read::Path::root(), &mut problems);
                match problems.into_errors_text() {
                    None => Ok(read),
                    Some(text) => Err(serde::de::Error::custom(text)),
                }
            }
        }
    };
}

deserialize_by_reader!(WorkflowDefinition, read::definition);
deserialize_by_reader!(Node, read::node);
deserialize_by_reader!(WorkflowEdge, read::edge);
