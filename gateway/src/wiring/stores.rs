//! Where state, definitions, lists and events are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use troupe_backends::rabbitmq::{
    RabbitBatch, RabbitExchange, RabbitPartitions, RabbitQueue, RabbitTls, RabbitTopology, RabbitUnroutable,
};
use troupe_backends::{
    EmbeddedStore, PostgresOptions, PostgresStore, RabbitBus, RabbitOptions, RedisDurability, RedisOptions, RedisStore,
    RedisTls, StoreOptions,
};
use troupe_config::{Declares, Durability, EventQueue, ExchangeType, Settings, StoreUrl, Unroutable};
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
    Ok(format!("engine-{}-{}", std::process::id(), random_digits()?))
}

/// Hexadecimal digits of six random bytes.
pub(super) fn random_digits() -> Result<String, ApiError> {
    let mut random = [0; 6];
    let unlucky = |_| ApiError::new("UNAVAILABLE", "the system gives no random bytes");
    SystemRandom::new().fill(&mut random).map_err(unlucky)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
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

pub(super) fn redis_options(settings: &Settings, url: &StoreUrl, accept_loss: &[ShardId]) -> RedisOptions {
    let named = &settings.store;
    let identity = named.state_identity.as_ref();
    RedisOptions {
        prefix: named.prefix.clone(),
        shards: settings.engine.shards,
        durability: match named.durability {
            Durability::Strict => RedisDurability::Strict,
            Durability::Relaxed => RedisDurability::Relaxed,
            Durability::Volatile => RedisDurability::Volatile,
        },
        settings_vouched: named.settings_vouched,
        tls: RedisTls {
            ca_file: named.ca_file.clone(),
            certificate_file: identity.map(|identity| identity.certificate_file.clone()),
            key_file: identity.map(|identity| identity.key_file.clone()),
        },
        accept_loss: accept_loss.to_vec(),
        ..RedisOptions::new(url.expose())
    }
}

async fn redis(settings: &Settings, url: &StoreUrl, accept_loss: &[ShardId]) -> Result<RedisStore, ApiError> {
    let options = redis_options(settings, url, accept_loss);
    let opened = reached(
        || async { RedisStore::open(&options).await },
        |error| error.is_passing().then(|| format!("{url}: {error}")),
    );
    opened
        .await
        .map_err(|error| ApiError::new(error.code(), format!("{url}: {error}")))
}

pub(super) fn postgres_options(settings: &Settings, url: &StoreUrl) -> PostgresOptions {
    PostgresOptions {
        schema: settings.store.prefix.clone(),
        ca_file: settings.store.ca_file.clone(),
        ..PostgresOptions::new(url.expose())
    }
}

async fn postgres(settings: &Settings, url: &StoreUrl) -> Result<PostgresStore, ApiError> {
    let options = postgres_options(settings, url);
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
    let started = RabbitBus::start(bus_options(settings, url));
    let bus = started.map_err(|error| ApiError::new("INVALID_PARAMETER", format!("store.events: {error}")))?;
    Ok(Arc::new(bus))
}

/// What publishing needs.
fn bus_options(settings: &Settings, url: &StoreUrl) -> RabbitOptions {
    let events = &settings.events;
    let queues = events.queues.iter();
    RabbitOptions {
        queues: queues.map(|queue| rabbit_queue(settings, queue)).collect(),
        partitions: (events.partitions > 0).then(|| RabbitPartitions {
            name: format!("{}.partitions", settings.store.prefix),
            count: events.partitions,
        }),
        unroutable: match events.unroutable {
            Unroutable::Drop => RabbitUnroutable::Count,
            Unroutable::Fail => RabbitUnroutable::Fail,
        },
        ..rabbit_options(settings, url)
    }
}

fn rabbit_queue(settings: &Settings, queue: &EventQueue) -> RabbitQueue {
    let named = |name: &String| format!("{}.queue.{name}", settings.store.prefix);
    let binding_keys = match settings.events.exchange_type {
        // It takes any one for a binding, and looks at none.
        ExchangeType::Fanout => vec!["#".to_owned()],
        ExchangeType::Topic | ExchangeType::Direct | ExchangeType::Headers => queue.keys.clone(),
    };
    RabbitQueue {
        name: named(&queue.name),
        binding_keys,
        binding_headers: queue.headers.clone(),
        dead_letter: queue.dead_letter.as_ref().map(named),
    }
}

/// What publishing and taking messages have in common.
fn rabbit_options(settings: &Settings, url: &StoreUrl) -> RabbitOptions {
    let (named, events) = (&settings.store, &settings.events);
    let batch = events.batch.map(|batch| RabbitBatch {
        events_max: batch.events_max,
        bytes_max: batch.bytes_max,
        ..RabbitBatch::default()
    });
    let identity = named.events_identity.as_ref();
    RabbitOptions {
        exchange: format!("{}.events", named.prefix),
        kind: match events.exchange_type {
            ExchangeType::Topic => RabbitExchange::Topic,
            ExchangeType::Fanout => RabbitExchange::Fanout,
            ExchangeType::Direct => RabbitExchange::Direct,
            ExchangeType::Headers => RabbitExchange::Headers,
        },
        topology: match events.declares {
            Declares::All => RabbitTopology::Declare,
            Declares::Queues => RabbitTopology::QueuesOnly,
            Declares::Nothing => RabbitTopology::Passive,
        },
        batch,
        node_events: events.nodes,
        tls: RabbitTls {
            ca_file: named.ca_file.clone(),
            identity: identity.map(|identity| (identity.certificate_file.clone(), identity.key_file.clone())),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use troupe_config::Sources;

    use super::*;

    /// With an address of each server.
    fn settings(directory: &Path, store: &str, events: &str) -> Settings {
        let file = directory.join("servers.toml");
        let addresses = "state = 'rediss://redis'\nevents = 'amqps://rabbit'\n";
        std::fs::write(&file, format!("[store]\n{addresses}{store}\n[events]\n{events}\n")).unwrap();
        let sources = Sources {
            file: Some(file),
            ..Sources::default()
        };
        sources.load().unwrap()
    }

    fn of_redis(settings: &Settings) -> RedisOptions {
        redis_options(settings, settings.store.state.as_ref().unwrap(), &[])
    }

    fn of_bus(settings: &Settings) -> RabbitOptions {
        bus_options(settings, settings.store.events.as_ref().unwrap())
    }

    #[test]
    fn without_settings_the_backends_have_their_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), "", "");
        let (redis, bus) = (of_redis(&settings), of_bus(&settings));
        assert_eq!((redis.settings_vouched, redis.tls), (false, RedisTls::default()));
        let usual = RabbitOptions::new("amqps://rabbit");
        assert_eq!((bus.kind, bus.topology), (usual.kind, usual.topology));
        assert_eq!((bus.unroutable, bus.tls), (usual.unroutable, usual.tls));
        assert_eq!((bus.queues, bus.exchange), (usual.queues, usual.exchange));
    }

    #[test]
    fn words_of_operators_and_certificates_reach_the_servers() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, label: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("-----BEGIN {label}-----\n-----END {label}-----\n")).unwrap();
            path
        };
        let (of_state, key_of_state) = (file("state.crt", "CERTIFICATE"), file("state.key", "PRIVATE KEY"));
        let (of_events, key_of_events) = (file("events.crt", "CERTIFICATE"), file("events.key", "EC PRIVATE KEY"));
        let store = format!(
            "settings_vouched = true\nca_file = 'ca.crt'\nstate_certificate_file = '{}'\nstate_key_file = '{}'\n\
             events_certificate_file = '{}'\nevents_key_file = '{}'\n",
            of_state.display(),
            key_of_state.display(),
            of_events.display(),
            key_of_events.display()
        );
        let settings = settings(directory.path(), &store, "");
        let redis = of_redis(&settings);
        assert!(redis.settings_vouched);
        let expected = RedisTls {
            ca_file: Some("ca.crt".into()),
            certificate_file: Some(of_state),
            key_file: Some(key_of_state),
        };
        assert_eq!(redis.tls, expected);
        let expected = RabbitTls {
            ca_file: Some("ca.crt".into()),
            identity: Some((of_events, key_of_events)),
        };
        assert_eq!(of_bus(&settings).tls, expected);
        // Those who take messages are asked for it too.
        let url = settings.store.events.as_ref().unwrap();
        assert_eq!(rabbit_options(&settings, url).tls, expected);
    }

    #[test]
    fn exchange_queues_and_what_is_declared_reach_the_bus() {
        let directory = tempfile::tempdir().unwrap();
        let bus = |events: &str| of_bus(&settings(directory.path(), "", events));
        for (word, kind) in [
            ("topic", RabbitExchange::Topic),
            ("fanout", RabbitExchange::Fanout),
            ("direct", RabbitExchange::Direct),
            ("headers", RabbitExchange::Headers),
        ] {
            assert_eq!(bus(&format!("exchange_type = '{word}'")).kind, kind, "{word}");
        }
        for (word, topology) in [
            ("all", RabbitTopology::Declare),
            ("queues", RabbitTopology::QueuesOnly),
            ("nothing", RabbitTopology::Passive),
        ] {
            assert_eq!(bus(&format!("declare = '{word}'")).topology, topology, "{word}");
        }
        assert_eq!(bus("unroutable = 'drop'").unroutable, RabbitUnroutable::Count);
        assert_eq!(bus("unroutable = 'fail'").unroutable, RabbitUnroutable::Fail);

        let queue = RabbitQueue {
            name: "troupe.queue.q".to_owned(),
            ..RabbitQueue::default()
        };
        let by_keys = RabbitQueue {
            binding_keys: vec!["*.execution.failed".to_owned()],
            dead_letter: Some("troupe.queue.q.dead".to_owned()),
            ..queue.clone()
        };
        let by_headers = RabbitQueue {
            binding_headers: vec![BTreeMap::from([("verb".to_owned(), "failed".to_owned())])],
            ..queue.clone()
        };
        let by_nothing = RabbitQueue {
            binding_keys: vec!["#".to_owned()],
            ..queue
        };
        for (events, expected) in [
            (
                "queues = [{ name = 'q', keys = ['*.execution.failed'], dead_letter = 'q.dead' }]",
                by_keys,
            ),
            (
                "exchange_type = 'headers'\nqueues = [{ name = 'q', headers = [{ verb = 'failed' }] }]",
                by_headers,
            ),
            ("exchange_type = 'fanout'\nqueues = [{ name = 'q' }]", by_nothing),
        ] {
            assert_eq!(bus(events).queues, [expected], "{events}");
        }
    }
}
