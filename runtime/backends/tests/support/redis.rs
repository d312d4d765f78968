//! Redis servers: the shared one, and those that a test starts in a temporary folder.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};

use super::{free_port, unique};

const PATIENCE: Duration = Duration::from_secs(60);

/// The shared server of all tests.
pub fn shared() -> String {
    std::env::var("TROUPE_TEST_REDIS").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned())
}

/// Makes a fixture of every suite that a store on Redis passes of a type with `async fn store(&self) -> RedisStore`.
macro_rules! fixture_of_redis {
    ($fixture:ident) => {
        fixture_of_redis! { $fixture: StateStore Membership Semaphores }
    };
    ($fixture:ident: $($port:ident)*) => {$(
        #[async_trait::async_trait]
        impl troupe_ports::conformance::Fixture<dyn troupe_ports::$port> for $fixture {
            async fn open(&self) -> std::sync::Arc<dyn troupe_ports::$port> {
                std::sync::Arc::new(self.store().await)
            }
        }
    )*};
}

/// Every clause of these suites, for a type of fixtures. `redis_conformance.rs` makes a test of each.
macro_rules! clauses_of_redis {
    ($fixture:ty) => {{
        let mut clauses = troupe_ports::state_store_conformance!([troupe_ports::conformance_clauses] $fixture);
        clauses.extend(troupe_ports::membership_conformance!([troupe_ports::conformance_clauses] $fixture));
        clauses.extend(troupe_ports::semaphores_conformance!([troupe_ports::conformance_clauses] $fixture));
        clauses
    }};
}

pub(crate) use {clauses_of_redis, fixture_of_redis};

/// A key prefix of the shared server; what is under it is removed when this is dropped.
pub struct Prefix {
    pub name: String,
}

impl Prefix {
    pub fn new() -> Self {
        Self { name: unique("test") }
    }

    /// Opens the store under it.
    pub async fn store(&self) -> RedisStore {
        let options = RedisOptions {
            prefix: self.name.clone(),
            // The shared server keeps nothing on disk.
            durability: RedisDurability::Volatile,
            ..RedisOptions::new(shared())
        };
        RedisStore::open(&options).await.unwrap()
    }
}

fixture_of_redis!(Prefix);

impl Drop for Prefix {
    fn drop(&mut self) {
        let client = redis::Client::open(shared()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let pattern = format!("{{{}:*", self.name);
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query(&mut connection).unwrap();
            if !keys.is_empty() {
                redis::cmd("UNLINK").arg(keys).exec(&mut connection).unwrap();
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
}

/// A server of a test's own, killed when dropped.
pub struct RedisServer {
    child: Option<Child>,
    pub port: u16,
    directory: TempDir,
    settings: Vec<String>,
    is_sentinel: bool,
}

impl RedisServer {
    /// Starts a server with these settings of its configuration file, one a line, and waits until it answers.
    pub fn start(settings: &[&str]) -> Self {
        let port = free_port();
        let settings = settings.iter().map(|&line| line.to_owned()).collect();
        let mut server = Self::prepare(port, settings, false);
        server.run();
        server
    }

    /// A server that keeps what it acknowledges.
    pub fn durable() -> Self {
        Self::start(&["appendonly yes", "appendfsync always"])
    }

    /// A Sentinel that watches the server at `port` under the name `master`.
    pub fn sentinel(master: u16, quorum: u16) -> Self {
        let port = free_port();
        let settings = vec![
            format!("sentinel monitor master 127.0.0.1 {master} {quorum}"),
            // A master that a busy disk keeps is not down.
            "sentinel down-after-milliseconds master 4000".to_owned(),
            "sentinel failover-timeout master 10000".to_owned(),
        ];
        let mut server = Self::prepare(port, settings, true);
        server.run();
        server
    }

    /// Starts a member of a cluster, with a port beside for the cluster's own traffic.
    pub fn start_cluster_member(settings: &[&str]) -> Self {
        let bus = format!("cluster-port {}", free_port());
        Self::start(&[settings, &[&bus]].concat())
    }

    fn prepare(port: u16, settings: Vec<String>, is_sentinel: bool) -> Self {
        Self {
            child: None,
            port,
            directory: tempfile::tempdir().unwrap(),
            settings,
            is_sentinel,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Starts it on its port and folder, again or for the first time.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        let config = self.directory.path().join("redis.conf");
        // A Sentinel writes what it knows into its file.
        if !config.exists() || !self.is_sentinel {
            let mut text = format!("bind 127.0.0.1\nport {}\n", self.port);
            if !self.is_sentinel {
                text.push_str("save \"\"\n");
            }
            text.push_str(&format!("dir {}\n", self.directory.path().display()));
            text.push_str(&self.settings.join("\n"));
            text.push('\n');
            std::fs::write(&config, text).unwrap();
        }
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .arg(&config)
            .args(self.is_sentinel.then_some("--sentinel"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let started = Instant::now();
        let port = self.settings.iter().find_map(|line| line.strip_prefix("tls-port "));
        let is_encrypted = port.is_some();
        let port = port.map_or(self.port, |port| port.parse().unwrap());
        loop {
            let answers = if is_encrypted {
                TcpStream::connect(("127.0.0.1", port)).is_ok()
            } else {
                pings(port)
            };
            if answers {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "redis-server does not answer: {}",
                std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, like `kill -9`; what it did not write is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops its process without ending it (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Sets other settings for the next start.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(|&line| line.to_owned()).collect();
    }

    /// Runs a command through a connection of its own.
    pub fn command(&self, parts: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut command = redis::cmd(parts[0]);
        for part in &parts[1..] {
            command.arg(part);
        }
        command.query(&mut connection).unwrap()
    }

    /// Copies its append-only files.
    pub fn copy_of_files(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.directory.path().join("appendonlydir"), copy.path());
        copy
    }

    /// Puts a copy in the place of its append-only files; it must not run.
    pub fn restore(&self, copy: &TempDir) {
        assert!(self.child.is_none(), "the server runs");
        let folder = self.directory.path().join("appendonlydir");
        std::fs::remove_dir_all(&folder).unwrap();
        copy_folder(copy.path(), &folder);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn pings(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 16];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    // Also one that asks for a password answers.
    ask().is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
}

/// Options of a store with 8 shards on this server.
pub fn options(server: &RedisServer, durability: RedisDurability) -> RedisOptions {
    RedisOptions {
        shards: 8,
        durability,
        ..RedisOptions::new(server.url())
    }
}

/// A store on this server.
pub async fn opened(server: &RedisServer, durability: RedisDurability) -> RedisStore {
    RedisStore::open(&options(server, durability)).await.unwrap()
}
