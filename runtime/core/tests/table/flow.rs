//! A few letters for a workflow and what happens to it.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};
use troupe_core::execution::{EdgeState, Phase, Status, StepError, next_deadline};

use crate::reference::{Decision, Did, Failure, Remedy};
use crate::support::duo::{Duo, EPOCH, Stimulus};

/// A workflow under construction.
pub struct Flow {
    nodes: Vec<(String, String, Map<String, Value>)>,
    edges: Vec<Value>,
    settings: Value,
}

/// `nodes`: names, functions but for `name/type`. `edges`: `a>b` on success, `a!>b` on failure, `a~>b` always,
/// each with an optional `?condition` (written without spaces, `~` for one) at its end.
pub fn flow(nodes: &str, edges: &str) -> Flow {
    let node = |text: &str| {
        let (name, kind) = text.split_once('/').unwrap_or((text, "function"));
        // One attempt, so that a failure is one at once; a test of retries says so.
        let data = if kind == "function" {
            json!({"retryPolicy": {"maxAttempts": 1}})
        } else {
            json!({})
        };
        (
            name.to_owned(),
            kind.to_owned(),
            data.as_object().cloned().unwrap_or_default(),
        )
    };
    let edge = |(place, text): (usize, &str)| {
        let (ends, condition) = text
            .split_once('?')
            .map_or((text, None), |(ends, text)| (ends, Some(text)));
        let (source, target) = ends.split_once('>').expect("an edge has `>`");
        let (source, kind) = match source.strip_suffix('!') {
            Some(source) => (source, Some("failure")),
            None => source
                .strip_suffix('~')
                .map_or((source, None), |source| (source, Some("always"))),
        };
        let mut edge = json!({"id": format!("e{place}"), "source": source, "target": target});
        if let Some(kind) = kind {
            edge["type"] = json!(kind);
        }
        if let Some(condition) = condition {
            edge["condition"] = json!(condition.replace('~', " "));
        }
        edge
    };
    Flow {
        nodes: nodes.split_whitespace().map(node).collect(),
        edges: edges.split_whitespace().enumerate().map(edge).collect(),
        settings: json!({}),
    }
}

impl Flow {
    /// Adds to a node's data.
    pub fn data(mut self, name: &str, data: Value) -> Self {
        let node = self.nodes.iter_mut().find(|(known, ..)| known == name).expect("a node");
        node.2.extend(data.as_object().cloned().unwrap_or_default());
        self
    }

    /// Sets a node's join.
    pub fn join(self, name: &str, join: Value) -> Self {
        self.data(name, json!({"join": join}))
    }

    /// Adds to the n-th edge.
    pub fn edge(mut self, place: usize, fields: Value) -> Self {
        let edge = self.edges[place].as_object_mut().expect("an object");
        edge.extend(fields.as_object().cloned().unwrap_or_default());
        self
    }

    pub fn settings(mut self, settings: Value) -> Self {
        self.settings = settings;
        self
    }

    pub fn create(self) -> Run {
        let node =
            |(id, kind, data): &(String, String, Map<String, Value>)| json!({"id": id, "type": kind, "data": data});
        let nodes: Vec<Value> = self.nodes.iter().map(node).collect();
        let definition = json!({
            "id": "flow", "name": "flow", "version": 7, "nodes": nodes, "edges": self.edges, "settings": self.settings,
        });
        let mut duo = Duo::new(&definition);
        duo.starves = true;
        Run { duo, done: Vec::new() }
    }

    /// Starts it with `{"ok": true}`.
    pub fn start(self) -> Run {
        self.start_with(json!({"ok": true}))
    }

    pub fn start_with(self, input: Value) -> Run {
        let mut run = self.create();
        run.apply(Stimulus::Start {
            trigger: None,
            input,
            variables: Vec::new(),
        });
        run
    }
}

