//! Queues that share the events by execution: a consistent-hash exchange behind the usual one.
//!
//! The number of queues is part of all names. Another number makes another exchange with other queues, so no execution ever moves
//! from one queue to another whose events wait: whoever consumes reads the old queues to the end, then turns to the new ones.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeUnbindOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind, Result};

use super::message::{BUCKET, short};
use super::options::{Checked, RabbitPartitions};
use super::topology::{quorum, text};

/// What the log and the state say where the broker cannot share out; see `docs/errors`.
pub(super) const EVENT_PARTITIONS_UNAVAILABLE: &str = "EVENT_PARTITIONS_UNAVAILABLE";

/// The type of the exchange. Source: README of the plugin.
const CONSISTENT_HASH: &str = "x-consistent-hash";
const HINT: &str = "`rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` on every node of the broker, which need not be \
                    started anew; or set no partitions";
/// AMQP's code for what a broker does not know how to do.
const COMMAND_INVALID: u16 = 503;

/// Declares queues and exchange, or checks that they are there; the queues are bound before anything reaches the exchange.
pub(super) async fn prepare(channel: &Channel, partitions: &RabbitPartitions, passive: bool) -> Result<()> {
    // First, so that nothing is left behind where the plugin is missing.
    let exchange = short(&partitions.exchange(partitions.count));
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    text(&mut arguments, "hash-header", BUCKET);
    let kind = ExchangeKind::Custom(CONSISTENT_HASH.to_owned());
    let declared = channel.exchange_declare(exchange.clone(), kind, options, arguments);
    declared.await.map_err(explained)?;
    for queue in partitions.queues() {
        let options = QueueDeclareOptions {
            passive,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = quorum();
        // Order takes one consumer at a time; a second one stands by.
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        channel.queue_declare(short(&queue), options, arguments).await?;
    }
    if passive {
        return Ok(());
    }
    // Which queue gets what depends on the order in which they were bound, and a broker that starts binds them in the order of
    // their names: so must we. Source: `recover_exchange_and_bindings` of the plugin.
    let mut queues: Vec<String> = partitions.queues().collect();
    queues.sort_unstable();
    for queue in queues {
        // The key is the queue's weight.
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(short(&queue), exchange.clone(), "1".into(), options, none)
            .await?;
    }
    Ok(())
}

/// Binds the exchange behind the usual one, then takes those of other numbers off it: meanwhile events go both ways, never neither.
pub(super) async fn bind(channel: &Channel, checked: &Checked, partitions: &RabbitPartitions) -> Result<()> {
    let exchange = short(&partitions.exchange(partitions.count));
    let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
    channel
        .exchange_bind(exchange, checked.exchange.clone(), "#".into(), options, none)
        .await?;
    for other in (1..=RabbitPartitions::COUNT_MAX).filter(|other| *other != partitions.count) {
        // No binding is known to be there: AMQP lists none. One that is not there is no error, whatever its exchange.
        let exchange = short(&partitions.exchange(other));
        let (options, none) = (ExchangeUnbindOptions::default(), FieldTable::default());
        channel
            .exchange_unbind(exchange, checked.exchange.clone(), "#".into(), options, none)
            .await?;
    }
    Ok(())
}

fn explained(error: lapin::Error) -> lapin::Error {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) if protocol.get_id() == COMMAND_INVALID => {
            let text = format!(
                "{EVENT_PARTITIONS_UNAVAILABLE}: the broker has no exchanges of type {CONSISTENT_HASH}: {HINT}"
            );
            std::io::Error::other(text).into()
        }
        _ => error,
    }
}
