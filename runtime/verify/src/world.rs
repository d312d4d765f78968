//! A state of the exploration: the real core's state, the timers, and what is assumed of data.

use std::collections::{BTreeMap, HashMap};

use fixedbitset::FixedBitSet;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{Deadline, EdgeState, ExecutionState, NodeState, Phase, Status};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, NodeIx, ShardId, Timestamp, Value};
use troupe_lang::{Names, Uses};
use xxhash_rust::xxh3::Xxh3;

use crate::assumptions::Assumptions;
use crate::compiled::Compiled;
use crate::symbols::{MARK, Origin, Symbol, Symbols, marks};
use crate::zone::{Length, Zone};

/// The time of every step: what time does is in the zone.
pub(crate) const NOW: Timestamp = Timestamp(1_000_000_000);
/// When a timer is due that does not fire now.
const LATER: Timestamp = Timestamp(NOW.0 * 1_000_000);

/// A state of the exploration.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) execution: ExecutionState,
    pub(crate) zone: Zone,
    pub(crate) assumptions: Assumptions,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            execution: ExecutionState::new(plan, ExecutionId::fresh(ShardId(0), NOW, 0)),
            zone: Zone::new(),
            assumptions: Assumptions::default(),
        }
    }

    /// Makes this timer due now.
    pub(crate) fn arm(&mut self, plan: &Plan, timer: Deadline) {
        self.set_due(plan, timer, NOW);
        self.execution.reindex(plan);
    }

    /// After a step: takes its new timers into the zone, and forgets what no later step reads.
    pub(crate) fn settle(&mut self, compiled: &Compiled) {
        let plan = &compiled.plan;
        let mut running: BTreeMap<Deadline, Timestamp> = BTreeMap::new();
        if !self.execution.status.is_terminal() {
            running.extend(self.execution.deadlines.iter().map(|(due, timer)| (*timer, *due)));
            running.extend(self.execution.execution_deadline.map(|due| (Deadline::Execution, due)));
        }
        self.zone
            .retain(|timer| running.get(&timer).is_some_and(|due| *due == LATER));
        let new: Vec<(Deadline, Timestamp)> = running.into_iter().filter(|(_, due)| *due != LATER).collect();
        for (timer, due) in &new {
            let length = match timer {
                Deadline::Delay(ix) if !is_fixed_delay(compiled, *ix) => Length::Unknown,
                Deadline::Wait(ix) if !is_fixed_wait(compiled, *ix) => Length::Unknown,
                Deadline::Delay(_)
                | Deadline::Execution
                | Deadline::CancelGrace
                | Deadline::Join(_)
                | Deadline::Retry(_)
                | Deadline::NodeTotal(_)
                | Deadline::Wait(_)
                | Deadline::Turn(_) => Length::Exactly((due.0 - NOW.0).max(0)),
            };
            self.zone.start(*timer, length);
            self.set_due(plan, *timer, LATER);
        }
        self.zone.pass();
        for node in &mut self.execution.nodes {
            node.attempts.clear();
            if let Some(ended) = &mut node.ended {
                ended.attempts.clear();
            }
        }
        if !new.is_empty() {
            self.execution.reindex(plan);
        }
    }

    fn set_due(&mut self, plan: &Plan, timer: Deadline, due: Timestamp) {
        let node = |ix: NodeIx| ix.at();
        match timer {
            Deadline::Execution => self.execution.execution_deadline = Some(due),
            Deadline::Join(ix) => {
                let length_ms = plan.node(ix).join.timeout.map_or(0, |(length_ms, _)| length_ms);
                let before = i64::try_from(length_ms).unwrap_or(i64::MAX);
                self.execution.nodes[node(ix)].first_arrival_at = Some(Timestamp(due.0.saturating_sub(before)));
            }
            Deadline::Delay(ix) => self.execution.nodes[node(ix)].phase = Phase::Delaying { until: due },
            Deadline::Turn(ix) => self.execution.nodes[node(ix)].phase = Phase::Turning { at: due },
            Deadline::Wait(ix) => {
                self.execution.nodes[node(ix)].phase = Phase::Waiting {
                    until: Some(due),
                    heartbeat_by: None,
                };
            }
            // Attempts fail for good at once, and nobody cancels from outside.
            Deadline::CancelGrace | Deadline::Retry(_) | Deadline::NodeTotal(_) => {}
        }
    }

    /// Equal for states from which the same can follow. With `merges`, how a node has ended is told apart only where
    /// something may still depend on it.
    pub(crate) fn fingerprint(&mut self, compiled: &Compiled, symbols: &Symbols, merges: bool) -> u128 {
        let mut print = Print::default();
        let execution = &self.execution;
        print.number(match &execution.status {
            Status::Pending => 0,
            Status::Running => 1,
            Status::Failing => 2,
            Status::Canceling { .. } => 3,
            Status::Completed { .. } => 4,
            Status::Failed => 5,
            Status::Canceled { .. } => 6,
            Status::Compensating(_) => 7,
            Status::Reporting => 8,
        });
        print.number(u64::from(execution.failure.is_some()));
        for (place, node) in execution.nodes.iter().enumerate() {
            if merges && node.phase.is_terminal() && compiled.is_done_when_ended[place] {
                print.number(u64::MAX);
                continue;
            }
            print.number(phase(node) << 1 | u64::from(node.cleanup));
            print.number(u64::from(node.taken) << 32 | u64::from(node.dead));
        }
        for (place, edge) in execution.edges.iter().enumerate() {
            let is_resolved = matches!(edge, EdgeState::Taken | EdgeState::Dead);
            let target = &execution.nodes[compiled.plan.edges[place].target.at()];
            let is_behind = target.phase.is_terminal() && compiled.is_done_when_resolved[place];
            if merges && is_resolved && (compiled.is_counted_only[place] || is_behind) {
                print.number(u64::MAX);
                continue;
            }
            print.number(match edge {
                EdgeState::Open => 0,
                EdgeState::Taken => 1,
                EdgeState::Dead => 2,
                EdgeState::HeldTaken => 3,
                EdgeState::HeldDead => 4,
            });
        }
        for one in &execution.loops {
            let told_apart = compiled.iterations_told_apart.unwrap_or(u64::MAX);
            print.number(if one.finished {
                u64::MAX
            } else {
                one.iteration.min(told_apart)
            });
        }
        if compiled.plan.settings.parallel_nodes_max.is_some() {
            execution.held.iter().for_each(|ix| print.number(u64::from(ix.0)));
        }
        for timer in self.zone.timers() {
            print.text(&format!("{timer:?}"));
        }
        self.zone.bounds().iter().for_each(|bound| print.number(*bound as u64));
        self.live_data(compiled, symbols, &mut print);
        self.forget(symbols, &print);
        self.assumed(symbols, &mut print);
        print.hasher.digest128()
    }

    /// What a condition may still read.
    fn live_data(&self, compiled: &Compiled, symbols: &Symbols, print: &mut Print) {
        let (plan, execution) = (&compiled.plan, &self.execution);
        if execution.status.is_terminal() {
            return;
        }
        let is_open = |place: usize| {
            let unfinished = |within: troupe_core::LoopIx| !execution.loops[within.at()].finished;
            !execution.nodes[place].phase.is_terminal() || plan.nodes[place].within.is_some_and(unfinished)
        };
        let open: Vec<usize> = (0..plan.nodes.len()).filter(|place| is_open(*place)).collect();
        let mut read = FixedBitSet::with_capacity(plan.nodes.len());
        let mut uses = Uses::default();
        for place in &open {
            read.union_with(&compiled.reads[*place]);
            uses.merge(&compiled.nodes[*place].uses);
        }
        if uses.trigger {
            print.value(&execution.input, symbols);
        }
        for (name, value) in &execution.variables {
            if uses.variables.contains(name) {
                print.value(value, symbols);
            }
        }
        print.reads = uses.variables;
        for place in read.ones() {
            let node = &execution.nodes[place];
            let Some(ended) = node.latest_ended() else { continue };
            print.number(phase(ended));
            if let Some(output) = &ended.output {
                print.value(output, symbols);
            }
            if let Some(failure) = &ended.failure {
                print.marked(&failure.error.code, symbols);
            }
        }
        for place in open.iter().filter(|place| compiled.flows.contains(**place)) {
            let ix = NodeIx(u32::try_from(*place).unwrap_or(u32::MAX));
            if execution.nodes[*place].phase.is_terminal() {
                continue;
            }
            print.value(&execution.input_of(plan, ix), symbols);
        }
        for (place, edge) in plan.edges.iter().enumerate() {
            let is_taken = matches!(execution.edges[place], EdgeState::Taken | EdgeState::HeldTaken);
            let target = &execution.nodes[edge.target.at()];
            let waits = !target.phase.is_terminal() || execution.edges[place] == EdgeState::HeldTaken;
            if is_taken && waits && compiled.flows.contains(edge.target.at()) {
                let source = &execution.nodes[edge.source.at()];
                let failed = source.failure.as_ref().and_then(|failure| failure.payload.as_ref());
                if let Some(carried) = failed.or(source.output.as_ref()) {
                    print.value(carried, symbols);
                }
            }
        }
    }

    /// Drops what is assumed of data that no condition can read any more.
    fn forget(&mut self, symbols: &Symbols, print: &Print) {
        let lives = |root: Symbol| match symbols.origin(root) {
            Origin::Variable(name) if !self.execution.variables.contains_key(name) => print.reads.contains(name),
            Origin::Execution(_) => true,
            _ => print.names.contains_key(&root),
        };
        self.assumptions
            .retain(|symbol| symbols.roots(symbol).into_iter().all(lives));
    }

    fn assumed(&self, symbols: &Symbols, print: &mut Print) {
        let mut texts = Vec::new();
        for (symbol, literals) in self.assumptions.of_one() {
            texts.push(format!("{} {literals:?}", print.name(symbol, symbols)));
        }
        for ((left, right), literals) in self.assumptions.of_two() {
            let (left, right) = (print.name(left, symbols), print.name(right, symbols));
            // Which of the two has the lower number is chance.
            texts.push(format!("{left} {right} {literals:?}"));
        }
        texts.sort_unstable();
        texts.iter().for_each(|text| print.text(text));
    }
}

