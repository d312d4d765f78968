//! PostgreSQL for tests: a schema of its own on the shared server, or a server of its own.
#![allow(dead_code, reason = "each test file uses a part")]

#[path = "ports.rs"]
mod ports;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ports::free_port;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use troupe_backends::{PostgresOptions, PostgresStore};
use troupe_ports::conformance::Fixture;
use troupe_ports::{ApiKeyStore, AuditLog, DefinitionStore, EpochAuthority, VisibilityStore};

const START_MAX: Duration = Duration::from_secs(60);

/// The shared server: `TROUPE_TEST_POSTGRES`, or the one on this machine.
pub(crate) fn shared_url() -> String {
    std::env::var("TROUPE_TEST_POSTGRES").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/test".to_owned())
}

/// A schema that no other test knows; removed when dropped.
pub(crate) struct Schema {
    pub(crate) options: PostgresOptions,
}

impl Schema {
    pub(crate) fn new() -> Self {
        Self::on(PostgresOptions::new(shared_url()))
    }

    /// On another server, whose URL is enough for whoever is no store.
    pub(crate) fn on(server: PostgresOptions) -> Self {
        let name = tempfile::Builder::new().prefix("").rand_bytes(12).tempfile().unwrap();
        let random = name.path().file_name().unwrap().to_str().unwrap().to_ascii_lowercase();
        Self {
            options: PostgresOptions {
                schema: format!("troupe_test_{}_{random}", std::process::id()),
                connections_min: 0,
                connections_max: 8,
                connect_timeout: Duration::from_secs(20),
                migrate_timeout: Duration::from_secs(20),
                ..server
            },
        }
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.options)
            .await
            .expect("the PostgreSQL server can be used")
    }

    /// A connection beside the store, in the schema.
    pub(crate) async fn connection(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&shared_url()).await.unwrap();
        run(&mut connection, &format!("SET search_path = {}", self.options.schema)).await;
        connection
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        // A session that a failed test left behind may hold a lock.
        let drop_schema = format!(
            "SET statement_timeout = '20s'; DROP SCHEMA IF EXISTS {} CASCADE",
            self.options.schema
        );
        let url = self.options.url.clone();
        // A thread of its own: the test's runtime may be one that cannot wait here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                run(&mut connection, &drop_schema).await;
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("schema {} is left behind", self.options.schema);
        }
    }
}

macro_rules! fixture_of_every_suite {
    ($($port:ident)*) => {$(
        #[async_trait]
        impl Fixture<dyn $port> for Schema {
            async fn open(&self) -> Arc<dyn $port> {
                Arc::new(Schema::open(self).await)
            }
        }
    )*};
}

fixture_of_every_suite! { DefinitionStore VisibilityStore EpochAuthority AuditLog ApiKeyStore }

/// Runs SQL that the test itself wrote.
pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A server of its own, with its data in a temporary folder; ended when dropped.
pub(crate) struct PostgresServer {
    directory: TempDir,
    programs: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl PostgresServer {
    /// Makes a new server with settings (`name=value`) and starts it. Every user of this machine is let in.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::prepare(settings, |_| {})
    }

    /// As [`PostgresServer::start`]; `arrange` changes the data folder before the server reads it.
    pub(crate) fn prepare(settings: &[&str], arrange: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self {
            programs: programs(),
            port: free_port(),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            process: None,
            directory,
        };
        server.own(server.directory.path());
        let data = server.data();
        let made = server
            .command("initdb")
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        arrange(&data);
        server.own(&data);
        server.resume();
        server
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions {
            connections_min: 0,
            ..PostgresOptions::new(self.url())
        }
    }

    /// Starts the server on its data, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("unix_socket_directories={}", self.directory.path().display()));
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let begun = Instant::now();
        loop {
            let answer = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()
                .unwrap();
            if answer.success() {
                return;
            }
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(
                ended.is_none() && begun.elapsed() < START_MAX,
                "PostgreSQL did not start: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server as a crash would: sessions are cut off, nothing is tidied.
    pub(crate) fn stop_immediately(&mut self) {
        self.stop("QUIT");
    }

    fn stop(&mut self, signal: &str) {
        let Some(mut process) = self.process.take() else { return };
        let sent = Command::new("kill")
            .args(["-s", signal, &process.id().to_string()])
            .status();
        if !sent.is_ok_and(|sent| sent.success()) {
            process.kill().unwrap();
        }
        process.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A program of the server. PostgreSQL refuses to run as root: then it runs as `postgres`.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(program);
        command.current_dir("/");
        command
    }

    /// Gives files to the user that the server runs as.
    fn own(&self, path: &Path) {
        if is_root() {
            let given = Command::new("chown")
                .arg("-R")
                .arg("postgres:postgres")
                .arg(path)
                .status()
                .unwrap();
            assert!(given.success(), "chown {}", path.display());
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop("QUIT");
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// Where `initdb` and `postgres` are: Debian keeps them out of the path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|programs| programs.join("initdb").exists())
        .max();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|programs| programs.join("initdb").exists())
    };
    newest
        .or_else(on_path)
        .expect("PostgreSQL's server programs are installed")
}
