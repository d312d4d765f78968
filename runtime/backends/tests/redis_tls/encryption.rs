//! Servers that speak nothing but TLS, among themselves too, and take nobody without a certificate.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use redis::{ClientTlsConfig, Cmd, FromRedisValue, RedisResult, TlsCertificates};
use tempfile::TempDir;
use troupe_backends::{RedisStore, RedisTls};
use troupe_core::{LogPosition, ShardId};
use troupe_ports::{AppendError, CommitId, Lease, StateStore};

use super::certificates;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LEASE: Duration = Duration::from_secs(120);
pub(crate) const SHARD: ShardId = ShardId(1);

/// What servers are called by each other and in their certificate, which is for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    ByAddress,
    ByName,
}

impl Called {
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::ByAddress => "127.0.0.1",
            Self::ByName => "localhost",
        }
    }
}

/// Certificates of servers, which they and their clients show to each other.
pub(crate) struct Encryption {
    folder: TempDir,
    pub(crate) called: Called,
}

impl Encryption {
    pub(crate) fn new(called: Called) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = match called {
            Called::ByAddress => "IP:127.0.0.1",
            Called::ByName => "DNS:localhost",
        };
        certificates(folder.path(), "server", host);
        Self { folder, called }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn tls(&self) -> RedisTls {
        RedisTls {
            ca_file: Some(self.file("server-ca.crt")),
            certificate_file: Some(self.file("server.crt")),
            key_file: Some(self.file("server.key")),
        }
    }

    /// Settings of a server that listens at this port and no other.
    pub(crate) fn settings(&self, port: u16) -> Vec<String> {
        let file = |setting: &str, name: &str| format!("{setting} {}", self.file(name).display());
        vec![
            "port 0".to_owned(),
            format!("tls-port {port}"),
            file("tls-ca-cert-file", "server-ca.crt"),
            file("tls-cert-file", "server.crt"),
            file("tls-key-file", "server.key"),
            "tls-auth-clients yes".to_owned(),
            "tls-replication yes".to_owned(),
        ]
    }

    /// Has `redis-cli` do something.
    pub(crate) fn cli(&self, arguments: &[String]) {
        let output = Command::new("redis-cli")
            .arg("--tls")
            .arg("--cacert")
            .arg(self.file("server-ca.crt"))
            .arg("--cert")
            .arg(self.file("server.crt"))
            .arg("--key")
            .arg(self.file("server.key"))
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        let [text, why] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "redis-cli {arguments:?}: {text}{why}");
    }

    /// What the server at this port answers, over a connection of its own.
    pub(crate) fn ask<T: FromRedisValue>(&self, port: u16, command: &Cmd) -> RedisResult<T> {
        // A store that was opened before has installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let read = |name: &str| std::fs::read(self.file(name)).unwrap();
        let certificates = TlsCertificates {
            client_tls: Some(ClientTlsConfig {
                client_cert: read("server.crt"),
                client_key: read("server.key"),
            }),
            root_cert: Some(read("server-ca.crt")),
        };
        let url = format!("rediss://{}:{port}", self.called.host());
        let client = redis::Client::build_with_tls(url, certificates)?;
        command.query(&mut client.get_connection()?)
    }
}

/// Waits until it holds; fails with `what` if that takes too long.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waiting for this takes too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn append(store: &RedisStore, lease: &Lease, position: u64) -> Result<(), AppendError> {
    let record = format!("record {position}").into();
    let commit = CommitId(position.into());
    store
        .append(SHARD, lease.epoch, LogPosition(position), commit, record)
        .await
}

/// The commits of the log, in its order.
pub(crate) async fn commits(store: &RedisStore) -> Vec<u128> {
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    records.iter().map(|record| record.commit.0).collect()
}
