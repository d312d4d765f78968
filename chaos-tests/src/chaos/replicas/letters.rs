//! The harness's own side of the broker: it publishes, and reads what was set aside.

use anyhow::{Context, bail, ensure};
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::runtime::Handle;

use super::messages::{KEY, Message};

/// Why a message was set aside.
const REASON: &str = "x-troupe-reason";

/// A message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) reason: String,
}

/// A connection to the broker, over no line that is broken.
pub(super) struct Post {
    runtime: Handle,
    connection: Connection,
    channel: Channel,
}

impl Post {
    pub(super) fn open(runtime: &Handle, url: &str) -> anyhow::Result<Self> {
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = confirming(&connection).await?;
            anyhow::Ok((connection, channel))
        })?;
        Ok(Self {
            runtime: runtime.clone(),
            connection,
            channel,
        })
    }

    /// Publishes messages in this order and waits until a queue has them.
    pub(super) fn publish(&self, exchange: &str, messages: &[Message]) -> anyhow::Result<()> {
        self.runtime.block_on(publish(&self.channel, exchange, messages))
    }

    /// Whether a queue is bound there and has taken this message.
    pub(super) fn reaches(&self, exchange: &str, message: &Message) -> bool {
        let published = async {
            // An exchange that is not there closes the channel that names it.
            let channel = confirming(&self.connection).await?;
            publish(&channel, exchange, std::slice::from_ref(message)).await
        };
        self.runtime.block_on(published).is_ok()
    }

    /// How many messages wait in a queue, those that somebody has in hand aside, and how many consumers it has.
    pub(super) fn waiting(&self, queue: &str) -> anyhow::Result<(u32, u32)> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        let declared = self.runtime.block_on(declared)?;
        Ok((declared.message_count(), declared.consumer_count()))
    }

    /// Takes everything that is in a dead-letter queue.
    pub(super) fn letters(&self, queue: &str) -> anyhow::Result<Vec<Letter>> {
        let options = BasicGetOptions { no_ack: true };
        let mut letters = Vec::new();
        self.runtime.block_on(async {
            while let Some(got) = self.channel.basic_get(queue.into(), options).await? {
                letters.push(letter(got.delivery)?);
            }
            Ok(letters)
        })
    }
}

async fn confirming(connection: &Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn publish(channel: &Channel, exchange: &str, messages: &[Message]) -> anyhow::Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let mut confirms = Vec::new();
    for message in messages {
        let properties = BasicProperties::default()
            .with_content_type(message.media_type.into())
            .with_message_id(message.id.as_str().into())
            .with_delivery_mode(2);
        let sent = channel.basic_publish(exchange.into(), KEY.into(), options, &message.body, properties);
        confirms.push(sent.await?);
    }
    for confirm in confirms {
        let confirmed = confirm.await?;
        ensure!(matches!(confirmed, Confirmation::Ack(None)), "no queue takes a message");
    }
    Ok(())
}

fn letter(delivery: Delivery) -> anyhow::Result<Letter> {
    let headers = delivery.properties.headers().as_ref();
    let reason = match headers.and_then(|headers| headers.inner().get(REASON)) {
        Some(AMQPValue::LongString(reason)) => reason.to_string(),
        other => bail!("a dead letter has no reason: {other:?}"),
    };
    let id = delivery.properties.message_id().as_ref();
    Ok(Letter {
        id: id.context("a dead letter has no id")?.to_string(),
        body: delivery.data.to_vec(),
        reason,
    })
}
