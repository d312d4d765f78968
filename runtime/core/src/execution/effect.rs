//! What the shell must do once the entry that caused it is durable. Verbs.

use crate::id::Token;
use crate::value::Value;

/// Something to carry out. Released only when the entry that caused it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start an attempt of a node.
    StartAttempt(StartAttempt),
    /// Abort a running attempt; its report will be stale.
    AbortAttempt(Token),
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
