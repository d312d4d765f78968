//! Who may run when more attempts are ready than may run at once: the most urgent first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How urgent an attempt is; a greater one goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Priority of its execution, 0–9.
    pub priority: u8,
    /// How many nodes the longest way on from its node has: what takes longest begins first.
    pub criticality: u32,
    /// How many nodes the longest way to its node has: what is further on ends first.
    pub depth: u32,
}

/// A number of permits, given by rank, within a rank in order of arrival.
#[derive(Debug, Default)]
pub struct Permits {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    given: usize,
    waiting: BinaryHeap<Waiting>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    rank: Rank,
    arrival: Reverse<u64>,
    /// It is given a permit when fewer than so many are given.
    most: usize,
    give: oneshot::Sender<Permit>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.rank, self.arrival).cmp(&(other.rank, other.arrival))
    }
}

/// Leave to run; it goes to the next one when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// So many permits.
    #[must_use]
    pub fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            most: permits,
            state: Mutex::default(),
        })
    }

    /// A permit, if one is free and nobody waits for it.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.try_acquire_within(self.most)
    }

    /// Waits for a permit. Cancel-safe: who no longer waits is passed over.
    pub async fn acquire(self: &Arc<Self>, rank: Rank) -> Permit {
        self.acquire_within(self.most, rank).await
    }

    /// As [`Permits::try_acquire`], where whoever asks says how many there are.
    pub(super) fn try_acquire_within(self: &Arc<Self>, most: usize) -> Option<Permit> {
        let is_given = self.state.lock().give(most);
        is_given.then(|| Permit(Arc::clone(self)))
    }

    /// As [`Permits::acquire`], where whoever asks says how many there are.
    pub(super) async fn acquire_within(self: &Arc<Self>, most: usize, rank: Rank) -> Permit {
        let given = {
            let mut state = self.state.lock();
            if state.give(most) {
                return Permit(Arc::clone(self));
            }
            let (give, given) = oneshot::channel();
            state.arrivals += 1;
            let arrival = Reverse(state.arrivals);
            state.waiting.push(Waiting {
                rank,
                arrival,
                most,
                give,
            });
            given
        };
        given
            .await
            .expect("whoever waits is in the heap until it is given a permit")
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}

impl State {
    /// Gives a permit to whoever asks now.
    fn give(&mut self, most: usize) -> bool {
        while self.waiting.peek().is_some_and(|first| first.give.is_closed()) {
            self.waiting.pop();
        }
        let free = self.waiting.is_empty() && self.given < most;
        self.given += usize::from(free);
        free
    }

    /// Who has the next permit, if one is free for the most urgent of those who wait. One that was given up has nobody to
    /// receive.
    fn next(&mut self) -> Option<Waiting> {
        while let Some(first) = self.waiting.peek() {
            if first.give.is_closed() {
                self.waiting.pop();
            } else if self.given < first.most {
                self.given += 1;
                return self.waiting.pop();
            } else {
                return None;
            }
        }
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut next = {
            let mut state = self.0.state.lock();
            state.given -= 1;
            state.next()
        };
        while let Some(Waiting { give, .. }) = next {
            // If it was given up this very moment, the permit comes back and is dropped again, outside the lock.
            drop(give.send(Self(Arc::clone(&self.0))));
            next = self.0.state.lock().next();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rank(priority: u8, criticality: u32, depth: u32) -> Rank {
        Rank {
            priority,
            criticality,
            depth,
        }
    }

    #[tokio::test]
    async fn the_most_urgent_goes_first_and_equals_in_order() {
        let permits = Permits::new(1);
        let first = permits.try_acquire().unwrap();
        assert!(permits.try_acquire().is_none());
        let order = Arc::new(Mutex::new(Vec::new()));
        let ranks = [
            rank(5, 1, 1),
            rank(5, 9, 1),
            rank(9, 1, 1),
            rank(5, 9, 4),
            rank(5, 1, 1),
        ];
        let mut waiters = Vec::new();
        for (number, rank) in ranks.into_iter().enumerate() {
            let (mine, order) = (Arc::clone(&permits), Arc::clone(&order));
            waiters.push(tokio::spawn(async move {
                let permit = mine.acquire(rank).await;
                order.lock().push(number);
                drop(permit);
            }));
            while permits.waiting() <= number {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock(), [2, 3, 1, 0, 4]);
    }

    #[tokio::test]
    async fn who_gives_up_is_passed_over_and_no_permit_is_lost() {
        let permits = Permits::new(1);
        let first = permits.try_acquire().unwrap();
        let mut gave_up = Box::pin(permits.acquire(rank(9, 0, 0)));
        assert!(futures::poll!(gave_up.as_mut()).is_pending());
        let mut patient = Box::pin(permits.acquire(rank(0, 0, 0)));
        assert!(futures::poll!(patient.as_mut()).is_pending());
        drop(gave_up);
        drop(first);
        drop(patient.await);
        let mut late = Box::pin(permits.acquire(rank(0, 0, 0)));
        assert!(futures::poll!(late.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn a_permit_that_was_sent_to_nobody_comes_back() {
        let permits = Permits::new(1);
        let first = permits.try_acquire().unwrap();
        let mut waiting = Box::pin(permits.acquire(rank(5, 0, 0)));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(first);
        // It is on its way, and whoever waited is gone before it arrives.
        drop(waiting);
        assert!(permits.try_acquire().is_some());
    }
}
