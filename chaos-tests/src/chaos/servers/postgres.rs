//! A PostgreSQL server: stopped as a crash would, frozen.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{free_port, output_of, signal, until};

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// A server of the harness's own. Dropping it ends it.
#[derive(Debug)]
pub(in crate::chaos) struct Postgres {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    pub(in crate::chaos) fn start(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut server = Self {
            directory: directory.to_owned(),
            programs: programs()?,
            port: free_port()?,
            process: None,
        };
        if is_root()? {
            let owner = ["-R", "postgres:postgres"];
            output_of(Command::new("chown").args(owner).arg(directory))?;
        }
        let mut make = server.command("initdb")?;
        make.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"]);
        output_of(make.args(["--locale=C", "-D"]).arg(server.data()))?;
        server.run()?;
        Ok(server)
    }

    pub(in crate::chaos) fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Starts it, for the first time or again, and waits until it answers.
    pub(in crate::chaos) fn run(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() {
            bail!("this PostgreSQL runs");
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))?;
        let mut command = self.command("postgres")?;
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("unix_socket_directories={}", self.directory.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = self.process.insert(command.spawn()?);
        let mut ask = Command::new(self.programs.join("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        until("PostgreSQL answers", ANSWERS_WITHIN, || {
            if let Some(status) = process.try_wait()? {
                bail!("postgres ended: {status}");
            }
            Ok(ask.status()?.success())
        })
    }

    /// Ends it as a crash would: sessions are cut off, nothing is tidied (`pg_ctl stop -m immediate`).
    pub(in crate::chaos) fn stop_immediately(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        signal(&process.id().to_string(), "QUIT")?;
        process.wait()?;
        Ok(())
    }

    /// A program of the server. PostgreSQL refuses to run as root: then it runs as `postgres`.
    fn command(&self, program: &str) -> anyhow::Result<Command> {
        let program = self.programs.join(program);
        if !is_root()? {
            return Ok(Command::new(program));
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(program)
            .current_dir("/");
        Ok(command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A failed stop leaves a process behind, which a drop cannot tell anybody.
        self.stop_immediately().ok();
    }
}

fn is_root() -> anyhow::Result<bool> {
    Ok(output_of(Command::new("id").arg("-u"))? == "0")
}

/// Where `initdb` and `postgres` are: Debian keeps them out of the path.
fn programs() -> anyhow::Result<PathBuf> {
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
        .context("initdb is missing: install PostgreSQL's server")
}