/// How far a node has come.
fn phase(node: &NodeState) -> u64 {
    match node.phase {
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

fn is_fixed_wait(compiled: &Compiled, ix: NodeIx) -> bool {
    let node = compiled.plan.node(ix);
    node.heartbeat_timeout_ms.is_none() && !node.data.get("timeout").is_some_and(serde_json::Value::is_string)
}

fn is_fixed_delay(compiled: &Compiled, ix: NodeIx) -> bool {
    let node = compiled.plan.node(ix);
    let field = |name: &str| node.data.get(name);
    debug_assert_eq!(node.kind, NodeKind::Delay, "only delays wait for time");
    let kind = field("delayType")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("fixed");
    let is_number = |value: &serde_json::Value| {
        value.is_number() || value.as_str().is_some_and(|text| text.trim().parse::<f64>().is_ok())
    };
    kind == "fixed" && field("delayValue").is_some_and(is_number)
}

/// A hash in the making, with unknown values named in the order in which they are met.
#[derive(Default)]
struct Print {
    hasher: Xxh3,
    names: HashMap<Symbol, String>,
    /// Variables that are still read.
    reads: Names,
}

impl Print {
    fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.hasher.update(text.as_bytes());
    }

    fn value(&mut self, value: &Value, symbols: &Symbols) {
        if let Value::Inline(json) = value {
            self.marked(json.as_str(), symbols);
        }
    }

    fn marked(&mut self, text: &str, symbols: &Symbols) {
        let renamed = self.renamed(text, symbols);
        self.text(&renamed);
    }

    fn renamed(&mut self, text: &str, symbols: &Symbols) -> String {
        let mut renamed = text.split(MARK).next().unwrap_or_default().to_owned();
        for (symbol, behind) in marks(text) {
            renamed.push_str(&self.name(symbol, symbols));
            renamed.push_str(behind);
        }
        renamed
    }

    fn name(&mut self, symbol: Symbol, symbols: &Symbols) -> String {
        match symbols.origin(symbol) {
            Origin::Member(base, member) => format!("{}.{member}", self.name(*base, symbols)),
            Origin::Computed(text, over) => {
                let over = self.renamed(over, symbols);
                format!("({text} of {over})")
            }
            Origin::Trigger | Origin::Variable(_) | Origin::Execution(_) => {
                let name = format!("{:?}", symbols.origin(symbol));
                self.names.entry(symbol).or_insert(name).clone()
            }
            Origin::Output(..) | Origin::Error(..) | Origin::Anything(..) => {
                let next = format!("#{}", self.names.len());
                self.names.entry(symbol).or_insert(next).clone()
            }
        }
    }
}
