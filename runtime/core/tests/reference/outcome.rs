//! What completes and fails: mappings, conditions, decisions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use troupe_core::definition::{Node, WorkflowEdge};

use super::definition::{edge_type, field, node, outgoing, owner, text};
use super::interpreter::{expression_error, failure};
use super::language::{self, Thrown};
use super::scope::mapped;
use super::state::{Phase, Reference};

/// Length of what `concurrency.key` may give, as JSON.
const KEY_BYTES_MAX: usize = 1_024;

impl Reference {
    /// Fixes a node's input and data; false when that failed the node.
    pub(super) fn prepare(&mut self, id: &str) -> bool {
        let written = node(&self.definition, id).clone();
        let raw = self.nodes[id].raw.clone();
        let (mut input, mut is_mapped) = (raw.clone(), false);
        if let Some(mapping) = field(&written, "inputMapping").and_then(Value::as_object) {
            let scope = self.scope(Some(id), &[("input", &raw)]);
            match mapped(mapping, &scope) {
                Ok(values) => (input, is_mapped) = (Value::Object(values), true),
                Err(Thrown) => {
                    self.set(id).input = raw.clone();
                    self.fail(id, expression_error(), raw);
                    return false;
                }
            }
        }
        let scope = self.scope(Some(id), &[("input", &input)]);
        let mut data = Map::new();
        for (name, value) in &written.data {
            // It is asked of each call.
            if name == "transformationTemplate" {
                continue;
            }
            let is_expression = name == "delayValue" && text(&written, "delayType") == Some("expression");
            let resolved = match value.as_str() {
                Some(text) if is_expression => language::evaluate(text, &scope),
                Some(text) if text.starts_with("{{") => language::template(text, &scope),
                _ => continue,
            };
            match resolved {
                Ok(value) => _ = data.insert(name.clone(), value),
                Err(Thrown) => {
                    self.set(id).input = raw.clone();
                    self.fail(id, expression_error(), raw);
                    return false;
                }
            }
        }
        let state = self.set(id);
        (state.input, state.mapped, state.data) = (input, is_mapped, Value::Object(data));
        self.check_prepared(id)
    }

    /// Whether input and data are as they must be; if not, that failed the node.
    pub(super) fn check_prepared(&mut self, id: &str) -> bool {
        let written = node(&self.definition, id).clone();
        let (raw, input) = (self.nodes[id].raw.clone(), self.nodes[id].input.clone());
        if written.node_type == "end" && self.asked_status(id).is_none() {
            self.fail(id, expression_error(), raw);
            return false;
        }
        if field(&written, "inputSchema").is_some_and(|schema| !language::meets(schema, &input)) {
            self.fail(id, failure("SCHEMA_VIOLATION").error(), input);
            return false;
        }
        if !self.has_key(&written, Some(id), &input) {
            self.fail(id, expression_error(), input);
            return false;
        }
        true
    }

    /// Whether the key that it counts under is one, if it has any.
    pub(super) fn has_key(&self, written: &Node, id: Option<&str>, input: &Value) -> bool {
        let limit = field(written, "concurrency");
        let Some(key) = limit.and_then(|limit| limit["key"].as_str()) else {
            return true;
        };
        let scope = self.scope(id, &[("input", input)]);
        // A key that is nothing is none, and one has so many bytes at most.
        let is_key = |key: &Value| !key.is_null() && key.to_string().len() <= KEY_BYTES_MAX;
        language::evaluate(key, &scope).is_ok_and(|key| is_key(&key))
    }

    /// A delay waits from when it is ready, and not at all if it is due.
    pub(super) fn begin_delay(&mut self, id: &str) {
        let written = node(&self.definition, id).clone();
        let input = self.nodes[id].input.clone();
        let value = self.nodes[id]
            .data
            .get("delayValue")
            .or(field(&written, "delayValue"))
            .cloned();
        let kind = text(&written, "delayType").unwrap_or("fixed").to_owned();
        let until = match value {
            Some(Value::Number(number)) => number.as_f64().map(|number| {
                let is_instant = kind == "until" || (kind == "expression" && number >= 1e12);
                if is_instant {
                    number as i64
                } else {
                    self.at + number.max(0.0) as i64
                }
            }),
            Some(Value::String(text)) => chrono::DateTime::parse_from_rfc3339(&text)
                .ok()
                .map(|at| at.timestamp_millis()),
            _ => None,
        };
        match until {
            None => self.fail(id, expression_error(), input),
            Some(until) if until <= self.at => self.complete(id, input),
            Some(until) => self.set(id).phase = Phase::Delaying { until },
        }
    }

