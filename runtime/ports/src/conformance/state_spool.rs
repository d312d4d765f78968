//! Clauses of [`StateStore`] about what sinks have still to send of records that are gone from the log.

use bytes::Bytes;
use troupe_core::{Epoch, LogPosition, ShardId};

use super::Fixture;
use super::state_log::{acquire, append, is_fenced};
use crate::state::{Lease, StateStore};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);
const EVENTS: &str = "events";

/// Records 1 to `last`, all in the checkpoint, and a cursor at 0.
async fn filled(store: &dyn StateStore, last: u64) -> Lease {
    let lease = acquire(store, SHARD).await;
    for position in 1..=last {
        append(store, &lease, position, "record").await;
    }
    let checkpointed = store.checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(last)));
    checkpointed.await.expect("the owner can checkpoint");
    set(store, lease.epoch, EVENTS, 0).await;
    lease
}

async fn set(store: &dyn StateStore, epoch: Epoch, sink: &str, to: u64) {
    let set = store.set_cursor(SHARD, epoch, sink, LogPosition(to));
    set.await.expect("the owner can set it");
}

async fn spool(store: &dyn StateStore, epoch: Epoch, up_to: u64, chunk: &'static str) {
    let spooled = store.spool(
        SHARD,
        epoch,
        EVENTS,
        LogPosition(up_to),
        Bytes::from_static(chunk.as_bytes()),
    );
    spooled.await.expect("the owner can spool");
}

/// The first record that is left after trimming up to 100; none when there is none.
async fn first_left(store: &dyn StateStore, epoch: Epoch) -> Option<u64> {
    let trimmed = store.trim(SHARD, epoch, LogPosition(100));
    trimmed.await.expect("the owner can trim");
    let left = store.read(SHARD, LogPosition(1), usize::MAX).await;
    let left = left.expect("the log can be read");
    left.first().map(|record| record.position.0)
}

async fn chunks(store: &dyn StateStore, sink: &str, after: u64, bytes_max: usize) -> Vec<(u64, Bytes)> {
    let chunks = store.spooled(SHARD, sink, LogPosition(after), bytes_max).await;
    let chunks = chunks.expect("a spool can be read").into_iter();
    chunks.map(|chunk| (chunk.up_to.0, chunk.bytes)).collect()
}

async fn extent(store: &dyn StateStore, shard: ShardId, sink: &str) -> Vec<(u64, u64)> {
    let extent = store.spool_extent(shard, sink).await;
    let extent = extent.expect("a spool can be measured").into_iter();
    extent.map(|(up_to, bytes)| (up_to.0, bytes)).collect()
}

/// A sink keeps of the log what it has neither sent nor spooled; what others have not sent stays.
pub async fn what_is_spooled_keeps_the_log_no_longer(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 9).await;
    assert_eq!(first_left(&*store, lease.epoch).await, Some(1));
    spool(&*store, lease.epoch, 4, "four").await;
    assert_eq!(first_left(&*store, lease.epoch).await, Some(5));
    spool(&*store, lease.epoch, 6, "six").await;
    // The name of one begins as the other's.
    set(&*store, lease.epoch, "events2", 5).await;
    assert_eq!(first_left(&*store, lease.epoch).await, Some(6));
    set(&*store, lease.epoch, "events2", 9).await;
    assert_eq!(first_left(&*store, lease.epoch).await, Some(7));
    spool(&*store, lease.epoch, 9, "nine").await;
    assert_eq!(first_left(&*store, lease.epoch).await, None);
    append(&*store, &lease, 10, "record").await;
}

