//! States with every field and every way to stand that the format has, whether or not an execution could come there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::json;
use troupe_core::execution::{
    AttemptRecord, CacheUse, Children, CompensatedVisit, Compensations, CutOff, EdgeState, Ending, ErrorWorkflow,
    ExecutionState, FailedVisit, Failure, Holds, Input, LoopState, NodeFailure, NodeState, Phase, RerunOf, Room,
    Status, Stop, Stopped,
};
use troupe_core::plan::Plan;
use troupe_core::{Attempt, EdgeIx, NodeIx, Run, Seq, Visit};

use crate::values::{AT, blob, composed, error, id, inline, json as document, parent, span, token};

/// How many ways to stand a node, an execution and an edge have, and how many sources an input.
const PHASES: usize = 13;
const STATUSES: usize = 9;
const EDGES: usize = 5;
const INPUTS: usize = 7;

/// A node for each phase, an edge for each state.
pub(crate) fn plan() -> Plan {
    let node = |place: usize| json!({"id": format!("n{place}"), "type": "function"});
    let edge = |place: usize| json!({"source": format!("n{place}"), "target": format!("n{}", place + 1)});
    let nodes: Vec<_> = (0..PHASES).map(node).collect();
    let edges: Vec<_> = (0..EDGES).map(edge).collect();
    let definition = json!({"id": "orders", "version": 12, "nodes": nodes, "edges": edges});
    Plan::build(&serde_json::from_value(definition).unwrap()).unwrap()
}

/// One with everything, then one for each status.
pub(crate) fn all(plan: &Plan) -> Vec<ExecutionState> {
    let plain = |status| ExecutionState {
        status,
        ..ExecutionState::new(plan, id(2))
    };
    let mut states = vec![full(plan)];
    states.extend(statuses().into_iter().map(plain));
    states.iter_mut().for_each(|state| state.reindex(plan));
    states
}

