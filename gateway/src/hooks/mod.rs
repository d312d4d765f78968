//! Calls from outside: which node takes them, whether they are signed as it asks, and what of them it is given.

mod call;
mod correlation;
mod delivery;
mod index;
mod secret;
mod signature;

pub(crate) use call::{Call, read_call};
pub(crate) use correlation::business_key;
pub(crate) use delivery::delivery_id;
pub(crate) use index::{Hook, HookIndex, HookRole};
pub(crate) use secret::server_secret;
pub(crate) use signature::verify;
