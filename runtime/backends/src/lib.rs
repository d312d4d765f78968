//! Implementations of the ports: the embedded store, the store on Redis, and the in-process event bus.
//!
//! This crate knows drivers and file formats; it knows no actor, no route and no workflow rule.

pub mod bus;
pub mod embedded;
pub mod redis;

pub use self::redis::{RedisDurability, RedisOpenError, RedisOptions, RedisStore, RedisTls};
pub use bus::{EventFilter, InProcessBus, Subscription, SubscriptionError, SystemSubscription};
pub use embedded::{DurabilityMutant, EmbeddedStore, PowerLoss, Sharing, StoreOptions};
