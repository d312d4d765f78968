//! The embedded store against the suites that every backend passes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;
use troupe_backends::{EmbeddedStore, PowerLoss, StoreOptions};
use troupe_ports::conformance::Fixture;
use troupe_ports::{ApiKeyStore, AuditLog, DefinitionStore, EpochAuthority, StateStore, VisibilityStore};

struct Directory {
    directory: TempDir,
    options: StoreOptions,
}

impl Directory {
    fn new(power_loss: PowerLoss) -> Self {
        let options = StoreOptions {
            power_loss,
            ..StoreOptions::default()
        };
        Self {
            directory: tempfile::tempdir().unwrap(),
            options,
        }
    }

    fn open(&self) -> Arc<EmbeddedStore> {
        Arc::new(EmbeddedStore::open(self.directory.path(), &self.options).unwrap())
    }
}

#[async_trait]
impl Fixture<dyn StateStore> for Directory {
    async fn open(&self) -> Arc<dyn StateStore> {
        Directory::open(self)
    }
}

#[async_trait]
impl Fixture<dyn DefinitionStore> for Directory {
    async fn open(&self) -> Arc<dyn DefinitionStore> {
        Directory::open(self)
    }
}

#[async_trait]
impl Fixture<dyn VisibilityStore> for Directory {
    async fn open(&self) -> Arc<dyn VisibilityStore> {
        Directory::open(self)
    }
}

#[async_trait]
impl Fixture<dyn EpochAuthority> for Directory {
    async fn open(&self) -> Arc<dyn EpochAuthority> {
        Directory::open(self)
    }
}

#[async_trait]
impl Fixture<dyn AuditLog> for Directory {
    async fn open(&self) -> Arc<dyn AuditLog> {
        Directory::open(self)
    }
}

#[async_trait]
impl Fixture<dyn ApiKeyStore> for Directory {
    async fn open(&self) -> Arc<dyn ApiKeyStore> {
        Directory::open(self)
    }
}

mod state {
    use super::{Directory, PowerLoss};
    troupe_ports::state_store_conformance!(Directory::new(PowerLoss::Never));
}

mod definitions {
    use super::{Directory, PowerLoss};
    troupe_ports::definition_store_conformance!(Directory::new(PowerLoss::Never));
}

mod visibility {
    use super::{Directory, PowerLoss};
    troupe_ports::visibility_store_conformance!(Directory::new(PowerLoss::Never));
}

mod epochs {
    use super::{Directory, PowerLoss};
    troupe_ports::epoch_authority_conformance!(Directory::new(PowerLoss::Never));
}

mod audit {
    use super::{Directory, PowerLoss};
    troupe_ports::audit_log_conformance!(Directory::new(PowerLoss::Never));
}

mod keys {
    use super::{Directory, PowerLoss};
    troupe_ports::api_key_store_conformance!(Directory::new(PowerLoss::Never));
}

/// The layer that loses unsynced writes is otherwise a file like any other.
mod state_under_power_loss {
    use super::{Directory, PowerLoss};
    troupe_ports::state_store_conformance!(Directory::new(PowerLoss::TearsUnsynced { seed: 7 }));
}
