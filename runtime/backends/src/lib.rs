//! Implementations of the ports: the embedded store, the state store on Redis, definitions and lists on PostgreSQL, events
//! inside the process and on RabbitMQ.
//!
//! This crate knows drivers and file formats; it knows no actor, no route and no workflow rule.

// Tests inside the crate share their servers with those beside it.
#[cfg(test)]
extern crate self as troupe_backends;

pub mod bus;
pub mod cloud_events;
pub mod embedded;
mod lists;
pub mod members;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod semaphores;

pub use self::redis::{RedisDurability, RedisMutant, RedisOpenError, RedisOptions, RedisStore, RedisTls};
pub use bus::{EventFilter, InProcessBus, Subscription, SubscriptionError, SystemSubscription};
pub use embedded::{DurabilityMutant, EmbeddedStore, PowerLoss, Sharing, StoreOptions};
pub use members::InProcessMembers;
pub use postgres::{PostgresOptions, PostgresStore};
pub use rabbitmq::{RabbitBus, RabbitOptions, RabbitSource};
pub use semaphores::InProcessSemaphores;