/// Chunks come in the order of their positions, whatever the number of digits, from behind a position on.
pub async fn a_spool_comes_back_in_order_within_a_byte_bound(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 120).await;
    for (up_to, chunk) in [(9, "12345678"), (10, "1234"), (11, "\u{0}\u{1}"), (110, "")] {
        spool(&*store, lease.epoch, up_to, chunk).await;
    }
    let all = chunks(&*store, EVENTS, 0, usize::MAX).await;
    let places = |chunks: &[(u64, Bytes)]| chunks.iter().map(|(up_to, _)| *up_to).collect::<Vec<_>>();
    assert_eq!(places(&all), [9, 10, 11, 110]);
    assert_eq!(all[2].1, Bytes::from_static(b"\x00\x01"));
    assert_eq!(places(&chunks(&*store, EVENTS, 9, usize::MAX).await), [10, 11, 110]);
    assert_eq!(places(&chunks(&*store, EVENTS, 0, 1).await), [9], "at least one");
    assert_eq!(places(&chunks(&*store, EVENTS, 0, 12).await), [9, 10]);
    assert_eq!(chunks(&*store, EVENTS, 110, usize::MAX).await, []);
    assert_eq!(chunks(&*store, "events2", 0, usize::MAX).await, []);
    assert_eq!(
        extent(&*store, SHARD, EVENTS).await,
        [(9, 8), (10, 4), (11, 2), (110, 0)]
    );
    assert_eq!(extent(&*store, ShardId(SHARD.0 + 1), EVENTS).await, []);
}

/// A chunk goes once everything in it is sent, not before.
pub async fn a_spool_goes_with_the_cursor_of_its_sink(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 9).await;
    spool(&*store, lease.epoch, 4, "four").await;
    spool(&*store, lease.epoch, 6, "six").await;
    for (sink, to, left) in [
        ("events2", 9, vec![(4, 4), (6, 3)]),
        (EVENTS, 3, vec![(4, 4), (6, 3)]),
        (EVENTS, 5, vec![(6, 3)]),
        (EVENTS, 6, vec![]),
    ] {
        set(&*store, lease.epoch, sink, to).await;
        // A cursor may be written with the next write only.
        first_left(&*store, lease.epoch).await;
        assert_eq!(extent(&*store, SHARD, EVENTS).await, left, "{sink} at {to}");
    }
    assert_eq!(first_left(&*store, lease.epoch).await, Some(7));
}

/// Who repeats a call, or comes too late with it, changes nothing.
pub async fn a_chunk_that_is_covered_changes_nothing(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 9).await;
    spool(&*store, lease.epoch, 4, "four").await;
    spool(&*store, lease.epoch, 4, "again").await;
    spool(&*store, lease.epoch, 3, "late").await;
    assert_eq!(
        chunks(&*store, EVENTS, 0, usize::MAX).await,
        [(4, Bytes::from_static(b"four"))]
    );
    set(&*store, lease.epoch, EVENTS, 7).await;
    first_left(&*store, lease.epoch).await;
    spool(&*store, lease.epoch, 7, "sent").await;
    assert_eq!(extent(&*store, SHARD, EVENTS).await, []);
}

/// A spool belongs to whoever owns the shard.
pub async fn a_former_owner_cannot_spool(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let former = filled(&*store, 3).await;
    let owner = acquire(&*store, SHARD).await;
    let late = store.spool(SHARD, former.epoch, EVENTS, LogPosition(2), Bytes::from_static(b"late"));
    is_fenced(late.await, owner.epoch);
    assert_eq!(extent(&*store, SHARD, EVENTS).await, []);
    assert_eq!(first_left(&*store, owner.epoch).await, Some(1));
}

/// What a sink has still to send outlives the records it was made of, and the owner.
pub async fn a_spool_is_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 3).await;
    spool(&*store, lease.epoch, 3, "three").await;
    assert_eq!(first_left(&*store, lease.epoch).await, None);
    drop(store);
    let store = fixture.open().await;
    let after = acquire(&*store, SHARD).await;
    assert_eq!(after.next, LogPosition(4));
    assert_eq!(
        chunks(&*store, EVENTS, 0, usize::MAX).await,
        [(3, Bytes::from_static(b"three"))]
    );
}

/// What is configured no longer is sent to nobody.
pub async fn a_spool_goes_with_a_forgotten_cursor(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = filled(&*store, 3).await;
    spool(&*store, lease.epoch, 2, "two").await;
    let kept = store.keep_cursors(SHARD, lease.epoch, &[EVENTS]).await;
    kept.expect("the owner can forget");
    assert_eq!(extent(&*store, SHARD, EVENTS).await, [(2, 3)]);
    let kept = store.keep_cursors(SHARD, lease.epoch, &["events2"]).await;
    kept.expect("the owner can forget");
    assert_eq!(extent(&*store, SHARD, EVENTS).await, []);
    assert_eq!(first_left(&*store, lease.epoch).await, None);
}
