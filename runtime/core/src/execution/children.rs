//! Nodes that start child executions: `subworkflow`, `forEach` and `loop`. See ADR 0016.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use serde_json::Value as JsonValue;

use crate::control::Clocks;
use crate::definition::NodeKind;
use crate::id::NodeIx;
use crate::value::{ErrorInfo, Json, Parts, Value};

use super::effect::{ChildCommand, Effect, StartChild};
use super::event::{ChildId, ChildOutcome, ChildReport};
use super::scope::Question;
use super::state::{Phase, Status};
use super::step::StepError;
use super::transition::Verb;
use super::tx::Tx;

/// How many executions may be above one.
pub const CHILD_DEPTH_MAX: u32 = 32;
/// Items that a node may have a child for.
const ITEMS_MAX: usize = 100_000;
/// How many children a `forEach` has open at once unless it says otherwise.
const AT_ONCE_DEFAULT: u32 = 50;
const EXPRESSION_ERROR: &str = "EXPRESSION_ERROR";
const CHILD_FAILED: &str = "CHILD_FAILED";

/// The child executions of one node in one visit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Children {
    /// What each child is for, in order (`forEach`).
    #[cbor(n(0), with = "items")]
    pub items: Vec<Value>,
    /// How many children there will be at most.
    #[n(1)]
    pub total: u32,
    /// How many were begun; they are the first ones.
    #[n(2)]
    pub begun: u32,
    /// Those begun of which the end, or where nobody waits for it the begin, is not known yet.
    #[n(3)]
    pub open: BTreeSet<u32>,
    /// How many completed.
    #[n(4)]
    pub completed: u32,
    /// How many failed.
    #[n(5)]
    pub failed: u32,
    /// The first failure that was reported, and of which child.
    #[n(6)]
    pub failure: Option<(u32, ErrorInfo)>,
    /// Outputs of children that completed, by index. Of a `loop` only the last one.
    #[n(7)]
    pub outputs: BTreeMap<u32, Value>,
    /// How many may be open at once.
    #[n(8)]
    pub at_once: u32,
    /// How many may fail.
    #[n(9)]
    pub tolerated: u32,
    /// So many suffice.
    #[n(10)]
    pub succeed_after: Option<u32>,
    /// Whether nobody waits for their end.
    #[n(11)]
    pub detached: bool,
}

/// Small items are written as bare documents, as all of them were before large ones were kept apart.
mod items {
    use minicbor::data::Type;
    use minicbor::encode::Write;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    use crate::value::Value;

    pub(super) fn encode<C, W: Write>(
        items: &Vec<Value>,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.array(items.len() as u64)?;
        for item in items {
            match item {
                Value::Inline(json) => json.encode(encoder, context)?,
                Value::Blob(_) | Value::Composed(_) => item.encode(encoder, context)?,
            }
        }
        Ok(())
    }

    pub(super) fn decode<'b, C>(
        decoder: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Vec<Value>, minicbor::decode::Error> {
        let length = decoder.array()?;
        let mut items = Vec::new();
        loop {
            let is_over = match length {
                Some(length) => items.len() as u64 >= length,
                None => decoder.datatype()? == Type::Break,
            };
            if is_over {
                break;
            }
            items.push(if decoder.datatype()? == Type::String {
                Value::Inline(Decode::decode(decoder, context)?)
            } else {
                Value::decode(decoder, context)?
            });
        }
        if length.is_none() {
            decoder.skip()?;
        }
        Ok(items)
    }
}

/// One way back for the children of a node.
pub(super) enum ChildrenUndo {
    /// There were none.
    Created,
    /// These were forgotten.
    Forgotten(Children),
    /// What they were for and what they gave was dropped.
    Dropped(Vec<Value>, BTreeMap<u32, Value>),
    /// A child was begun.
    Begun,
    /// A child of this index was closed; an output that was forgotten with it.
    Closed(u32, Option<(u32, Value)>),
    /// As closed, with an output kept.
    Completed(u32, Option<(u32, Value)>),
    /// As closed, as a failure; whether it was the first.
    Failed(u32, bool),
}

