//! PostgreSQL against the suites that every backend passes.
#![allow(clippy::unwrap_used)]

#[path = "support/postgres.rs"]
mod support;

use std::sync::Arc;

use async_trait::async_trait;
use support::Schema;
use troupe_ports::conformance::Fixture;
use troupe_ports::{ApiKeyStore, AuditLog, DefinitionStore, EpochAuthority, VisibilityStore};

#[async_trait]
impl Fixture<dyn DefinitionStore> for Schema {
    async fn open(&self) -> Arc<dyn DefinitionStore> {
        Arc::new(Schema::open(self).await)
    }
}

#[async_trait]
impl Fixture<dyn VisibilityStore> for Schema {
    async fn open(&self) -> Arc<dyn VisibilityStore> {
        Arc::new(Schema::open(self).await)
    }
}

#[async_trait]
impl Fixture<dyn EpochAuthority> for Schema {
    async fn open(&self) -> Arc<dyn EpochAuthority> {
        Arc::new(Schema::open(self).await)
    }
}

#[async_trait]
impl Fixture<dyn AuditLog> for Schema {
    async fn open(&self) -> Arc<dyn AuditLog> {
        Arc::new(Schema::open(self).await)
    }
}

#[async_trait]
impl Fixture<dyn ApiKeyStore> for Schema {
    async fn open(&self) -> Arc<dyn ApiKeyStore> {
        Arc::new(Schema::open(self).await)
    }
}

mod definitions {
    use super::Schema;
    troupe_ports::definition_store_conformance!(Schema::new());
}

mod visibility {
    use super::Schema;
    troupe_ports::visibility_store_conformance!(Schema::new());
}

mod epochs {
    use super::Schema;
    troupe_ports::epoch_authority_conformance!(Schema::new());
}

mod audit {
    use super::Schema;
    troupe_ports::audit_log_conformance!(Schema::new());
}

mod keys {
    use super::Schema;
    troupe_ports::api_key_store_conformance!(Schema::new());
}
