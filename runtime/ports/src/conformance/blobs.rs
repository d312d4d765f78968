//! Clauses of [`StateStore`] about large values that are kept apart.

use troupe_core::{BlobRef, ExecutionId, Json, Seq, ShardId, Timestamp};

use super::state_log::acquire;
use super::{Fixture, execution};
use crate::state::{Archive, BlobsPut, CheckpointRow, Lease, StateStore, StoreError};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);
const MANY: u64 = 1 << 30;

/// A document of `bytes` bytes; the store takes the caller's word for its hash.
fn blob(hash: u8, bytes: usize) -> (BlobRef, Json) {
    let content = Json::of(&"x".repeat(bytes - 2).into());
    let reference = BlobRef {
        hash: [hash; 32],
        bytes: bytes as u64,
    };
    (reference, content)
}

async fn put(store: &dyn StateStore, lease: &Lease, root: ExecutionId, now: i64, blobs: &[(BlobRef, Json)]) {
    let put = store
        .put_blobs(lease.shard, lease.epoch, root, Timestamp(now), blobs.to_vec(), MANY)
        .await;
    assert_eq!(put.expect("the owner can keep blobs"), BlobsPut::Kept);
}

async fn bytes_of(store: &dyn StateStore, root: ExecutionId, hash: u8) -> Option<usize> {
    let found = store.blob(root, [hash; 32]).await.expect("a blob can be looked up");
    found.map(|content| content.bytes())
}

async fn unconfirmed(store: &dyn StateStore, before: i64, limit: usize) -> Vec<ExecutionId> {
    let found = store.unconfirmed_blobs(SHARD, Timestamp(before), limit).await;
    found.expect("roots can be listed")
}

/// What was acknowledged is there, whole, also after reopening; keeping it again changes nothing.
pub async fn a_blob_that_was_kept_is_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let (root, other) = (execution(0, 1), execution(0, 2));
    assert_eq!(bytes_of(&*store, root, 1).await, None);
    for _ in 0..2 {
        put(
            &*store,
            &lease,
            root,
            5,
            &[blob(1, 5_000_000), blob(2, 70_000), blob(2, 70_000)],
        )
        .await;
    }
    drop(store);
    let store = fixture.open().await;
    assert_eq!(bytes_of(&*store, root, 1).await, Some(5_000_000));
    assert_eq!(bytes_of(&*store, root, 2).await, Some(70_000));
    assert_eq!(bytes_of(&*store, root, 3).await, None);
    assert_eq!(bytes_of(&*store, other, 1).await, None, "blobs belong to their root");
    let read = store.blob(root, [1; 32]).await.expect("a blob can be looked up");
    assert_eq!(read, Some(blob(1, 5_000_000).1));
}

/// The limit counts every content of a root once; beyond it nothing of the call is kept.
pub async fn blobs_of_a_root_are_bounded_together(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let (root, other) = (execution(0, 1), execution(0, 2));
    let keep = async |root, blobs: Vec<(BlobRef, Json)>| {
        let put = store
            .put_blobs(SHARD, lease.epoch, root, Timestamp(1), blobs, 1_000)
            .await;
        put.expect("the owner can keep blobs")
    };
    assert_eq!(keep(root, vec![blob(1, 400), blob(2, 400)]).await, BlobsPut::Kept);
    let over = keep(root, vec![blob(3, 100), blob(4, 200)]).await;
    assert_eq!(over, BlobsPut::Full { bytes: 1_100 });
    assert_eq!(bytes_of(&*store, root, 3).await, None, "all or nothing");
    assert_eq!(keep(root, vec![blob(1, 400), blob(3, 200)]).await, BlobsPut::Kept);
    assert_eq!(
        keep(root, vec![blob(1, 400)]).await,
        BlobsPut::Kept,
        "it is there already"
    );
    assert_eq!(keep(other, vec![blob(1, 1_000)]).await, BlobsPut::Kept);
}

/// A former owner keeps and removes nothing.
pub async fn a_former_owner_cannot_keep_blobs(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let former = acquire(&*store, SHARD).await;
    let root = execution(0, 1);
    put(&*store, &former, root, 1, &[blob(1, 100)]).await;
    acquire(&*store, SHARD).await;
    let late = store.put_blobs(SHARD, former.epoch, root, Timestamp(2), vec![blob(2, 100)], MANY);
    let late = late.await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    let late = store.settle_blobs(SHARD, former.epoch, root, false).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    assert_eq!(bytes_of(&*store, root, 1).await, Some(100));
    assert_eq!(bytes_of(&*store, root, 2).await, None);
}

/// Blobs go with the archive of their root, not with another's and not before.
pub async fn blobs_go_with_the_archive_of_their_root(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let (root, child, other) = (execution(0, 1), execution(0, 2), execution(0, 3));
    put(&*store, &lease, root, 1, &[blob(1, 100), blob(2, 100)]).await;
    put(&*store, &lease, other, 1, &[blob(1, 100)]).await;
    let ended = [(root, 2_000), (child, 1_000)].map(|(id, expires_at)| {
        CheckpointRow::Ended(Archive {
            id,
            last: Seq(4),
            bytes: "final".into(),
            expires_at: Timestamp(expires_at),
            tombstone_ms: 100,
        })
    });
    let wrote = store.checkpoint(SHARD, lease.epoch, ended.to_vec(), None).await;
    wrote.expect("the owner can checkpoint");
    for (now, left) in [(1_999, Some(100)), (2_000, None)] {
        let gone = store
            .expire(SHARD, lease.epoch, Timestamp(now), &[root, child], 10)
            .await;
        gone.expect("the owner can expire");
        assert_eq!(bytes_of(&*store, root, 1).await, left);
        assert_eq!(bytes_of(&*store, root, 2).await, left);
    }
    assert_eq!(bytes_of(&*store, other, 1).await, Some(100));
    assert_eq!(unconfirmed(&*store, 10, 10).await, [other], "nothing is left of it");
}

/// Roots are listed, oldest first, until somebody settles them; a confirmed one is not listed again.
pub async fn unconfirmed_blobs_are_listed_until_they_are_settled(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let ids = [execution(0, 1), execution(0, 2), execution(0, 3)];
    for (id, now) in ids.into_iter().zip([30, 10, 20]) {
        put(&*store, &lease, id, now, &[blob(1, 100)]).await;
    }
    put(&*store, &other, execution(1, 1), 1, &[blob(1, 100)]).await;
    put(&*store, &lease, ids[1], 99, &[blob(2, 100)]).await;
    assert_eq!(unconfirmed(&*store, 10, 10).await, []);
    assert_eq!(unconfirmed(&*store, 31, 10).await, [ids[1], ids[2], ids[0]]);
    assert_eq!(unconfirmed(&*store, 31, 1).await, [ids[1]]);
    for (id, exists) in [(ids[1], true), (ids[2], false), (execution(0, 9), false)] {
        let settled = store.settle_blobs(SHARD, lease.epoch, id, exists).await;
        settled.expect("the owner can settle");
    }
    assert_eq!(unconfirmed(&*store, 31, 10).await, [ids[0]]);
    assert_eq!(bytes_of(&*store, ids[1], 2).await, Some(100));
    assert_eq!(bytes_of(&*store, ids[2], 1).await, None);
    put(&*store, &lease, ids[1], 1, &[blob(3, 100)]).await;
    assert_eq!(unconfirmed(&*store, 31, 10).await, [ids[0]], "it stays confirmed");
}
