//! Clauses of [`StateStore`] about inboxes: what any process leaves there for the owner of a shard.

use bytes::Bytes;
use futures::future::join_all;
use troupe_core::{Epoch, ShardId};

use super::Fixture;
use super::state_log::{acquire, is_fenced};
use crate::state::{InboxId, InboxLimits, InboxPush, StateStore, StoreError};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);
const PLENTY: InboxLimits = InboxLimits {
    items: 1_000,
    bytes: 1 << 20,
};

fn id(number: u8) -> InboxId {
    InboxId([number; 32])
}

async fn put(store: &dyn StateStore, shard: ShardId, number: u8, bytes: &'static str, most: InboxLimits) -> InboxPush {
    let bytes = Bytes::from_static(bytes.as_bytes());
    let pushed = store.inbox_push(shard, id(number), bytes, most).await;
    pushed.expect("anybody can put something into an inbox")
}

async fn push(store: &dyn StateStore, shard: ShardId, number: u8, bytes: &'static str) {
    assert_eq!(put(store, shard, number, bytes, PLENTY).await, InboxPush::Kept);
}

async fn remove(store: &dyn StateStore, shard: ShardId, epoch: Epoch, numbers: &[u8]) {
    let ids: Vec<InboxId> = numbers.iter().map(|number| id(*number)).collect();
    let removed = store.inbox_remove(shard, epoch, &ids).await;
    removed.expect("the owner can remove something");
}

/// Numbers and bytes of what is in the inbox.
async fn inbox(store: &dyn StateStore, shard: ShardId) -> Vec<(u8, Bytes)> {
    let items = store.inbox_read(shard, 0, usize::MAX).await;
    let items = items.expect("an inbox can be read");
    assert!(items.is_sorted_by(|one, next| one.arrival < next.arrival), "{items:?}");
    items.into_iter().map(|item| (item.id.0[0], item.bytes)).collect()
}

async fn numbers(store: &dyn StateStore, shard: ShardId) -> Vec<u8> {
    inbox(store, shard)
        .await
        .into_iter()
        .map(|(number, _)| number)
        .collect()
}

/// What came first is read first, whatever its id is; what went does not change the order, and no place is used again.
pub async fn an_inbox_is_read_in_order_of_arrival_within_a_byte_bound(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    assert!(inbox(&*store, SHARD).await.is_empty());
    for (number, bytes) in [(9, "12345678"), (3, "1234"), (7, "\u{0}\u{1}"), (1, "")] {
        push(&*store, SHARD, number, bytes).await;
    }
    assert_eq!(numbers(&*store, SHARD).await, [9, 3, 7, 1]);
    let page = async |after, bytes_max| {
        let items = store.inbox_read(SHARD, after, bytes_max).await;
        items.expect("an inbox can be read")
    };
    let first = page(0, 1).await;
    assert_eq!(first.len(), 1, "at least one, however large it is");
    assert_eq!(first[0].bytes, "12345678");
    let next = page(first[0].arrival, 6).await;
    assert_eq!(
        next.iter().map(|item| item.id).collect::<Vec<_>>(),
        [id(3), id(7), id(1)]
    );
    assert_eq!(next[1].bytes, "\u{0}\u{1}");
    let last = next[2].arrival;
    assert!(page(last, usize::MAX).await.is_empty());
    remove(&*store, SHARD, lease.epoch, &[7, 1]).await;
    assert_eq!(numbers(&*store, SHARD).await, [9, 3]);
    push(&*store, SHARD, 2, "later").await;
    assert_eq!(numbers(&*store, SHARD).await, [9, 3, 2]);
    assert_eq!(page(last, usize::MAX).await.len(), 1, "no place is used again");
    remove(&*store, SHARD, lease.epoch, &[9, 3, 2]).await;
    push(&*store, SHARD, 4, "after all went").await;
    assert_eq!(
        page(last + 1, usize::MAX).await.len(),
        1,
        "nor when the inbox was empty"
    );
}

/// A repetition changes neither bytes nor place; what was removed may come again.
pub async fn an_id_is_in_an_inbox_once(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    push(&*store, SHARD, 1, "first").await;
    push(&*store, SHARD, 2, "second").await;
    push(&*store, SHARD, 1, "again").await;
    let held = inbox(&*store, SHARD).await;
    assert_eq!(held, [(1, Bytes::from("first")), (2, Bytes::from("second"))]);
    remove(&*store, SHARD, lease.epoch, &[1]).await;
    push(&*store, SHARD, 1, "anew").await;
    let held = inbox(&*store, SHARD).await;
    assert_eq!(held, [(2, Bytes::from("second")), (1, Bytes::from("anew"))]);
}

