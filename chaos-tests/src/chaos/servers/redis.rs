//! A Redis server: killed, frozen, robbed of what it had not synced, a replica of another one, watched by a Sentinel, or a node of a cluster.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{free_port, output_of, signal, until};

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// When a Redis syncs its append-only file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum Sync {
    /// Before every answer.
    Always,
    /// Once a second.
    EverySecond,
}

/// A server of the harness's own. Dropping it kills it.
#[derive(Debug)]
pub(in crate::chaos) struct Redis {
    child: Option<Child>,
    port: u16,
    directory: PathBuf,
    settings: Vec<String>,
    is_sentinel: bool,
}

impl Redis {
    /// Starts one that keeps everything in an append-only file.
    pub(in crate::chaos) fn start(directory: &Path, sync: Sync) -> anyhow::Result<Self> {
        Self::with(directory, sync, &[])
    }

    /// Starts a replica that reaches its master at `port`.
    pub(in crate::chaos) fn replica_of(port: u16, directory: &Path, sync: Sync) -> anyhow::Result<Self> {
        Self::with(directory, sync, &[format!("replicaof 127.0.0.1 {port}")])
    }

    /// Starts a node of a cluster that takes over from its master only when it is told to.
    pub(in crate::chaos) fn cluster_node(directory: &Path, sync: Sync) -> anyhow::Result<Self> {
        let settings = [
            "cluster-enabled yes".to_owned(),
            "cluster-config-file nodes.conf".to_owned(),
            "cluster-node-timeout 5000".to_owned(),
            "cluster-replica-no-failover yes".to_owned(),
            format!("cluster-port {}", free_port()?),
        ];
        Self::with(directory, sync, &settings)
    }

    fn with(directory: &Path, sync: Sync, more: &[String]) -> anyhow::Result<Self> {
        let sync = match sync {
            Sync::Always => "always",
            Sync::EverySecond => "everysec",
        };
        let mut settings = vec![
            "save \"\"".to_owned(),
            "appendonly yes".to_owned(),
            format!("appendfsync {sync}"),
            // What is cut off must be the end of one file.
            "auto-aof-rewrite-percentage 0".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        settings.extend_from_slice(more);
        Self::prepare(directory, settings, false)
    }

    /// Starts a Sentinel that alone decides about the master at `port`.
    pub(in crate::chaos) fn sentinel_of(port: u16, directory: &Path) -> anyhow::Result<Self> {
        let settings = vec![
            format!("sentinel monitor master 127.0.0.1 {port} 1"),
            "sentinel down-after-milliseconds master 1000".to_owned(),
            "sentinel failover-timeout master 10000".to_owned(),
        ];
        Self::prepare(directory, settings, true)
    }

    fn prepare(directory: &Path, settings: Vec<String>, is_sentinel: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut server = Self {
            child: None,
            port: free_port()?,
            directory: directory.to_owned(),
            settings,
            is_sentinel,
        };
        server.run()?;
        Ok(server)
    }

    pub(in crate::chaos) fn port(&self) -> u16 {
        self.port
    }

    pub(in crate::chaos) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, for the first time or again, and waits until it has loaded its file.
    pub(in crate::chaos) fn run(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("this Redis runs");
        }
        let file = self.directory.join("redis.conf");
        // A Sentinel writes what it knows into its file.
        if !(self.is_sentinel && file.exists()) {
            let mut text = format!("bind 127.0.0.1\nport {}\ndir {}\n", self.port, self.directory.display());
            for line in &self.settings {
                text.push_str(line);
                text.push('\n');
            }
            std::fs::write(&file, text)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))?;
        let child = Command::new("redis-server")
            .arg(&file)
            .args(self.is_sentinel.then_some("--sentinel"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("redis-server does not start: is it installed?")?;
        let child = self.child.insert(child);
        let port = self.port;
        until("a Redis answers", ANSWERS_WITHIN, || {
            if let Some(status) = child.try_wait()? {
                bail!("redis-server ended: {status}");
            }
            Ok(pings(port))
        })
    }

    /// Ends it at once.
    pub(in crate::chaos) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
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
        match &self.child {
            Some(child) => signal(&child.id().to_string(), name),
            None => Ok(()),
        }
    }

    /// Asks it.
    pub(in crate::chaos) fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        ask(self.port, words)
    }

    /// A number of `INFO`.
    pub(in crate::chaos) fn info(&self, section: &str, name: &str) -> anyhow::Result<u64> {
        let info = self.ask(&["INFO", section])?;
        let value = info
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        value
            .with_context(|| format!("INFO {section} has no {name}"))?
            .parse()
            .with_context(|| format!("{name} is no number"))
    }

    /// The file that grows: the newest one of those of which the append-only file consists.
    pub(in crate::chaos) fn growing_file(&self) -> anyhow::Result<PathBuf> {
        let mut newest: Option<PathBuf> = None;
        for file in std::fs::read_dir(self.directory.join("appendonlydir"))? {
            let path = file?.path();
            if path.to_string_lossy().ends_with(".incr.aof") {
                newest = newest.max(Some(path));
            }
        }
        newest.context("there is no append-only file")
    }

    /// Its size now, in bytes.
    pub(in crate::chaos) fn file_bytes(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.growing_file()?)?.len())
    }

    /// Writes a mark that everything acknowledged before stands in front of, and gives the place where it stands in the file: up
    /// to there it is synced, if it syncs before it answers.
    pub(in crate::chaos) fn mark(&self, name: &str) -> anyhow::Result<u64> {
        let from = self.file_bytes()?;
        self.ask(&["SET", name, "1"])?;
        let mut bytes = Vec::new();
        File::open(self.growing_file()?)?.read_to_end(&mut bytes)?;
        let text = format!("\r\n{name}\r\n");
        // It may have been appended while the size was asked for, but no earlier than that.
        let start = usize::try_from(from).unwrap_or(0).min(bytes.len());
        let found = bytes[start..]
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        let at = start + found.context("the mark is not in the file")?;
        // Its command begins with the last `*` of a line before its name.
        let head = b"*3\r\n$3\r\n";
        let begins = bytes[..at].windows(head.len()).rposition(|window| window == head);
        Ok(begins.context("the mark has no beginning")? as u64)
    }

    /// Takes everything from `at` on from the end of the file. It must not run.
    pub(in crate::chaos) fn cut_file(&self, at: u64) -> anyhow::Result<u64> {
        let file = OpenOptions::new().write(true).open(self.growing_file()?)?;
        let before = file.metadata()?.len();
        file.set_len(at.min(before))?;
        Ok(before.saturating_sub(at))
    }

    /// Appends the beginning of a command that was never answered, as a crash in the middle of a write leaves it.
    pub(in crate::chaos) fn tear_file(&self) -> anyhow::Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.growing_file()?)?;
        file.write_all(b"*3\r\n$5\r\nRPUSH\r\n$11\r\nhalf-a-comm")?;
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A failed kill leaves a process behind, which a drop cannot tell anybody.
        self.kill().ok();
    }
}

/// Asks the Redis at a port of this machine.
pub(super) fn ask(port: u16, words: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-e"]);
    output_of(command.args(words))
}

/// Whether it answers; while it loads its file it refuses.
fn pings(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 16];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    ask().is_ok_and(|answer| answer.starts_with("+PONG"))
}
