//! Implementations of the ports: the embedded store, the store on Redis, and the in-process event bus.
//! Implementations of the ports: the embedded store, the PostgreSQL definition store and the in-process event bus.
//!
//! This crate knows drivers and file formats; it knows no actor, no route and no workflow rule.

// Tests inside the crate share their servers with those beside it.
#[cfg(test)]
extern crate self as troupe_backends;

pub mod bus;
pub mod embedded;
pub mod redis;
pub mod postgres;

pub use self::redis::{RedisDurability, RedisOpenError, RedisOptions, RedisStore, RedisTls};
pub use bus::{EventFilter, InProcessBus, Subscription, SubscriptionError, SystemSubscription};
pub use embedded::{DurabilityMutant, EmbeddedStore, PowerLoss, Sharing, StoreOptions};
pub use postgres::{PostgresOptions, PostgresStore};
