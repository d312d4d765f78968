//! Faults of the lines between engines and servers.

use std::time::Duration;

use anyhow::bail;

use super::{LineFault, Target};
use crate::chaos::deployment::Deployment;
use crate::chaos::proxy::Line;
use crate::world::random::Random;

/// Bytes a second of a slow line, in each direction of each connection.
const SLOW: u64 = 20_000;
/// How often the connections are reset, and the time between two resets.
const RESETS: u32 = 4;
/// Until connections that are cut are gone.
const CUT_WITHIN: Duration = Duration::from_millis(20);
const RESET_EVERY: Duration = Duration::from_millis(250);

pub(super) fn begin(
    on: &mut Deployment<'_>,
    target: Target,
    fault: LineFault,
    random: &mut Random,
) -> anyhow::Result<()> {
    let line = match fault {
        LineFault::Latency => Line::Late(Duration::from_millis(random.between(20, 100))),
        LineFault::HalfOpen | LineFault::Partition => Line::HalfOpen,
        LineFault::OneWay => Line::DeafServer,
        LineFault::SlowBytes => Line::Slow(SLOW),
        LineFault::Reset => {
            for _ in 0..RESETS {
                on.line(target)?.cut();
                on.watch(RESET_EVERY)?;
            }
            return Ok(());
        }
    };
    on.line(target)?.set(line);
    Ok(())
}

pub(super) fn end(on: &mut Deployment<'_>, target: Target, fault: LineFault) -> anyhow::Result<()> {
    if fault == LineFault::Partition {
        on.line(target)?.cut();
        on.watch(CUT_WITHIN)?;
    }
    on.line(target)?.set(Line::Sound);
    Ok(())
}

impl Deployment<'_> {
    pub(in crate::chaos) fn line_of_redis(&self) -> anyhow::Result<&crate::chaos::proxy::Proxy> {
        self.line(Target::Redis)
    }

    fn line(&self, target: Target) -> anyhow::Result<&crate::chaos::proxy::Proxy> {
        match (target, &self.lines.redis) {
            (Target::Redis, Some(line)) => Ok(line),
            (Target::Postgres, _) => Ok(&self.lines.postgres),
            (Target::RabbitMq, _) => Ok(&self.lines.rabbitmq),
            _ => bail!("there is no line to {target:?}"),
        }
    }
}
