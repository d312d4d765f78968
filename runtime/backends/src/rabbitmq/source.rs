//! Messages of a queue of RabbitMQ, for triggers.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Confirmation, Consumer};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use troupe_ports::source::{EventSource, Incoming, Receipt, SourceError};

use super::RabbitState;
use super::backoff::Backoff;
use super::link::Link;
use super::message::short;
use super::options::{Checked, RabbitOptions, RabbitOptionsError, RabbitQueue};
use super::topology;

/// How often a silent connection is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Header of a rejected message: why.
const REASON: &str = "x-troupe-reason";
/// Bytes of a reason that fit a header well.
const REASON_BYTES_MAX: usize = 1_024;

/// Settles the message of a receipt.
#[derive(Debug)]
struct Settle {
    receipt: Receipt,
    /// None: it is accepted.
    rejected: Option<String>,
    reply: oneshot::Sender<Result<(), SourceError>>,
}

/// Takes messages of one durable queue, a bounded number at a time. Dropping it gives back what is not settled.
#[derive(Debug)]
pub struct RabbitSource {
    messages: Mutex<mpsc::UnboundedReceiver<Incoming>>,
    settles: mpsc::Sender<Settle>,
    /// The connection whose receipts are good.
    connection: Arc<AtomicU64>,
    state: watch::Receiver<RabbitState>,
}

impl RabbitSource {
    /// Starts to take messages of `queue`, at most `prefetch` that are not settled; `options.queues` is not used. There need
    /// not be a broker yet.
    ///
    /// # Errors
    ///
    /// [`RabbitOptionsError`] if the options are no use, whatever the broker.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn start(options: RabbitOptions, queue: RabbitQueue, prefetch: u16) -> Result<Self, RabbitOptionsError> {
        if prefetch == 0 {
            // 0 means without limit.
            return Err(RabbitOptionsError::Zero { what: "the prefetch" });
        }
        let checked = Arc::new(Checked::of(RabbitOptions {
            queues: vec![queue.clone()],
            ..options
        })?);
        let (given, messages) = mpsc::unbounded_channel();
        let (settles, settling) = mpsc::channel(usize::from(prefetch));
        let (told, state) = watch::channel(RabbitState::Connecting {
            failures: 0,
            reason: String::new(),
        });
        let connection = Arc::new(AtomicU64::new(0));
        let taker = Taker {
            checked,
            queue,
            prefetch,
            given,
            settles: settling,
            connection: Arc::clone(&connection),
            state: told,
        };
        tokio::spawn(taker.run());
        Ok(Self {
            messages: Mutex::new(messages),
            settles,
            connection,
            state,
        })
    }

    /// Takes the bindings of `queue` away, over a connection of its own; the queue stays with what is in it. What is bound no more, or is
    /// not there at all, is no error.
    ///
    /// # Errors
    ///
    /// Why they may still be there, for people.
    pub async fn unbind(options: RabbitOptions, queue: RabbitQueue) -> Result<(), String> {
        let checked = Arc::new(Checked::of(options).map_err(|error| error.to_string())?);
        let limit = checked.options.connect_timeout;
        let link = Link::bare(&checked).await?;
        let unbound = timeout(limit, topology::unbind(&link.connection, &checked, &queue)).await;
        link.close().await;
        match unbound {
            Ok(unbound) => unbound.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// Where the source stands with its broker now.
    #[must_use]
    pub fn state(&self) -> RabbitState {
        self.state.borrow().clone()
    }

    async fn settle(&self, receipt: Receipt, rejected: Option<String>) -> Result<(), SourceError> {
        let ended = || SourceError::Unavailable("RabbitMQ: the source has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let settle = Settle {
            receipt,
            rejected,
            reply,
        };
        self.settles.send(settle).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

#[async_trait]
impl EventSource for RabbitSource {
    async fn next(&self) -> Result<Incoming, SourceError> {
        let mut messages = self.messages.lock().await;
        while let Some(message) = messages.recv().await {
            if !self.is_stale(message.receipt) {
                return Ok(message);
            }
        }
        Err(SourceError::Unavailable("RabbitMQ: the source has ended".to_owned()))
    }

    /// What came over a connection that is gone comes again.
    fn is_stale(&self, receipt: Receipt) -> bool {
        receipt.connection != self.connection.load(Ordering::Acquire)
    }

    async fn accept(&self, receipt: Receipt) -> Result<(), SourceError> {
        self.settle(receipt, None).await
    }

    async fn reject(&self, receipt: Receipt, reason: &str) -> Result<(), SourceError> {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        self.settle(receipt, Some(reason.to_owned())).await
    }
}

/// Why no more comes over a connection.
enum Ended {
    Lost(String),
    /// The source was dropped.
    Closed,
}

/// The task that owns the connection.
struct Taker {
    checked: Arc<Checked>,
    queue: RabbitQueue,
    prefetch: u16,
    given: mpsc::UnboundedSender<Incoming>,
    settles: mpsc::Receiver<Settle>,
    connection: Arc<AtomicU64>,
    state: watch::Sender<RabbitState>,
}

impl Taker {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.checked.options.retry_first, self.checked.options.retry_max);
        let mut failures = 0;
        loop {
            let checked = Arc::clone(&self.checked);
            let lost = match self.meanwhile(async move { Link::open(&checked).await }).await {
                None => break,
                Some(Err(reason)) => reason,
                Some(Ok(link)) => {
                    failures = 0;
                    let ended = self.take_over(&link, &mut backoff).await;
                    // No receipt is good any more.
                    self.connection.fetch_add(1, Ordering::AcqRel);
                    match ended {
                        Ended::Closed => {
                            link.close().await;
                            break;
                        }
                        Ended::Lost(reason) => {
                            tokio::spawn(link.close());
                            reason
                        }
                    }
                }
            };
            failures += 1;
            let pause = backoff.pause();
            tracing::warn!(queue = %self.queue.name, reason = %lost, failures, ?pause, "messages are taken again soon");
            self.state
                .send_replace(RabbitState::Connecting { failures, reason: lost });
            if self.meanwhile(sleep(pause)).await.is_none() {
                break;
            }
        }
        self.state.send_replace(RabbitState::Closed);
    }

    /// Waits for `work`, with no receipt good meanwhile; none when the source was dropped.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                settle = self.settles.recv() => {
                    // Whoever asked may be gone.
                    settle?.reply.send(Err(SourceError::Stale)).ok();
                }
            }
        }
    }

    async fn take_over(&mut self, link: &Link, backoff: &mut Backoff) -> Ended {
        let limit = self.checked.options.connect_timeout;
        let mut consumer = match timeout(limit, self.consume(link)).await {
            Ok(Ok(consumer)) => consumer,
            Ok(Err(error)) => return Ended::Lost(format!("consuming: {error}")),
            Err(_) => return Ended::Lost(format!("consuming: no answer within {limit:?}")),
        };
        self.state.send_replace(RabbitState::Connected);
        let connection = self.connection.load(Ordering::Acquire);
        let mut open: HashMap<u64, Delivery> = HashMap::new();
        loop {
            tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        let receipt = Receipt { connection, number: delivery.delivery_tag };
                        if self.given.send(incoming(&delivery, receipt)).is_err() {
                            return Ended::Closed;
                        }
                        open.insert(delivery.delivery_tag, delivery);
                    }
                    Some(Err(error)) => return Ended::Lost(error.to_string()),
                    None => return Ended::Lost("the queue was deleted or the connection closed".to_owned()),
                },
                settle = self.settles.recv() => {
                    let Some(settle) = settle else { return Ended::Closed };
                    if let Err(reason) = self.settle(link, connection, &mut open, settle).await {
                        return Ended::Lost(reason);
                    }
                    backoff.reset();
                }
                () = sleep(LOOK) => if !link.is_open() {
                    return Ended::Lost("the connection was closed".to_owned());
                },
            }
        }
    }

    async fn consume(&self, link: &Link) -> lapin::Result<Consumer> {
        link.channel
            .basic_qos(self.prefetch, BasicQosOptions::default())
            .await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        link.channel
            .basic_consume(short(&self.queue.name), "".into(), options, none)
            .await
    }

    /// Settles one message and answers.
    ///
    /// # Errors
    ///
    /// Why the connection is of no more use.
    async fn settle(
        &self,
        link: &Link,
        connection: u64,
        open: &mut HashMap<u64, Delivery>,
        settle: Settle,
    ) -> Result<(), String> {
        let found = (settle.receipt.connection == connection)
            .then(|| open.remove(&settle.receipt.number))
            .flatten();
        let Some(delivery) = found else {
            settle.reply.send(Err(SourceError::Stale)).ok();
            return Ok(());
        };
        let limit = self.checked.options.confirm_timeout;
        let settled = match timeout(limit, self.settle_one(link, &delivery, settle.rejected.as_deref())).await {
            Ok(settled) => settled.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        // Whoever asked may be gone.
        settle
            .reply
            .send(settled.clone().map_err(SourceError::Unavailable))
            .ok();
        settled
    }

    async fn settle_one(&self, link: &Link, delivery: &Delivery, rejected: Option<&str>) -> lapin::Result<()> {
        let settled = match (rejected, &self.queue.dead_letter) {
            (None, _) => delivery.ack(BasicAckOptions::default()).await?,
            // There is nowhere to set it aside.
            (Some(_), None) => delivery.reject(BasicRejectOptions { requeue: false }).await?,
            (Some(reason), Some(queue)) => {
                // The broker's own way of dead-lettering takes no reason.
                set_aside(link, delivery, queue, reason).await?;
                delivery.ack(BasicAckOptions::default()).await?
            }
        };
        if settled {
            return Ok(());
        }
        Err(std::io::Error::other("the message is no longer this connection's").into())
    }
}

