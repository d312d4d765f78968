//! Slots of keys that several members count together: whoever has a slot of this engine asks the store for one, too.
//!
//! A slot of the store lasts a little longer than a lease and is renewed while it is held. So those of a member that died are free when
//! its shards may have been taken over, and not before. While the store does not answer, nobody gets one: an attempt waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use troupe_ports::{Ask, Asked, Hold};

use super::permits::Rank;
use super::slots::{Slot, SlotWanted};
use crate::options::EngineOptions;
use crate::shared_limits::SharedLimits;

/// Pauses before the store is asked again: the first, the longest of whoever is next, and of all others.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const ASK_AGAIN_NEXT: Duration = Duration::from_millis(40);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(160);
/// Renewals a lease.
const RENEWED_A_LEASE: u32 = 5;
/// A slot that the store no longer knew when it was to be renewed.
const LAPSED: u64 = 0;

/// The slots of this engine that the store counts.
#[derive(Debug)]
pub(crate) struct SharedSlots {
    limits: Arc<SharedLimits>,
    owner: String,
    ttl: Duration,
    renewed_every: Duration,
    opened: Instant,
    numbers: AtomicU64,
    held: Mutex<HashMap<u64, Arc<Held>>>,
    /// Slots that are being given back.
    returning: AtomicU64,
}

/// A slot of the store.
#[derive(Debug)]
struct Held {
    key: Vec<u8>,
    ticket: Vec<u8>,
    /// Until when nobody else has it, in milliseconds since this was opened; or [`LAPSED`].
    until_ms: AtomicU64,
}

/// A slot of this engine and one of the store, or the wish for it. Dropped, it gives back the store's and then the engine's: whoever has
/// that next finds the other one free, unless another member's turn has come.
#[derive(Debug)]
pub(crate) struct SharedSlot {
    slots: Arc<SharedSlots>,
    number: u64,
    held: Arc<Held>,
    local: Option<Slot>,
    runtime: Handle,
}

impl SharedSlots {
    pub(super) fn new(limits: Arc<SharedLimits>, options: &EngineOptions) -> Self {
        let renewed_every = options.lease / RENEWED_A_LEASE;
        Self {
            limits,
            owner: options.owner.clone(),
            // Shards of one that died may have been renewed after its slots were.
            ttl: options.lease + renewed_every + options.lease / 20,
            renewed_every,
            opened: Instant::now(),
            numbers: AtomicU64::new(0),
            held: Mutex::default(),
            returning: AtomicU64::new(0),
        }
    }

