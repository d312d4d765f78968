//! What follows the log: the event bus and the projection for lists. Each has its own cursor.

mod events;
pub mod gather;
pub mod machine;
mod sending;
mod source;
pub mod spool;
mod visibility;

pub use events::{EventItem, EventSinkActor, EventSinkArguments, EventSinkMessage, SinkFeed};
pub use visibility::{VisibilityActor, VisibilityArguments, VisibilityMessage};
