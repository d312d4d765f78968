//! A RabbitMQ of the test's own: it can be killed, started again, starved of memory, and speaks TLS.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapin::{Connection, ConnectionProperties};
use tempfile::TempDir;
use tokio::time::timeout;

#[allow(clippy::duplicate_mod, reason = "a test may start other servers too")]
#[path = "../ports.rs"]
mod ports;

use ports::free_port;

/// Not `/usr/sbin`: the wrappers there change to another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// A broker takes seconds to start, more on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Longest that one connection takes to open: whoever took the broker's port meanwhile may accept it, and never say a word.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub(crate) struct Broker {
    directory: TempDir,
    node: String,
    ports: Ports,
    epmd: Child,
    server: Option<Child>,
}

/// Free when they were asked for. Somebody who is no test may have one of them by the time that the broker listens.
struct Ports {
    plain: u16,
    tls: u16,
    distribution: u16,
    epmd: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            plain: free_port(),
            tls: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        }
    }

    /// As a daemon of the node it would outlive it.
    fn epmd(&self) -> Child {
        Command::new("epmd")
            .args(["-port", &self.epmd.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd of Erlang must be installed")
    }
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::with_plugins("[].").await
    }

    /// With these plugins, as an Erlang term.
    pub(crate) async fn with_plugins(plugins: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_certificates(directory.path());
        let ports = Ports::free();
        let mut broker = Self {
            directory,
            node: format!("{}@localhost", super::consumer::unique("node")),
            epmd: ports.epmd(),
            ports,
            server: None,
        };
        let deadline = Instant::now() + START;
        broker.configure(plugins);
        while !broker.is_launched(deadline).await {
            broker.stop_epmd();
            broker.ports = Ports::free();
            broker.epmd = broker.ports.epmd();
            broker.configure(plugins);
        }
        broker
    }

    /// `amqp://` of the broker.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.ports.plain)
    }

    /// `amqps://` of the broker under that host name.
    pub(crate) fn tls_url(&self, host: &str) -> String {
        format!("amqps://guest:guest@{host}:{}", self.ports.tls)
    }

    /// The authority that signed its certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Kills it at once, as power loss would but for the page cache.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // The script and the machine it started are one process group.
            let group = format!("-{}", server.id());
            let killed = Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
            assert!(killed.success());
            server.wait().unwrap();
        }
    }

    /// Starts it again, on the same files and ports.
    pub(crate) async fn launch(&mut self) {
        let deadline = Instant::now() + START;
        while !self.is_launched(deadline).await {}
    }

    /// Starts it; whether it runs, or ended before that: then it may be started again.
    async fn is_launched(&mut self, deadline: Instant) -> bool {
        assert!(self.server.is_none());
        let url = self.url();
        let log = std::fs::File::create(self.directory.path().join("console.log")).unwrap();
        let server = self
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("RabbitMQ must be installed");
        self.server = Some(server);
        loop {
            let connecting = Connection::connect(&url, ConnectionProperties::default());
            let opened = timeout(HANDSHAKE, connecting).await;
            let has_ended = self.server.as_mut().unwrap().try_wait().unwrap().is_some();
            let why = match opened {
                Ok(Ok(_)) if !has_ended => return true,
                Ok(Ok(_)) => "somebody else has its port".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "its port takes connections and does not answer".to_owned(),
            };
            let in_time = Instant::now() < deadline;
            assert!(in_time, "RabbitMQ does not start: {why}\n{}", self.log());
            if has_ended {
                self.server = None;
                return false;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Writes down which quorum queues there are. RabbitMQ itself does that half a second later or so, and a queue that is not
    /// in that directory comes back empty, without what it confirmed: that is not what a test wants to see.
    pub(crate) async fn settle(&self) {
        self.control(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."])
            .await;
    }

    /// Runs `rabbitmqctl`.
    pub(crate) async fn control(&self, arguments: &[&str]) {
        self.tool("rabbitmqctl", arguments).await;
    }

    /// Enables a plugin while it runs.
    pub(crate) async fn enable(&self, plugin: &str) {
        self.tool("rabbitmq-plugins", &["enable", plugin]).await;
    }

    async fn tool(&self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        command.args(["-n", &self.node]).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn stop_epmd(&mut self) {
        self.epmd.kill().unwrap();
        self.epmd.wait().unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let directory = self.directory.path();
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", directory)
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", directory.join("none"))
            .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", directory.join("data"))
            .env("RABBITMQ_LOG_BASE", directory.join("log"))
            .env("RABBITMQ_PID_FILE", directory.join("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1");
        command
    }

    fn configure(&self, plugins: &str) {
        let directory = self.directory.path();
        std::fs::write(directory.join("plugins"), plugins).unwrap();
        let file = |name: &str| directory.join(name).display().to_string();
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nlisteners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n",
            self.ports.plain,
            self.ports.tls,
            file("ca.pem"),
            file("server.pem"),
            file("server.key"),
        );
        std::fs::write(directory.join("rabbitmq.conf"), configuration).unwrap();
    }

    /// What it has printed and logged, for a test that fails.
    pub(crate) fn log(&self) -> String {
        let directory = self.directory.path();
        let logs = std::fs::read_dir(directory.join("log")).into_iter().flatten();
        let files = logs
            .filter_map(|file| Some(file.ok()?.path()))
            .chain([directory.join("console.log")]);
        files.filter_map(|file| std::fs::read_to_string(file).ok()).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        self.stop_epmd();
    }
}

/// An authority, and a certificate for `localhost` that it signed.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output();
        let output = output.expect("openssl must be installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&ca[..], &key].concat());
    let request = [
        "req",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&request[..], &key].concat());
    std::fs::write(directory.join("names"), "subjectAltName = DNS:localhost\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
}
