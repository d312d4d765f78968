//! Large values, which entries only refer to.

use std::collections::BTreeMap;

use serde_json::{Value as JsonValue, json};
use troupe_core::{BlobRef, Json, Value};

/// What a store keeps of them.
#[derive(Debug, Default)]
pub struct Contents(pub BTreeMap<BlobRef, Json>);

impl Contents {
    /// A value as JSON text; of one that is not there by its hash.
    pub(super) fn text(&self, value: &Value) -> String {
        let document = value.document(&|blob| self.0.get(blob).cloned());
        document.unwrap_or_else(|_| value.shown()).as_str().to_owned()
    }

    /// A value as JSON.
    pub(super) fn parsed(&self, value: &Value) -> JsonValue {
        let read = serde_json::from_str(&self.text(value));
        read.unwrap_or_else(|error| json!({"unreadable": error.to_string()}))
    }
}
