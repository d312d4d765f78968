//! §5 and ADR 0016: nodes that start child executions, as their parent sees them.

use serde_json::{Value, json};

use super::definition::{field, node};
use super::interpreter::{expression_error, failure};
use super::language::{self, Thrown};
use super::retries::Failure;
use super::state::{Did, Phase, Reference, Refusal};

/// So many executions may be above one.
const DEPTH_MAX: u32 = 32;
/// So many children of a `forEach` are open at once that does not say how many.
const AT_ONCE: usize = 50;
/// A field of the data is of another type than it must be.
const WRONG_TYPE: &str = "NODE_DATA_INVALID";

/// The children of a node in its current visit.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// Of a `forEach`.
    pub items: Vec<Value>,
    /// How many there will be, as far as that is known: a `loop` decides on one after the other.
    pub wanted: usize,
    /// What became of each child that was begun, by index; none while that is open.
    pub ends: Vec<Option<ChildEnd>>,
    /// Indices of the failed ones, in the order in which that became known.
    failed: Vec<usize>,
    /// Whether their ends are awaited.
    attached: bool,
    at_once: usize,
    tolerated: usize,
    enough: Option<usize>,
}

/// What a parent hears of a child.
#[derive(Clone, Debug, PartialEq)]
pub enum ChildEnd {
    /// It has begun, and its end is not awaited. Its id.
    Began(String),
    Completed(Value),
    /// It failed, was canceled or could not be started.
    Failed(Failure),
}

/// A child, and what is heard of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildReport {
    pub node: String,
    pub visit: u32,
    pub index: usize,
    pub end: ChildEnd,
}

/// What children hear of their parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tell {
    Pause,
    /// Pause, and let its clocks stand still.
    Freeze,
    Resume,
    Cancel,
}

impl Children {
    pub fn open(&self) -> impl Iterator<Item = usize> {
        let ends = self.ends.iter().enumerate();
        ends.filter(|(_, end)| end.is_none()).map(|(index, _)| index)
    }

    pub fn completed(&self) -> usize {
        let good = |end: &&Option<ChildEnd>| matches!(end, Some(ChildEnd::Completed(_) | ChildEnd::Began(_)));
        self.ends.iter().filter(good).count()
    }

    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    /// What a child gave; null where it gave nothing or was never begun.
    fn output(&self, index: usize) -> Value {
        match self.ends.get(index) {
            Some(Some(ChildEnd::Completed(output))) => output.clone(),
            Some(Some(ChildEnd::Began(id))) => json!({"executionId": id}),
            _ => Value::Null,
        }
    }

    fn last(&self) -> Value {
        self.ends
            .len()
            .checked_sub(1)
            .map_or(Value::Null, |last| self.output(last))
    }
}

pub(super) fn has_children(kind: &str) -> bool {
    matches!(kind, "subworkflow" | "forEach" | "loop")
}

