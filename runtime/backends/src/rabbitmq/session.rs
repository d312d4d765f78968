//! What is on its way over one connection.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use tokio::time::Instant;

use super::Counters;
use super::batch::Packer;
use super::calls::{OpenCalls, Part};
use super::exchanges::Exchanges;
use super::link::Link;
use super::message::Message;
use super::options::{Checked, RabbitExchange, RabbitUnroutable};
use super::own;
use super::publisher::Call;

/// Unroutable messages are logged no more often than this.
const LOG_EVERY: Duration = Duration::from_secs(60);

type Confirming = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// A message without a confirm.
struct Sent {
    confirming: Confirming,
    /// The answer, where it was there at once.
    at_once: Option<lapin::Result<Confirmation>>,
    parts: Vec<Part>,
    bytes: usize,
    at: Instant,
    /// None: it does not matter if it is returned.
    heeded: Option<Heeded>,
}

/// A message that must not be returned.
struct Heeded {
    /// As it is returned: cut where it is too long.
    id: String,
    /// A queue that the bus binds itself takes it.
    own: bool,
    /// It was returned: its routing key.
    returned: Option<Box<str>>,
}

/// A message that is confirmed, and may turn out to have been returned.
///
/// The client gives a returned message with *some* confirm. A message is returned before it is confirmed, what is returned waits in
/// order, and each confirm takes one. So once all messages up to this one are confirmed, it has been given with one of those or with
/// one that is in flight now: when those are taken, it was not returned.
struct Unsure {
    /// Messages that are taken by then.
    until: u64,
    heeded: Heeded,
    parts: Vec<Part>,
}

fn nobody_bound(key: &str) -> String {
    format!("RabbitMQ returned a message: no queue is bound for {key}")
}

/// Messages and calls of one connection. Confirms are taken in the order of sending, whatever order the broker sends them in.
pub(super) struct Session {
    checked: Arc<Checked>,
    channel: Channel,
    counters: Arc<Counters>,
    calls: OpenCalls,
    exchanges: Exchanges,
    outbox: VecDeque<Message>,
    sent: VecDeque<Sent>,
    bytes: usize,
    /// Messages whose answer was taken.
    taken: u64,
    unsure: VecDeque<Unsure>,
    confirmed_any: bool,
    /// Since when RabbitMQ takes nothing.
    blocked: Option<Instant>,
    /// Confirms are not late before this, plus the time they may take.
    unblocked: Instant,
    logged: Option<Instant>,
}

impl Session {
    pub(super) fn new(checked: &Arc<Checked>, channel: &Channel, counters: Arc<Counters>) -> Self {
        Self {
            checked: Arc::clone(checked),
            channel: channel.clone(),
            counters,
            calls: OpenCalls::default(),
            exchanges: Exchanges::default(),
            outbox: VecDeque::new(),
            sent: VecDeque::new(),
            bytes: 0,
            taken: 0,
            unsure: VecDeque::new(),
            confirmed_any: false,
            blocked: None,
            unblocked: Instant::now(),
            logged: None,
        }
    }

    /// Whether a message was confirmed: a connection on which none ever is, is no reason to connect again at once.
    pub(super) fn was_of_use(&self) -> bool {
        self.confirmed_any
    }

    /// Whether a message has no confirm yet.
    pub(super) fn in_flight(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Whether nothing is to be done.
    pub(super) fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.outbox.is_empty() && self.calls.is_empty()
    }

    /// Sends what was packed; false when no more may be in flight for now.
    pub(super) fn send(&mut self) -> bool {
        while self.sent.len() < self.checked.in_flight_max() && self.bytes < self.checked.options.in_flight_bytes_max {
            match self.outbox.pop_front() {
                Some(message) if self.calls.want(&message.parts) => self.publish(message),
                // Its calls failed meanwhile: they come again.
                Some(_) => {}
                None => return true,
            }
        }
        false
    }

    /// Takes calls up: their events become messages.
    pub(super) async fn pack(&mut self, link: &Link, calls: Vec<Call>) {
        let events = calls.iter().flat_map(|call| &call.events);
        let named = events.filter_map(|event| event.exchange.as_ref());
        self.exchanges.prepare(link, &self.checked, named).await;
        let mut packer = self.packer();
        for call in calls {
            let number = self.calls.admit(call.reply, call.events.len());
            for (place, event) in call.events.into_iter().enumerate() {
                let part = Part { call: number, place };
                if event
                    .exchange
                    .as_ref()
                    .is_some_and(|named| !self.exchanges.takes(named))
                {
                    self.counters.misdirected.fetch_add(1, Ordering::Relaxed);
                    self.calls.confirm(&[part]);
                    continue;
                }
                match &mut packer {
                    Some(packer) => packer.add(event, part),
                    None => self.outbox.push_back(Message::single(event, part)),
                }
            }
        }
        self.outbox.extend(packer.map(Packer::finish).into_iter().flatten());
    }

    fn packer(&self) -> Option<Packer> {
        let limits = self.checked.options.batch?;
        Some(Packer::new(limits, self.checked.options.partitions.is_some()))
    }

    /// Whether it matters that the message is returned.
    fn heeded(&self, message: &Message) -> Option<Heeded> {
        let first = &message.first;
        // Nobody need be bound where only a workflow wants its events to go.
        if first.exchange.is_some() {
            return None;
        }
        let own = own::takes(&self.checked, &first.key, &first.headers);
        (own || self.checked.options.unroutable == RabbitUnroutable::Fail).then(|| Heeded {
            id: super::message::short(&message.id).to_string(),
            own,
            returned: None,
        })
    }

