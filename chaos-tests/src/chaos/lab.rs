//! What all trials of a run share: the servers that take long to start, and a runtime for what is asynchronous in the harness.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use super::servers::{Postgres, RabbitMq};

/// Where trials are run.
#[derive(Debug)]
pub struct Lab {
    pub(super) rabbitmq: RabbitMq,
    pub(super) postgres: Postgres,
    /// The program that engine processes run.
    pub(super) program: PathBuf,
    /// The program that replicas run; it need not be there unless a trial has replicas.
    pub(super) troupe: PathBuf,
    runtime: Option<Runtime>,
    directory: TempDir,
    /// PostgreSQL may belong to another user.
    _of_postgres: TempDir,
    trials: u32,
}

impl Lab {
    /// Starts RabbitMQ and PostgreSQL; `program` is the one with the subcommand `engine`, `troupe` the product. `keeps`: the files of the run stay.
    ///
    /// # Errors
    /// When a server is missing or does not start.
    pub fn start(program: &Path, troupe: &Path, keeps: bool) -> anyhow::Result<Self> {
        let mut directory = tempfile::tempdir().context("no temporary folder")?;
        directory.disable_cleanup(keeps);
        let of_postgres = tempfile::tempdir().context("no temporary folder")?;
        let folder = of_postgres.path().to_owned();
        let postgres = std::thread::spawn(move || Postgres::start(&folder));
        let rabbitmq = RabbitMq::start(&directory.path().join("rabbitmq"))?;
        let postgres = postgres
            .join()
            .map_err(|_| anyhow::anyhow!("starting PostgreSQL panicked"))??;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            rabbitmq,
            postgres,
            program: program.to_owned(),
            troupe: troupe.to_owned(),
            runtime: Some(runtime),
            directory,
            _of_postgres: of_postgres,
            trials: 0,
        })
    }

    pub(super) fn runtime(&self) -> Handle {
        // It is taken by the drop alone.
        self.runtime
            .as_ref()
            .expect("a lab in use has its runtime")
            .handle()
            .clone()
    }

    /// Where the files of the run are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// A number for the next trial, and a folder for what it keeps.
    pub(super) fn next_trial(&mut self) -> anyhow::Result<(u32, PathBuf)> {
        self.trials += 1;
        let folder = self.directory.path().join(format!("trial-{}", self.trials));
        std::fs::create_dir_all(&folder)?;
        Ok((self.trials, folder))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
