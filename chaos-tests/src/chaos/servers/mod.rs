//! Servers that the harness starts on free loopback ports in its temporary folder, and ends when they are dropped.

mod cluster;
mod postgres;
mod rabbitmq;
mod redis;

use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub(super) use cluster::{Log, RedisCluster, Seat};
pub(super) use postgres::Postgres;
pub(super) use rabbitmq::RabbitMq;
pub(super) use redis::{Redis, Sync};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A port where nobody listens. Systems give these to nobody by themselves, and each is given here once in a long while: it is still free
/// when its server starts.
pub(super) fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 26_000;
    const COUNT: u16 = 2_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another harness begins elsewhere.
    let first = u16::try_from(std::process::id() % u32::from(COUNT))?;
    let next = |_| FIRST + (first + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
    (0..COUNT)
        .map(next)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")
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
