//! A RabbitMQ broker: killed, frozen, starved of memory or disk.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{free_port, output_of, signal, until};

/// Not `/usr/sbin`: the wrappers there change to another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const ANSWERS_WITHIN: Duration = Duration::from_secs(180);

/// A broker of the harness's own. Dropping it kills it.
#[derive(Debug)]
pub(in crate::chaos) struct RabbitMq {
    directory: PathBuf,
    node: String,
    port: u16,
    distribution_port: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Child>,
}

impl RabbitMq {
    pub(in crate::chaos) fn start(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let epmd_port = free_port()?;
        // Started by the node it would outlive it, as a daemon.
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("epmd does not start: is Erlang installed?")?;
        let mut broker = Self {
            directory: directory.to_owned(),
            node: format!("chaos-{}-{epmd_port}@localhost", std::process::id()),
            port: free_port()?,
            distribution_port: free_port()?,
            epmd_port,
            epmd,
            server: None,
        };
        std::fs::write(directory.join("plugins"), "[].")?;
        let configuration = format!("listeners.tcp.1 = 127.0.0.1:{}\n", broker.port);
        std::fs::write(directory.join("rabbitmq.conf"), configuration)?;
        broker.run()?;
        Ok(broker)
    }

    pub(in crate::chaos) fn port(&self) -> u16 {
        self.port
    }

    /// Where it is reached without a proxy.
    pub(in crate::chaos) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Starts it, for the first time or again, and waits until it takes connections.
    pub(in crate::chaos) fn run(&mut self) -> anyhow::Result<()> {
        if self.server.is_some() {
            bail!("this RabbitMQ runs");
        }
        let log = std::fs::File::create(self.directory.join("console.log"))?;
        let server = self
            .command("rabbitmq-server")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("rabbitmq-server does not start: is it installed?")?;
        let server = self.server.insert(server);
        let address = ("127.0.0.1", self.port);
        until("RabbitMQ takes connections", ANSWERS_WITHIN, || {
            if let Some(status) = server.try_wait()? {
                bail!("rabbitmq-server ended: {status}");
            }
            Ok(std::net::TcpStream::connect(address).is_ok())
        })
    }

    /// Ends it at once.
    pub(in crate::chaos) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            // The script and the machine it started are one process group.
            signal(&format!("-{}", server.id()), "KILL")?;
            server.wait()?;
        }
        Ok(())
    }

    /// Stops it without ending it.
    pub(in crate::chaos) fn freeze(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on.
    pub(in crate::chaos) fn thaw(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        match &self.server {
            Some(server) => signal(&format!("-{}", server.id()), name),
            None => Ok(()),
        }
    }

    /// Runs `rabbitmqctl`.
    pub(in crate::chaos) fn control(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command("rabbitmqctl");
        output_of(command.args(["-n", &self.node]).args(words))
    }

    /// Writes down which quorum queues there are. RabbitMQ itself does that half a second later or so, and a queue that is not
    /// in that directory comes back empty after a kill, without what it confirmed.
    pub(in crate::chaos) fn settle(&self) -> anyhow::Result<()> {
        self.control(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."])
            .map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let directory = &self.directory;
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", directory)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", directory.join("none"))
            .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", directory.join("data"))
            .env("RABBITMQ_LOG_BASE", directory.join("log"))
            .env("RABBITMQ_PID_FILE", directory.join("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1");
        command
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // A failed kill leaves a process behind, which a drop cannot tell anybody.
        self.kill().ok();
        self.epmd.kill().ok();
        self.epmd.wait().ok();
    }
}
