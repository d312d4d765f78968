//! How a store on Redis is opened.

use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use troupe_core::ShardId;

/// What an acknowledged write survives; checked against the settings of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisDurability {
    /// A crash of server and machine: `appendonly yes` and `appendfsync always`, so that Redis syncs before it answers.
    #[default]
    Strict,
    /// A crash of the server; one of the machine may take about the last second: `appendfsync everysec` will do.
    Relaxed,
    /// Nothing is asked of the server, and a restart of it may lose everything. For tests and demonstrations.
    Volatile,
}

/// Certificates of TLS connections; without them the system's authorities are trusted and no client certificate is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM file with the authority that signed the server's certificate; the system's are not trusted then.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate; needs `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the client's private key; needs `certificate_file`.
    pub key_file: Option<PathBuf>,
}

/// A planted fault that tests must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMutant {
    /// Of a cluster: an append that a member sends elsewhere counts as done.
    RedirectedIsDone,
}

/// How a store on Redis is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// Where Redis is:
    ///
    /// - `redis://[user[:password]@]host[:port][/database]`, one server;
    /// - `redis+sentinel://[user[:password]@]host[:port][,host[:port]…]/master[/database]`, the master that Sentinel names;
    ///   `?sentinel_username=…&sentinel_password=…` for Sentinels that ask for a login (`user` and `password` are Redis');
    /// - `redis+cluster://[user[:password]@]host[:port][,host[:port]…]`, a cluster that has any of these members.
    ///
    /// With TLS: `rediss`, `rediss+sentinel`, `rediss+cluster`. What is special in `user` and `password` is percent-encoded.
    pub url: String,
    /// Begins every key, in the braces of a hash tag. Two deployments on one server need two.
    pub prefix: String,
    /// Number of shards if the store is new; an existing one keeps its number.
    pub shards: u16,
    /// What an acknowledged write survives.
    pub durability: RedisDurability,
    /// The operator vouches for `appendfsync` where the server forbids `CONFIG GET`, as managed ones do.
    pub settings_vouched: bool,
    /// Certificates, if the URL asks for TLS.
    pub tls: RedisTls,
    /// How long an answer may take. A server that waits for its disk stalls for seconds; the outcome of a write without
    /// an answer is unknown and has to be looked up, so this is far above a usual stall.
    pub response_timeout: Duration,
    /// How long it may take to connect.
    pub connect_timeout: Duration,
    /// Connections over which the shards' appends are spread; none: 8 under strict durability, else 1. Redis takes 16 KiB of a
    /// connection at a time and syncs after a round over all of them: from a single one, large records hardly share a sync.
    pub connections: Option<NonZeroU16>,
    /// Shards that begin again from what is left if they have gone back: the operator accepts what is lost. Others do so under a durability
    /// that allows it.
    pub accept_loss: Vec<ShardId>,
    /// For tests: a planted fault.
    pub mutant: Option<RedisMutant>,
}

impl RedisOptions {
    /// The defaults for a server: prefix `troupe`, 32 shards, strict, 5 s for an answer, 2 s to connect.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "troupe".to_owned(),
            shards: 32,
            durability: RedisDurability::Strict,
            settings_vouched: false,
            tls: RedisTls::default(),
            response_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            connections: None,
            accept_loss: Vec::new(),
            mutant: None,
        }
    }
}

impl RedisOptions {
    /// How many connections appends are spread over.
    pub(super) fn append_connections(&self) -> u16 {
        let by_durability = match self.durability {
            RedisDurability::Strict => 8,
            RedisDurability::Relaxed | RedisDurability::Volatile => 1,
        };
        self.connections.map_or(by_durability, NonZeroU16::get)
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may carry a password.
        out.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("shards", &self.shards)
            .field("durability", &self.durability)
            .field("settings_vouched", &self.settings_vouched)
            .field("tls", &self.tls)
            .field("response_timeout", &self.response_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("connections", &self.connections)
            .field("accept_loss", &self.accept_loss)
            .field("mutant", &self.mutant)
            .finish_non_exhaustive()
    }
}
