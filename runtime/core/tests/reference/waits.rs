//! §5: webhook nodes, which wait for a call unless they are roots, and calls that come before they do.

use std::collections::VecDeque;

use serde_json::Value;

use super::definition::{field, milliseconds, node};
use super::interpreter::{expression_error, failure};
use super::language::{self, Thrown};
use super::state::{Did, Phase, Reference, Refusal, Status};

/// So many calls of a node are kept that it does not wait for yet.
const CALLS_MAX: usize = 64;

impl Reference {
    /// A call came for a node.
    pub fn signal(&mut self, at: i64, id: &str, call: Value) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let written = node(&self.definition, id);
        let refused = |code| Err(Refusal::Refused(code));
        let is_ending = matches!(
            self.status,
            Status::Canceling { .. } | Status::Undoing(_) | Status::Reporting
        );
        if is_ending || written.node_type != "webhook" || self.is_root(id) {
            return refused("NODE_NOT_WAITING");
        }
        let schema = field(written, "payloadSchema");
        if schema.is_some_and(|schema| !language::meets(schema, &call["body"])) {
            return refused("SCHEMA_VIOLATION");
        }
        let waits = matches!(self.nodes[id].phase, Phase::Waiting { .. });
        if !waits && !self.may_wait(id) {
            return refused("NODE_NOT_WAITING");
        }
        if waits {
            self.take_call(id, call);
        } else {
            let kept = self.calls.entry(id.to_owned()).or_default();
            if kept.len() == CALLS_MAX {
                return refused("TOO_MANY_CALLS");
            }
            kept.push_back(call);
        }
        self.conclude()
    }

    /// Whoever works on what a node waits for is still alive.
    pub fn heartbeat(&mut self, at: i64, id: &str) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let Phase::Waiting { until, .. } = self.nodes[id].phase else {
            return Err(Refusal::Refused("NODE_NOT_WAITING"));
        };
        let heartbeat_by = self.heartbeat_by(id);
        if heartbeat_by.is_none() {
            return Err(Refusal::Unchanged);
        }
        self.set(id).phase = Phase::Waiting { until, heartbeat_by };
        self.conclude()
    }

    /// The calls that are kept for a node, oldest first.
    pub fn kept(&self, id: &str) -> impl Iterator<Item = &Value> {
        self.calls.get(id).into_iter().flatten()
    }

    /// The node is ready: a call that was kept is delivered, else it waits for one.
    pub(super) fn begin_wait(&mut self, id: &str) {
        if let Some(call) = self.calls.get_mut(id).and_then(VecDeque::pop_front) {
            return self.take_call(id, call);
        }
        let until = self.resolved_milliseconds(id, "timeout").map(|ms| self.at + ms);
        let heartbeat_by = self.heartbeat_by(id);
        self.set(id).phase = Phase::Waiting { until, heartbeat_by };
    }

    /// Nobody called, or nobody is alive any more; where both fall together, nobody called.
    pub(super) fn wait_ended(&mut self, id: &str) {
        let Phase::Waiting { until, heartbeat_by } = self.nodes[id].phase else {
            panic!("{id} does not wait");
        };
        let is_timeout = until.is_some_and(|until| heartbeat_by.is_none_or(|by| until <= by));
        let code = if is_timeout { "TIMEOUT" } else { "HEARTBEAT_TIMEOUT" };
        let input = self.nodes[id].input.clone();
        self.fail(id, failure(code).error(), input);
    }

    /// A number of milliseconds in a node's data, with its template resolved where it is one.
    pub(super) fn resolved_milliseconds(&self, id: &str, name: &str) -> Option<i64> {
        let resolved = self.nodes[id].data.get(name).and_then(Value::as_i64);
        resolved.or_else(|| milliseconds(node(&self.definition, id), name))
    }

    /// A field of a node's data, with its template resolved where it is one.
    pub(super) fn resolved(&self, id: &str, name: &str) -> Option<Value> {
        let resolved = self.nodes[id].data.get(name);
        let written = resolved.or_else(|| field(node(&self.definition, id), name));
        written.filter(|value| !value.is_null()).cloned()
    }

    fn heartbeat_by(&self, id: &str) -> Option<i64> {
        self.resolved_milliseconds(id, "heartbeatTimeout")
            .map(|ms| self.at + ms)
    }

    /// The call completes the node, or its template fails it.
    pub(super) fn take_call(&mut self, id: &str, call: Value) {
        let input = self.nodes[id].input.clone();
        match self.of_call(id, &input, call) {
            Ok(output) => self.complete(id, output),
            Err(Thrown) => self.fail(id, expression_error(), input),
        }
    }

    /// What `transformationTemplate` makes of a call.
    fn of_call(&self, id: &str, input: &Value, call: Value) -> Result<Value, Thrown> {
        match field(node(&self.definition, id), "transformationTemplate") {
            None => Ok(call),
            Some(template) => {
                let scope = self.scope(Some(id), &[("input", input), ("output", &call)]);
                language::template(template.as_str().ok_or(Thrown)?, &scope)
            }
        }
    }

    /// Whether a webhook that does not wait now may yet: in this visit, or because a loop around it goes round again.
    fn may_wait(&self, id: &str) -> bool {
        let mut around = self.loops.iter().filter(|the| the.body.contains(id));
        !self.nodes[id].phase.is_terminal() || around.any(|the| !self.generations[&the.header].finished)
    }
}
