//! Reads the wire format out of a JSON value, reporting every field of the wrong shape.
//!
//! Reading never fails: what has the wrong shape is kept in `extra` under its own name, so nothing is lost and a second
//! reading reports the same.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;

pub use super::problems::{Path, Problems};
use super::{DefinitionMetadata, Node, NodeMetadata, NodePosition, Object, WorkflowDefinition, WorkflowEdge, code};

/// Reads a definition.
#[must_use]
pub fn definition(value: Value, path: &Path<'_>, problems: &mut Problems) -> WorkflowDefinition {
    let Some(mut fields) = Fields::new(value, path, problems, "a workflow definition") else {
        return WorkflowDefinition {
            version: 1,
            ..WorkflowDefinition::default()
        };
    };
    let id = fields.text("id").unwrap_or_default();
    let name = fields
        .text("name")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| id.clone());
    let description = fields.text("description").unwrap_or_default();
    let version = fields.version();
    let nodes = fields.list("nodes", node);
    let mut edges = fields.list("edges", edge);
    let settings = fields.object("settings").unwrap_or_default();
    let metadata = fields.section("metadata", definition_metadata).unwrap_or_default();
    let processed_graph = fields.any("processedGraph");
    let extra = fields.rest;
    name_edges(&mut edges);
    WorkflowDefinition {
        id,
        name,
        description,
        version,
        nodes,
        edges,
        settings,
        metadata,
        processed_graph,
        extra,
    }
}

/// Reads a node.
#[must_use]
pub fn node(value: Value, path: &Path<'_>, problems: &mut Problems) -> Node {
    let Some(mut fields) = Fields::new(value, path, problems, "a node") else {
        return Node {
            version: 1,
            ..Node::default()
        };
    };
    let id = fields.text("id").unwrap_or_default();
    let node_type = fields.text("type").unwrap_or_default();
    let name = fields
        .text("name")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| default_node_name(&node_type));
    Node {
        description: fields.text("description"),
        workflow_id: fields.text("workflowId"),
        version: fields.version(),
        position: fields.section("position", position),
        data: fields.object("data").unwrap_or_default(),
        metadata: fields.section("metadata", node_metadata),
        extra: fields.rest,
        id,
        node_type,
        name,
    }
}

/// The name of a node whose author gave none.
#[must_use]
pub fn default_node_name(node_type: &str) -> String {
    format!("{node_type} Node")
}

/// Reads an edge.
#[must_use]
pub fn edge(value: Value, path: &Path<'_>, problems: &mut Problems) -> WorkflowEdge {
    let Some(mut fields) = Fields::new(value, path, problems, "an edge") else {
        return WorkflowEdge::default();
    };
    WorkflowEdge {
        id: fields.text("id").unwrap_or_default(),
        source: fields.text("source").unwrap_or_default(),
        target: fields.text("target").unwrap_or_default(),
        edge_type: fields.text("type"),
        label: fields.label(),
        condition: fields.text("condition"),
        source_handle: fields.text("sourceHandle"),
        target_handle: fields.text("targetHandle"),
        errors: fields.texts("errors"),
        data: fields.any("data"),
        extra: fields.rest,
    }
}

/// Gives every edge without an id one that depends only on its ends and on how many such edges came before.
fn name_edges(edges: &mut [WorkflowEdge]) {
    if edges.iter().all(|edge| !edge.id.is_empty()) {
        return;
    }
    let mut taken: HashSet<String> = edges
        .iter()
        .filter(|edge| !edge.id.is_empty())
        .map(|edge| edge.id.clone())
        .collect();
    let mut repeats = std::collections::HashMap::<String, usize>::new();
    for edge in edges.iter_mut().filter(|edge| edge.id.is_empty()) {
        let base = format!("{}->{}", edge.source, edge.target);
        let repeat = repeats.entry(base.clone()).or_insert(0);
        loop {
            *repeat += 1;
            let id = if *repeat == 1 {
                base.clone()
            } else {
                format!("{base}#{repeat}")
            };
            if taken.insert(id.clone()) {
                edge.id = id;
                break;
            }
        }
    }
}

fn definition_metadata(value: Value, path: &Path<'_>, problems: &mut Problems) -> Result<DefinitionMetadata, Value> {
    let mut fields = Fields::of_section(value, path, problems)?;
    Ok(DefinitionMetadata {
        created_at: fields.text("createdAt"),
        updated_at: fields.text("updatedAt"),
        created_by: fields.text("createdBy"),
        tags: fields.texts("tags").unwrap_or_default(),
        extra: fields.rest,
    })
}

fn node_metadata(value: Value, path: &Path<'_>, problems: &mut Problems) -> Result<NodeMetadata, Value> {
    let mut fields = Fields::of_section(value, path, problems)?;
    Ok(NodeMetadata {
        created_at: fields.text("createdAt"),
        updated_at: fields.text("updatedAt"),
        created_by: fields.text("createdBy"),
        tags: fields.texts("tags"),
        category: fields.text("category"),
        is_public: fields.boolean("isPublic"),
        extra: fields.rest,
    })
}