    fn publish(&mut self, message: Message) {
        let channel = self.channel.clone();
        let by_headers = self.checked.options.kind == RabbitExchange::Headers;
        let properties = message.properties(by_headers, self.checked.options.partitions.is_some());
        let heeded = self.heeded(&message);
        let Message { first, body, parts, .. } = message;
        let exchange = match &first.exchange {
            Some(named) => super::message::short(&named.name),
            None => self.checked.exchange.clone(),
        };
        let bytes = body.len();
        let mut confirming: Confirming = Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: true,
                immediate: false,
            };
            let key = super::message::short(&first.key);
            let confirm = channel.basic_publish(exchange, key, options, &body, properties);
            confirm.await?.await
        });
        // The first poll queues the frames: what is sent first goes first. It is polled again in its turn.
        let at_once = match confirming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        };
        self.bytes += bytes;
        self.sent.push_back(Sent {
            confirming,
            at_once,
            parts,
            bytes,
            at: Instant::now(),
            heeded,
        });
    }

    /// The answer to the message that was sent first; waits for ever where there is none. Cancel-safe.
    pub(super) async fn next_confirmation(&mut self) -> lapin::Result<Confirmation> {
        poll_fn(|context| self.poll_front(context)).await
    }

    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<Confirmation>> {
        match self.sent.front_mut() {
            None => Poll::Pending,
            Some(sent) => match sent.at_once.take() {
                Some(result) => Poll::Ready(result),
                None => sent.confirming.as_mut().poll(context),
            },
        }
    }

    /// Takes an answer, and those that are there already.
    ///
    /// # Errors
    ///
    /// Why the connection is of no more use.
    pub(super) fn confirmed(&mut self, first: lapin::Result<Confirmation>) -> Result<(), String> {
        let mut next = Poll::Ready(first);
        while let Poll::Ready(confirmation) = next {
            self.settle(confirmation)?;
            next = self.poll_front(&mut Context::from_waker(Waker::noop()));
        }
        Ok(())
    }

    fn settle(&mut self, confirmation: lapin::Result<Confirmation>) -> Result<(), String> {
        let confirmation = confirmation.map_err(|error| error.to_string())?;
        let Some(sent) = self.sent.pop_front() else {
            return Err("a confirm of nothing".to_owned());
        };
        self.bytes -= sent.bytes;
        self.taken += 1;
        let returned = match confirmation {
            Confirmation::Ack(returned) => {
                self.confirmed_any = true;
                self.counters.messages.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .events
                    .fetch_add(sent.parts.len() as u64, Ordering::Relaxed);
                match sent.heeded {
                    None => self.calls.confirm(&sent.parts),
                    Some(heeded) => self.unsure.push_back(Unsure {
                        until: self.taken + self.sent.len() as u64,
                        heeded,
                        parts: sent.parts,
                    }),
                }
                returned
            }
            Confirmation::Nack(returned) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.calls.refuse(&sent.parts, "RabbitMQ refused a message");
                returned
            }
            Confirmation::NotRequested => return Err("the channel does not confirm".to_owned()),
        };
        if let Some(returned) = returned {
            self.returned(&returned)?;
        }
        while let Some(sure) = self.unsure.pop_front_if(|unsure| unsure.until <= self.taken) {
            match sure.heeded.returned {
                Some(key) => self.calls.refuse(&sure.parts, &nobody_bound(&key)),
                None => self.calls.confirm(&sure.parts),
            }
        }
        Ok(())
    }

    /// A message came back.
    ///
    /// # Errors
    ///
    /// When a queue of the bus's own should have got it: its bindings are gone, and to connect anew is to bind anew.
    fn returned(&mut self, returned: &BasicReturnMessage) -> Result<(), String> {
        let total = self.counters.unroutable.fetch_add(1, Ordering::Relaxed) + 1;
        let key = returned.delivery.routing_key.as_str();
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(key, total, reason = %returned.reply_text, "no queue is bound for an event");
        }
        let is_usual = returned.delivery.exchange == self.checked.exchange;
        let Some(id) = returned.delivery.properties.message_id().as_ref().filter(|_| is_usual) else {
            return Ok(());
        };
        let sent = self.sent.iter_mut().filter_map(|sent| sent.heeded.as_mut());
        let unsure = self.unsure.iter_mut().map(|unsure| &mut unsure.heeded);
        let mut own = false;
        for heeded in unsure.chain(sent).filter(|heeded| heeded.id == id.as_str()) {
            heeded.returned = Some(key.into());
            own |= heeded.own;
        }
        if own {
            return Err(nobody_bound(key));
        }
        Ok(())
    }

    /// When [`Session::late`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.blocked {
            Some(since) => (!self.calls.is_empty()).then(|| since + self.checked.options.wait_timeout),
            None => {
                let oldest = self.sent.front()?.at.max(self.unblocked);
                Some(oldest + self.checked.options.confirm_timeout)
            }
        }
    }

    /// Lets calls fail that are blocked for too long. What they sent may still arrive: it is repeated behind that.
    ///
    /// # Errors
    ///
    /// When a confirm is late: the connection is of no more use.
    pub(super) fn late(&mut self, reason: &str) -> Result<(), String> {
        if self.deadline().is_none_or(|deadline| deadline > Instant::now()) {
            return Ok(());
        }
        if self.blocked.is_none() {
            return Err(format!("no confirm within {:?}", self.checked.options.confirm_timeout));
        }
        self.fail_all(reason);
        Ok(())
    }

    pub(super) fn blocked(&mut self) {
        self.blocked.get_or_insert_with(Instant::now);
    }

    pub(super) fn unblocked(&mut self) {
        self.blocked = None;
        self.unblocked = Instant::now();
    }

    /// All calls fail; what was not sent is not sent.
    pub(super) fn fail_all(&mut self, reason: &str) {
        self.calls.fail_all(reason);
        self.outbox.clear();
    }
}
