//! Encrypted connections, with certificates of the test's own: to one server, to a cluster, and to a master that Sentinel names.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "redis_tls/cluster.rs"]
mod cluster;
#[path = "redis_tls/encryption.rs"]
mod encryption;
#[path = "redis_tls/sentinel.rs"]
mod sentinel;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::redis::{RedisServer, clauses_of_redis, fixture_of_redis};
use support::{free_port, unique};
use troupe_backends::{RedisDurability, RedisOptions, RedisStore, RedisTls};
use troupe_core::{LogPosition, ShardId};
use troupe_ports::conformance::{Clause, run_all};
use troupe_ports::{CommitId, InboxId, InboxLimits, InboxPush, StateStore};

/// However a server on this machine is called.
const HERE: &str = "IP:127.0.0.1,DNS:localhost";

fn openssl(folder: &Path, arguments: &str) {
    let status = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success(), "openssl {arguments}");
}

/// An authority and a certificate for these hosts that it signed.
fn certificates(folder: &Path, name: &str, hosts: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -days 2 -subj /CN={name}-authority -keyout {name}-ca.key -out {name}-ca.crt"),
    );
    openssl(
        folder,
        &format!("req {key} -subj /CN=localhost -keyout {name}.key -out {name}.csr"),
    );
    let extensions = format!("subjectAltName={hosts}\nbasicConstraints=critical,CA:FALSE\n");
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -days 2 -in {name}.csr -CA {name}-ca.crt -CAkey {name}-ca.key -CAcreateserial -extfile extensions \
             -out {name}.crt"
        ),
    );
}

fn encrypted(folder: &Path, asks_clients: &str) -> (RedisServer, u16) {
    let port = free_port();
    let file = |name: &str| folder.join(name).display().to_string();
    let server = RedisServer::start(&[
        &format!("tls-port {port}"),
        &format!("tls-cert-file {}", file("server.crt")),
        &format!("tls-key-file {}", file("server.key")),
        &format!("tls-ca-cert-file {}", file("server-ca.crt")),
        &format!("tls-auth-clients {asks_clients}"),
    ]);
    (server, port)
}

/// A prefix of its own where everything is encrypted.
struct Encrypted(RedisOptions);

impl Encrypted {
    async fn store(&self) -> RedisStore {
        RedisStore::open(&self.0).await.unwrap()
    }
}

fixture_of_redis!(Encrypted);

/// The server takes nobody without a certificate, so everything goes over TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), "server", HERE);
    let file = |name: &str| -> Option<PathBuf> { Some(folder.path().join(name)) };
    let tls = RedisTls {
        ca_file: file("server-ca.crt"),
        certificate_file: file("server.crt"),
        key_file: file("server.key"),
    };
    let (_server, port) = encrypted(folder.path(), "yes");
    let test = async |clause: &Clause<Encrypted>| {
        let options = RedisOptions {
            prefix: unique("encrypted"),
            shards: 8,
            durability: RedisDurability::Volatile,
            tls: tls.clone(),
            ..RedisOptions::new(format!("rediss://127.0.0.1:{port}"))
        };
        clause.run(&Encrypted(options)).await;
    };
    run_all(&clauses_of_redis!(Encrypted), 1, test).await;
}

async fn open(port: u16, tls: RedisTls) -> Result<RedisStore, String> {
    let options = RedisOptions {
        tls,
        durability: RedisDurability::Volatile,
        shards: 2,
        ..RedisOptions::new(format!("rediss://127.0.0.1:{port}"))
    };
    RedisStore::open(&options)
        .await
        .map_err(|error| format!("{}: {error}", error.code()))
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_may_ask_for_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), "server", HERE);
    certificates(folder.path(), "other", HERE);
    let file = |name: &str| -> Option<PathBuf> { Some(folder.path().join(name)) };
    let trusting = RedisTls {
        ca_file: file("server-ca.crt"),
        ..RedisTls::default()
    };

    let (_server, port) = encrypted(folder.path(), "no");
    let store = open(port, trusting.clone()).await.unwrap();
    let shard = ShardId(1);
    let lease = store.acquire(shard, "a", Duration::from_secs(9)).await.unwrap();
    let record = vec![7; 1 << 20];
    store
        .append(shard, lease.epoch, lease.next, CommitId(1), record.into())
        .await
        .unwrap();
    let read = store.read(shard, LogPosition(1), usize::MAX).await.unwrap();
    assert_eq!(read[0].bytes.len(), 1 << 20);
    let most = InboxLimits {
        items: 1,
        bytes: 2 << 20,
    };
    let command = vec![8; 1 << 20];
    let pushed = store.inbox_push(shard, InboxId([1; 32]), command.into(), most).await;
    assert_eq!(pushed.unwrap(), InboxPush::Kept);
    let inbox = store.inbox_read(shard, 0, 1).await.unwrap();
    assert_eq!(inbox[0].bytes, vec![8; 1 << 20]);

    let unknown = RedisTls {
        ca_file: file("other-ca.crt"),
        ..RedisTls::default()
    };
    for tls in [unknown, RedisTls::default()] {
        let refused = open(port, tls).await.unwrap_err();
        assert!(
            refused.contains("REDIS_UNREACHABLE") && refused.contains("certificate"),
            "{refused}"
        );
    }

    let (_server, port) = encrypted(folder.path(), "yes");
    assert!(open(port, trusting.clone()).await.is_err(), "it wants a certificate");
    let shown = RedisTls {
        certificate_file: file("server.crt"),
        key_file: file("server.key"),
        ..trusting.clone()
    };
    open(port, shown.clone()).await.unwrap();
    let foreign = RedisTls {
        certificate_file: file("other.crt"),
        key_file: file("other.key"),
        ..trusting
    };
    assert!(open(port, foreign).await.is_err(), "it trusts another authority");
    let half = RedisTls {
        key_file: None,
        ..shown
    };
    assert!(open(port, half).await.unwrap_err().contains("REDIS_OPTIONS"));
}
