//! Servers that the harness starts on free loopback ports in its temporary folder, and ends when they are dropped.

mod cluster;
mod postgres;
mod rabbitmq;
mod redis;

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub(super) use cluster::{Log, RedisCluster, Seat};
pub(super) use postgres::Postgres;
pub(super) use rabbitmq::RabbitMq;
pub(super) use redis::{Redis, Sync};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A port that was free a moment ago.
pub(super) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Sends a signal to a process, or with a minus before its id to its group.
pub(super) fn signal(process: &str, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill").args(["-s", name, "--", process]).status()?;
    if !sent.success() {
        bail!("SIG{name} cannot be sent to {process}: {sent}");
    }
    Ok(())
}

/// Waits until `holds`.
pub(super) fn until(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > within {
            bail!("{what}: not within {within:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} does not start"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{command:?}: {} {}", text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}