/// What would be too much is told, and leaves nothing; what is there already is there; what goes makes room.
pub async fn an_inbox_is_bounded_by_items_and_by_bytes(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let few = InboxLimits { items: 2, bytes: 100 };
    assert_eq!(put(&*store, SHARD, 1, "12345678", few).await, InboxPush::Kept);
    assert_eq!(put(&*store, SHARD, 2, "12345678", few).await, InboxPush::Kept);
    assert_eq!(put(&*store, SHARD, 3, "", few).await, InboxPush::Full);
    assert_eq!(put(&*store, SHARD, 2, "12345678", few).await, InboxPush::Kept);
    assert_eq!(numbers(&*store, SHARD).await, [1, 2]);
    let small = InboxLimits { items: 100, bytes: 20 };
    assert_eq!(put(&*store, SHARD, 4, "12345", small).await, InboxPush::Full);
    assert_eq!(put(&*store, SHARD, 4, "1234", small).await, InboxPush::Kept);
    remove(&*store, SHARD, lease.epoch, &[1]).await;
    assert_eq!(put(&*store, SHARD, 5, "123456789", small).await, InboxPush::Full);
    assert_eq!(put(&*store, SHARD, 5, "12345678", small).await, InboxPush::Kept);
    remove(&*store, SHARD, lease.epoch, &[5]).await;
    assert_eq!(put(&*store, SHARD, 6, "12345678", small).await, InboxPush::Kept);
    assert_eq!(numbers(&*store, SHARD).await, [2, 4, 6]);
}

/// A shard needs no owner to be left something, and has an inbox of its own.
pub async fn inboxes_of_shards_are_independent(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    push(&*store, SHARD, 1, "one").await;
    push(&*store, OTHER, 1, "other").await;
    let lease = acquire(&*store, SHARD).await;
    remove(&*store, SHARD, lease.epoch, &[1]).await;
    assert!(inbox(&*store, SHARD).await.is_empty());
    assert_eq!(inbox(&*store, OTHER).await, [(1, Bytes::from("other"))]);
    let nowhere = ShardId(store.shards());
    for refused in [
        store.inbox_push(nowhere, id(1), Bytes::new(), PLENTY).await.map(drop),
        store.inbox_read(nowhere, 0, usize::MAX).await.map(drop),
        store.inbox_remove(nowhere, Epoch(1), &[id(1)]).await,
    ] {
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    }
}

/// Only the owner says that something was dealt with.
pub async fn a_former_owner_removes_nothing(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let former = acquire(&*store, SHARD).await;
    push(&*store, SHARD, 1, "one").await;
    let owner = acquire(&*store, SHARD).await;
    let removed = store.inbox_remove(SHARD, former.epoch, &[id(1)]).await;
    is_fenced(removed, owner.epoch);
    assert_eq!(numbers(&*store, SHARD).await, [1]);
    remove(&*store, SHARD, owner.epoch, &[1, 2]).await;
    remove(&*store, SHARD, owner.epoch, &[1]).await;
    assert!(inbox(&*store, SHARD).await.is_empty());
}

/// Of those that race for an id one is kept; those of several ids all are, within the bound.
pub async fn racing_pushes_of_an_id_are_one(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let same = (0..10).map(|_| store.inbox_push(SHARD, id(1), Bytes::from_static(b"x"), PLENTY));
    for pushed in join_all(same).await {
        assert_eq!(pushed.expect("a race is no failure"), InboxPush::Kept);
    }
    assert_eq!(numbers(&*store, SHARD).await, [1]);
    let six = InboxLimits { items: 6, bytes: 100 };
    let several = (2..12).map(|number| store.inbox_push(SHARD, id(number), Bytes::from_static(b"x"), six));
    let pushed = join_all(several).await.into_iter();
    let kept = pushed.filter(|pushed| matches!(pushed, Ok(InboxPush::Kept))).count();
    assert_eq!(kept, 5);
    assert_eq!(numbers(&*store, SHARD).await.len(), 6);
}

/// What was acknowledged is there after a restart, with its order and its bound; so is that it was removed.
pub async fn an_inbox_is_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for number in [5, 4, 3] {
        push(&*store, SHARD, number, "12345678").await;
    }
    remove(&*store, SHARD, lease.epoch, &[4]).await;
    drop(store);
    let store = fixture.open().await;
    assert_eq!(numbers(&*store, SHARD).await, [5, 3]);
    let full = InboxLimits { items: 2, bytes: 100 };
    assert_eq!(put(&*store, SHARD, 6, "", full).await, InboxPush::Full);
    let small = InboxLimits { items: 9, bytes: 16 };
    assert_eq!(put(&*store, SHARD, 6, "1", small).await, InboxPush::Full);
    push(&*store, SHARD, 2, "two").await;
    assert_eq!(numbers(&*store, SHARD).await, [5, 3, 2]);
}