    /// The work of a node is done; what follows may still fail it (§8.3).
    pub(super) fn complete(&mut self, id: &str, raw: Value) {
        self.complete_with(id, raw);
        if node(&self.definition, id).node_type == "end" && self.nodes[id].phase == Phase::Completed {
            self.end_by(id);
        }
    }

    /// As [`Self::complete`], but an `end` that somebody completes by hand has not run and ends nothing.
    pub(super) fn complete_with(&mut self, id: &str, raw: Value) {
        self.complete_or_fail(id, raw, true);
    }

    /// It did not run and has an output all the same: there is nothing to undo.
    pub(super) fn skip_with(&mut self, id: &str, raw: Value) {
        self.complete_or_fail(id, raw, false);
    }

    fn complete_or_fail(&mut self, id: &str, raw: Value, has_run: bool) {
        let before = self.variables.clone();
        let input = self.nodes[id].input.clone();
        match self.outcome(id, raw) {
            Ok(taken) => {
                if has_run {
                    self.note_completion(id);
                }
                self.cancel_region(id);
                self.resolve(id, |edge| taken.contains(&edge));
            }
            Err(error) => {
                self.variables = before;
                self.set(id).output = None;
                self.fail(id, error, input);
            }
        }
    }

    /// Sets output and variables and says which edges are taken; or gives the error that fails the node.
    fn outcome(&mut self, id: &str, raw: Value) -> Result<BTreeSet<usize>, Value> {
        let written = node(&self.definition, id).clone();
        let input = self.nodes[id].input.clone();
        let threw = |Thrown| expression_error();
        let mut output = raw;
        if field(&written, "outputSchema").is_some_and(|schema| !language::meets(schema, &output)) {
            return Err(failure("SCHEMA_VIOLATION").error());
        }
        if let Some(expression) = text(&written, "output") {
            let scope = self.scope(Some(id), &[("input", &input), ("output", &output)]);
            output = language::evaluate(expression, &scope).map_err(threw)?;
        }
        if let Some(mapping) = field(&written, "outputMapping").and_then(Value::as_object) {
            let scope = self.scope(Some(id), &[("input", &input), ("output", &output)]);
            let values = mapped(mapping, &scope).map_err(threw)?;
            self.variables.extend(values);
        }
        let state = self.set(id);
        (state.phase, state.output) = (Phase::Completed, Some(output.clone()));
        let scope = self.scope(Some(id), &[("input", &input), ("output", &output)]);
        let holds = |edge: usize| self.holds(edge, &scope);
        let mut taken = BTreeSet::new();
        if written.node_type == "decision" {
            taken.extend(self.decide(id, &scope)?);
        }
        for edge in outgoing(&self.definition, id) {
            let kind = edge_type(&self.definition.edges[edge]);
            let ordinary = kind == "always" || (kind != "failure" && written.node_type != "decision");
            if ordinary && holds(edge).map_err(threw)? {
                taken.insert(edge);
            }
        }
        Ok(taken)
    }