impl ChildrenUndo {
    pub(super) fn apply(self, ix: NodeIx, all: &mut BTreeMap<NodeIx, Children>) {
        match self {
            Self::Created => drop(all.remove(&ix)),
            Self::Forgotten(children) => drop(all.insert(ix, children)),
            other => {
                if let Some(children) = all.get_mut(&ix) {
                    other.revert(children);
                }
            }
        }
    }

    fn revert(self, children: &mut Children) {
        match self {
            Self::Created | Self::Forgotten(_) => {}
            Self::Dropped(items, outputs) => {
                children.items = items;
                children.outputs = outputs;
            }
            Self::Begun => {
                children.begun -= 1;
                children.open.remove(&children.begun);
            }
            Self::Closed(index, dropped) => {
                children.open.insert(index);
                children.outputs.extend(dropped);
            }
            Self::Completed(index, dropped) => {
                children.open.insert(index);
                children.completed -= 1;
                children.outputs.remove(&index);
                children.outputs.extend(dropped);
            }
            Self::Failed(index, first) => {
                children.open.insert(index);
                children.failed -= 1;
                if first {
                    children.failure = None;
                }
            }
        }
    }
}

impl Children {
    /// Whether as many completed as suffice.
    fn has_succeeded(&self) -> bool {
        self.succeed_after.is_some_and(|enough| self.completed >= enough)
    }
}

