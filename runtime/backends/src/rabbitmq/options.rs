//! How a bus on RabbitMQ is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};

/// How the exchange hands messages on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RabbitExchange {
    /// By patterns over the words of the routing key.
    #[default]
    Topic,
    /// To everyone who is bound.
    Fanout,
    /// By the whole routing key.
    Direct,
    /// By headers: `workflow`, `entity`, `verb` and, for nodes, `nodeType`.
    Headers,
}

impl RabbitExchange {
    pub(super) fn kind(self) -> ExchangeKind {
        match self {
            Self::Topic => ExchangeKind::Topic,
            Self::Fanout => ExchangeKind::Fanout,
            Self::Direct => ExchangeKind::Direct,
            Self::Headers => ExchangeKind::Headers,
        }
    }
}

/// Who makes the exchange and the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RabbitTopology {
    /// The bus, whenever it connects.
    #[default]
    Declare,
    /// The queues are the bus's, the exchange is somebody else's: the bus only looks whether it is there.
    QueuesOnly,
    /// Somebody else: the bus only looks whether they are there. For users without the right to configure.
    Passive,
}

/// What becomes of events that no queue is bound for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RabbitUnroutable {
    /// They are counted and, now and then, logged; the publish succeeds.
    #[default]
    Count,
    /// The publish fails and is repeated until a queue is bound.
    Fail,
}

/// A durable quorum queue that the bus owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RabbitQueue {
    /// Its name.
    pub name: String,
    /// Binding keys, for `topic` and `direct`; for `fanout` any one.
    pub binding_keys: Vec<String>,
    /// Bindings of a `headers` exchange: all headers of one must match.
    pub binding_headers: Vec<BTreeMap<String, String>>,
    /// Name of a quorum queue that takes what consumers reject, at least once.
    pub dead_letter: Option<String>,
}

/// Durable quorum queues that share the events by execution: all of an execution come to the same one, in order.
///
/// The broker needs its plugin `rabbitmq_consistent_hash_exchange`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RabbitPartitions {
    /// Begins the names: the exchange behind the usual one is `<name>.<count>`, the queues are `<name>.<count>.0` and on.
    pub name: String,
    /// How many queues, 1 to [`RabbitPartitions::COUNT_MAX`].
    pub count: u16,
}

impl RabbitPartitions {
    /// Most queues: with more, some would get far fewer executions than others.
    pub const COUNT_MAX: u16 = 32;

    /// The exchange that shares out among so many queues.
    pub(super) fn exchange(&self, count: u16) -> String {
        format!("{}.{count}", self.name)
    }

    /// The queues.
    pub(super) fn queues(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(|number| format!("{}.{}.{number}", self.name, self.count))
    }
}

/// Limits of a message that carries several events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RabbitBatch {
    /// Most events of a message.
    pub events_max: usize,
    /// Bytes beyond which a message takes no further event.
    pub bytes_max: usize,
    /// Messages without a confirm beyond which events gather instead of being sent.
    pub in_flight_max: usize,
}

impl Default for RabbitBatch {
    fn default() -> Self {
        Self {
            events_max: 100,
            bytes_max: 256 * 1024,
            in_flight_max: 16,
        }
    }
}

/// Files of a TLS client, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RabbitTls {
    /// Authorities to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How a [`super::RabbitBus`] is set up.
#[derive(Clone, PartialEq, Eq)]
pub struct RabbitOptions {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…` for TLS. Never shown: it holds a password.
    pub url: String,
    /// Name of the connection in RabbitMQ's own lists.
    pub connection_name: String,
    /// For `amqps://`.
    pub tls: RabbitTls,
    /// The exchange, which is durable.
    pub exchange: String,
    /// Its kind.
    pub kind: RabbitExchange,
    /// Who makes the exchange and the queues.
    pub topology: RabbitTopology,
    /// Queues the bus owns.
    pub queues: Vec<RabbitQueue>,
    /// Queues that share the events by execution; none: there are none, and those of earlier settings are left alone.
    pub partitions: Option<RabbitPartitions>,
    /// Whether events that share a routing key travel together under load; none: one message an event.
    pub batch: Option<RabbitBatch>,
    /// Whether events of nodes are published, beside those of executions and of the system.
    pub node_events: bool,
    /// What becomes of events that no queue is bound for.
    pub unroutable: RabbitUnroutable,
    /// Most messages without a confirm.
    pub in_flight_max: usize,
    /// Bytes without a confirm beyond which no further message is sent.
    pub in_flight_bytes_max: usize,
    /// Most calls that wait to be sent.
    pub waiting_max: usize,
    /// Longest that connecting and declaring may take, each.
    pub connect_timeout: Duration,
    /// Longest that a confirm may take; the connection is given up then.
    pub confirm_timeout: Duration,
    /// Longest that a call waits while there is no connection, or while RabbitMQ blocks publishers.
    pub wait_timeout: Duration,
    /// Heartbeat interval that the bus asks for, in whole seconds, unless the URL says otherwise.
    pub heartbeat: Duration,
    /// Pause before the first reconnection; each further one is twice as long, less a random part.
    pub retry_first: Duration,
    /// Longest pause between reconnections.
    pub retry_max: Duration,
}

