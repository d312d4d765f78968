//! A master that Sentinel names, and the replica that takes over from it.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_core::LogPosition;
use troupe_ports::{AppendError, StateStore, StoreError};

use super::encryption::{Called, Encryption, LEASE, PATIENCE, SHARD, append, commits, until};
use super::support::free_port;
use super::support::redis::RedisServer;

/// Ended when dropped.
struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Sentinel {
    /// One that watches the server at `master` under the name `master`, and decides alone.
    fn start(encryption: &Encryption, master: u16) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let mut settings = encryption.settings(port);
        settings.push("bind 127.0.0.1".to_owned());
        settings.push(format!("dir {}", directory.path().display()));
        if encryption.called == Called::ByName {
            settings.push("sentinel resolve-hostnames yes".to_owned());
            settings.push("sentinel announce-hostnames yes".to_owned());
        }
        let host = encryption.called.host();
        settings.push(format!("sentinel monitor master {host} {master} 1"));
        // A master that a busy disk keeps is not down.
        settings.push("sentinel down-after-milliseconds master 4000".to_owned());
        settings.push("sentinel failover-timeout master 10000\n".to_owned());
        let [config, log] = ["sentinel.conf", "log"].map(|name| directory.path().join(name));
        std::fs::write(&config, settings.join("\n")).unwrap();
        let output = File::create(&log).unwrap();
        let child = Command::new("redis-server")
            .arg(&config)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("redis-server is installed");
        let mut sentinel = Self {
            child,
            port,
            _directory: directory,
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = sentinel.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "Sentinel does not listen: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        sentinel
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server that keeps what it acknowledges, and its port.
fn server(encryption: &Encryption, follows: Option<u16>) -> (RedisServer, u16) {
    let (port, host) = (free_port(), encryption.called.host());
    let mut settings = encryption.settings(port);
    settings.extend(["appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0"].map(str::to_owned));
    settings.push(format!("replica-announce-ip {host}"));
    settings.extend(follows.map(|master| format!("replicaof {host} {master}")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    (RedisServer::start(&settings), port)
}

/// What a server tells of its replication.
fn replication(encryption: &Encryption, port: u16) -> String {
    encryption.ask(port, redis::cmd("INFO").arg("replication")).unwrap()
}

/// A number of it.
fn field(replication: &str, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
    replication.lines().find_map(of)
}

/// How far a replica has come, once it follows its master.
fn replicated(encryption: &Encryption, port: u16) -> Option<u64> {
    let told = replication(encryption, port);
    told.contains("master_link_status:up").then_some(())?;
    field(&told, "slave_repl_offset")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_replica_takes_over_under_its_address() {
    Box::pin(a_replica_takes_over(Called::ByAddress)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_replica_takes_over_under_its_name() {
    Box::pin(a_replica_takes_over(Called::ByName)).await;
}

async fn a_replica_takes_over(called: Called) {
    let encryption = Encryption::new(called);
    let (mut master, first) = server(&encryption, None);
    let (_replica, second) = server(&encryption, Some(first));
    let sentinel = Sentinel::start(&encryption, first);
    until("the replica follows", || replicated(&encryption, second).is_some()).await;

    let host = called.host();
    // The first Sentinel of the URL does not run.
    let url = format!(
        "rediss+sentinel://{host}:{},{host}:{}/master",
        free_port(),
        sentinel.port
    );
    let options = RedisOptions {
        shards: 8,
        durability: RedisDurability::Strict,
        tls: encryption.tls(),
        ..RedisOptions::new(url)
    };
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "writer", LEASE).await.unwrap();
    for position in 1..=20 {
        append(&store, &lease, position).await.unwrap();
    }
    // Only a replica that Sentinel knows is promoted, and it must lack nothing.
    let written = field(&replication(&encryption, first), "master_repl_offset").unwrap();
    until("the replica has everything", || {
        replicated(&encryption, second).is_some_and(|offset| offset >= written)
    })
    .await;
    until("Sentinel sees the replica", || {
        let mut replicas = redis::cmd("SENTINEL");
        replicas.arg("REPLICAS").arg("master");
        let known: redis::Value = encryption.ask(sentinel.port, &replicas).unwrap();
        format!("{known:?}").contains(&second.to_string())
    })
    .await;
    master.kill();

    // The owner goes on, on the other server, without knowing where it is.
    let started = Instant::now();
    loop {
        match append(&store, &lease, 21).await {
            Ok(()) | Err(AppendError::Conflict { next: LogPosition(22) }) => break,
            Err(AppendError::Store(StoreError::Unavailable(_))) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => panic!("the append fails with {other:?}"),
        }
    }
    let all: Vec<u128> = (1..=21).collect();
    assert_eq!(commits(&store).await, all);
    let told = replication(&encryption, second);
    assert!(told.contains("role:master"), "{told}");

    let other = RedisStore::open(&options).await.unwrap();
    assert_eq!(commits(&other).await, all);
}
