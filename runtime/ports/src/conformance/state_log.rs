//! Clauses of [`StateStore`] about ownership, the log and cursors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use troupe_core::{Epoch, LogPosition, ShardId, Timestamp};

use super::Fixture;
use crate::state::{AppendError, CommitId, Holder, Lease, LogEnd, StateStore, StoreError};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);
pub(super) const LONG_LEASE: Duration = Duration::from_secs(60);
/// How long a clause waits for the store's clock before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn acquire(store: &dyn StateStore, shard: ShardId) -> Lease {
    store
        .acquire(shard, "member-a", LONG_LEASE)
        .await
        .expect("a free shard can be acquired")
}

pub(super) async fn append(store: &dyn StateStore, lease: &Lease, position: u64, bytes: impl Into<Bytes>) {
    let commit = CommitId((u128::from(lease.shard.0) << 64) | u128::from(position));
    let appended = store
        .append(lease.shard, lease.epoch, LogPosition(position), commit, bytes.into())
        .await;
    appended.expect("the owner can append at the next position");
}

pub(super) fn is_fenced<T: std::fmt::Debug>(result: Result<T, StoreError>, by: Epoch) {
    match result {
        Err(StoreError::Fenced { owner, .. }) => assert_eq!(owner, by, "the epoch in force is told"),
        other => panic!("expected to be fenced, got {other:?}"),
    }
}

async fn positions(store: &dyn StateStore, shard: ShardId) -> Vec<u64> {
    let records = store
        .read(shard, LogPosition(1), usize::MAX)
        .await
        .expect("the log can be read");
    records.iter().map(|record| record.position.0).collect()
}

/// The first record is 1; any other position than the next conflicts, names the next, and leaves nothing.
pub async fn positions_begin_at_one_and_have_no_gap(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    assert_eq!((lease.next, lease.checkpointed), (LogPosition(1), LogPosition(0)));
    append(&*store, &lease, 1, "one").await;
    append(&*store, &lease, 2, "two").await;
    for wrong in [0, 1, 2, 4, 1_000] {
        let refused = store
            .append(SHARD, lease.epoch, LogPosition(wrong), CommitId(9), "wrong".into())
            .await;
        match refused {
            Err(AppendError::Conflict { next }) => assert_eq!(next, LogPosition(3)),
            other => panic!("expected a conflict at {wrong}, got {other:?}"),
        }
    }
    assert_eq!(positions(&*store, SHARD).await, [1, 2]);
    append(&*store, &lease, 3, "three").await;
    assert_eq!(acquire(&*store, SHARD).await.next, LogPosition(4));
}

/// Of appends that name the same position, one is written and the others conflict.
pub async fn only_one_of_many_racing_appends_wins(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for round in 1..=5 {
        let racing = (0..20_u8).map(|racer| {
            store.append(
                SHARD,
                lease.epoch,
                LogPosition(round),
                CommitId(racer.into()),
                Bytes::from(vec![racer]),
            )
        });
        let outcomes = futures::future::join_all(racing).await;
        let winners: Vec<_> = (0..20_u8)
            .filter(|racer| outcomes[usize::from(*racer)].is_ok())
            .collect();
        assert_eq!(winners.len(), 1, "one winner a position: {outcomes:?}");
        let read = store
            .read(SHARD, LogPosition(round), usize::MAX)
            .await
            .expect("the log can be read");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].bytes[..], winners[..], "what the winner wrote is there");
        assert_eq!(read[0].commit, CommitId(winners[0].into()));
    }
}

