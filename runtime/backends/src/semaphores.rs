//! Semaphores inside one process, for engines that share a store there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use troupe_core::{Epoch, ShardId, Timestamp};
use troupe_ports::semaphores::{LINE_PATIENCE, PRIORITY_MAX};
use troupe_ports::{Ask, Asked, Clock, Hold, Semaphores, StoreError, SystemClock};

/// Semaphores of one process.
#[derive(Debug, Default)]
pub struct InProcessSemaphores(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    keys: BTreeMap<Vec<u8>, Key>,
    notes: BTreeMap<(ShardId, Vec<u8>), Vec<u8>>,
}

#[derive(Debug, Default)]
struct Key {
    held: BTreeMap<Vec<u8>, End>,
    /// In order; the place of each stands in `places` too.
    line: BTreeMap<Place, Waiting>,
    places: BTreeMap<Vec<u8>, Place>,
}

/// When a hold ends; a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(Instant),
    /// When it is given back.
    Under(Epoch),
}

/// The least urgent is the last.
type Place = (u8, Timestamp, Vec<u8>);

#[derive(Debug)]
struct Waiting {
    limit: u64,
    until: Instant,
}

impl End {
    fn of(hold: Hold, now: Instant) -> Self {
        match hold {
            Hold::For(ttl) => Self::At(now + ttl),
            Hold::Under(epoch) => Self::Under(epoch),
        }
    }
}

impl Key {
    fn sweep(&mut self, now: Instant) {
        self.held.retain(|_, end| *end > End::At(now));
        self.line.retain(|_, waiting| waiting.until > now);
        self.places.retain(|_, place| self.line.contains_key(place));
    }

    fn leave_line(&mut self, ticket: &[u8]) {
        if let Some(place) = self.places.remove(ticket) {
            self.line.remove(&place);
        }
    }

    fn take(&mut self, ticket: &[u8], end: End) {
        self.leave_line(ticket);
        let held = self.held.entry(ticket.to_vec()).or_insert(end);
        *held = end.max(*held);
    }

    fn ask(&mut self, ask: &Ask<'_>, now: Instant) -> Asked {
        let end = End::of(ask.hold, now);
        if self.held.contains_key(ask.ticket) {
            self.take(ask.ticket, end);
            return Asked::Granted;
        }
        let place = self.places.entry(ask.ticket.to_vec()).or_insert_with(|| {
            let urgency = PRIORITY_MAX.saturating_sub(ask.priority);
            let since = ask.since.unwrap_or_else(|| SystemClock.now());
            (urgency, since, ask.ticket.to_vec())
        });
        let waiting = Waiting {
            limit: ask.limit,
            until: now + LINE_PATIENCE,
        };
        let place = place.clone();
        self.line.insert(place.clone(), waiting);
        let held = self.held.len() as u64;
        let ahead = self.line.range(..place).map(|(_, waiting)| waiting.limit);
        // Whoever stands ahead would come in all the same.
        let passes = ahead.clone().zip(1..).all(|(limit, place)| held + place < limit);
        let ahead = ahead.count() as u64;
        if passes && held + ahead < ask.limit {
            self.take(ask.ticket, end);
            return Asked::Granted;
        }
        Asked::Refused { ahead }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.line.is_empty()
    }
}

impl InProcessSemaphores {
    /// How many keys are held or asked for.
    #[must_use]
    pub fn keys(&self) -> usize {
        let mut all = self.0.lock();
        let now = Instant::now();
        all.keys.values_mut().for_each(|key| key.sweep(now));
        all.keys.retain(|_, key| !key.is_empty());
        all.keys.len()
    }

    fn with<T>(&self, key: &[u8], act: impl FnOnce(&mut Key, Instant) -> T) -> T {
        let mut all = self.0.lock();
        let now = Instant::now();
        let found = all.keys.entry(key.to_vec()).or_default();
        found.sweep(now);
        let came_of_it = act(found, now);
        if found.is_empty() {
            all.keys.remove(key);
        }
        came_of_it
    }
}

#[async_trait]
impl Semaphores for InProcessSemaphores {
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError> {
        Ok(self.with(key, |key, now| key.ask(ask, now)))
    }

    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError> {
        self.with(key, |key, now| key.take(ticket, End::of(hold, now)));
        Ok(())
    }

    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError> {
        let renew = |(key, ticket): &(&[u8], &[u8])| {
            self.with(key, |key, now| match key.held.get_mut(*ticket) {
                Some(end) => {
                    *end = End::At(now + ttl).max(*end);
                    true
                }
                None => false,
            })
        };
        Ok(held.iter().map(renew).collect())
    }

    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError> {
        Ok(self.with(key, |key, _| {
            let is_later = |held: &End| under.is_some_and(|under| *held > End::Under(under));
            if key.held.get(ticket).is_some_and(is_later) {
                return false;
            }
            key.held.remove(ticket);
            key.leave_line(ticket);
            true
        }))
    }

    async fn note(&self, shard: ShardId, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.0.lock().notes.insert((shard, ticket.to_vec()), key.to_vec());
        Ok(())
    }

    async fn strike(&self, shard: ShardId, ticket: &[u8]) -> Result<(), StoreError> {
        self.0.lock().notes.remove(&(shard, ticket.to_vec()));
        Ok(())
    }

    async fn noted(&self, shard: ShardId) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let all = self.0.lock();
        let of_shard = all.notes.iter().filter(|((of, _), _)| *of == shard);
        Ok(of_shard
            .map(|((_, ticket), key)| (ticket.clone(), key.clone()))
            .collect())
    }
}
