//! The workloads and their definitions.

use clap::ValueEnum;
use serde_json::{Value, json};
use troupe_core::definition::WorkflowDefinition;

use super::BenchError;

/// A named workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Nodes in a row.
    Chain,
    /// Parallel nodes and a join.
    Fan,
    /// Executions that only wait on a delay.
    Parked,
    /// Starts of a one-node workflow; the latency is that of the acknowledgement.
    Start,
    /// A restart after `kill -9` with waiting and running executions.
    Recover,
    /// One `forEach` with `--nodes` items, `--concurrency` of them at once.
    Each,
    /// One `loop` of `--nodes` iterations.
    Loop,
}

/// What function nodes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Handler {
    /// The built-in handler that does nothing.
    Noop,
    /// A JavaScript function in the sandbox processes.
    Function,
}

/// Longer than any measurement.
const PARKED_MS: u64 = 365 * 24 * 3_600_000;
/// The handler of `recover` that ends only after the restart.
pub(super) const HOLD: &str = "bench-hold";

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Fan => "fan",
            Self::Parked => "parked",
            Self::Start => "start",
            Self::Recover => "recover",
            Self::Each => "each",
            Self::Loop => "loop",
        }
    }

    /// Executions, nodes and concurrency unless the command line says otherwise.
    pub(crate) fn defaults(self) -> (usize, usize, usize) {
        match self {
            Self::Chain => (30_000, 10, 1_024),
            Self::Fan => (2_000, 50, 64),
            Self::Parked => (100_000, 1, 256),
            Self::Start => (50_000, 1, 256),
            Self::Recover => (100_000, 1, 256),
            Self::Each => (1, 100_000, 512),
            Self::Loop => (1, 100_000, 1),
        }
    }
}

/// The workflow that waits for a year.
pub(super) fn parked() -> Result<WorkflowDefinition, BenchError> {
    let nodes = json!([{"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": PARKED_MS}}]);
    definition("bench-parked", nodes, json!([]))
}

/// The workflow whose middle node ends only after the restart.
pub(super) fn held() -> Result<WorkflowDefinition, BenchError> {
    let node = |id: &str, handler: &str| json!({"id": id, "type": "function", "data": {"handlerId": handler, "timeout": 3_600_000}});
    let edges = json!([{"id": "e1", "source": "a", "target": "b"}, {"id": "e2", "source": "b", "target": "c"}]);
    definition(
        "bench-held",
        json!([node("a", "noop"), node("b", HOLD), node("c", "noop")]),
        edges,
    )
}

/// The workflow whose children are the work.
pub(super) fn children(workload: Workload, count: usize, at_once: usize) -> Result<WorkflowDefinition, BenchError> {
    let body = |data: Value| json!({"nodes": [{"id": "n", "type": "function", "data": data}], "edges": []});
    let noop = json!({"handlerId": "noop"});
    let (kind, data) = match workload {
        Workload::Loop => (
            "loop",
            json!({
                "while": format!("(output || 0) < {count}"),
                "maxIterations": count,
                "body": body(json!({"handlerId": "noop", "output": "input.iteration"})),
            }),
        ),
        _ => {
            let items = format!("Array.from({{length: {count}}}, (_, index) => index)");
            (
                "forEach",
                json!({"items": items, "maxConcurrency": at_once, "body": body(noop)}),
            )
        }
    };
    definition(
        "bench-children",
        json!([{"id": "all", "type": kind, "data": data}]),
        json!([]),
    )
}

/// The workflow of a workload that runs to its end.
pub(super) fn running(workload: Workload, nodes: usize, handler: Handler) -> Result<WorkflowDefinition, BenchError> {
    let node = |id: String| {
        let data = match handler {
            Handler::Noop => json!({"handlerId": "noop"}),
            Handler::Function => json!({
                "functionName": "step",
                "functionCode": "function step(input) { return { count: ((input && input.count) || 0) + 1 }; }",
            }),
        };
        json!({"id": id, "type": "function", "data": data})
    };
    let edge =
        |source: &str, target: &str| json!({"id": format!("{source}-{target}"), "source": source, "target": target});
    match workload {
        Workload::Fan => {
            let ids: Vec<String> = (0..nodes).map(|number| format!("p{number}")).collect();
            let mut all = vec![node("first".into()), node("join".into())];
            all.extend(ids.iter().cloned().map(node));
            let edges: Vec<Value> = ids
                .iter()
                .flat_map(|id| [edge("first", id), edge(id, "join")])
                .collect();
            definition("bench-fan", Value::from(all), Value::from(edges))
        }
        Workload::Chain | Workload::Start | Workload::Parked | Workload::Recover | Workload::Each | Workload::Loop => {
            let ids: Vec<String> = (0..nodes).map(|number| format!("n{number}")).collect();
            let edges: Vec<Value> = ids.windows(2).map(|pair| edge(&pair[0], &pair[1])).collect();
            let nodes: Vec<Value> = ids.into_iter().map(node).collect();
            definition("bench-chain", Value::from(nodes), Value::from(edges))
        }
    }
}

fn definition(id: &str, nodes: Value, edges: Value) -> Result<WorkflowDefinition, BenchError> {
    serde_json::from_value(json!({"id": id, "name": id, "nodes": nodes, "edges": edges}))
        .map_err(|error| BenchError::Setup(error.to_string()))
}