/// An execution of a [`Flow`].
pub struct Run {
    pub duo: Duo,
    /// What the last stimulus had done.
    pub done: Vec<Did>,
}

impl Run {
    /// Applies a stimulus that must be accepted.
    pub fn apply(&mut self, stimulus: Stimulus) {
        self.done = self.try_apply(stimulus).unwrap();
    }

    pub fn try_apply(&mut self, stimulus: Stimulus) -> Result<Vec<Did>, StepError> {
        self.duo
            .apply(&stimulus)
            .unwrap_or_else(|disagreement| panic!("{stimulus:?}: {disagreement}"))
    }

    pub fn complete(&mut self, node: &str, output: Value) -> &mut Self {
        self.apply(Stimulus::Report {
            node: node.into(),
            outcome: Ok(output),
        });
        self
    }

    pub fn fail(&mut self, node: &str, code: &str) -> &mut Self {
        self.fail_with(node, failure(code))
    }

    pub fn fail_with(&mut self, node: &str, failure: Failure) -> &mut Self {
        self.apply(Stimulus::Report {
            node: node.into(),
            outcome: Err(failure),
        });
        self
    }

    /// Lets time pass without anybody looking.
    pub fn wait(&mut self, ms: i64) -> &mut Self {
        self.duo.now += ms;
        self
    }

    /// Applies what is due.
    pub fn due(&mut self) -> &mut Self {
        self.apply(Stimulus::Deadline);
        self
    }

    pub fn pause(&mut self) -> &mut Self {
        self.apply(Stimulus::Pause);
        self
    }

    pub fn resume(&mut self) -> &mut Self {
        self.apply(Stimulus::Resume);
        self
    }

    pub fn cancel(&mut self, grace_ms: u64) -> &mut Self {
        self.apply(Stimulus::Cancel {
            grace_ms,
            at_once: false,
        });
        self
    }

    /// A call comes with this body.
    pub fn call(&mut self, node: &str, body: Value) -> &mut Self {
        self.apply(call(node, body));
        self
    }

    pub fn heartbeat(&mut self, node: &str) -> &mut Self {
        self.apply(Stimulus::Heartbeat { node: node.into() });
        self
    }

    pub fn decide(&mut self, node: &str, decision: Decision) -> &mut Self {
        self.apply(decide(node, decision));
        self
    }

    /// These failed nodes run again; where none are named, all whose failure nothing handled.
    pub fn retry(&mut self, nodes: &str) -> &mut Self {
        self.apply(reopen(nodes, Remedy::Retry));
        self
    }

    /// The error code with which a stimulus is refused.
    pub fn refusal(&mut self, stimulus: Stimulus) -> String {
        match self.try_apply(stimulus) {
            Err(StepError::Refused(error)) => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// How many calls are kept for nodes that do not wait yet.
    pub fn kept(&self) -> usize {
        self.duo.state.signals.values().map(VecDeque::len).sum()
    }

    /// Milliseconds since the start at which the next deadline is due.
    pub fn next_due(&self) -> Option<i64> {
        next_deadline(&self.duo.state).map(|due| due.0 - EPOCH)
    }

    /// Where nodes stand, such as `a:completed b:pending`.
    pub fn nodes(&self) -> String {
        let nodes = self.duo.plan.nodes.iter().zip(&self.duo.state.nodes);
        let nodes = nodes.map(|(planned, node)| format!("{}:{}", planned.key, node.phase.name()));
        nodes.collect::<Vec<_>>().join(" ")
    }

    pub fn node(&self, name: &str) -> &'static str {
        self.state_of(name).phase.name()
    }

    pub fn state_of(&self, name: &str) -> &troupe_core::execution::NodeState {
        &self.duo.state.nodes[self.duo.plan.node_ix(name).unwrap().at()]
    }

    pub fn is_held(&self, name: &str) -> bool {
        self.state_of(name).phase == Phase::Ready
    }

    /// The error a node failed with.
    pub fn error_of(&self, name: &str) -> &str {
        self.state_of(name)
            .failure
            .as_ref()
            .map_or("none", |failure| &failure.error.code)
    }

    pub fn status(&self) -> &'static str {
        self.duo.state.status.name()
    }

