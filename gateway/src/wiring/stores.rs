//! Where state, definitions, lists and events are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use troupe_backends::rabbitmq::{RabbitBatch, RabbitPartitions, RabbitTls};
use troupe_backends::{
    EmbeddedStore, PostgresOptions, PostgresStore, RabbitBus, RabbitOptions, RedisDurability, RedisOptions, RedisStore,
    RedisTls, StoreOptions,
};
use troupe_config::{Durability, Settings, StoreUrl};
use troupe_core::ShardId;
use troupe_ports::{
    ApiKeyStore, AuditLog, DefinitionStore, EpochAuthority, Membership, Semaphores, StateStore, StoreError,
    VisibilityStore,
};

use super::sources::TriggerSources;
use crate::error::ApiError;

/// How long a start waits for a server of a store that is starting too.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Who may ask, and who asked for what.
#[derive(Clone)]
pub struct AccessStores {
    /// Keys of the API.
    pub keys: Arc<dyn ApiKeyStore>,
    /// Who changed what.
    pub audit: Arc<dyn AuditLog>,
}

impl AccessStores {
    fn of<S: ApiKeyStore + AuditLog>(store: &Arc<S>) -> Self {
        Self {
            keys: Arc::clone(store) as Arc<dyn ApiKeyStore>,
            audit: Arc::clone(store) as Arc<dyn AuditLog>,
        }
    }

    /// Opens no more than them: what the settings name, or the embedded store in `directory`.
    pub(super) async fn open(settings: &Settings, directory: &Path) -> Result<Self, ApiError> {
        Ok(match &settings.store.definitions {
            Some(url) => Self::of(&Arc::new(postgres(settings, url).await?)),
            None => Self::of(&embedded(settings, directory, &[]).await?),
        })
    }
}

/// An embedded state store alone.
#[cfg(test)]
pub(crate) fn embedded_state(directory: &Path) -> Result<Arc<dyn StateStore>, StoreError> {
    Ok(Arc::new(EmbeddedStore::open(directory, &StoreOptions::default())?))
}

/// What the settings name, opened.
pub(super) struct Stores {
    pub(super) state: Arc<dyn StateStore>,
    pub(super) definitions: Arc<dyn DefinitionStore>,
    pub(super) visibility: Arc<dyn VisibilityStore>,
    /// Keys and audit rows, where the definitions are.
    pub(super) access: AccessStores,
    /// Where events go beside the API's own stream.
    pub(super) broker: Option<Arc<RabbitBus>>,
    /// Where the messages of event triggers come from.
    pub(super) triggers: Option<TriggerSources>,
    /// What members that share the state need; none: nobody else has it.
    pub(super) shared: Option<Shared>,
}

/// What members that share the state need.
pub(super) struct Shared {
    /// Where they find each other.
    pub(super) register: Arc<dyn Membership>,
    /// Who orders the owners of a shard.
    pub(super) epochs: Arc<dyn EpochAuthority>,
    /// Where they count what their limits bound together.
    pub(super) semaphores: Arc<dyn Semaphores>,
}

impl Stores {
    /// Opens what the settings name: servers, and the embedded store in `directory` for the rest. An operator accepts what some shards have
    /// lost.
    pub(super) async fn open(settings: &Settings, directory: &Path, accept_loss: &[ShardId]) -> Result<Self, ApiError> {
        let named = &settings.store;
        let embedded = if named.state.is_some() && named.definitions.is_some() {
            None
        } else {
            Some(embedded(settings, directory, accept_loss).await?)
        };
        let here = || {
            let missing = || ApiError::new("INTERNAL", "the embedded store was not opened");
            embedded.clone().ok_or_else(missing)
        };
        let mut in_common: Option<Arc<RedisStore>> = None;
        let state: Arc<dyn StateStore> = match &named.state {
            Some(url) => {
                let store = Arc::new(redis(settings, url, accept_loss).await?);
                in_common = Some(store.clone());
                store
            }
            None => here()?,
        };
        let epochs: Arc<dyn EpochAuthority>;
        let (definitions, visibility, access): (Arc<dyn DefinitionStore>, Arc<dyn VisibilityStore>, _) =
            match &named.definitions {
                Some(url) => {
                    let store = Arc::new(postgres(settings, url).await?);
                    epochs = store.clone();
                    let access = AccessStores::of(&store);
                    (store.clone(), store, access)
                }
                None => {
                    epochs = here()?;
                    (here()?, here()?, AccessStores::of(&here()?))
                }
            };
        let broker = named.events.as_ref().map(|url| rabbitmq(settings, url)).transpose()?;
        let triggers = named.events.as_ref().map(|url| rabbit_options(settings, url));
        let triggers = triggers.map(|options| TriggerSources::new(options, &named.prefix));
        Ok(Self {
            state,
            definitions,
            visibility,
            access,
            broker,
            triggers,
            shared: in_common.map(|store| Shared {
                register: store.clone(),
                epochs,
                semaphores: store,
            }),
        })
    }
}