    /// §1, decision nodes.
    fn decide(&self, id: &str, scope: &Value) -> Result<BTreeSet<usize>, Value> {
        let written = node(&self.definition, id);
        let conditions = field(written, "conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let ids: Vec<&str> = conditions
            .iter()
            .filter_map(|condition| condition["id"].as_str())
            .collect();
        let way = |edge: usize| &self.definition.edges[edge];
        let ways: Vec<usize> = outgoing(&self.definition, id)
            .into_iter()
            .filter(|&edge| matches!(edge_type(way(edge)), "default" | "success"))
            .collect();
        let belongs_to = |edge: &WorkflowEdge, id: &str| owner(edge, &ids) == Some(id);
        let is_own = |edge: &WorkflowEdge| edge.condition.is_some() && owner(edge, &ids).is_none();
        let first = text(written, "mode") != Some("all");
        let mut taken = BTreeSet::new();
        for condition in &conditions {
            if first && !taken.is_empty() {
                break;
            }
            let expression = condition["expression"].as_str().unwrap_or("throw");
            if language::truthy(&language::evaluate(expression, scope).map_err(|Thrown| expression_error())?) {
                let id = condition["id"].as_str().unwrap_or_default();
                for edge in ways.iter().copied().filter(|&edge| belongs_to(way(edge), id)) {
                    // §1: an edge is taken if its `condition` is absent or true; one that names the condition is no expression.
                    let named = way(edge).condition.as_deref().is_some_and(|name| ids.contains(&name));
                    if named || self.holds(edge, scope).map_err(|Thrown| expression_error())? {
                        taken.insert(edge);
                    }
                }
            }
        }
        for edge in ways.iter().copied().filter(|&edge| is_own(way(edge))) {
            if first && !taken.is_empty() {
                break;
            }
            if self.holds(edge, scope).map_err(|Thrown| expression_error())? {
                taken.insert(edge);
            }
        }
        if taken.is_empty() && !ways.is_empty() {
            let default = text(written, "defaultPath");
            let is_default = |edge: usize| {
                let way = way(edge);
                let by_condition = default.is_some_and(|name| ids.contains(&name) && belongs_to(way, name));
                by_condition || default == Some(&*way.id) || default == Some(&*way.target)
            };
            taken.extend(ways.iter().copied().filter(|&edge| is_default(edge)));
            if taken.is_empty() {
                return Err(failure("NO_MATCHING_CONDITION").error());
            }
        }
        Ok(taken)
    }

    fn holds(&self, edge: usize, scope: &Value) -> Result<bool, Thrown> {
        match self.definition.edges[edge]
            .condition
            .as_deref()
            .filter(|condition| !condition.is_empty())
        {
            None => Ok(true),
            Some(condition) => language::evaluate(condition, scope).map(|value| language::truthy(&value)),
        }
    }

    /// The node failed for good: its failure and `always` edges decide, and §6 if nothing handles it.
    pub(super) fn fail(&mut self, id: &str, error: Value, input: Value) {
        let edges = outgoing(&self.definition, id);
        let (taken, handled) = self.failed_with(id, &error, input, &edges);
        self.resolve(id, |edge| taken.contains(&edge));
        if !handled {
            self.unhandled(id, error);
        }
    }

    /// Which of the edges out of a failed node are taken, and whether one of them handles the failure.
    pub(super) fn failed_with(
        &mut self,
        id: &str,
        error: &Value,
        input: Value,
        edges: &[usize],
    ) -> (BTreeSet<usize>, bool) {
        let (written, at) = (node(&self.definition, id).clone(), self.at);
        let state = self.set(id);
        (state.phase, state.error, state.failed_at) = (Phase::Failed, Some(error.clone()), Some(at));
        let scope = self.scope(Some(id), &[("input", &input), ("error", error)]);
        let code = error["code"].as_str().unwrap_or_default();
        let first_only = text(&written, "errorMode") == Some("first");
        let (mut taken, mut handled) = (BTreeSet::new(), false);
        for &edge in edges {
            let way = self.way(edge);
            let catches = way
                .errors
                .as_ref()
                .is_none_or(|codes| codes.is_empty() || codes.iter().any(|listed| listed == "*" || listed == code));
            let kind = edge_type(way);
            let eligible = kind == "always" || (kind == "failure" && catches && !(first_only && handled));
            if eligible && self.holds(edge, &scope) == Ok(true) {
                taken.insert(edge);
                handled |= kind == "failure";
            }
        }
        let state = self.set(id);
        state.payload = Some(json!({"error": error, "input": input}));
        state.handled = handled;
        (taken, handled)
    }
}
