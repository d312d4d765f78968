//! Faults of the lines between processes and servers.

use std::time::Duration;

use anyhow::bail;

use super::{LineFault, Target};
use crate::chaos::deployment::Lines;
use crate::chaos::proxy::{Line, Proxy};
use crate::chaos::schedule::Struck;
use crate::world::random::Random;

/// Bytes a second of a slow line, in each direction of each connection.
const SLOW: u64 = 20_000;
/// How often the connections are reset, and the time between two resets.
pub(in crate::chaos) const RESETS: u32 = 4;
/// Until connections that are cut are gone.
const CUT_WITHIN: Duration = Duration::from_millis(20);
const RESET_EVERY: Duration = Duration::from_millis(250);

/// Breaks the lines of all processes to a server, or those of `one` member.
pub(super) fn begin(
    on: &mut impl Struck,
    one: Option<u32>,
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
                on.with_line(one, target, &Proxy::cut)?;
                on.watch(RESET_EVERY)?;
            }
            return Ok(());
        }
    };
    on.with_line(one, target, &|proxy| proxy.set(line))
}

pub(super) fn end(on: &mut impl Struck, one: Option<u32>, target: Target, fault: LineFault) -> anyhow::Result<()> {
    if fault == LineFault::Partition {
        on.with_line(one, target, &Proxy::cut)?;
        on.watch(CUT_WITHIN)?;
    }
    on.with_line(one, target, &|proxy| proxy.set(Line::Sound))
}

impl Lines {
    /// The line to a server.
    pub(in crate::chaos) fn to(&self, target: Target) -> anyhow::Result<&Proxy> {
        match (target, &self.redis) {
            (Target::Redis, Some(line)) => Ok(line),
            (Target::Postgres, _) => Ok(&self.postgres),
            (Target::RabbitMq, _) => Ok(&self.rabbitmq),
            _ => bail!("there is no line to {target:?}"),
        }
    }
}