fn position(value: Value, path: &Path<'_>, problems: &mut Problems) -> Result<NodePosition, Value> {
    let mut fields = Fields::of_section(value, path, problems)?;
    Ok(NodePosition {
        x: fields.number("x").unwrap_or_default(),
        y: fields.number("y").unwrap_or_default(),
        extra: fields.rest,
    })
}

type SectionReader<T> = fn(Value, &Path<'_>, &mut Problems) -> Result<T, Value>;

/// The fields of one object, taken out one by one; what is left is `extra`.
struct Fields<'a> {
    rest: Object,
    path: &'a Path<'a>,
    problems: &'a mut Problems,
}

impl<'a> Fields<'a> {
    fn new(value: Value, path: &'a Path<'a>, problems: &'a mut Problems, what: &str) -> Option<Self> {
        match value {
            Value::Object(rest) => Some(Self { rest, path, problems }),
            other => {
                let message = format!("{what} is an object, this is {}", describe(&other));
                problems.error(code::FIELD_TYPE, path, message);
                None
            }
        }
    }

    fn of_section(value: Value, path: &'a Path<'a>, problems: &'a mut Problems) -> Result<Self, Value> {
        match value {
            Value::Object(rest) => Ok(Self { rest, path, problems }),
            other => Err(other),
        }
    }

    /// Takes a field out and converts it; a value of the wrong shape goes back and is reported.
    fn take<T>(&mut self, name: &str, expected: &str, convert: impl FnOnce(Value) -> Result<T, Value>) -> Option<T> {
        let value = self.rest.shift_remove(name)?;
        if value.is_null() {
            return None;
        }
        match convert(value) {
            Ok(converted) => Some(converted),
            Err(value) => {
                let message = format!("`{name}` must be {expected}, this is {}", describe(&value));
                self.problems.error(code::FIELD_TYPE, &self.path.key(name), message);
                self.rest.insert(name.to_owned(), value);
                None
            }
        }
    }

    fn any(&mut self, name: &str) -> Option<Value> {
        self.rest.shift_remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name, "a string", |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// Editors put objects in labels; such a label shows nothing and decides nothing, so it only earns a warning.
    fn label(&mut self) -> Option<String> {
        match self.rest.shift_remove("label")? {
            Value::String(text) => Some(text),
            Value::Null => None,
            other => {
                let message = format!("a label that is {} is ignored, a label is a string", describe(&other));
                self.problems
                    .warning(code::FIELD_TYPE, &self.path.key("label"), message);
                self.rest.insert("label".to_owned(), other);
                None
            }
        }
    }

    fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.take(name, "a list of strings", |value| match value {
            Value::Array(items) if items.iter().all(Value::is_string) => Ok(items
                .into_iter()
                .filter_map(|item| match item {
                    Value::String(text) => Some(text),
                    _ => None,
                })
                .collect()),
            other => Err(other),
        })
    }

    fn boolean(&mut self, name: &str) -> Option<bool> {
        self.take(name, "true or false", |value| value.as_bool().ok_or(value))
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        self.take(name, "a number", |value| value.as_f64().ok_or(value))
    }

    fn version(&mut self) -> u32 {
        let version = self.take("version", "a whole number from 1", |value| {
            let version = value.as_u64().or_else(|| whole(value.as_f64()?));
            version
                .and_then(|version| u32::try_from(version).ok())
                .filter(|&version| version >= 1)
                .ok_or(value)
        });
        version.unwrap_or(1)
    }

    fn object(&mut self, name: &str) -> Option<Object> {
        self.take(name, "an object", |value| match value {
            Value::Object(object) => Ok(object),
            other => Err(other),
        })
    }

    fn section<T>(&mut self, name: &str, reader: SectionReader<T>) -> Option<T> {
        let path = self.path.key(name);
        let mut nested = Problems::default();
        let section = self.take(name, "an object", |value| reader(value, &path, &mut nested));
        for problem in nested.into_diagnostics() {
            self.problems.push(problem);
        }
        section
    }

    fn list<T>(&mut self, name: &str, reader: fn(Value, &Path<'_>, &mut Problems) -> T) -> Vec<T> {
        let items = self.take(name, "a list", |value| match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        });
        let path = self.path.key(name);
        let items = items.unwrap_or_default();
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| reader(item, &path.index(index), self.problems))
            .collect()
    }
}

/// A float as a whole number, where it is one: `1e3` is as good as `1000`.
pub(crate) fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number)).then_some(number as u64)
}

/// Names a value for a message: a number itself, else its shape.
pub(crate) fn describe(value: &Value) -> Cow<'static, str> {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(number) => number.to_string().into(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}