    /// Whether the store may still count something here.
    pub(crate) fn is_counted(&self) -> bool {
        // Whoever is no longer in the one is in the other.
        !self.held.lock().is_empty() || self.returning.load(Ordering::Acquire) > 0
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Until when a slot is this engine's that was taken or renewed by a call that began at `begun_ms`. The margin covers what two clocks
    /// may differ by.
    fn until_ms(&self, begun_ms: u64) -> u64 {
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        begun_ms + ttl_ms * 9 / 10
    }

    /// Waits for a slot of the store, which `local` is given along to. While it waits it keeps what `waits` makes. Cancel-safe: who no
    /// longer waits leaves nothing behind.
    pub(super) async fn acquire<W>(
        self: &Arc<Self>,
        wanted: &SlotWanted,
        rank: Rank,
        local: Slot,
        waits: impl Fn() -> W,
    ) -> SharedSlot {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let slot = SharedSlot {
            slots: Arc::clone(self),
            number,
            held: Arc::new(Held {
                key: wanted.key.name(),
                ticket: format!("{}/{number}", self.owner).into_bytes(),
                until_ms: AtomicU64::new(LAPSED),
            }),
            local: Some(local),
            runtime: Handle::current(),
        };
        let held = Arc::clone(&slot.held);
        let ask = Ask {
            ticket: &held.ticket,
            limit: wanted.limit as u64,
            priority: rank.priority,
            since: None,
            hold: Hold::For(self.ttl),
        };
        let (mut waiting, mut pause) = (None, ASK_AGAIN);
        loop {
            let begun_ms = self.now_ms();
            let asked = self.limits.call(self.limits.store.acquire(&held.key, &ask)).await;
            let pause_max = match asked {
                Ok(Asked::Granted) => {
                    held.until_ms.store(self.until_ms(begun_ms), Ordering::Release);
                    self.held.lock().insert(number, held);
                    return slot;
                }
                Ok(Asked::Refused { ahead: 0 }) => ASK_AGAIN_NEXT,
                Ok(Asked::Refused { .. }) | Err(_) => ASK_AGAIN_MAX,
            };
            waiting.get_or_insert_with(&waits);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// Makes every slot last, in one go.
    async fn renew(&self) {
        let all: Vec<(u64, Arc<Held>)> = {
            let held = self.held.lock();
            held.iter().map(|(number, held)| (*number, Arc::clone(held))).collect()
        };
        if all.is_empty() {
            return;
        }
        let tickets: Vec<(&[u8], &[u8])> = all.iter().map(|(_, held)| (&held.key[..], &held.ticket[..])).collect();
        let begun_ms = self.now_ms();
        let renewal = self.limits.call(self.limits.store.renew(&tickets, self.ttl));
        let Ok(Ok(renewed)) = tokio::time::timeout(self.ttl, renewal).await else {
            // It was told of; they are renewed in a moment.
            return;
        };
        for ((number, held), renewed) in all.iter().zip(renewed) {
            if !renewed {
                self.hold_again(*number, held).await;
            } else if held.until_ms.load(Ordering::Acquire) != LAPSED {
                held.until_ms.store(self.until_ms(begun_ms), Ordering::Release);
            }
        }
    }

    /// The store forgot a slot: it could not be renewed in time, or what the store knew was lost. What runs goes on, as it does while the
    /// lease of its shard cannot be renewed, and is counted again so that nobody else comes in beside it; what has not begun asks anew.
    async fn hold_again(&self, number: u64, held: &Held) {
        let is_held = || self.held.lock().contains_key(&number);
        if !is_held() {
            return;
        }
        held.until_ms.store(LAPSED, Ordering::Release);
        tracing::warn!(key = %held.key.escape_ascii(), "the store no longer knew a slot of a key: another attempt may have had it meanwhile");
        let hold = self.limits.store.hold(&held.key, &held.ticket, Hold::For(self.ttl));
        // The next renewal tries again.
        let is_counted = self.limits.call(hold).await.is_ok();
        if is_counted && !is_held() {
            // It was given back before it was taken.
            let release = self.limits.store.release(&held.key, &held.ticket, None);
            self.limits.call(release).await.ok();
        }
    }

    /// Gives a slot of the store back. If that cannot be said it ends by itself.
    async fn give_back(&self, held: &Held, local: Option<Slot>) {
        let (mut local, until, mut pause) = (local, Instant::now() + self.ttl, ASK_AGAIN);
        while !self.limits.has_crashed() {
            let release = self.limits.store.release(&held.key, &held.ticket, None);
            if self.limits.call(release).await.is_ok() || Instant::now() > until {
                return;
            }
            drop(local.take());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_MAX);
        }
    }
}

impl SharedSlot {
    /// Whether nobody else can have it.
    pub(super) fn holds(&self) -> bool {
        self.slots.now_ms() < self.held.until_ms.load(Ordering::Acquire)
    }
}

impl Drop for SharedSlot {
    fn drop(&mut self) {
        let (slots, held, local) = (Arc::clone(&self.slots), Arc::clone(&self.held), self.local.take());
        slots.returning.fetch_add(1, Ordering::AcqRel);
        slots.held.lock().remove(&self.number);
        self.runtime.spawn(async move {
            slots.give_back(&held, local).await;
            slots.returning.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// Renews slots until the engine is gone.
pub(crate) async fn renew(slots: Weak<SharedSlots>) {
    while let Some(slots) = slots.upgrade() {
        if slots.limits.has_crashed() {
            return;
        }
        slots.renew().await;
        let pause = slots.renewed_every;
        drop(slots);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::poll;
    use troupe_backends::InProcessSemaphores;
    use troupe_ports::Semaphores;

    use super::super::slots::Slots;
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    /// What one member has of a key that all of them count.
    struct Member {
        shared: Arc<SharedSlots>,
        slots: Arc<Slots>,
    }

    impl Member {
        fn new(name: &str, store: &Arc<InProcessSemaphores>) -> Self {
            let options = EngineOptions {
                owner: name.to_owned(),
                lease: LEASE,
                ..EngineOptions::default()
            };
            let limits = Arc::new(SharedLimits::new(Arc::clone(store) as Arc<dyn Semaphores>));
            Self {
                shared: Arc::new(SharedSlots::new(limits, &options)),
                slots: Arc::default(),
            }
        }

        async fn slot(&self) -> SharedSlot {
            let wanted = SlotWanted::anywhere("k", 1);
            let local = self.slots.acquire(&wanted, Rank::default()).await;
            self.shared.acquire(&wanted, Rank::default(), local, || ()).await
        }
    }

    /// Sooner than anything ends by itself.
    async fn until_nobody_counts(members: &[&Member], store: &InProcessSemaphores) {
        let begun = Instant::now();
        while store.keys() > 0 || members.iter().any(|member| member.shared.is_counted()) {
            assert!(begun.elapsed() < LEASE, "something is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_slot_is_kept_by_renewals_and_goes_to_the_next_when_it_is_dropped() {
        let store = Arc::default();
        let (a, b) = (Member::new("a", &store), Member::new("b", &store));
        let renewals = tokio::spawn(renew(Arc::downgrade(&a.shared)));
        let first = a.slot().await;
        let next = tokio::time::timeout(LEASE * 2, b.slot()).await;
        assert!(next.is_err(), "another one has it");
        assert!(first.holds());
        let mut next = Box::pin(b.slot());
        assert!(poll!(next.as_mut()).is_pending());
        drop(first);
        let next = tokio::time::timeout(LEASE, next).await.expect("it is given back");
        // Whoever waits and gives up, and whoever has it and lets it go.
        let mut late = Box::pin(a.slot());
        assert!(poll!(late.as_mut()).is_pending());
        drop((late, next));
        until_nobody_counts(&[&a, &b], &store).await;
        drop(a);
        renewals.await.unwrap();
    }

    #[tokio::test]
    async fn a_slot_that_was_not_renewed_is_lost_and_counts_again_while_its_attempt_runs() {
        let store = Arc::default();
        let (a, b) = (Member::new("a", &store), Member::new("b", &store));
        let begun = Instant::now();
        let lost = a.slot().await;
        let other = b.slot().await;
        assert!(begun.elapsed() >= LEASE, "it is free before a lease is over");
        assert!(!lost.holds(), "another one has it");
        a.shared.renew().await;
        assert!(!lost.holds(), "what has not begun takes another one");
        drop(other);
        let third = tokio::time::timeout(LEASE / 2, b.slot()).await;
        assert!(third.is_err(), "what runs counts");
        drop(lost);
        drop(b.slot().await);
        until_nobody_counts(&[&a, &b], &store).await;
    }

    #[tokio::test]
    async fn one_that_crashed_says_nothing_more() {
        let store = Arc::default();
        let (a, b) = (Member::new("a", &store), Member::new("b", &store));
        let slot = a.slot().await;
        a.shared.limits.crash();
        drop(slot);
        let (begun, next) = (Instant::now(), b.slot().await);
        assert!(begun.elapsed() >= LEASE, "nobody gave it back");
        assert!(next.holds());
    }
}
