//! Faults of Redis.

use std::time::Duration;

use anyhow::Context;

use super::Target;
use crate::chaos::deployment::Deployment;
use crate::chaos::proxy::{Line, Proxy};
use crate::chaos::schedule::Struck;
use crate::chaos::servers::{Redis, until};
use crate::world::random::Random;

/// Until what was on its way through the proxy has arrived, or was cut off.
const SETTLES: Duration = Duration::from_millis(50);
/// Within so long a Redis that syncs every second has synced.
const SYNCED_AFTER: Duration = Duration::from_millis(2_100);
/// Within so long a replica has what its master has.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// How long a replica hears nothing before its master dies.
const LAGS: Duration = Duration::from_millis(1_500);

/// Engines hear nothing more; what Redis had answered until then stands in front of the mark, and is synced. What they say after
/// that is not answered, and of that only a part survives.
///
/// Nothing is healed meanwhile: who comes back would wait for this server.
pub(super) fn lose_power(on: &mut impl Struck, random: &mut Random) -> anyhow::Result<()> {
    on.with_line(None, Target::Redis, &|line| line.set(Line::HalfOpen))?;
    std::thread::sleep(SETTLES);
    let synced = on.master()?.mark("chaos:mark")?;
    on.with_line(None, Target::Redis, &|line| line.set(Line::DeafClient))?;
    std::thread::sleep(SETTLES);
    let redis = on.master()?;
    redis.kill()?;
    let unsynced = redis.file_bytes()?.saturating_sub(synced);
    let cut = redis.cut_file(synced + random.below(unsynced + 1))?;
    // Answers that were held are lost with the connections.
    on.with_line(None, Target::Redis, &Proxy::cut)?;
    std::thread::sleep(SETTLES);
    on.with_line(None, Target::Redis, &|line| line.set(Line::Sound))?;
    on.note(format!("{unsynced} bytes were not synced, {cut} of them are lost"));
    on.master()?.run()
}

pub(super) fn fill_memory(redis: &Redis) -> anyhow::Result<()> {
    let used = redis.info("memory", "used_memory")?;
    redis.ask(&["CONFIG", "SET", "maxmemory", &used.to_string()])?;
    Ok(())
}

pub(super) fn free_memory(redis: &Redis) -> anyhow::Result<()> {
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"])?;
    Ok(())
}

/// Everything since a moment ago is lost, acknowledged or not.
pub(super) fn lose_a_second(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let synced = on.master()?.file_bytes()?;
    on.watch(SYNCED_AFTER)?;
    let redis = on.master()?;
    redis.kill()?;
    let cut = redis.cut_file(synced)?;
    on.notes.push(format!("the last {cut} bytes are lost"));
    on.master()?.run()
}

/// A replica that heard nothing of what was acknowledged lately becomes the master. Whoever has appended that gives it back, if it lives.
pub(super) fn fail_over(on: &mut Deployment<'_>, owner_dies: bool) -> anyhow::Result<()> {
    let servers = on.redis.as_mut().context("this deployment has no Redis")?;
    let (replica, line) = servers.replica.as_ref().context("this Redis has no replica")?;
    let written = servers.master.info("replication", "master_repl_offset")?;
    // One that never had everything would have nothing.
    until("the replica follows", FOLLOWS_WITHIN, || {
        let told = replica.ask(&["INFO", "replication"])?;
        let heard = replica.info("replication", "slave_repl_offset")?;
        Ok(told.contains("master_link_status:up") && heard >= written)
    })?;
    line.set(Line::HalfOpen);
    on.watch(LAGS)?;
    if owner_dies {
        on.kill()?;
    }
    on.master()?.kill()?;
    if owner_dies { on.spawn() } else { Ok(()) }
}
