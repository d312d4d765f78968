//! Faults of engine processes.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::chaos::deployment::Deployment;
use crate::chaos::engine::Order;
use crate::chaos::schedule::Struck;
use crate::crash::switches::{Act, Moment};

/// How long a thawed owner may take to learn of its successor: a renewal and what a loaded machine adds.
const FENCED_WITHIN: Duration = Duration::from_secs(15);
/// Starts at once of an overload: ten times what [`EXECUTIONS_MAX`] lets run.
const OVERLOAD: u64 = 2_000;
/// Executions with an actor that a deployment which is to be overloaded has room for.
pub(in crate::chaos) const EXECUTIONS_MAX: usize = 200;

pub(super) fn kill(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.kill()?;
    on.spawn()
}

/// Whoever acquires is not there to be told: the next one is.
pub(super) fn kill_at(on: &mut Deployment<'_>, moment: Moment) -> anyhow::Result<()> {
    let act = Act::Die;
    if moment == Moment::Acquired {
        on.armed = Some((moment, act));
        return kill(on);
    }
    on.tell(&Order::Arm { moment, act })
}

pub(super) fn freeze(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.freeze()?;
    on.spawn()?;
    on.ready()?;
    Ok(())
}

/// Its successor has a line of its own, and nothing to do until the owner is back.
pub(super) fn cut_off(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.cut_off()?;
    on.spawn()?;
    on.ready()?;
    Ok(())
}

pub(super) fn thaw(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.thaw(FENCED_WITHIN)
}

pub(super) fn overload(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.tell(&Order::Burst {
        workflow: "slow".to_owned(),
        count: OVERLOAD,
        at_once: OVERLOAD / 4,
    })?;
    let begun = Instant::now();
    while on.answers().refused == 0 {
        if begun.elapsed() > FENCED_WITHIN {
            bail!("{OVERLOAD} starts at once were all taken where {EXECUTIONS_MAX} may run");
        }
        on.watch(Duration::from_millis(50))?;
    }
    Ok(())
}
