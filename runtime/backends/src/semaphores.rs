//! Semaphores inside one process, for engines that share a store there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use troupe_core::{Epoch, ShardId, Timestamp};
use troupe_ports::semaphores::{BARRED_FOR, LINE_PATIENCE, PRIORITY_MAX};
use troupe_ports::{Ask, Asked, Clock, Hold, Semaphores, StoreError, SystemClock};

/// Semaphores of one process.
#[derive(Debug, Default)]
pub struct InProcessSemaphores(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    keys: BTreeMap<Vec<u8>, Key>,
    notes: BTreeMap<(ShardId, Vec<u8>), Vec<u8>>,
    /// The latest epoch that said anything about the notes of a shard.
    spoke: BTreeMap<ShardId, Epoch>,
}

#[derive(Debug, Default)]
struct Key {
    held: BTreeMap<Vec<u8>, End>,
    /// In order; the place of each stands in `places` too.
    line: BTreeMap<Place, Waiting>,
    places: BTreeMap<Vec<u8>, Place>,
    /// Tickets to the first epoch that is not barred, and until when that is remembered.
    barred: BTreeMap<Vec<u8>, (Epoch, Instant)>,
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
        self.barred.retain(|_, (_, until)| *until > now);
    }

    fn is_barred(&self, ticket: &[u8], hold: Hold) -> bool {
        let below = self.barred.get(ticket).map(|(below, _)| *below);
        matches!(hold, Hold::Under(epoch) if below.is_some_and(|below| epoch < below))
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
        if self.is_barred(ask.ticket, ask.hold) {
            return Asked::Refused { ahead: 0 };
        }
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

    fn is_wanted(&self) -> bool {
        !self.held.is_empty() || !self.line.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.is_wanted() && self.barred.is_empty()
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
        all.keys.values().filter(|key| key.is_wanted()).count()
    }

    /// How many notes there are, of all shards.
    #[must_use]
    pub fn notes(&self) -> usize {
        self.0.lock().notes.len()
    }

    /// Says something about the notes of a shard.
    fn speak<T>(&self, shard: ShardId, under: Epoch, act: impl FnOnce(&mut Keys) -> T) -> Result<T, StoreError> {
        let mut all = self.0.lock();
        let spoke = all.spoke.entry(shard).or_insert(under);
        if *spoke > under {
            let (owner, ours) = (*spoke, under);
            return Err(StoreError::Fenced { shard, owner, ours });
        }
        *spoke = under;
        Ok(act(&mut all))
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
        self.with(key, |key, now| {
            if !key.is_barred(ticket, hold) {
                key.take(ticket, End::of(hold, now));
            }
        });
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

    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError> {
        self.with(key, |key, now| {
            let known = key.barred.entry(ticket.to_vec()).or_insert((below, now));
            *known = (below.max(known.0), now + BARRED_FOR);
        });
        Ok(())
    }

    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.speak(shard, under, |all| {
            all.notes.insert((shard, ticket.to_vec()), key.to_vec());
        })
    }

    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError> {
        self.speak(shard, under, |all| {
            all.notes.remove(&(shard, ticket.to_vec()));
        })
    }

    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.speak(shard, under, |all| {
            let of_shard = all.notes.iter().filter(|((of, _), _)| *of == shard);
            of_shard
                .map(|((_, ticket), key)| (ticket.clone(), key.clone()))
                .collect()
        })
    }
}
