//! Where events come from that start executions or wake them.

use async_trait::async_trait;
use bytes::Bytes;

/// Names a message for as long as it is neither accepted nor rejected nor given to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The connection it came over.
    pub connection: u64,
    /// Its number on that connection.
    pub number: u64,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Accepts or rejects it.
    pub receipt: Receipt,
    /// The id its sender gave it: the same for a message that comes again, where the sender gave one.
    pub id: Option<String>,
    /// Its routing key.
    pub key: String,
    /// The media type of the body.
    pub media_type: Option<String>,
    /// Headers with text in them.
    pub headers: Vec<(String, String)>,
    /// Whether it may have come before.
    pub again: bool,
    /// The body.
    pub body: Bytes,
}

/// Why a message could not be settled, or none can come.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection that it came over is gone: the message comes again, under another receipt.
    #[error("the receipt is of a connection that is gone")]
    Stale,
    /// It was not settled; it may be tried again.
    #[error("the event source is unavailable: {0}")]
    Unavailable(String),
}

/// Gives messages at least once: each until it is accepted or rejected.
#[async_trait]
pub trait EventSource: Send + Sync + 'static {
    /// The next message; waits for one, through lost connections. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SourceError::Unavailable`] when no message will ever come.
    async fn next(&self) -> Result<Incoming, SourceError>;

    /// Whether the message comes again anyway, under another receipt: whoever has it need not handle it.
    fn is_stale(&self, receipt: Receipt) -> bool;

    /// What the message asked for is durable: it does not come again.
    ///
    /// # Errors
    ///
    /// See [`SourceError`].
    async fn accept(&self, receipt: Receipt) -> Result<(), SourceError>;

    /// The message is no use, whoever gets it: it is set aside with the reason.
    ///
    /// # Errors
    ///
    /// See [`SourceError`].
    async fn reject(&self, receipt: Receipt, reason: &str) -> Result<(), SourceError>;
}
