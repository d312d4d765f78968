//! What tests with real brokers share.
#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod consumer;
pub(crate) mod events;