/// Puts a copy with the reason into the dead-letter queue; there once this returns.
async fn set_aside(link: &Link, delivery: &Delivery, queue: &str, reason: &str) -> lapin::Result<()> {
    let mut headers = delivery.properties.headers().clone().unwrap_or_default();
    headers.insert(REASON.into(), AMQPValue::LongString(LongString::from(reason)));
    let properties = delivery.properties.clone().with_headers(headers).with_delivery_mode(2);
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let copy = link
        .channel
        .basic_publish("".into(), short(queue), options, &delivery.data, properties);
    match copy.await?.await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(std::io::Error::other(format!("the dead-letter queue {queue} takes nothing")).into())
        }
    }
}

fn incoming(delivery: &Delivery, receipt: Receipt) -> Incoming {
    let properties = &delivery.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let headers = properties.headers().iter().flat_map(|headers| headers.inner());
    let headers = headers.filter_map(|(name, value)| match value {
        AMQPValue::LongString(value) => Some((name.to_string(), String::from_utf8(value.as_bytes().to_vec()).ok()?)),
        _ => None,
    });
    Incoming {
        receipt,
        id: text(properties.message_id()),
        key: delivery.routing_key.to_string(),
        media_type: text(properties.content_type()),
        headers: headers.collect(),
        again: delivery.redelivered,
        body: Bytes::copy_from_slice(&delivery.data),
    }
}