impl RabbitOptions {
    /// The defaults on the broker at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connection_name: "troupe".to_owned(),
            tls: RabbitTls::default(),
            exchange: "troupe.events".to_owned(),
            kind: RabbitExchange::default(),
            topology: RabbitTopology::default(),
            queues: Vec::new(),
            partitions: None,
            batch: None,
            node_events: true,
            unroutable: RabbitUnroutable::default(),
            in_flight_max: 1_024,
            in_flight_bytes_max: 16 * 1024 * 1024,
            waiting_max: 256,
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(30),
            wait_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for RabbitOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RabbitOptions")
            .field("exchange", &self.exchange)
            .field("kind", &self.kind)
            .field("topology", &self.topology)
            .field("queues", &self.queues)
            .field("partitions", &self.partitions)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// Why options are no use. Never repeats the URL.
#[derive(Debug, thiserror::Error)]
pub enum RabbitOptionsError {
    /// The URL is none of RabbitMQ.
    #[error("the URL of RabbitMQ is invalid: it begins with amqp:// or amqps:// and names a host")]
    Url,
    /// A name is empty or longer than AMQP allows.
    #[error("{what} has 1 to 255 bytes")]
    Name {
        /// Which one.
        what: &'static str,
    },
    /// A limit is 0.
    #[error("{what} is at least 1")]
    Zero {
        /// Which one.
        what: &'static str,
    },
    /// A number of partitions that cannot be.
    #[error("there are 1 to {} partitions, not {given}", RabbitPartitions::COUNT_MAX)]
    PartitionCount {
        /// What was asked for.
        given: u16,
    },
    /// A `direct` exchange hands nothing on as a whole.
    #[error("partitions need an exchange of type topic, fanout or headers")]
    PartitionsOfDirect,
    /// A file of the TLS client cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
}

/// Checked options, in the shapes that the AMQP client wants.
pub(super) struct Checked {
    pub(super) options: RabbitOptions,
    pub(super) uri: AMQPUri,
    pub(super) tls: OwnedTLSConfig,
    pub(super) exchange: ShortString,
}

impl Checked {
    pub(super) fn of(options: RabbitOptions) -> Result<Self, RabbitOptionsError> {
        let uri = uri(&options)?;
        let exchange = name(&options.exchange, "the name of the exchange")?;
        for queue in &options.queues {
            name(&queue.name, "the name of a queue")?;
            if let Some(dead_letter) = &queue.dead_letter {
                name(dead_letter, "the name of a dead-letter queue")?;
            }
            for key in &queue.binding_keys {
                name(key, "a binding key")?;
            }
            for header in queue.binding_headers.iter().flat_map(BTreeMap::keys) {
                name(header, "the name of a header")?;
            }
        }
        if let Some(partitions) = &options.partitions {
            if !(1..=RabbitPartitions::COUNT_MAX).contains(&partitions.count) {
                return Err(RabbitOptionsError::PartitionCount {
                    given: partitions.count,
                });
            }
            if options.kind == RabbitExchange::Direct {
                return Err(RabbitOptionsError::PartitionsOfDirect);
            }
            name(&partitions.name, "the name of the partitions")?;
            for queue in partitions.queues() {
                name(&queue, "the name of a partition")?;
            }
        }
        let batch = options.batch.unwrap_or_default();
        for (what, limit) in [
            ("the number of messages in flight", options.in_flight_max),
            ("the number of bytes in flight", options.in_flight_bytes_max),
            ("the number of waiting calls", options.waiting_max),
            ("the number of events of a batch", batch.events_max),
            ("the number of bytes of a batch", batch.bytes_max),
            ("the number of batches in flight", batch.in_flight_max),
        ] {
            if limit == 0 {
                return Err(RabbitOptionsError::Zero { what });
            }
        }
        let tls = match uri.scheme {
            AMQPScheme::AMQP => OwnedTLSConfig::default(),
            AMQPScheme::AMQPS => tls(&options.tls)?,
        };
        Ok(Self {
            options,
            uri,
            tls,
            exchange,
        })
    }

