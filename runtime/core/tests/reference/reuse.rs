//! ADR 0025: a node completes with what the store knows under its key. What that is, is told from outside.

use serde_json::Value;

use super::definition::{field, node};
use super::interpreter::expression_error;
use super::language;
use super::state::Reference;

impl Reference {
    /// The store was asked for what an earlier attempt of a node gave, and knew this.
    #[allow(dead_code, reason = "only the checkers of chaos-tests know a store")]
    pub fn found_in_cache(&mut self, id: &str, output: Option<Value>) {
        self.found.entry(id.to_owned()).or_default().push_back(output);
    }

    /// A node completes with what was found under its key, and has not run; else it runs.
    pub(super) fn reuse_or_hold(&mut self, id: &str) {
        let cache = field(node(&self.definition, id), "cache");
        let Some(key) = cache.and_then(|cache| cache["key"].as_str()) else {
            return self.hold(id);
        };
        let input = self.nodes[id].input.clone();
        let scope = self.scope(Some(id), &[("input", &input)]);
        if language::evaluate(key, &scope).is_err() {
            return self.fail(id, expression_error(), input);
        }
        let found = self.found.get_mut(id).and_then(|found| found.pop_front());
        match found.flatten() {
            Some(output) => self.skip_with(id, output),
            None => self.hold(id),
        }
    }
}
