//! The task that owns the connection.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use lapin::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use troupe_ports::BusError;

use super::backoff::Backoff;
use super::calls::Reply;
use super::link::Link;
use super::message::Outgoing;
use super::options::Checked;
use super::partitions::EVENT_PARTITIONS_UNAVAILABLE;
use super::session::Session;
use super::{Counters, RabbitState};

/// How often a silent connection is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A publish that wants an answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) events: Vec<Outgoing>,
    pub(super) reply: Reply,
    /// Until then it must have been taken up.
    pub(super) deadline: Instant,
}

/// Why there is no next step.
enum Ended {
    /// The connection is of no more use.
    Lost(String),
    /// The bus was dropped and everything that was taken is answered.
    Closed,
}

/// Sends what callers want sent, over one connection after the other.
pub(super) struct Publisher {
    checked: Arc<Checked>,
    calls: mpsc::Receiver<Call>,
    waiting: VecDeque<Call>,
    state: watch::Sender<RabbitState>,
    counters: Arc<Counters>,
    /// The bus was dropped: no further call will come.
    closing: bool,
}

impl Publisher {
    pub(super) fn new(
        checked: Arc<Checked>,
        calls: mpsc::Receiver<Call>,
        state: watch::Sender<RabbitState>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            checked,
            calls,
            waiting: VecDeque::new(),
            state,
            counters,
            closing: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.checked.options.retry_first, self.checked.options.retry_max);
        let mut failures = 0;
        // Nobody waits for a connection once the bus is dropped.
        while !(self.closing && self.waiting.is_empty()) {
            let checked = Arc::clone(&self.checked);
            let lost = match self.meanwhile(async move { Link::open(&checked).await }).await {
                Ok(link) => {
                    failures = 0;
                    self.counters.connections.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(exchange = %self.checked.options.exchange, "connected to RabbitMQ");
                    match self.publish_over(link, &mut backoff).await {
                        Ended::Closed => break,
                        Ended::Lost(reason) => reason,
                    }
                }
                Err(reason) => reason,
            };
            failures += 1;
            let pause = backoff.pause();
            // Once, then less and less often: it may be away for hours.
            if u32::is_power_of_two(failures) && lost.contains(EVENT_PARTITIONS_UNAVAILABLE) {
                let code = EVENT_PARTITIONS_UNAVAILABLE;
                tracing::error!(code, reason = %lost, failures, ?pause, "no event is published until RabbitMQ can share them out");
            } else if u32::is_power_of_two(failures) {
                tracing::warn!(reason = %lost, failures, ?pause, "no connection to RabbitMQ; it is tried again");
            }
            self.state
                .send_replace(RabbitState::Connecting { failures, reason: lost });
            self.meanwhile(sleep(pause)).await;
        }
        self.state.send_replace(RabbitState::Closed);
    }

    /// Waits for `work`; takes calls in and lets those fail that have waited long enough.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let deadline = self
                .waiting
                .front()
                .map_or_else(|| Instant::now() + LOOK, |call| call.deadline);
            tokio::select! {
                done = &mut work => return done,
                call = self.calls.recv(), if self.takes() => self.take(call),
                () = sleep_until(deadline) => self.expire(),
            }
        }
    }

    fn takes(&self) -> bool {
        !self.closing && self.waiting.len() < self.checked.options.waiting_max
    }

    fn take(&mut self, call: Option<Call>) {
        match call {
            Some(call) => self.waiting.push_back(call),
            None => self.closing = true,
        }
    }

    /// Lets calls fail that were not taken up in time.
    fn expire(&mut self) {
        let now = Instant::now();
        while self.waiting.front().is_some_and(|call| call.deadline <= now) {
            if let Some(call) = self.waiting.pop_front() {
                let reason = format!("RabbitMQ: {}", self.state.borrow().reason());
                // Whoever asked may be gone.
                call.reply.send(Err(BusError::Unavailable(reason))).ok();
            }
        }
    }

    async fn publish_over(&mut self, link: Link, backoff: &mut Backoff) -> Ended {
        let mut session = Session::new(&self.checked, &link.channel, Arc::clone(&self.counters));
        self.state.send_replace(RabbitState::Connected);
        let ended = self.serve(&link, &mut session).await;
        if session.was_of_use() {
            backoff.reset();
        }
        match &ended {
            Ended::Lost(reason) => {
                session.fail_all(&format!("RabbitMQ: {reason}"));
                // The next connection need not wait for this one's goodbye.
                tokio::spawn(link.close());
            }
            Ended::Closed => link.close().await,
        }
        ended
    }

    async fn serve(&mut self, link: &Link, session: &mut Session) -> Ended {
        let mut events = pin!(link.connection.events_listener());
        loop {
            let blocked = link.connection.status().blocked();
            self.fill(link, session, blocked).await;
            if self.closing && self.waiting.is_empty() && session.is_idle() {
                return Ended::Closed;
            }
            let deadline = self.next_deadline(session);
            let step = tokio::select! {
                confirmation = session.next_confirmation(), if session.in_flight() => session.confirmed(confirmation),
                event = events.next() => {
                    self.heard(event, session);
                    Ok(())
                }
                call = self.calls.recv(), if self.takes() => {
                    self.take(call);
                    Ok(())
                }
                () = sleep_until(deadline) => self.late(session),
            };
            if let Err(reason) = step {
                return Ended::Lost(reason);
            }
            if !link.is_open() && !session.in_flight() {
                return Ended::Lost("the connection was closed".to_owned());
            }
        }
    }

    /// Sends as much as may be in flight.
    async fn fill(&mut self, link: &Link, session: &mut Session, blocked: bool) {
        if blocked {
            return;
        }
        while session.send() && !(self.waiting.is_empty() && self.calls.is_empty()) {
            while self.takes()
                && let Ok(call) = self.calls.try_recv()
            {
                self.take(Some(call));
            }
            // A caller that is gone, as a shard that was lost, wants nothing published any more.
            let wanted: Vec<Call> = self.waiting.drain(..).filter(|call| !call.reply.is_closed()).collect();
            session.pack(link, wanted).await;
        }
    }

    fn next_deadline(&self, session: &Session) -> Instant {
        let look = Instant::now() + LOOK;
        let waiting = self.waiting.front().map(|call| call.deadline);
        [waiting, session.deadline()]
            .into_iter()
            .flatten()
            .fold(look, Instant::min)
    }

    /// A deadline has passed.
    fn late(&mut self, session: &mut Session) -> Result<(), String> {
        self.expire();
        session.late(&format!("RabbitMQ: {}", self.state.borrow().reason()))
    }

    fn heard(&self, event: Option<Event>, session: &mut Session) {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(%reason, "RabbitMQ blocks publishers");
                session.blocked();
                self.state.send_replace(RabbitState::Blocked { reason });
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("RabbitMQ takes messages again");
                session.unblocked();
                self.state.send_replace(RabbitState::Connected);
            }
            Some(Event::Error(error)) => tracing::debug!(%error, "RabbitMQ"),
            // Whether the link is still open is looked at anyway.
            Some(_) | None => {}
        }
    }
}
