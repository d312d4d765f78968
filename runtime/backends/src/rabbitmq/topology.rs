//! The exchange and the queues of the bus.

use std::collections::BTreeMap;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ErrorKind, Result};

use super::message::short;
use super::options::{Checked, RabbitQueue, RabbitTopology};
use super::partitions;

/// AMQP's code for what is not there.
const NOT_FOUND: u16 = 404;

/// Declares what the bus owns, or checks that it is there. What exists with other properties is an error.
///
/// An exchange of the bus's own comes after the queues, which take longest: from then on others may publish to it, and nothing is
/// bound yet. What is returned to them in that moment they publish again; see [`super::own`].
pub(super) async fn prepare(channel: &Channel, checked: &Checked) -> Result<()> {
    let (find_exchange, passive) = match checked.options.topology {
        RabbitTopology::Declare => (false, false),
        RabbitTopology::QueuesOnly => (true, false),
        RabbitTopology::Passive => (true, true),
    };
    if find_exchange {
        // Where it is missing, no queue is to be left behind.
        exchange(channel, checked, true).await?;
    }
    for (name, dead_letter) in declared(&checked.options.queues) {
        declare(channel, name, passive, arguments(dead_letter)).await?;
    }
    if let Some(partitions) = &checked.options.partitions {
        partitions::prepare(channel, partitions, passive).await?;
    }
    if passive {
        return Ok(());
    }
    if !find_exchange {
        exchange(channel, checked, false).await?;
    }
    for queue in &checked.options.queues {
        bind(channel, checked, queue).await?;
    }
    if let Some(partitions) = &checked.options.partitions {
        partitions::bind(channel, checked, partitions).await?;
    }
    Ok(())
}

async fn exchange(channel: &Channel, checked: &Checked, passive: bool) -> Result<()> {
    let (kind, none) = (checked.options.kind.kind(), FieldTable::default());
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(checked.exchange.clone(), kind, options, none)
        .await
}

/// Each queue once, with the one that takes what its consumers reject. That may be a queue with one of its own: it has the same
/// arguments wherever it is named.
fn declared(queues: &[RabbitQueue]) -> BTreeMap<&str, Option<&str>> {
    let named = queues.iter().filter_map(|queue| queue.dead_letter.as_deref());
    let named = named.map(|name| (name, None));
    let own = queues
        .iter()
        .map(|queue| (queue.name.as_str(), queue.dead_letter.as_deref()));
    // The later one counts.
    named.chain(own).collect()
}

async fn declare(channel: &Channel, name: &str, passive: bool, arguments: FieldTable) -> Result<()> {
    let options = QueueDeclareOptions {
        passive,
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(short(name), options, arguments).await.map(drop)
}

async fn bind(channel: &Channel, checked: &Checked, queue: &RabbitQueue) -> Result<()> {
    for (key, arguments) in bindings(queue) {
        channel
            .queue_bind(
                short(&queue.name),
                checked.exchange.clone(),
                key,
                QueueBindOptions::default(),
                arguments,
            )
            .await?;
    }
    Ok(())
}

/// Takes the bindings of a queue away, each over a channel of its own: where queue or exchange is gone, so is the binding, but
/// the channel that asks is closed.
pub(super) async fn unbind(connection: &Connection, checked: &Checked, queue: &RabbitQueue) -> Result<()> {
    for (key, arguments) in bindings(queue) {
        let channel = connection.create_channel().await?;
        let unbound = channel.queue_unbind(short(&queue.name), checked.exchange.clone(), key, arguments);
        match unbound.await {
            Ok(()) => channel.close(200, "bye".into()).await?,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_gone(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

fn bindings(queue: &RabbitQueue) -> impl Iterator<Item = (ShortString, FieldTable)> {
    let by_key = queue.binding_keys.iter().map(|key| (short(key), FieldTable::default()));
    let by_headers = queue.binding_headers.iter().map(|headers| {
        let mut table = FieldTable::default();
        text(&mut table, "x-match", "all");
        for (name, value) in headers {
            text(&mut table, name, value);
        }
        ("".into(), table)
    });
    by_key.chain(by_headers)
}

pub(super) fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    text(&mut arguments, "x-queue-type", "quorum");
    arguments
}

/// What consumers reject goes to the dead-letter queue at least once, which asks for `reject-publish`.
fn arguments(dead_letter: Option<&str>) -> FieldTable {
    let mut arguments = quorum();
    if let Some(dead_letter) = dead_letter {
        text(&mut arguments, "x-dead-letter-exchange", "");
        text(&mut arguments, "x-dead-letter-routing-key", dead_letter);
        text(&mut arguments, "x-dead-letter-strategy", "at-least-once");
        text(&mut arguments, "x-overflow", "reject-publish");
    }
    arguments
}

pub(super) fn text(table: &mut FieldTable, name: &str, value: &str) {
    table.insert(short(name), AMQPValue::LongString(LongString::from(value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_queue_with_one_of_its_own_is_declared_once() {
        let queue = |name: &str, dead_letter: Option<&str>| RabbitQueue {
            name: name.to_owned(),
            dead_letter: dead_letter.map(str::to_owned),
            ..RabbitQueue::default()
        };
        let chain = [("dead", None), ("main", Some("retry")), ("retry", Some("dead"))];
        for queues in [
            [queue("main", Some("retry")), queue("retry", Some("dead"))],
            [queue("retry", Some("dead")), queue("main", Some("retry"))],
        ] {
            assert_eq!(declared(&queues), BTreeMap::from(chain));
        }
        let shared = [queue("a", Some("dead")), queue("b", Some("dead"))];
        let expected = [("a", Some("dead")), ("b", Some("dead")), ("dead", None)];
        assert_eq!(declared(&shared), BTreeMap::from(expected));
    }
}
