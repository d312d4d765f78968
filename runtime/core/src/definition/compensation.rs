//! What undoes a node: `data.compensation`, a node's type and data.

use serde_json::Value;

use super::{Node, NodeKind, Path};

/// Node types that can undo another node: those with attempts that wait for nobody.
pub const COMPENSATION_KINDS: [NodeKind; 6] = [
    NodeKind::Function,
    NodeKind::Http,
    NodeKind::Transformation,
    NodeKind::Custom,
    NodeKind::Database,
    NodeKind::Publish,
];

/// Fields of a node's data that say nothing of a compensation: it has no edges, and nothing undoes it.
pub(crate) const NOT_IN_COMPENSATION: [&str; 5] = ["join", "cancels", "compensation", "errorMode", "cache"];

impl Node {
    /// What undoes this node, as a node of the same id; none where `data.compensation` is no object.
    #[must_use]
    pub fn compensation(&self) -> Option<Self> {
        let written = self.field("compensation")?.as_object()?;
        let mut data = written
            .get("data")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        data.retain(|name, _| !NOT_IN_COMPENSATION.contains(&name.as_str()));
        Some(Self {
            id: self.id.clone(),
            node_type: written
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            name: self.name.clone(),
            version: self.version,
            data,
            ..Self::default()
        })
    }

    /// Calls `visit` with what undoes the node at `path`, and the place of that.
    pub(crate) fn with_compensation<T>(&self, path: &Path<'_>, visit: impl FnOnce(&Self, &Path<'_>) -> T) -> Option<T> {
        let compensation = self.compensation()?;
        self.with_holder("compensation", path, |holder| {
            Some(visit(&compensation, &holder.path("compensation")))
        })
    }
}