    /// Most messages in flight: fewer where events shall gather meanwhile.
    pub(super) fn in_flight_max(&self) -> usize {
        let gathering = self.options.batch.map_or(usize::MAX, |batch| batch.in_flight_max);
        self.options.in_flight_max.min(gathering)
    }
}

fn uri(options: &RabbitOptions) -> Result<AMQPUri, RabbitOptionsError> {
    let mut uri: AMQPUri = options.url.parse().map_err(|_| RabbitOptionsError::Url)?;
    let (_, rest) = options.url.split_once("://").ok_or(RabbitOptionsError::Url)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || host.starts_with(':') {
        return Err(RabbitOptionsError::Url);
    }
    // The client's parser takes an IPv6 address for no host at all and falls back to localhost.
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    // `amqp://host/` names the virtual host "" by the letter; everybody means the default one.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    let seconds = options.heartbeat.as_secs().max(1);
    uri.query
        .heartbeat
        .get_or_insert(u16::try_from(seconds).unwrap_or(u16::MAX));
    Ok(uri)
}

fn name(text: &str, what: &'static str) -> Result<ShortString, RabbitOptionsError> {
    match ShortString::try_new(text) {
        Ok(short) if !text.is_empty() => Ok(short),
        _ => Err(RabbitOptionsError::Name { what }),
    }
}

fn tls(files: &RabbitTls) -> Result<OwnedTLSConfig, RabbitOptionsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        |reason| RabbitOptionsError::File { path, reason }
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(unreadable(path));
    let text = |path: &PathBuf| std::fs::read_to_string(path).map_err(unreadable(path));
    let identity = files.identity.as_ref().map(|(certificate, key)| {
        Ok(OwnedIdentity::PKCS8 {
            pem: read(certificate)?,
            key: read(key)?,
        })
    });
    Ok(OwnedTLSConfig {
        identity: identity.transpose()?,
        cert_chain: files.ca_file.as_ref().map(text).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn checked(url: &str) -> Result<Checked, RabbitOptionsError> {
        Checked::of(RabbitOptions::new(url))
    }

    #[test]
    fn urls_say_where_the_broker_is() {
        let uri = checked("amqp://u:p%40@[::1]:5673").unwrap().uri;
        assert_eq!(
            (uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()),
            ("::1", 5673, "/")
        );
        assert_eq!(uri.authority.userinfo.password, "p@");
        let uri = checked("amqp://10.0.0.1/shop?heartbeat=3").unwrap().uri;
        assert_eq!(
            (uri.authority.host.as_str(), uri.vhost.as_str(), uri.query.heartbeat),
            ("10.0.0.1", "shop", Some(3))
        );
        for wrong in ["", "redis://h", "amqp://", "amqp://:5672", "amqp:h", "amqp:///x"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_amqp_cannot_carry_are_refused() {
        let long = "x".repeat(256);
        let with = |change: &dyn Fn(&mut RabbitOptions)| {
            let mut options = RabbitOptions::new("amqp://localhost");
            change(&mut options);
            Checked::of(options).err().map(|error| error.to_string())
        };
        let queue = |change: &dyn Fn(&mut RabbitQueue)| {
            let mut queue = RabbitQueue {
                name: "q".to_owned(),
                ..RabbitQueue::default()
            };
            change(&mut queue);
            with(&|options| options.queues = vec![queue.clone()])
        };
        assert_eq!(with(&|_| {}), None);
        assert!(with(&|options| options.exchange = String::new()).is_some());
        assert!(with(&|options| options.exchange = long.clone()).is_some());
        assert!(with(&|options| options.in_flight_max = 0).is_some());
        let partitions = |name: &str, count| {
            let name = name.to_owned();
            with(&move |options| {
                options.partitions = Some(RabbitPartitions {
                    name: name.clone(),
                    count,
                })
            })
        };
        assert_eq!(partitions("p", 32), None);
        assert!(partitions("p", 0).is_some() && partitions("p", 33).is_some());
        assert!(partitions("", 1).is_some() && partitions(&long[2..], 1).is_some());
        assert!(
            with(&|options| {
                options.kind = RabbitExchange::Direct;
                options.partitions = Some(RabbitPartitions {
                    name: "p".to_owned(),
                    count: 1,
                });
            })
            .is_some()
        );
        assert_eq!(queue(&|_| {}), None);
        assert!(queue(&|queue| queue.name = long.clone()).is_some());
        assert!(queue(&|queue| queue.binding_keys = vec![long.clone()]).is_some());
        assert!(queue(&|queue| queue.dead_letter = Some(long.clone())).is_some());
    }

    #[test]
    fn passwords_and_missing_files_are_told_apart() {
        let mut options = RabbitOptions::new("amqps://user:geheim@localhost");
        assert!(!format!("{options:?}").contains("geheim"));
        options.tls.ca_file = Some("nowhere/ca.pem".into());
        let error = Checked::of(options).err().unwrap();
        assert!(matches!(error, RabbitOptionsError::File { .. }), "{error}");
        assert!(
            !checked("amqp//user:geheim@h")
                .err()
                .unwrap()
                .to_string()
                .contains("geheim")
        );
    }
}