/// Reading gives records in order from the asked position, at most about the asked bytes, yet always at least one.
pub async fn records_are_read_in_order_within_a_byte_bound(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    assert!(
        store
            .read(SHARD, LogPosition(1), 1_000)
            .await
            .expect("an empty log can be read")
            .is_empty()
    );
    for position in 1..=10 {
        append(&*store, &lease, position, vec![position as u8; 100]).await;
    }
    let all = store
        .read(SHARD, LogPosition(1), usize::MAX)
        .await
        .expect("the log can be read");
    assert_eq!(
        all.iter().map(|record| record.position.0).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    assert!(
        all.iter()
            .all(|record| record.bytes[..] == [record.position.0 as u8; 100])
    );
    let some = store
        .read(SHARD, LogPosition(4), 350)
        .await
        .expect("the log can be read");
    assert_eq!(
        some.iter().map(|record| record.position.0).collect::<Vec<_>>(),
        [4, 5, 6]
    );
    let one = store.read(SHARD, LogPosition(4), 1).await.expect("the log can be read");
    assert_eq!(one.iter().map(|record| record.position.0).collect::<Vec<_>>(), [4]);
    assert!(
        store
            .read(SHARD, LogPosition(11), 1_000)
            .await
            .expect("the log can be read")
            .is_empty()
    );
    assert!(
        store
            .read(OTHER, LogPosition(1), 1_000)
            .await
            .expect("the log can be read")
            .is_empty()
    );
}

/// Concurrent appends to many shards all succeed; each shard's log has its own positions and records.
pub async fn shards_are_independent(fixture: StateFixture<'_>) {
    const RECORDS: u64 = 50;
    let store = fixture.open().await;
    let shards = store.shards().min(8);
    assert!(shards >= 2, "the suite needs two shards");
    let tasks = (0..shards).map(|shard| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let lease = acquire(&*store, ShardId(shard)).await;
            for position in 1..=RECORDS {
                append(&*store, &lease, position, format!("{shard}:{position}")).await;
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.expect("no appender fails");
    }
    for shard in 0..shards {
        let records = store
            .read(ShardId(shard), LogPosition(1), usize::MAX)
            .await
            .expect("the log can be read");
        let texts: Vec<_> = records.iter().map(|record| record.bytes.clone()).collect();
        let expected: Vec<_> = (1..=RECORDS)
            .map(|position| Bytes::from(format!("{shard}:{position}")))
            .collect();
        assert_eq!(texts, expected);
    }
}

/// A record of 8 MB, with every byte value, comes back as it was, beside small ones.
pub async fn a_large_record_comes_back_whole(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let large: Bytes = (0..8_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    append(&*store, &lease, 1, "small").await;
    append(&*store, &lease, 2, large.clone()).await;
    append(&*store, &lease, 3, "small").await;
    let read = store.read(SHARD, LogPosition(2), 1).await.expect("the log can be read");
    assert_eq!(read.len(), 1);
    assert!(read[0].bytes == large, "the large record is unchanged");
    assert_eq!(positions(&*store, SHARD).await, [1, 2, 3]);
}

/// A caller that went away before the answer finds its record by the commit id, or does not find it and appends again.
pub async fn an_unknown_outcome_is_settled_by_the_commit_id(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=50_u64 {
        let commit = CommitId((u128::from(position) << 64) | 7);
        let task = tokio::spawn({
            let store = Arc::clone(&store);
            let epoch = lease.epoch;
            async move {
                store
                    .append(SHARD, epoch, LogPosition(position), commit, "record".into())
                    .await
            }
        });
        for _ in 0..position % 5 {
            tokio::task::yield_now().await;
        }
        task.abort();
        drop(task.await);
        // Whatever is still under way is ordered before this: the same position either conflicts or is free.
        match store
            .append(SHARD, lease.epoch, LogPosition(position), commit, "record".into())
            .await
        {
            Ok(()) => {}
            Err(AppendError::Conflict { next }) => assert_eq!(next, LogPosition(position + 1)),
            Err(AppendError::Store(error)) => panic!("the repeated append failed: {error}"),
        }
        let tail = store
            .read(SHARD, LogPosition(position), usize::MAX)
            .await
            .expect("the log can be read");
        assert_eq!(tail.len(), 1, "written once");
        assert_eq!(tail[0].commit, commit);
    }
}

/// Whoever gives a store back what that lacks hears which commit wrote the last record, too. A store that never lacks anything has no answer.
pub async fn an_owner_is_told_where_its_log_ends_and_by_whom(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let former = acquire(&*store, SHARD).await;
    let lease = acquire(&*store, SHARD).await;
    let taken = store.take_back(SHARD, lease.epoch, "member-a", LONG_LEASE).await;
    if !store.may_come_back_older() {
        assert!(matches!(taken, Err(StoreError::Damaged(_))), "got {taken:?}");
        return;
    }
    let end = |next, last: Option<u128>| LogEnd {
        next: LogPosition(next),
        last: last.map(CommitId),
    };
    assert_eq!(taken.expect("it has it already"), end(1, None));
    append(&*store, &lease, 1, "one").await;
    append(&*store, &lease, 2, "two").await;
    let reached = Some(LogPosition(2));
    let checkpointed = store.checkpoint(SHARD, lease.epoch, Vec::new(), reached).await;
    checkpointed.expect("the owner can checkpoint");
    for (up_to, last) in [(0, Some(2)), (1, Some(2)), (2, None)] {
        let trimmed = store.trim(SHARD, lease.epoch, LogPosition(up_to)).await;
        trimmed.expect("the owner can trim");
        let taken = store.take_back(SHARD, lease.epoch, "member-a", LONG_LEASE).await;
        let taken = taken.expect("it has it already");
        assert_eq!(taken, end(3, last), "trimmed up to {up_to}");
    }
    let late = store.take_back(SHARD, former.epoch, "member-a", LONG_LEASE).await;
    is_fenced(late, lease.epoch);
}

/// Once a shard has a new epoch, nothing of the former one is written any more, and the caller is told.
pub async fn a_former_owner_is_fenced_from_every_write(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let former = acquire(&*store, SHARD).await;
    append(&*store, &former, 1, "one").await;
    let owner = acquire(&*store, SHARD).await;
    assert!(owner.epoch > former.epoch, "epochs grow");
    assert_eq!(owner.next, LogPosition(2));

    let append_former = store
        .append(SHARD, former.epoch, LogPosition(2), CommitId(1), "zombie".into())
        .await;
    match append_former {
        Err(AppendError::Store(error)) => is_fenced::<()>(Err(error), owner.epoch),
        other => panic!("expected to be fenced, got {other:?}"),
    }
    is_fenced(store.renew(SHARD, former.epoch, LONG_LEASE).await, owner.epoch);
    is_fenced(store.release(SHARD, former.epoch).await, owner.epoch);
    is_fenced(
        store
            .checkpoint(SHARD, former.epoch, vec![], Some(LogPosition(1)))
            .await,
        owner.epoch,
    );
    is_fenced(store.trim(SHARD, former.epoch, LogPosition(1)).await, owner.epoch);
    is_fenced(
        store.set_cursor(SHARD, former.epoch, "events", LogPosition(1)).await,
        owner.epoch,
    );
    is_fenced(
        store.expire(SHARD, former.epoch, Timestamp(i64::MAX), &[], 10).await,
        owner.epoch,
    );
    is_fenced(
        store
            .set_quarantine(SHARD, former.epoch, super::execution(0, 1), Some("why"))
            .await,
        owner.epoch,
    );
    let future = Epoch(owner.epoch.0 + 1);
    let append_future = store
        .append(SHARD, future, LogPosition(2), CommitId(1), "unborn".into())
        .await;
    // Who was under a later epoch has a store that went back.
    assert!(
        matches!(
            append_future,
            Err(AppendError::Store(StoreError::Fenced { .. } | StoreError::WentBack(_)))
        ),
        "got {append_future:?}"
    );

    assert_eq!(positions(&*store, SHARD).await, [1]);
    assert_eq!(
        store.cursor(SHARD, "events").await.expect("a cursor can be read"),
        LogPosition(0)
    );
    append(&*store, &owner, 2, "two").await;
    let again = acquire(&*store, SHARD).await;
    assert_eq!(
        again.checkpointed,
        LogPosition(0),
        "the fenced checkpoint moved nothing"
    );
}

/// Another owner is refused while the lease holds, in store time, and gets the shard afterwards.
pub async fn a_lease_keeps_others_out_until_it_expires(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let first = acquire(&*store, SHARD).await;
    let refused = store.acquire(SHARD, "member-b", LONG_LEASE).await;
    assert!(matches!(refused, Err(StoreError::Held(_))), "got {refused:?}");
    append(&*store, &first, 1, "still the owner").await;

    let short = store
        .acquire(SHARD, "member-a", Duration::from_millis(200))
        .await
        .expect("the owner may take it again");
    let started = Instant::now();
    let second = loop {
        match store.acquire(SHARD, "member-b", LONG_LEASE).await {
            Ok(lease) => break lease,
            Err(StoreError::Held(_)) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => panic!("expected the lease to expire, got {other:?}"),
        }
    };
    assert!(second.epoch > short.epoch && short.epoch > first.epoch);
    is_fenced(store.renew(SHARD, short.epoch, LONG_LEASE).await, second.epoch);
}

/// Renewing moves the end of the lease; the store's time does not go back.
pub async fn a_renewed_lease_keeps_others_out(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = store
        .acquire(SHARD, "member-a", Duration::from_millis(1))
        .await
        .expect("a free shard can be acquired");
    let renewed = store
        .renew(SHARD, lease.epoch, LONG_LEASE)
        .await
        .expect("nobody took it");
    assert!(renewed >= lease.store_now);
    let refused = store.acquire(SHARD, "member-b", LONG_LEASE).await;
    assert!(matches!(refused, Err(StoreError::Held(_))), "got {refused:?}");
}

/// After a release anyone gets the shard, and the releaser cannot write.
pub async fn a_released_shard_is_free_at_once(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let first = acquire(&*store, SHARD).await;
    append(&*store, &first, 1, "one").await;
    store.release(SHARD, first.epoch).await.expect("the owner can release");
    let late = store
        .append(SHARD, first.epoch, LogPosition(2), CommitId(2), "late".into())
        .await;
    assert!(
        matches!(late, Err(AppendError::Store(StoreError::Fenced { .. }))),
        "got {late:?}"
    );
    let second = store
        .acquire(SHARD, "member-b", LONG_LEASE)
        .await
        .expect("a released shard is free");
    assert!(second.epoch > first.epoch);
    append(&*store, &second, 2, "two").await;
}

/// A successor knows a shard that was given up from one that was lost or taken; the first owner of all took over nothing.
pub async fn a_lease_tells_whether_the_shard_was_given_up(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let first = acquire(&*store, SHARD).await;
    assert!(!first.released, "nobody had it before");
    let taken = acquire(&*store, SHARD).await;
    assert!(!taken.released, "the same owner took it again");
    store.release(SHARD, taken.epoch).await.expect("the owner can release");
    drop(store);
    let store = fixture.open().await;
    let after = acquire(&*store, SHARD).await;
    assert!(after.released, "it was given up, also after reopening");
    assert!(!acquire(&*store, OTHER).await.released, "another shard was not");
    let again = acquire(&*store, SHARD).await;
    assert!(!again.released, "its last owner did not give it up");
}

/// A shard is taken under exactly the epoch that was issued, unless that is not higher than any before.
pub async fn an_issued_epoch_is_installed_if_it_is_higher(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let first = acquire(&*store, SHARD).await;
    let issued = Epoch(first.epoch.0 + 7);
    let under = |epoch| store.acquire_under(SHARD, "member-a", LONG_LEASE, Some(epoch));
    let second = under(issued).await.expect("a higher epoch can be installed");
    assert_eq!(second.epoch, issued);
    is_fenced(store.renew(SHARD, first.epoch, LONG_LEASE).await, issued);
    for late in [issued, Epoch(issued.0 - 1)] {
        is_fenced(under(late).await, issued);
    }
    append(&*store, &second, 1, "one").await;
    let held = store
        .acquire_under(SHARD, "member-b", LONG_LEASE, Some(Epoch(issued.0 + 1)))
        .await;
    assert!(
        matches!(held, Err(StoreError::Held(_))),
        "an epoch breaks no lease: got {held:?}"
    );
}

/// Who has a shard is told with the epoch in force, also through another handle; not once the lease has expired or was given up.
pub async fn the_holder_is_told_until_its_lease_expires(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let holder = async || store.holder(SHARD).await.expect("the holder can be read");
    assert_eq!(holder().await, Holder::default());
    let lease = acquire(&*store, SHARD).await;
    let held = Holder {
        epoch: lease.epoch,
        owner: Some("member-a".to_owned()),
        ..Holder::default()
    };
    assert_eq!(holder().await, held);
    assert_eq!(
        store.holder(OTHER).await.expect("the holder can be read"),
        Holder::default()
    );
    store.release(SHARD, lease.epoch).await.expect("the owner can release");
    let free = holder().await;
    assert_eq!(free.owner, None);
    assert!(free.epoch >= lease.epoch, "epochs never go back");
    let short = store.acquire(SHARD, "member-b", Duration::from_millis(200)).await;
    let short = short.expect("a free shard can be acquired");
    let begun = Instant::now();
    while holder().await.owner.is_some() {
        assert!(begun.elapsed() < PATIENCE, "the lease does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(holder().await.epoch, short.epoch);
}

/// A shard past the fixed number is no shard.
pub async fn a_shard_that_does_not_exist_is_refused(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    assert!(
        store
            .acquire(ShardId(store.shards()), "member-a", LONG_LEASE)
            .await
            .is_err()
    );
}

/// A cursor starts at 0, is seen once set, never goes back, and belongs to one sink of one shard.
pub async fn cursors_never_go_back(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, OTHER).await;
    for position in 1..=9 {
        append(&*store, &lease, position, "record").await;
    }
    let cursor = |sink: &'static str| {
        let store = Arc::clone(&store);
        async move { store.cursor(SHARD, sink).await.expect("a cursor can be read").0 }
    };
    assert_eq!(cursor("events").await, 0);
    for (to, expected) in [(5, 5), (3, 5), (5, 5), (9, 9), (0, 9)] {
        store
            .set_cursor(SHARD, lease.epoch, "events", LogPosition(to))
            .await
            .expect("the owner can set it");
        assert_eq!(cursor("events").await, expected);
    }
    assert_eq!(cursor("courier").await, 0);
    store
        .set_cursor(OTHER, other.epoch, "events", LogPosition(0))
        .await
        .expect("the owner can set it");
    assert_eq!(
        store.cursor(OTHER, "events").await.expect("a cursor can be read"),
        LogPosition(0)
    );
}

/// Records, epochs and cursors survive closing and opening, and the number of shards does not change.
pub async fn what_was_acknowledged_is_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let shards = store.shards();
    let before = acquire(&*store, SHARD).await;
    for position in 1..=100 {
        append(&*store, &before, position, format!("record {position}")).await;
    }
    store
        .set_cursor(SHARD, before.epoch, "events", LogPosition(40))
        .await
        .expect("the owner can set it");
    drop(store);

    let store = fixture.open().await;
    assert_eq!(store.shards(), shards);
    let after = acquire(&*store, SHARD).await;
    assert!(after.epoch > before.epoch, "epochs grow over restarts");
    assert_eq!(after.next, LogPosition(101));
    let records = store
        .read(SHARD, LogPosition(1), usize::MAX)
        .await
        .expect("the log can be read");
    assert_eq!(records.len(), 100);
    assert!(
        records
            .iter()
            .all(|record| record.bytes == format!("record {}", record.position))
    );
    assert_eq!(
        store.cursor(SHARD, "events").await.expect("a cursor can be read"),
        LogPosition(40)
    );
    append(&*store, &after, 101, "next").await;
}
