//! Clauses of [`StateStore`] about outputs that may be reused.

use troupe_core::{Json, Timestamp};

use super::Fixture;
use crate::state::{CacheLimits, StateStore};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const MANY: CacheLimits = CacheLimits {
    entries: 1_000,
    bytes: 1 << 30,
};
/// Long enough for a use to be noted.
const HOUR: i64 = 3_600_000;

fn output(n: u8) -> Json {
    Json::of(&format!("{n:0100}").into())
}

async fn put(store: &dyn StateStore, key: u8, now: i64, ttl: i64, most: CacheLimits) {
    let (now, until) = (Timestamp(now), Timestamp(now + ttl));
    let put = store.cache_output([key; 32], output(key), now, until, most);
    put.await.expect("an output can be kept");
}

async fn found(store: &dyn StateStore, keys: &[u8], now: i64) -> Vec<bool> {
    let mut all = Vec::new();
    for key in keys {
        let found = store.cached_output([*key; 32], Timestamp(now)).await;
        let found = found.expect("an output can be looked up");
        assert!(found.as_ref().is_none_or(|found| *found == output(*key)));
        all.push(found.is_some());
    }
    all
}

/// At its end it is gone; a later one of the same key replaces it.
pub async fn an_output_is_reused_until_it_expires(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    assert_eq!(found(&*store, &[1], 1).await, [false]);
    put(&*store, 1, 100, 50, MANY).await;
    assert_eq!(found(&*store, &[1, 2], 149).await, [true, false]);
    assert_eq!(found(&*store, &[1], 150).await, [false]);
    put(&*store, 1, 160, 50, MANY).await;
    assert_eq!(found(&*store, &[1], 209).await, [true]);
    let replaced = store.cache_output([1; 32], output(9), Timestamp(170), Timestamp(500), MANY);
    replaced.await.expect("an output can be kept");
    let read = store.cached_output([1; 32], Timestamp(300)).await;
    assert_eq!(read.expect("an output can be looked up"), Some(output(9)));
}

/// Beyond the number or the bytes; the one that comes stays, unless it alone is too large.
pub async fn the_output_that_was_not_used_for_longest_goes_first(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    for (key, now) in [(1, 1), (2, 2), (3, 3)] {
        put(&*store, key, now, 100 * HOUR, MANY).await;
    }
    assert_eq!(found(&*store, &[1], HOUR).await, [true]);
    let three = CacheLimits { entries: 3, ..MANY };
    put(&*store, 4, 2 * HOUR, 100 * HOUR, three).await;
    assert_eq!(found(&*store, &[1, 2, 3, 4], 2 * HOUR).await, [true, false, true, true]);
    let bytes = 2 * output(0).bytes() as u64;
    put(&*store, 5, 5 * HOUR, 100 * HOUR, CacheLimits { bytes, ..MANY }).await;
    let left = found(&*store, &[1, 2, 3, 4, 5], 5 * HOUR).await;
    assert!(left[4] && left.iter().filter(|is| **is).count() == 2, "{left:?}");
    put(&*store, 6, 6 * HOUR, 100 * HOUR, CacheLimits { bytes: 50, ..MANY }).await;
    assert_eq!(found(&*store, &[1, 2, 3, 4, 5, 6], 6 * HOUR).await, [false; 6]);
}

/// A restart forgets nothing.
pub async fn outputs_for_reuse_are_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    put(&*store, 1, 100, HOUR, MANY).await;
    drop(store);
    let store = fixture.open().await;
    assert_eq!(found(&*store, &[1], 200).await, [true]);
}
