//! Clauses of [`Semaphores`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use troupe_core::{Epoch, ShardId, Timestamp};

use super::Fixture;
use crate::semaphores::{Ask, Asked, Hold, LINE_PATIENCE, Semaphores};
use crate::state::StoreError;

type SemaphoresFixture<'a> = &'a dyn Fixture<dyn Semaphores>;

const LONG: Hold = Hold::For(Duration::from_secs(60));
const SHORT: Duration = Duration::from_millis(500);
/// How long a clause waits for the store's clock before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Braces, a zero and a byte beyond text: a key may be anything.
const KEY: &[u8] = b"w}\0{a\xff";

fn ask(ticket: &str, limit: u64) -> Ask<'_> {
    Ask {
        ticket: ticket.as_bytes(),
        limit,
        priority: 5,
        since: None,
        hold: LONG,
    }
}

async fn asked(store: &dyn Semaphores, ask: &Ask<'_>) -> Asked {
    store.acquire(KEY, ask).await.expect("the store can be asked")
}

async fn is_granted(store: &dyn Semaphores, ask: &Ask<'_>) -> bool {
    asked(store, ask).await == Asked::Granted
}

async fn release(store: &dyn Semaphores, ticket: &str) {
    let released = store.release(KEY, ticket.as_bytes(), None).await;
    assert!(released.expect("a ticket can be given back"));
}

/// As many as the limit allows hold a key; one that holds it may ask again; the next is let in when one gives it back. Another
/// key has other holders.
pub async fn so_many_hold_a_key_and_the_next_when_one_gives_it_back(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let (a, b, c) = (ask("a", 2), ask("b", 2), ask("c", 2));
    assert!(is_granted(&*store, &a).await && is_granted(&*store, &b).await);
    assert_eq!(asked(&*store, &c).await, Asked::Refused { ahead: 0 });
    assert!(is_granted(&*store, &a).await, "it holds the key already");
    assert_eq!(asked(&*store, &c).await, Asked::Refused { ahead: 0 });
    let other = store.acquire(b"another", &c).await.expect("the store can be asked");
    assert_eq!(other, Asked::Granted);
    release(&*store, "a").await;
    // It gave nothing back that it had not.
    release(&*store, "a").await;
    release(&*store, "stranger").await;
    assert!(is_granted(&*store, &c).await);
    assert!(!is_granted(&*store, &a).await);
    // Whoever waits may give up.
    release(&*store, "a").await;
    release(&*store, "b").await;
    assert!(is_granted(&*store, &ask("d", 2)).await, "nobody waits any more");
}

