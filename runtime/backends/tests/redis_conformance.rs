//! The store on Redis against the suite that every backend passes, on the shared server.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use support::redis::{Prefix, shared};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_ports::conformance::Fixture;
use troupe_ports::{Membership, StateStore};

#[async_trait]
impl Fixture<dyn StateStore> for Prefix {
    async fn open(&self) -> Arc<dyn StateStore> {
        let options = RedisOptions {
            prefix: self.name.clone(),
            // The shared server keeps nothing on disk.
            durability: RedisDurability::Volatile,
            ..RedisOptions::new(shared())
        };
        Arc::new(RedisStore::open(&options).await.unwrap())
    }
}

#[async_trait]
impl Fixture<dyn Membership> for Prefix {
    async fn open(&self) -> Arc<dyn Membership> {
        let options = RedisOptions {
            prefix: self.name.clone(),
            durability: RedisDurability::Volatile,
            ..RedisOptions::new(shared())
        };
        Arc::new(RedisStore::open(&options).await.unwrap())
    }
}

troupe_ports::state_store_conformance!(Prefix::new());
troupe_ports::membership_conformance!(Prefix::new());
