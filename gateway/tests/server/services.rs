//! Servers that tests start, and names of their own on shared ones.
#![allow(dead_code)]

#[path = "../../../runtime/backends/tests/support/ports.rs"]
mod ports;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapin::options::ExchangeDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis that keeps what it acknowledges; dropping it kills it.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let port = ports::free_port();
        let directory = tempfile::tempdir().unwrap();
        let child = Self::run(port, &directory);
        Self { child, port, directory }
    }

    fn run(port: u16, directory: &TempDir) -> Child {
        let mut child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "Redis does not start: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops its process without ending it (`STOP`), or lets it go on (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::run(self.port, &self.directory);
    }

    /// Its files as they stand, for [`Redis::restore`]. Nobody may write meanwhile.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.directory.path(), copy.path());
        copy
    }

    /// Kills it and starts it again from a copy of its files: it has lost everything since.
    pub(crate) fn restore(&mut self, copy: &TempDir) {
        self.kill();
        let files = tempfile::tempdir().unwrap();
        copy_files(copy.path(), files.path());
        self.directory = files;
        self.restart();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn shared(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

/// A deployment on the shared servers; what it leaves there is taken away when this is dropped, whether the test passes or not.
pub(crate) struct Deployment {
    pub(crate) postgres: String,
    pub(crate) rabbitmq: String,
    pub(crate) prefix: String,
}

impl Deployment {
    /// One that no other test has.
    pub(crate) fn new() -> Self {
        let unique = tempfile::tempdir().unwrap();
        let random: String = unique.path().to_string_lossy().chars().rev().take(6).collect();
        Self {
            postgres: shared("TROUPE_TEST_POSTGRES", "postgres://postgres@127.0.0.1:5432/test"),
            rabbitmq: shared("TROUPE_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672"),
            prefix: format!("test_{}_{}", std::process::id(), random.to_ascii_lowercase()),
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let Self {
            postgres,
            rabbitmq,
            prefix,
        } = self;
        let (postgres, rabbitmq) = (std::mem::take(postgres), std::mem::take(rabbitmq));
        let (schema, exchange) = (
            format!("DROP SCHEMA IF EXISTS {prefix} CASCADE"),
            format!("{prefix}.events"),
        );
        let clean = async move {
            let connection = Connection::connect(&rabbitmq, ConnectionProperties::default())
                .await
                .unwrap();
            let channel = connection.create_channel().await.unwrap();
            let deleted = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
            deleted.await.unwrap();
            let mut connection = PgConnection::connect(&postgres).await.unwrap();
            sqlx::query(AssertSqlSafe(schema))
                .execute(&mut connection)
                .await
                .unwrap();
        };
        // The test's own runtime cannot be waited for here.
        let cleaned = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(clean)).join();
        assert!(cleaned.is_ok() || std::thread::panicking(), "something is left behind");
    }
}