/// However many ask at once, never more than the limit hold the key, and everybody is served.
pub async fn racing_askers_never_hold_more_than_the_limit(fixture: SemaphoresFixture<'_>) {
    const LIMIT: u64 = 3;
    let store = fixture.open().await;
    let inside = Arc::new(AtomicU64::new(0));
    let askers = (0..12).map(|number| {
        let (store, inside) = (Arc::clone(&store), Arc::clone(&inside));
        tokio::spawn(async move {
            let begun = Instant::now();
            for round in 0..8 {
                let ticket = format!("{number} {round}");
                while !is_granted(&*store, &ask(&ticket, LIMIT)).await {
                    assert!(begun.elapsed() < PATIENCE, "it is never served");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(now <= LIMIT, "{now} hold the key");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                release(&*store, &ticket).await;
            }
        })
    });
    for asker in askers.collect::<Vec<_>>() {
        asker.await.expect("nobody sees more than the limit");
    }
}

/// Each counts all holders against its own limit; but one that is kept out by a lower limit is not passed by those behind it.
pub async fn each_asks_under_its_own_limit_and_nobody_passes_who_waits(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    assert!(is_granted(&*store, &ask("a", 1)).await);
    assert!(is_granted(&*store, &ask("b", 3)).await);
    assert!(!is_granted(&*store, &ask("alone", 1)).await);
    assert_eq!(asked(&*store, &ask("wide", 9)).await, Asked::Refused { ahead: 1 });
    release(&*store, "a").await;
    assert!(!is_granted(&*store, &ask("alone", 1)).await);
    release(&*store, "b").await;
    assert!(!is_granted(&*store, &ask("wide", 9)).await, "it would pass another one");
    assert!(is_granted(&*store, &ask("alone", 1)).await);
    assert!(is_granted(&*store, &ask("wide", 9)).await);
    release(&*store, "alone").await;
    release(&*store, "wide").await;
    // Where there is room for both, it does not matter who asks first.
    assert!(is_granted(&*store, &ask("holder", 1)).await);
    let (first, second) = (ask("first", 2), ask("second", 2));
    assert!(is_granted(&*store, &ask("another", 2)).await);
    assert!(!is_granted(&*store, &first).await && !is_granted(&*store, &second).await);
    release(&*store, "holder").await;
    assert!(!is_granted(&*store, &second).await, "there is room for one");
    release(&*store, "another").await;
    assert!(is_granted(&*store, &second).await && is_granted(&*store, &first).await);
}

/// By priority, then by the time given, then in the order in which they began to ask.
pub async fn the_more_urgent_goes_first_then_the_older_then_the_first_to_ask(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    assert!(is_granted(&*store, &ask("holder", 1)).await);
    let since = |ticket, priority, since| Ask {
        priority,
        since: Some(Timestamp(since)),
        ..ask(ticket, 1)
    };
    let waiting = [
        since("second", 5, 7_000),
        since("first", 5, 3_000),
        since("urgent", 9, 9_000),
        since("low", 0, 1),
    ];
    for ask in &waiting {
        assert!(!is_granted(&*store, ask).await);
    }
    // These two say nothing of when they began, so they began now; both are younger than what stands above.
    let late = ask("late", 1);
    assert!(!is_granted(&*store, &late).await);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let later = ask("a later one", 1);
    assert!(!is_granted(&*store, &later).await);
    let mut all = waiting.to_vec();
    all.extend([late, later]);
    let mut last = "holder".to_owned();
    let mut order = Vec::new();
    while !all.is_empty() {
        release(&*store, &last).await;
        // The first of the line comes to ask last.
        let mut granted = Vec::new();
        for (place, ask) in all.iter().enumerate() {
            if is_granted(&*store, ask).await {
                granted.push(place);
            }
        }
        assert_eq!(granted.len(), 1, "after {order:?}");
        last = String::from_utf8_lossy(all.remove(granted[0]).ticket).into_owned();
        order.push(last.clone());
    }
    assert_eq!(order, ["urgent", "first", "second", "late", "a later one", "low"]);
}

/// Who does not ask again stands in nobody's way.
pub async fn who_asks_no_more_keeps_nobody_waiting(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    assert!(is_granted(&*store, &ask("holder", 1)).await);
    let begun = Instant::now();
    assert!(!is_granted(&*store, &ask("gone", 1)).await);
    release(&*store, "holder").await;
    let patient = ask("patient", 1);
    while !is_granted(&*store, &patient).await {
        assert!(begun.elapsed() < PATIENCE, "who asks no more is in the way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= LINE_PATIENCE / 2, "nobody loses its place at once");
    // It asked all the while, and then had its turn: it is in nobody's way either.
    release(&*store, "patient").await;
    assert!(is_granted(&*store, &ask("next", 1)).await);
}

/// A hold for a time ends with it; renewed, it lasts. Who is late with that hears so.
pub async fn a_hold_ends_with_its_time_unless_it_is_renewed(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let lasting = |ticket, hold| Ask {
        hold: Hold::For(hold),
        ..ask(ticket, 2)
    };
    let (begun, next) = (Instant::now(), ask("next", 2));
    assert!(is_granted(&*store, &lasting("kept", SHORT * 4)).await);
    assert!(is_granted(&*store, &lasting("left", SHORT)).await);
    let kept = [(KEY, &b"kept"[..])];
    let mut is_in = None;
    while is_in.is_none() || begun.elapsed() < SHORT * 6 {
        let renewed = store.renew(&kept, SHORT * 4).await;
        assert_eq!(renewed.expect("a hold can be renewed"), [true]);
        if is_in.is_none() && is_granted(&*store, &next).await {
            is_in = Some(begun.elapsed());
        }
        assert!(begun.elapsed() < PATIENCE, "a hold outlives its time");
        tokio::time::sleep(SHORT / 20).await;
    }
    assert!(is_in >= Some(SHORT / 2), "no hold ends before its time");
    assert!(!is_granted(&*store, &ask("more", 2)).await, "the other one was renewed");
    let all = [
        (KEY, &b"left"[..]),
        (KEY, b"kept"),
        (b"another", b"kept"),
        (KEY, b"next"),
    ];
    let renewed = store.renew(&all, SHORT * 10).await.expect("a hold can be renewed");
    assert_eq!(renewed, [false, true, false, true]);
    assert!(
        !is_granted(&*store, &ask("more", 2)).await,
        "nobody holds it by renewing"
    );
    assert!(store.renew(&[], SHORT).await.expect("nothing is renewed").is_empty());
}

/// A hold under an epoch stays until it is given back, under that epoch or a later one.
pub async fn a_hold_under_an_epoch_has_no_end_and_no_former_owner_ends_it(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let under = |ticket, epoch| Ask {
        hold: Hold::Under(Epoch(epoch)),
        ..ask(ticket, 1)
    };
    // As great as the epochs that Redis itself names.
    let first = 1_790_000_000_000;
    assert!(is_granted(&*store, &under("a", first)).await);
    drop(fixture.open().await);
    let release = async |under| {
        let released = store.release(KEY, b"a", Some(Epoch(under))).await;
        released.expect("a ticket can be given back")
    };
    // Whoever owns it next asks for what it has.
    assert!(is_granted(&*store, &under("a", first + 2)).await);
    assert!(
        !release(first).await && !release(first + 1).await,
        "the former owner ends it"
    );
    // Nor does it lower the epoch by asking once more.
    assert!(is_granted(&*store, &under("a", first)).await);
    assert!(!release(first + 1).await);
    assert!(!is_granted(&*store, &under("b", first)).await);
    assert!(release(first + 2).await);
    assert!(is_granted(&*store, &under("b", first)).await);
    assert!(release(first).await, "there is nothing to give back");
    let held = store.hold(KEY, b"a", Hold::Under(Epoch(3))).await;
    held.expect("what runs can be held");
    assert!(release(4).await, "a later owner ends it");
}

/// What runs already counts, although the limit is reached; others wait until enough are gone.
pub async fn what_runs_already_holds_whatever_the_limit(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    assert!(is_granted(&*store, &ask("a", 1)).await);
    assert!(!is_granted(&*store, &ask("runs", 1)).await);
    for _ in 0..2 {
        let held = store.hold(KEY, b"runs", LONG).await;
        held.expect("what runs can be held");
    }
    assert!(!is_granted(&*store, &ask("b", 2)).await);
    release(&*store, "a").await;
    // It does not stand in the line any more either.
    assert_eq!(asked(&*store, &ask("c", 1)).await, Asked::Refused { ahead: 1 });
    assert!(is_granted(&*store, &ask("b", 2)).await);
}

/// Once earlier epochs of a ticket are barred they hold nothing, and stand in no line: not by asking, nor by saying that it runs. What
/// is held is held on, other tickets and later epochs are not concerned, and slots have no epoch.
pub async fn what_a_former_owner_says_late_holds_nothing(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let (former, next) = (1_790_000_000_001, 1_790_000_000_002);
    let under = |ticket, epoch| Ask {
        hold: Hold::Under(Epoch(epoch)),
        ..ask(ticket, 1)
    };
    let hold = async |ticket: &str, hold| {
        let held = store.hold(KEY, ticket.as_bytes(), hold).await;
        held.expect("what runs can be held, or is barred");
    };
    let bar = async |ticket: &str, below| {
        let barred = store.bar(KEY, ticket.as_bytes(), Epoch(below)).await;
        barred.expect("a ticket can be barred");
    };
    // Whoever asks under an earlier epoch is refused although nobody holds the key, and keeps nobody from it.
    bar("gone", next).await;
    bar("gone", former).await;
    assert_eq!(
        asked(&*store, &under("gone", former)).await,
        Asked::Refused { ahead: 0 }
    );
    hold("gone", Hold::Under(Epoch(former))).await;
    assert!(
        is_granted(&*store, &under("another", former)).await,
        "nobody holds the key"
    );
    release(&*store, "another").await;
    // What is held is held on, until a later owner gives it back; then it stays so.
    hold("kept", Hold::Under(Epoch(former))).await;
    bar("kept", next).await;
    assert!(!is_granted(&*store, &under("another", former)).await);
    let released = store.release(KEY, b"kept", Some(Epoch(next))).await;
    assert!(released.expect("a ticket can be given back"));
    hold("kept", Hold::Under(Epoch(former))).await;
    assert!(
        is_granted(&*store, &under("another", former)).await,
        "it holds the key again"
    );
    release(&*store, "another").await;
    assert!(
        is_granted(&*store, &under("gone", next)).await,
        "its own owner is barred"
    );
    release(&*store, "gone").await;
    hold("gone", LONG).await;
    assert!(
        !is_granted(&*store, &under("another", former)).await,
        "a slot has no epoch"
    );
}

/// Notes are found by their shard until they are struck out, also by whoever opens the store next.
pub async fn notes_of_a_shard_are_found_until_they_are_struck_out(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let noted = async |store: &dyn Semaphores, shard| {
        let mut notes = store.noted(ShardId(shard), Epoch(7)).await.expect("notes can be read");
        notes.sort_unstable();
        notes
    };
    let note = |ticket: &[u8], key: &[u8]| (ticket.to_vec(), key.to_vec());
    assert!(noted(&*store, 0).await.is_empty());
    for (shard, ticket, key) in [(0, b"a", KEY), (0, b"b", b"k"), (0, b"a", b"k"), (1, b"c", KEY)] {
        let written = store.note(ShardId(shard), Epoch(7), ticket, key).await;
        written.expect("a note can be written");
    }
    let both = [note(b"a", b"k"), note(b"b", b"k")];
    assert_eq!(noted(&*store, 0).await, both);
    drop(store);
    let store = fixture.open().await;
    assert_eq!(noted(&*store, 0).await, both);
    for _ in 0..2 {
        let struck = store.strike(ShardId(0), Epoch(7), b"a").await;
        struck.expect("a note can be struck out");
    }
    assert_eq!(noted(&*store, 0).await, [note(b"b", b"k")]);
    assert_eq!(noted(&*store, 1).await, [note(b"c", KEY)]);
}

/// Whoever says anything about the notes of a shard ends what earlier owners have to say about them.
pub async fn no_former_owner_changes_the_notes_of_its_successor(fixture: SemaphoresFixture<'_>) {
    let store = fixture.open().await;
    let (shard, former, next) = (ShardId(0), Epoch(1_790_000_000_001), Epoch(1_790_000_000_002));
    let is_fenced = |said: Result<(), StoreError>| match said {
        Ok(()) => false,
        Err(StoreError::Fenced { shard, owner, ours }) => {
            assert_eq!((shard, owner, ours), (ShardId(0), next, former));
            true
        }
        Err(error) => panic!("{error}"),
    };
    assert!(!is_fenced(store.note(shard, former, b"a", KEY).await));
    let noted = store.noted(shard, next).await.expect("notes can be read");
    assert_eq!(noted, [(b"a".to_vec(), KEY.to_vec())], "an epoch is no note");
    assert!(is_fenced(store.note(shard, former, b"b", KEY).await));
    assert!(is_fenced(store.note(shard, former, b"a", b"k").await));
    assert!(is_fenced(store.strike(shard, former, b"a").await));
    assert!(is_fenced(store.noted(shard, former).await.map(drop)));
    let noted = store.noted(shard, next).await.expect("notes can be read");
    assert_eq!(noted, [(b"a".to_vec(), KEY.to_vec())]);
    // Of another shard it may be the owner still.
    assert!(!is_fenced(store.note(ShardId(1), former, b"b", KEY).await));
    // Writing and striking out are words as good as reading.
    let later = Epoch(next.0 + 1);
    assert!(!is_fenced(store.note(ShardId(2), next, b"c", KEY).await));
    let late = store.strike(ShardId(2), former, b"c").await;
    assert!(matches!(late, Err(StoreError::Fenced { owner, .. }) if owner == next));
    assert!(!is_fenced(store.strike(shard, later, b"a").await));
    assert!(store.noted(shard, next).await.is_err());
    assert!(store.noted(shard, later).await.expect("notes can be read").is_empty());
}
