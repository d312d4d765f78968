//! What the engine needs of the outside, as traits, and one conformance suite a trait.
//!
//! This crate knows no backend, no actor and no wire type.

pub mod audit;
pub mod bus;
pub mod clock;
pub mod conformance;
pub mod definitions;
pub mod epochs;
pub mod executor;
pub mod keys;
pub mod members;
pub mod semaphores;
pub mod source;
pub mod state;
pub mod visibility;

pub use audit::{AuditCursor, AuditId, AuditLog, AuditPage, AuditQuery, AuditRow, AuditTarget};
pub use bus::{BusError, EventBus};
pub use clock::{Clock, SystemClock};
pub use definitions::{DefinitionError, DefinitionStore, StoredDefinition, says_the_same};
pub use epochs::{EpochAuthority, EpochError};
pub use executor::{Executed, NodeExecutor, Rendered, Sandbox, SandboxJob, Secrets, Task};
pub use keys::{ApiKey, ApiKeyStore, InvalidKeyId, KeyError, KeyId, Role};
pub use members::{Member, Membership};
pub use semaphores::{Ask, Asked, Hold, Semaphores};
pub use source::{EventSource, Incoming, Receipt, SourceError};
pub use state::{
    AppendError, Archive, BlobsPut, CacheLimits, CheckpointRow, CommitId, ExecutionBase, Expired, Holder, InboxId,
    InboxItem, InboxLimits, InboxPush, Lease, LogEnd, LogRecord, SpoolChunk, StateStore, StoreCounters, StoreError,
    Wait,
};
pub use visibility::{
    ExecutionCursor, ExecutionQuery, ExecutionSummary, InvalidCursor, Page, SoughtText, VisibilityStore,
};