fn full(plan: &Plan) -> ExecutionState {
    ExecutionState {
        id: id(1),
        workflow: "orders".into(),
        version: 12,
        seq: Seq(70_000),
        run: Run(2),
        status: Status::Running,
        paused: true,
        started_at: AT,
        ended_at: Some(AT.plus_ms(90)),
        input: composed(),
        metadata: Some(document(r#"{"team":"a"}"#)),
        execution_key: Some("order-7".to_owned()),
        priority: 9,
        variables: BTreeMap::from([("a".to_owned(), inline("1")), ("b".to_owned(), blob())]),
        nodes: nodes(plan),
        edges: edges(),
        held: VecDeque::from([NodeIx(1), NodeIx(4)]),
        failure: Some(Box::new(failure())),
        recent_commands: VecDeque::from(["command-1".into(), "command-2".into()]),
        request_key: Some("request-7".to_owned()),
        key_ordinal: Some(4),
        execution_deadline: Some(AT.plus_ms(86_400_000)),
        loops: vec![LoopState {
            iteration: 3,
            finished: true,
            held: vec![EdgeIx(1)],
            dropped: vec![EdgeIx(2), EdgeIx(3)],
            exceeded: Some(blob()),
            open: 0,
        }],
        signals: BTreeMap::from([(NodeIx(11), VecDeque::from([composed(), inline("2")]))]),
        children: BTreeMap::from([(NodeIx(12), children())]),
        parent: Some(parent()),
        paused_with_parent: true,
        rerun_of: Some(Box::new(RerunOf {
            execution: id(7),
            from: NodeIx(5),
            input: Some(Input::Edge(EdgeIx(4))),
        })),
        room: Some(Box::new(Room {
            key: document(r#""eu""#),
            trigger: Some("by-hand".to_owned()),
        })),
        holds: Some(Box::new(holds())),
        compensations: Some(Box::new(compensations(plan))),
        handles_failure_of: Some(id(8)),
        error_workflow: Some(Box::new(ErrorWorkflow::Began(id(9)))),
        ended_by: Some(NodeIx(6)),
        trigger: Some("by-hand".to_owned()),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        open_nodes: 0,
        active: BTreeSet::new(),
        running: BTreeSet::new(),
        deadlines: BTreeSet::new(),
    }
}

fn statuses() -> Vec<Status> {
    vec![
        Status::Pending,
        Status::Running,
        Status::Failing,
        Status::Canceling {
            until: AT.plus_ms(30_000),
            reason: Some("enough".to_owned()),
        },
        Status::Completed { output: blob() },
        Status::Failed,
        Status::Canceled {
            reason: Some("enough".to_owned()),
        },
        Status::Canceled { reason: None },
        Status::Compensating(Ending::Failed),
        Status::Compensating(Ending::Canceled {
            reason: Some("enough".to_owned()),
        }),
        Status::Reporting,
    ]
}

fn phases() -> Vec<Phase> {
    let until = AT.plus_ms(60_000);
    vec![
        Phase::Pending,
        Phase::Ready,
        Phase::Running { token: token() },
        Phase::Backoff {
            until,
            next: Attempt(3),
        },
        Phase::Delaying { until },
        Phase::Canceling { token: token() },
        Phase::Completed,
        Phase::Failed,
        Phase::Skipped,
        Phase::Canceled,
        Phase::Turning { at: until },
        Phase::Waiting {
            until: Some(until),
            heartbeat_by: Some(AT.plus_ms(50_000)),
        },
        Phase::Parenting,
    ]
}

fn inputs() -> Vec<Input> {
    vec![
        Input::None,
        Input::Start,
        Input::Edge(EdgeIx(1)),
        Input::Edges(vec![EdgeIx(2), EdgeIx(3)]),
        Input::Mapped(composed()),
        Input::Carried(blob()),
        Input::Compensated,
    ]
}

fn edges() -> Vec<EdgeState> {
    vec![
        EdgeState::Open,
        EdgeState::Taken,
        EdgeState::Dead,
        EdgeState::HeldTaken,
        EdgeState::HeldDead,
    ]
}

/// One a phase; the first one has everything that a node can have.
fn nodes(plan: &Plan) -> Vec<NodeState> {
    let mut nodes = ExecutionState::new(plan, id(1)).nodes;
    let stands = phases().into_iter().zip(inputs().into_iter().cycle());
    for (node, (phase, input)) in nodes.iter_mut().zip(stands) {
        (node.phase, node.input) = (phase, input);
    }
    nodes[3].cache = Some(Box::new(CacheUse::Hit));
    let before = nodes[1].clone();
    fill(&mut nodes[0], before);
    nodes
}

/// A node has a field of its own, so that it cannot be written down as a whole.
fn fill(node: &mut NodeState, before: NodeState) {
    node.visit = Visit(4);
    node.taken = 2;
    node.dead = 1;
    node.first_arrival_at = Some(AT.plus_ms(1));
    node.cleanup = true;
    node.data = Some(inline(r#"{"url":"x"}"#));
    node.output = Some(blob());
    node.failure = Some(Box::new(NodeFailure {
        error: error(),
        payload: Some(composed()),
        handled: Some(true),
    }));
    node.attempts = vec![attempt(1, Stop::Crash), attempt(1, Stop::Planned)];
    node.interruptions = 1;
    node.scheduled_at = Some(AT.plus_ms(2));
    node.ended_at = Some(AT.plus_ms(3));
    node.total_deadline = Some(AT.plus_ms(600_000));
    node.dispatched_at = Some(AT.plus_ms(4));
    node.ended = Some(Box::new(before));
    node.cut_off = Some(CutOff::WithExecution);
    node.cache = Some(Box::new(CacheUse::Miss([0xca; 32])));
    node.concurrency_key = Some(document(r#""eu""#));
}

fn attempt(number: u32, stop: Stop) -> AttemptRecord {
    AttemptRecord {
        attempt: Attempt(number),
        started_at: AT.plus_ms(5),
        ended_at: AT.plus_ms(6),
        error: Some(Box::new(error())),
        output: Some(inline("7")),
        cut_short: Some(stop),
    }
}

fn failure() -> Failure {
    Failure {
        node: Some(NodeIx(7)),
        error: error(),
        visit: Some(Box::new(FailedVisit {
            visit: Visit(2),
            attempts: 3,
            input: composed(),
        })),
    }
}

fn children() -> Children {
    Children {
        items: vec![inline("1"), blob(), composed()],
        total: 300,
        begun: 7,
        open: BTreeSet::from([4, 6]),
        completed: 2,
        failed: 1,
        failure: Some((3, error())),
        outputs: BTreeMap::from([(0, inline("1")), (2, blob())]),
        at_once: 2,
        tolerated: 5,
        succeed_after: Some(100),
        detached: true,
    }
}

fn holds() -> Holds {
    let stopped = |ms| Stopped {
        since: AT.plus_ms(ms),
        by_scope: true,
        told_from: AT.plus_ms(ms + 1),
    };
    Holds {
        told_at: AT.plus_ms(8),
        whole: true,
        nodes: vec![NodeIx(1), NodeIx(4)],
        own_freeze: true,
        clock: Some(stopped(10)),
        clocks: BTreeMap::from([(NodeIx(4), stopped(20))]),
        own: vec![span(1, Some(2)), span(3, None)],
        moved_ms: 1,
        moved_apart_ms: BTreeMap::from([(NodeIx(4), 300)]),
    }
}

fn compensations(plan: &Plan) -> Compensations {
    let visit = |node: u32, compensation| CompensatedVisit {
        node: NodeIx(node),
        visit: Visit(1),
        input: composed(),
        output: blob(),
        compensation,
    };
    let undone = ExecutionState::new(plan, id(1)).nodes.swap_remove(0);
    Compensations {
        visits: vec![visit(6, None), visit(7, Some(Box::new(undone)))],
        left: 1,
    }
}

#[test]
fn every_way_to_stand_is_in_a_state() {
    let statuses: BTreeSet<usize> = statuses().iter().map(place_of_status).collect();
    assert_eq!(statuses, (0..STATUSES).collect());
    let phases: BTreeSet<usize> = phases().iter().map(place_of_phase).collect();
    assert_eq!(phases, (0..PHASES).collect());
    let inputs: BTreeSet<usize> = inputs().iter().map(place_of_input).collect();
    assert_eq!(inputs, (0..INPUTS).collect());
    let edges: BTreeSet<usize> = edges().into_iter().map(place_of_edge).collect();
    assert_eq!(edges, (0..EDGES).collect());
}

/// Also one that a node has got since: it has a default then, most likely `None`.
#[test]
fn the_first_node_has_every_field() {
    let mut node = nodes(&plan()).swap_remove(0);
    (node.ended, node.input) = (None, Input::Start);
    assert_eq!(format!("{node:?}").matches("None").count(), 1, "{node:?}");
}

fn place_of_status(status: &Status) -> usize {
    match status {
        Status::Pending => 0,
        Status::Running => 1,
        Status::Failing => 2,
        Status::Canceling { .. } => 3,
        Status::Completed { .. } => 4,
        Status::Failed => 5,
        Status::Canceled { .. } => 6,
        Status::Compensating(_) => 7,
        Status::Reporting => 8,
    }
}

fn place_of_phase(phase: &Phase) -> usize {
    match phase {
        Phase::Pending => 0,
        Phase::Ready => 1,
        Phase::Running { .. } => 2,
        Phase::Backoff { .. } => 3,
        Phase::Delaying { .. } => 4,
        Phase::Canceling { .. } => 5,
        Phase::Completed => 6,
        Phase::Failed => 7,
        Phase::Skipped => 8,
        Phase::Canceled => 9,
        Phase::Turning { .. } => 10,
        Phase::Waiting { .. } => 11,
        Phase::Parenting => 12,
    }
}

fn place_of_input(input: &Input) -> usize {
    match input {
        Input::None => 0,
        Input::Start => 1,
        Input::Edge(_) => 2,
        Input::Edges(_) => 3,
        Input::Mapped(_) => 4,
        Input::Carried(_) => 5,
        Input::Compensated => 6,
    }
}

fn place_of_edge(edge: EdgeState) -> usize {
    match edge {
        EdgeState::Open => 0,
        EdgeState::Taken => 1,
        EdgeState::Dead => 2,
        EdgeState::HeldTaken => 3,
        EdgeState::HeldDead => 4,
    }
}