/// A name that no other process has, also on another machine.
pub(super) fn owner() -> Result<String, ApiError> {
    let mut random = [0; 6];
    let unlucky = |_| ApiError::new("UNAVAILABLE", "the system gives no random bytes");
    SystemRandom::new().fill(&mut random).map_err(unlucky)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("engine-{}-{digits}", std::process::id()))
}

async fn embedded(
    settings: &Settings,
    directory: &Path,
    accept_loss: &[ShardId],
) -> Result<Arc<EmbeddedStore>, ApiError> {
    let options = StoreOptions {
        shards: settings.engine.shards,
        accept_loss: accept_loss.to_vec(),
        ..StoreOptions::default()
    };
    let place = directory.to_owned();
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&place, &options)).await;
    let store = opened.map_err(|error| ApiError::new("INTERNAL", error.to_string()))??;
    Ok(Arc::new(store))
}

async fn redis(settings: &Settings, url: &StoreUrl, accept_loss: &[ShardId]) -> Result<RedisStore, ApiError> {
    let named = &settings.store;
    let options = RedisOptions {
        prefix: named.prefix.clone(),
        shards: settings.engine.shards,
        durability: match named.durability {
            Durability::Strict => RedisDurability::Strict,
            Durability::Relaxed => RedisDurability::Relaxed,
            Durability::Volatile => RedisDurability::Volatile,
        },
        tls: RedisTls {
            ca_file: named.ca_file.clone(),
            ..RedisTls::default()
        },
        accept_loss: accept_loss.to_vec(),
        ..RedisOptions::new(url.expose())
    };
    let opened = reached(
        || async { RedisStore::open(&options).await },
        |error| error.is_passing().then(|| format!("{url}: {error}")),
    );
    opened
        .await
        .map_err(|error| ApiError::new(error.code(), format!("{url}: {error}")))
}

async fn postgres(settings: &Settings, url: &StoreUrl) -> Result<PostgresStore, ApiError> {
    let options = PostgresOptions {
        schema: settings.store.prefix.clone(),
        ca_file: settings.store.ca_file.clone(),
        ..PostgresOptions::new(url.expose())
    };
    let opened = reached(
        || async { PostgresStore::open(&options).await },
        |error| matches!(error, StoreError::Unavailable(_)).then(|| format!("{url}: {error}")),
    );
    opened.await.map_err(|error| match error {
        StoreError::Unavailable(why) => ApiError::new("UNAVAILABLE", format!("{url}: {why}")),
        other => other.into(),
    })
}

fn rabbitmq(settings: &Settings, url: &StoreUrl) -> Result<Arc<RabbitBus>, ApiError> {
    let partitions = (settings.events.partitions > 0).then(|| RabbitPartitions {
        name: format!("{}.partitions", settings.store.prefix),
        count: settings.events.partitions,
    });
    let started = RabbitBus::start(RabbitOptions {
        partitions,
        ..rabbit_options(settings, url)
    });
    let bus = started.map_err(|error| ApiError::new("INVALID_PARAMETER", format!("store.events: {error}")))?;
    Ok(Arc::new(bus))
}

/// What publishing and taking messages have in common.
fn rabbit_options(settings: &Settings, url: &StoreUrl) -> RabbitOptions {
    let batch = settings.events.batch.map(|batch| RabbitBatch {
        events_max: batch.events_max,
        bytes_max: batch.bytes_max,
        ..RabbitBatch::default()
    });
    RabbitOptions {
        exchange: format!("{}.events", settings.store.prefix),
        batch,
        node_events: settings.events.nodes,
        tls: RabbitTls {
            ca_file: settings.store.ca_file.clone(),
            ..RabbitTls::default()
        },
        ..RabbitOptions::new(url.expose())
    }
}

/// Tries again for a while where `passing` gives a reason: servers and this process may be started together.
async fn reached<T, E, F: Future<Output = Result<T, E>>>(
    open: impl Fn() -> F,
    passing: impl Fn(&E) -> Option<String>,
) -> Result<T, E> {
    let until = tokio::time::Instant::now() + REACHED_WITHIN;
    let mut told = false;
    loop {
        let error = match open().await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        match passing(&error) {
            Some(why) if tokio::time::Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(why, "waits for a server of the store");
                }
                tokio::time::sleep(RETRY_EVERY).await;
            }
            _ => return Err(error),
        }
    }
}