impl Tx<'_> {
    fn children(&self, ix: NodeIx) -> &Children {
        static NONE: std::sync::LazyLock<Children> = std::sync::LazyLock::new(Children::default);
        self.state.children.get(&ix).unwrap_or(&NONE)
    }

    /// The node is ready: its children begin.
    pub(super) fn become_parent(&mut self, ix: NodeIx) -> Result<(), StepError> {
        if self.state.parent.is_some_and(|parent| parent.depth >= CHILD_DEPTH_MAX) {
            let message = format!("{CHILD_DEPTH_MAX} executions are above it already");
            return self.fail(ix, ErrorInfo::new("CHILD_DEPTH", message));
        }
        let (planned, at) = (self.planned(ix), self.clock_of(ix));
        let items = match planned.kind {
            NodeKind::ForEach => match self.items(ix)? {
                Ok(items) => items,
                Err(error) => return self.fail(ix, error),
            },
            _ => Vec::new(),
        };
        let children = match self.limits(ix, items) {
            Ok(children) => children,
            Err(message) => return self.fail(ix, ErrorInfo::new("NODE_DATA_INVALID", message)),
        };
        self.forget_children(ix);
        self.state.children.insert(ix, children);
        self.undo_children(ix, ChildrenUndo::Created);
        let total_ms = planned.total_timeout_ms(self.node(ix).data.as_ref());
        self.update(ix, |node| {
            node.phase = Phase::Parenting;
            node.total_deadline = total_ms.map(|ms| at.plus_ms(ms));
        });
        self.changed_node(Verb::NodeWaiting, ix);
        self.go_on_parenting(ix)
    }

    /// Reads the limits of the node's children.
    fn limits(&self, ix: NodeIx, items: Vec<Value>) -> Result<Children, String> {
        let data = self.data(ix)?;
        let field = |name: &str| data.given(name);
        let whole = |name: &str| match field(name) {
            None => Ok(None),
            Some(value) => {
                let whole = value.as_u64().filter(|number| *number > 0);
                let most = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                let wrong = || format!("`{name}` must be a whole number from 1, it gave {value}");
                whole.map(most).map(Some).ok_or_else(wrong)
            }
        };
        let kind = self.planned(ix).kind;
        let total = match kind {
            NodeKind::ForEach => u32::try_from(items.len()).unwrap_or(u32::MAX),
            NodeKind::Loop => whole("maxIterations")?.ok_or("`maxIterations` is missing")?,
            _ => 1,
        };
        let wrong =
            |value: &JsonValue| format!("`toleratedFailures` must be a number or a percentage, it gave {value}");
        let percent = |text: &str| {
            text.strip_suffix('%')?
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|share| (0.0..=100.0).contains(share))
        };
        let tolerated = match field("toleratedFailures") {
            None => 0,
            Some(JsonValue::String(text)) => {
                let share = percent(text).ok_or_else(|| wrong(&JsonValue::from(text.as_str())))?;
                // Rounded down.
                (f64::from(total) * share / 100.0) as u32
            }
            Some(value) => value
                .as_u64()
                .and_then(|most| u32::try_from(most).ok())
                .ok_or_else(|| wrong(value))?,
        };
        let at_once = match kind {
            NodeKind::ForEach => whole("maxConcurrency")?.unwrap_or(AT_ONCE_DEFAULT),
            _ => 1,
        };
        let detached = match (kind, field("mode"), field("wait")) {
            (NodeKind::Subworkflow, Some(mode), _) => match mode.as_str() {
                Some("attached") => false,
                Some("detached") => true,
                _ => return Err(format!("`mode` must be `attached` or `detached`, it gave {mode}")),
            },
            (NodeKind::ForEach, _, Some(wait)) => {
                let waits = wait.as_bool();
                !waits.ok_or_else(|| format!("`wait` must be true or false, it gave {wait}"))?
            }
            _ => false,
        };
        Ok(Children {
            items,
            total,
            at_once,
            tolerated,
            succeed_after: whole("succeedAfter")?,
            detached,
            ..Children::default()
        })
    }

    fn items(&mut self, ix: NodeIx) -> Result<Result<Vec<Value>, ErrorInfo>, StepError> {
        let input = self.state.input_of(self.plan, ix);
        let wrong = |message: String| Ok(Err(ErrorInfo::new(EXPRESSION_ERROR, message)));
        let items = match self.ask_value(Question::Items(ix), Some(&input), None)? {
            Ok(items) => items,
            Err(error) => return Ok(Err(error)),
        };
        let elements = match &items {
            Value::Inline(json) => json.elements().map(|all| all.into_iter().map(Value::Inline).collect()),
            Value::Composed(composed) => match composed.parts() {
                Parts::List(elements) => Some(elements.clone()),
                Parts::Object(_) => None,
            },
            Value::Blob(_) => None,
        };
        let Some(items): Option<Vec<Value>> = elements else {
            return wrong("`items` must give a list".into());
        };
        if items.len() > ITEMS_MAX {
            return wrong(format!("`items` gives {} items, more than {ITEMS_MAX}", items.len()));
        }
        Ok(Ok(items))
    }

    /// Decides whether more children may begin, which they do when everything else of the step is settled, and ends the node
    /// where none is left.
    fn go_on_parenting(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let children = self.children(ix);
        if !children.has_succeeded() {
            if self.planned(ix).kind == NodeKind::Loop {
                if self.state.is_node_held(ix) || !children.open.is_empty() {
                    return Ok(());
                }
                match self.goes_round(ix)? {
                    Ok(true) => {
                        self.begins.push(ix);
                        return Ok(());
                    }
                    Ok(false) => {}
                    Err(error) => return self.fail(ix, error),
                }
            } else if children.begun < children.total {
                self.begins.push(ix);
                return Ok(());
            } else if !children.open.is_empty() {
                return Ok(());
            }
        }
        self.cancel_children(ix);
        let output = self.children_output(ix);
        match self.keep(ix, output)? {
            Ok(output) => {
                self.drop_outputs(ix);
                self.complete(ix, output)
            }
            Err(error) => self.fail(ix, error),
        }
    }

    /// The node has what its children gave: from now on their numbers suffice.
    fn drop_outputs(&mut self, ix: NodeIx) {
        if let Some(children) = self.state.children.get_mut(&ix) {
            let (items, outputs) = (
                std::mem::take(&mut children.items),
                std::mem::take(&mut children.outputs),
            );
            self.undo_children(ix, ChildrenUndo::Dropped(items, outputs));
        }
    }

    /// Whether a loop begins another iteration; the error when it would and may not.
    fn goes_round(&mut self, ix: NodeIx) -> Result<Result<bool, ErrorInfo>, StepError> {
        let (begun, most) = (self.children(ix).begun, self.children(ix).total);
        Ok(match self.holds_on(ix)? {
            Ok(true) if begun >= most => {
                let message = format!("the loop went round {most} times and would go on; `maxIterations` allows more");
                Err(ErrorInfo::new("LOOP_LIMIT", message))
            }
            answer => answer,
        })
    }

    /// Whether a loop's `while` holds before its next iteration.
    fn holds_on(&mut self, ix: NodeIx) -> Result<Result<bool, ErrorInfo>, StepError> {
        let input = self.state.input_of(self.plan, ix);
        let last = self.last_output(ix);
        self.ask_truth(Question::While(ix), Some(&input), Some(&last), None)
    }

    fn last_output(&self, ix: NodeIx) -> Value {
        let last = self.children(ix).outputs.last_key_value();
        last.map_or_else(Value::null, |(_, output)| output.clone())
    }

    fn begin_child(&mut self, ix: NodeIx) -> Result<(), StepError> {
        let Some(children) = self.state.children.get_mut(&ix) else {
            return Err(StepError::Corrupt("a child of a node without children begins"));
        };
        let index = children.begun;
        children.begun += 1;
        children.open.insert(index);
        self.undo_children(ix, ChildrenUndo::Begun);
        let start = self.state.start_of_child(self.plan, ix, index);
        self.carry_out(Effect::StartChild(start));
        Ok(())
    }

    /// Begins the children that this step decided on. A node that ended meanwhile has none to begin.
    pub(super) fn begin_children(&mut self) -> Result<(), StepError> {
        for ix in std::mem::take(&mut self.begins) {
            while self.may_begin_child(ix) {
                self.begin_child(ix)?;
            }
        }
        Ok(())
    }

    fn may_begin_child(&self, ix: NodeIx) -> bool {
        let children = self.children(ix);
        !self.state.is_node_held(ix)
            && self.node(ix).phase == Phase::Parenting
            && children.begun < children.total
            && children.open.len() < children.at_once as usize
    }

    /// The parent may begin children again.
    pub(super) fn begin_held_children(&mut self) -> Result<(), StepError> {
        let parents: Vec<NodeIx> = self.state.children.keys().copied().collect();
        for ix in parents {
            // The end of one parent may cancel another.
            if self.node(ix).phase == Phase::Parenting {
                self.go_on_parenting(ix)?;
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Reports of children; those that are not awaited any more are ignored. Refused if none is.
    pub(super) fn children_reported(&mut self, reports: &[ChildReport]) -> Result<(), StepError> {
        let mut heard = false;
        for ChildReport { child, outcome } in reports {
            let ix = child.node;
            let awaited = self.state.awaits(*child);
            if !awaited {
                continue;
            }
            heard = true;
            let is_loop = self.planned(ix).kind == NodeKind::Loop;
            let Some(children) = self.state.children.get_mut(&ix) else {
                continue;
            };
            children.open.remove(&child.index);
            let dropped = if is_loop { children.outputs.pop_last() } else { None };
            match outcome {
                ChildOutcome::Began(id) => {
                    let id = Value::Inline(Json::of(&serde_json::json!({"executionId": id.to_string()})));
                    children.completed += 1;
                    children.outputs.insert(child.index, id);
                    self.undo_children(ix, ChildrenUndo::Completed(child.index, dropped));
                }
                ChildOutcome::Completed(output) => {
                    children.completed += 1;
                    children.outputs.insert(child.index, output.clone());
                    self.undo_children(ix, ChildrenUndo::Completed(child.index, dropped));
                }
                ChildOutcome::Failed(error) => {
                    children.failed += 1;
                    let first = children.failure.is_none();
                    if first {
                        children.failure = Some((child.index, error.clone()));
                    }
                    if let Some((index, output)) = dropped {
                        children.outputs.insert(index, output);
                    }
                    self.undo_children(ix, ChildrenUndo::Failed(child.index, first));
                }
            }
            if self.children(ix).failed > self.children(ix).tolerated {
                self.fail_parent(ix)?;
            } else {
                self.go_on_parenting(ix)?;
            }
            // The end of one parent may cancel another.
            self.settle()?;
            if self.state.status.is_terminal() {
                break;
            }
        }
        if heard { Ok(()) } else { Err(StepError::Stale) }
    }

    fn fail_parent(&mut self, ix: NodeIx) -> Result<(), StepError> {
        self.cancel_children(ix);
        let children = self.children(ix);
        let Some((index, error)) = &children.failure else {
            return Err(StepError::Corrupt("a child failed without an error"));
        };
        let message = match self.planned(ix).kind {
            NodeKind::Subworkflow => format!("the child failed: {}: {}", error.code, error.message),
            _ => format!("child {index} failed: {}: {}", error.code, error.message),
        };
        let details = Json::object([
            ("index", &Json::from_trusted(index.to_string())),
            ("error", &error.to_json()),
        ]);
        let error = ErrorInfo {
            details: Some(details),
            ..ErrorInfo::new(CHILD_FAILED, message)
        };
        self.fail(ix, error)
    }

    fn children_output(&self, ix: NodeIx) -> Value {
        let children = self.children(ix);
        match self.planned(ix).kind {
            NodeKind::ForEach if !children.detached => {
                let null = Value::null();
                let output = |index: u32| children.outputs.get(&index).unwrap_or(&null).clone();
                Value::list((0..children.total).map(output).collect())
            }
            NodeKind::ForEach => {
                let begun = Json::from_trusted(children.completed.to_string());
                Value::Inline(Json::object([("started", &begun)]))
            }
            _ => self.last_output(ix),
        }
    }

    /// Cancels the open children of a node, if it has some: they are not awaited any more.
    pub(super) fn cancel_children(&mut self, ix: NodeIx) {
        if self.node(ix).phase != Phase::Parenting {
            return;
        }
        let open: Vec<u32> = self.children(ix).open.iter().copied().collect();
        let is_attached = !self.children(ix).detached;
        for index in open {
            if is_attached {
                let child = self.state.child_id(ix, index);
                self.carry_out(Effect::TellChild(child, ChildCommand::Cancel));
            }
            if let Some(children) = self.state.children.get_mut(&ix) {
                children.open.remove(&index);
                self.undo_children(ix, ChildrenUndo::Closed(index, None));
            }
        }
    }

    /// The node's next visit has children of its own.
    pub(super) fn forget_children(&mut self, ix: NodeIx) {
        if let Some(children) = self.state.children.remove(&ix) {
            self.undo_children(ix, ChildrenUndo::Forgotten(children));
        }
    }

    /// A detached child is none of them: it lives on its own from its first entry on, which may come before it is reported.
    pub(super) fn tell_open_children(&mut self, command: ChildCommand) {
        for child in self.state.open_children() {
            if !self.children(child.node).detached {
                self.carry_out(Effect::TellChild(child, command));
            }
        }
    }
}

impl super::state::ExecutionState {
    /// Whether a node that is held would begin children.
    pub(super) fn has_children_to_begin(&self) -> bool {
        let mut parents = self.children.iter();
        parents.any(|(ix, children)| {
            let begins = children.begun < children.total && children.open.len() < children.at_once as usize;
            // A loop asks only then whether it goes round once more, also where it may not.
            let may = begins || children.open.is_empty();
            may && self.nodes[ix.at()].phase == Phase::Parenting && self.is_node_held(*ix)
        })
    }

    /// What clocks do during the execution's own pause.
    #[must_use]
    pub fn clocks_of_pause(&self) -> Clocks {
        match &self.holds {
            Some(holds) if holds.own_freeze => Clocks::Freeze,
            Some(_) | None => Clocks::Run,
        }
    }

    /// What open children of a paused execution are told.
    #[must_use]
    pub fn command_of_pause(&self) -> ChildCommand {
        match self.clocks_of_pause() {
            Clocks::Run => ChildCommand::Pause,
            Clocks::Freeze => ChildCommand::Freeze,
        }
    }

    fn child_id(&self, ix: NodeIx, index: u32) -> ChildId {
        ChildId {
            run: self.run,
            node: ix,
            visit: self.nodes[ix.at()].visit,
            index,
        }
    }

    /// Children that are begun and not over, in order.
    #[must_use]
    pub fn open_children(&self) -> Vec<ChildId> {
        let open = self.children.iter().flat_map(|(ix, children)| {
            let open = children.open.iter();
            open.map(|index| self.child_id(*ix, *index))
        });
        open.collect()
    }

    /// Whether a child is begun and not over.
    #[must_use]
    pub fn has_open_children(&self) -> bool {
        self.children.values().any(|children| !children.open.is_empty())
    }

    /// Whether the execution waits for this child.
    #[must_use]
    pub fn awaits(&self, child: ChildId) -> bool {
        let current = self.nodes.get(child.node.at());
        !matches!(
            self.status,
            Status::Completed { .. } | Status::Failed | Status::Canceled { .. }
        ) && self.run == child.run
            && current.is_some_and(|node| node.visit == child.visit && node.phase == Phase::Parenting)
            && self
                .children
                .get(&child.node)
                .is_some_and(|children| children.open.contains(&child.index))
    }

    /// How an open child is started, also again.
    #[must_use]
    pub fn start_of_child(&self, plan: &crate::plan::Plan, ix: NodeIx, index: u32) -> StartChild {
        let input = self.input_of(plan, ix);
        let children = self.children.get(&ix);
        let payload = match plan.node(ix).kind {
            NodeKind::ForEach => {
                let null = Value::null();
                let item = children.and_then(|children| children.items.get(index as usize));
                let index = Json::from_trusted(index.to_string()).into();
                Value::object([("item", item.unwrap_or(&null)), ("index", &index), ("input", &input)])
            }
            NodeKind::Loop => {
                let last = children.and_then(|children| children.outputs.last_key_value());
                let last = last.map_or_else(Value::null, |(_, output)| output.clone());
                let iteration = Json::from_trusted((u64::from(index) + 1).to_string()).into();
                Value::object([("input", &input), ("iteration", &iteration), ("last", &last)])
            }
            _ => input,
        };
        StartChild {
            child: self.child_id(ix, index),
            input: payload,
            data: self.nodes[ix.at()].data.clone(),
            attached: children.is_none_or(|children| !children.detached),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::value::BlobRef;

    #[test]
    fn items_are_read_as_they_were_written_before_and_large_ones_survive() {
        let small: Vec<Json> = ["1", "null", "\"a\""].map(Json::from_trusted).into();
        let before = minicbor::to_vec(&small).unwrap();
        let read = items::decode(&mut minicbor::Decoder::new(&before), &mut ()).unwrap();
        let mut items: Vec<Value> = small.into_iter().map(Value::Inline).collect();
        assert_eq!(read, items);
        let blob = BlobRef {
            hash: [3; 32],
            bytes: 70_000,
        };
        items.push(blob.into());
        let children = Children {
            items,
            ..Children::default()
        };
        let written = minicbor::to_vec(&children).unwrap();
        assert_eq!(minicbor::decode::<Children>(&written).unwrap(), children);
    }
}
