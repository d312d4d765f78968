//! Audit rows: who changed what, when, and what came of it.

mod note;
mod trail;

pub(crate) use note::{AuditNote, Draft, hash_of};
pub use trail::AuditTrail;
