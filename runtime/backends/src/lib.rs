//! Implementations of the ports: the embedded store, the in-process event bus and the one on RabbitMQ.
//!
//! This crate knows drivers and file formats; it knows no actor, no route and no workflow rule.

pub mod bus;
pub mod cloud_events;
pub mod embedded;
pub mod rabbitmq;

pub use bus::{EventFilter, InProcessBus, Subscription, SubscriptionError, SystemSubscription};
pub use embedded::{DurabilityMutant, EmbeddedStore, PowerLoss, Sharing, StoreOptions};
pub use rabbitmq::{RabbitBus, RabbitOptions, RabbitSource};