impl Reference {
    /// What became of children. One that nobody waits for any more, or of which this is known, changes nothing.
    pub fn children_reported(&mut self, at: i64, reports: &[ChildReport]) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        let mut is_news = false;
        for report in reports {
            is_news |= self.child_reported(report);
            self.settle();
        }
        if is_news { self.conclude() } else { Err(Refusal::Stale) }
    }

    pub fn pause_with_parent(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.follow_pause(at, false)
    }

    pub fn freeze_with_parent(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.follow_pause(at, true)
    }

    /// Pauses with the parent: an operator's pause is not its affair.
    fn follow_pause(&mut self, at: i64, freezes: bool) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if self.paused && (!self.paused_with_parent || self.is_frozen_by_itself() == freezes) {
            return Err(Refusal::Unchanged);
        }
        let did = self.pause_with(at, freezes)?;
        self.paused_with_parent = true;
        Ok(did)
    }

    /// Goes on with the parent, unless an operator paused it.
    pub fn resume_with_parent(&mut self, at: i64) -> Result<Vec<Did>, Refusal> {
        self.alive(at)?;
        if !self.paused_with_parent {
            return Err(Refusal::Unchanged);
        }
        self.resume(at)
    }

    /// The node is ready: what it starts is decided, and for a `forEach` once and for all.
    pub(super) fn begin_children(&mut self, id: &str) {
        let input = self.nodes[id].input.clone();
        if self.depth >= DEPTH_MAX {
            return self.fail(id, failure("CHILD_DEPTH").error(), input);
        }
        match self.wanted_children(id) {
            Ok(children) => {
                let state = self.set(id);
                (state.phase, state.children) = (Phase::Parenting, Some(children));
                self.look_after(id);
            }
            Err(code) => self.fail(id, failure(code).error(), input),
        }
    }

    /// An execution that goes on looks at every loop that waited with its next iteration.
    pub(super) fn look_after_all(&mut self) {
        for id in self.ids() {
            if self.nodes[&id].children.is_some() {
                self.look_after(&id);
                self.settle();
            }
        }
    }

    fn wanted_children(&self, id: &str) -> Result<Children, &'static str> {
        let kind = node(&self.definition, id).node_type.as_str();
        let count = |name: &str| match self.resolved(id, name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                None | Some(0) => Err(WRONG_TYPE),
                Some(number) => Ok(Some(number as usize)),
            },
        };
        let mut children = Children {
            items: Vec::new(),
            wanted: 0,
            ends: Vec::new(),
            failed: Vec::new(),
            attached: true,
            at_once: usize::MAX,
            tolerated: 0,
            enough: None,
        };
        match kind {
            "subworkflow" => {
                children.wanted = 1;
                children.attached = match self.resolved(id, "mode") {
                    None => true,
                    Some(mode) if mode == "attached" => true,
                    Some(mode) if mode == "detached" => false,
                    Some(_) => return Err(WRONG_TYPE),
                };
            }
            "forEach" => {
                let items = self.ask(id, "items", None).ok();
                let items = items.as_ref().and_then(Value::as_array);
                children.items = items.ok_or("EXPRESSION_ERROR")?.clone();
                children.wanted = children.items.len();
                children.attached = match self.resolved(id, "wait") {
                    None => true,
                    Some(wait) => wait.as_bool().ok_or(WRONG_TYPE)?,
                };
                children.at_once = count("maxConcurrency")?.unwrap_or(AT_ONCE);
                children.enough = count("succeedAfter")?;
                let written = self.resolved(id, "toleratedFailures");
                children.tolerated = tolerated(written, children.wanted).ok_or(WRONG_TYPE)?;
            }
            _ => _ = count("maxIterations")?,
        }
        Ok(children)
    }

    fn child_reported(&mut self, report: &ChildReport) -> bool {
        let state = self.set(&report.node);
        let Some(children) = state.children.as_mut().filter(|_| state.visit == report.visit) else {
            return false;
        };
        match children.ends.get_mut(report.index) {
            Some(end @ None) => *end = Some(report.end.clone()),
            _ => return false,
        }
        if matches!(report.end, ChildEnd::Failed(_)) {
            children.failed.push(report.index);
        }
        self.look_after(&report.node);
        true
    }

    /// Decides what follows for a node from its children.
    fn look_after(&mut self, id: &str) {
        let children = self.nodes[id].children.clone().expect("it has children");
        let input = self.nodes[id].input.clone();
        let is_loop = node(&self.definition, id).node_type == "loop";
        let are_over = children.ends.len() == children.wanted && children.open().next().is_none();
        if children.failed() > children.tolerated {
            self.fail(id, child_failed(&children), input);
        } else if children.enough.is_some_and(|enough| children.completed() >= enough) {
            self.complete(id, self.outputs(id, &children));
        } else if is_loop && are_over {
            if !self.is_node_held(id) {
                self.go_round(id, &children);
            }
        } else if are_over {
            self.complete(id, self.outputs(id, &children));
        }
    }

    /// An iteration of a `loop` is over, or none was yet.
    fn go_round(&mut self, id: &str, children: &Children) {
        let input = self.nodes[id].input.clone();
        let last = children.last();
        let most = self.resolved(id, "maxIterations").and_then(|most| most.as_u64());
        match self.ask(id, "while", Some(&last)) {
            Err(Thrown) => self.fail(id, expression_error(), input),
            Ok(holds) if !language::truthy(&holds) => self.complete(id, last),
            Ok(_) if most.is_some_and(|most| children.ends.len() as u64 >= most) => {
                self.fail(id, failure("LOOP_LIMIT").error(), input);
            }
            Ok(_) => self.set(id).children.as_mut().expect("it has children").wanted += 1,
        }
    }

    fn outputs(&self, id: &str, children: &Children) -> Value {
        match node(&self.definition, id).node_type.as_str() {
            "forEach" if !children.attached => json!({"started": children.completed()}),
            "forEach" => (0..children.items.len()).map(|index| children.output(index)).collect(),
            _ => children.last(),
        }
    }

    /// An expression of a node over its input.
    fn ask(&self, id: &str, name: &str, output: Option<&Value>) -> Result<Value, Thrown> {
        let expression = field(node(&self.definition, id), name).and_then(Value::as_str);
        let mut extra = vec![("input", &self.nodes[id].input)];
        extra.extend(output.map(|output| ("output", output)));
        language::evaluate(expression.ok_or(Thrown)?, &self.scope(Some(id), &extra))
    }

    /// Begins children that are wanted, as many at once as may be.
    pub(super) fn begin_wanted(&mut self) {
        for id in self.ids() {
            let visit = self.nodes[&id].visit;
            while let Some(children) = &self.nodes[&id].children {
                let index = children.ends.len();
                if self.is_node_held(&id) || index == children.wanted || children.open().count() >= children.at_once {
                    break;
                }
                let begin = Did::Begin {
                    node: id.clone(),
                    visit,
                    index,
                    input: self.payload_of(&id, children),
                    attached: children.attached,
                };
                self.did.push(begin);
                self.set(&id)
                    .children
                    .as_mut()
                    .expect("it has children")
                    .ends
                    .push(None);
            }
        }
    }

    /// The start payload of the next child.
    fn payload_of(&self, id: &str, children: &Children) -> Value {
        let (input, index) = (&self.nodes[id].input, children.ends.len());
        match node(&self.definition, id).node_type.as_str() {
            "forEach" => json!({"item": children.items[index], "index": index, "input": input}),
            "loop" => json!({"input": input, "iteration": index + 1, "last": children.last()}),
            _ => input.clone(),
        }
    }

    /// The node has ended: nobody waits for its children any more.
    pub(super) fn part_with_children(&mut self, id: &str) {
        self.tell_children_of(id, Tell::Cancel);
        self.set(id).children = None;
    }

    pub(super) fn tell_children(&mut self, what: Tell) {
        for id in self.ids() {
            self.tell_children_of(&id, what);
        }
    }

    fn tell_children_of(&mut self, id: &str, what: Tell) {
        let state = &self.nodes[id];
        let Some(children) = state.children.as_ref().filter(|children| children.attached) else {
            return;
        };
        let tell = |index| Did::Tell {
            node: id.to_owned(),
            visit: state.visit,
            index,
            what,
        };
        let told: Vec<Did> = children.open().map(tell).collect();
        self.did.extend(told);
    }
}

/// How many children may fail: a number, or a percentage of all rounded down.
fn tolerated(written: Option<Value>, of: usize) -> Option<usize> {
    match written {
        None => Some(0),
        Some(Value::Number(number)) => number.as_u64().map(|number| number as usize),
        Some(Value::String(text)) => {
            let share = text.strip_suffix('%')?.trim().parse::<f64>().ok()?;
            let is_share = (0.0..=100.0).contains(&share);
            is_share.then_some((share * of as f64 / 100.0) as usize)
        }
        Some(_) => None,
    }
}

fn child_failed(children: &Children) -> Value {
    let first = children.failed[0];
    let Some(Some(ChildEnd::Failed(error))) = children.ends.get(first) else {
        panic!("child {first} has not failed");
    };
    json!({"message": "", "code": "CHILD_FAILED", "details": {"index": first, "error": error.error()}})
}
