//! What the shell must do once the entry that caused it is durable. Verbs.

use crate::id::Token;
use crate::value::Value;

use super::error_workflow::StartErrorWorkflow;
use super::event::ChildId;

/// Something to carry out. Released only when the entry that caused it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start an attempt of a node.
    StartAttempt(StartAttempt),
    /// Abort a running attempt; its report will be stale.
    AbortAttempt(Token),
    /// Start a child execution.
    StartChild(StartChild),
    /// Pause, resume or cancel a child execution.
    TellChild(ChildId, ChildCommand),
    /// Keep an output for reuse. Nothing depends on it.
    OfferOutput(OfferOutput),
    /// Ask whether the execution may run beside others of its workflow; [`super::Event::Admitted`] says so.
    AskForRoom,
    /// Start the error workflow.
    StartErrorWorkflow(StartErrorWorkflow),
    /// The execution is over: retire its actor and archive it.
    Finish,
}

/// One attempt to start. The node's kind, data and limits are in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartAttempt {
    /// Names the attempt; its report carries it.
    pub token: Token,
    /// The node's input.
    pub input: Value,
    /// The node's data with templates resolved, where it has templates; else the plan's data holds.
    pub data: Option<Value>,
}

/// An output that other attempts may reuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferOutput {
    /// Under which key: see [`super::CachedOutput`].
    pub key: [u8; 32],
    /// For how long, in milliseconds.
    pub ttl_ms: u64,
    /// The output.
    pub output: Value,
}

/// One child execution to start. What it runs is in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartChild {
    /// Names it; its report carries it.
    pub child: ChildId,
    /// Its start payload.
    pub input: Value,
    /// Whether its end is awaited.
    pub attached: bool,
    /// The parent node's data with templates resolved, where it has templates; else the plan's data holds.
    pub data: Option<Value>,
}

/// What a parent wants of an open child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildCommand {
    /// Pause.
    Pause,
    /// Pause, and let its clocks stand still.
    Freeze,
    /// Go on.
    Resume,
    /// Cancel.
    Cancel,
}
