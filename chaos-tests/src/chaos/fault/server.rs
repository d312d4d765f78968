//! Faults of servers and of the lines to them, whoever asks them: engine processes or replicas.

use anyhow::bail;

use super::{Fault, events, line, redis};
use crate::chaos::schedule::Struck;
use crate::chaos::servers::Redis;
use crate::world::random::Random;

/// Begins it.
pub(in crate::chaos) fn begin(fault: Fault, on: &mut impl Struck, random: &mut Random) -> anyhow::Result<()> {
    match fault {
        Fault::RedisKill | Fault::RedisTornTail => on.master().and_then(Redis::kill),
        Fault::RedisPowerLoss => redis::lose_power(on, random),
        Fault::RedisStall => on.master()?.freeze(),
        Fault::RedisOutOfMemory => redis::fill_memory(on.master()?),
        Fault::RabbitKill => events::kill(&mut on.lab().rabbitmq),
        Fault::RabbitMemoryAlarm => events::memory_alarm(&on.lab().rabbitmq, true),
        Fault::RabbitDiskAlarm => events::disk_alarm(&on.lab().rabbitmq, true),
        Fault::RabbitStall => on.lab().rabbitmq.freeze(),
        Fault::PostgresStop => on.lab().postgres.stop_immediately(),
        Fault::Line(target, fault) => line::begin(on, None, target, fault, random),
        other => bail!("{} befalls no server that both have", other.name()),
    }
}

/// Heals it.
pub(in crate::chaos) fn end(fault: Fault, on: &mut impl Struck) -> anyhow::Result<()> {
    match fault {
        Fault::RedisKill => on.master()?.run(),
        Fault::RedisTornTail => {
            on.master()?.tear_file()?;
            on.master()?.run()
        }
        Fault::RedisPowerLoss => Ok(()),
        Fault::RedisStall => on.master()?.thaw(),
        Fault::RedisOutOfMemory => redis::free_memory(on.master()?),
        Fault::RabbitKill => on.lab().rabbitmq.run(),
        Fault::RabbitMemoryAlarm => events::memory_alarm(&on.lab().rabbitmq, false),
        Fault::RabbitDiskAlarm => events::disk_alarm(&on.lab().rabbitmq, false),
        Fault::RabbitStall => on.lab().rabbitmq.thaw(),
        Fault::PostgresStop => on.lab().postgres.run(),
        Fault::Line(target, fault) => line::end(on, None, target, fault),
        other => bail!("{} befalls no server that both have", other.name()),
    }
}