    /// The code of the execution's failure.
    pub fn error(&self) -> &str {
        self.duo
            .state
            .failure
            .as_ref()
            .map_or("none", |failure| &failure.error.code)
    }

    pub fn output(&self) -> Value {
        match &self.duo.state.status {
            Status::Completed { output } => crate::support::evaluator::parsed(output),
            other => panic!("no output: {other:?}"),
        }
    }

    /// The input of the first attempt of a node's latest visit, as text: the order of keys counts.
    pub fn given(&self, node: &str) -> String {
        let visit = self.state_of(node).visit.0;
        let first = |(known, of, attempt): &(String, u32, u32)| known == node && *of <= visit && *attempt == 1;
        let given = self.duo.given.iter().rev().find(|(key, _)| first(key));
        given.map_or("nothing".into(), |(_, input)| input.to_string())
    }

    /// Which visit each node is in, such as `a1 b3`.
    pub fn visits(&self) -> String {
        let nodes = self.duo.plan.nodes.iter().zip(&self.duo.state.nodes);
        let nodes = nodes.map(|(planned, node)| format!("{}{}", planned.key, node.visit.0));
        nodes.collect::<Vec<_>>().join(" ")
    }

    /// Where an edge stands.
    pub fn way(&self, source: &str, target: &str) -> EdgeState {
        let plan = &self.duo.plan;
        let key = |ix: troupe_core::NodeIx| plan.node(ix).key.as_str();
        let place = plan
            .edges
            .iter()
            .position(|edge| key(edge.source) == source && key(edge.target) == target);
        self.duo.state.edges[place.expect("an edge")]
    }

    pub fn variable(&self, name: &str) -> Value {
        self.duo
            .state
            .variables
            .get(name)
            .map_or(json!("absent"), crate::support::evaluator::parsed)
    }

    /// The nodes whose attempts the last stimulus started, such as `a1`, or `a1@2` in the second visit.
    pub fn started(&self) -> String {
        let started = self.done.iter().filter_map(|did| match did {
            Did::Start {
                node,
                visit: 1,
                attempt,
                ..
            } => Some(format!("{node}{attempt}")),
            Did::Start {
                node, visit, attempt, ..
            } => Some(format!("{node}{attempt}@{visit}")),
            Did::Abort { .. } | Did::Begin { .. } | Did::Tell { .. } | Did::Report { .. } | Did::Finish => None,
        });
        started.collect::<Vec<_>>().join(" ")
    }

    /// The nodes whose attempts the last stimulus aborted.
    pub fn aborted(&self) -> String {
        let aborted = self.done.iter().filter_map(|did| match did {
            Did::Abort { node } => Some(node.as_str()),
            Did::Start { .. } | Did::Begin { .. } | Did::Tell { .. } | Did::Report { .. } | Did::Finish => None,
        });
        aborted.collect::<Vec<_>>().join(" ")
    }
}

pub fn call(node: &str, body: Value) -> Stimulus {
    Stimulus::Signal {
        node: node.into(),
        call: json!({"body": body, "headers": {"x-a": "1"}, "query": {}, "method": "POST"}),
    }
}

pub fn decide(node: &str, decision: Decision) -> Stimulus {
    Stimulus::Decide {
        node: node.into(),
        decision,
    }
}

pub fn reopen(nodes: &str, remedy: Remedy) -> Stimulus {
    Stimulus::Reopen {
        nodes: nodes.split_whitespace().map(str::to_owned).collect(),
        remedy,
    }
}

pub fn failure(code: &str) -> Failure {
    Failure {
        code: code.into(),
        message: "it broke".into(),
        details: None,
        retryable: true,
        retry_after_ms: None,
    }
}
