//! The store on Redis against the suite that every backend passes, on the shared server.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::redis::{Prefix, shared};
use troupe_core::Epoch;
use troupe_ports::conformance::Fixture;
use troupe_ports::{Ask, Asked, Hold, Semaphores};

troupe_ports::state_store_conformance!(Prefix::new());
troupe_ports::membership_conformance!(Prefix::new());
troupe_ports::semaphores_conformance!(Prefix::new());

/// Keys of semaphores under a prefix.
async fn keys_of_semaphores(prefix: &Prefix) -> Vec<Vec<u8>> {
    let client = redis::Client::open(shared()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut keys = redis::cmd("KEYS");
    keys.arg(format!("{{{}:q*", prefix.name));
    keys.query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_nobody_holds_or_asks_for_takes_no_place() {
    let prefix = Prefix::new();
    let store: Arc<dyn Semaphores> = prefix.open().await;
    let ask = |ticket, hold| Ask {
        ticket,
        limit: 1,
        priority: 5,
        since: None,
        hold,
    };
    let (short, ever) = (Hold::For(Duration::from_secs(2)), Hold::Under(Epoch(1)));
    for (key, hold) in [(b"short", short), (b"ever1", ever)] {
        assert_eq!(store.acquire(key, &ask(b"a", hold)).await.unwrap(), Asked::Granted);
        assert_ne!(store.acquire(key, &ask(b"b", hold)).await.unwrap(), Asked::Granted);
    }
    assert!(store.release(b"ever1", b"a", Some(Epoch(1))).await.unwrap());
    // Nobody releases or asks for the other one any more, nor do those who waited.
    let begun = Instant::now();
    while !keys_of_semaphores(&prefix).await.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "keys are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bar_is_forgotten_when_its_time_is_over_although_others_come() {
    let prefix = Prefix::new();
    let store: Arc<dyn Semaphores> = prefix.open().await;
    let bar = async |ticket: &[u8]| store.bar(b"key", ticket, Epoch(2)).await.unwrap();
    bar(b"a").await;
    bar(b"b").await;
    let keys = keys_of_semaphores(&prefix).await;
    let key = |letter| {
        keys.iter()
            .find(|key| key.ends_with(&[&b"}"[..], letter, b"key"].concat()))
    };
    let (barred, remembered) = (key(b"b").unwrap(), key(b"r").unwrap());
    let client = redis::Client::open(shared()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut a_day_passes = redis::cmd("ZADD");
    a_day_passes.arg(remembered).arg("XX").arg(1).arg(b"a");
    a_day_passes.exec_async(&mut connection).await.unwrap();
    bar(b"c").await;
    let mut kept = redis::cmd("HKEYS");
    let mut kept: Vec<String> = kept.arg(barred).query_async(&mut connection).await.unwrap();
    kept.sort_unstable();
    assert_eq!(kept, ["b", "c"]);
    let mut count = redis::cmd("ZCARD");
    let count: u64 = count.arg(remembered).query_async(&mut connection).await.unwrap();
    assert_eq!(count, 2);
    let former = |ticket| Ask {
        ticket,
        limit: 9,
        priority: 5,
        since: None,
        hold: Hold::Under(Epoch(1)),
    };
    assert_eq!(store.acquire(b"key", &former(b"a")).await.unwrap(), Asked::Granted);
    assert_ne!(store.acquire(b"key", &former(b"b")).await.unwrap(), Asked::Granted);
}
