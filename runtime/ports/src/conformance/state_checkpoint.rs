//! Clauses of [`StateStore`] about checkpoints, trimming, timers and archives.

use bytes::Bytes;
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq, ShardId, Timestamp};

use super::state_log::{LONG_LEASE, acquire, append};
use super::{Fixture, execution};
use crate::state::{Archive, CheckpointRow, ExecutionBase, Lease, StateStore, StoreError, Wait};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);

fn live(id: ExecutionId, first: u64, last: u64, wait: Wait) -> CheckpointRow {
    let segment = Bytes::from(format!("entries {first} to {last}"));
    CheckpointRow::Live {
        id,
        first: Seq(first),
        last: Seq(last),
        segment,
        snapshot: None,
        wait,
    }
}

fn archive(id: ExecutionId, last: u64, expires_at: i64) -> Archive {
    Archive {
        id,
        last: Seq(last),
        bytes: "final".into(),
        expires_at: Timestamp(expires_at),
        tombstone_ms: 100,
    }
}

async fn checkpoint(store: &dyn StateStore, lease: &Lease, rows: Vec<CheckpointRow>) {
    store
        .checkpoint(lease.shard, lease.epoch, rows, None)
        .await
        .expect("the owner can checkpoint");
}

async fn load(store: &dyn StateStore, id: ExecutionId) -> Option<ExecutionBase> {
    store.load(id).await.expect("an execution can be looked up")
}

/// Last seqs of the segments of an execution, live or ended.
async fn segments(store: &dyn StateStore, id: ExecutionId) -> Vec<u64> {
    match load(store, id).await {
        Some(ExecutionBase::Live { segments, .. } | ExecutionBase::Ended(_, segments)) => {
            segments.iter().map(|(last, _)| last.0).collect()
        }
        other => panic!("expected a live or ended execution, got {other:?}"),
    }
}

/// Repeating chunks, also old ones, changes nothing.
pub async fn a_chunk_may_be_applied_twice(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let (one, two, gone) = (execution(0, 1), execution(0, 2), execution(0, 3));
    assert_eq!(load(&*store, one).await, None);
    let first = vec![
        live(one, 1, 3, Wait::Running),
        live(two, 1, 2, Wait::Until(Timestamp(500))),
        CheckpointRow::Ended(archive(gone, 9, i64::MAX)),
    ];
    let second = vec![CheckpointRow::Live {
        id: one,
        first: Seq(4),
        last: Seq(6),
        segment: "more".into(),
        snapshot: Some("state at 6".into()),
        wait: Wait::Message,
    }];
    for chunk in [&first, &first, &second, &first, &second] {
        checkpoint(&*store, &lease, chunk.clone()).await;
    }
    let base = load(&*store, one).await;
    let segments = vec![(Seq(3), Bytes::from("entries 1 to 3")), (Seq(6), Bytes::from("more"))];
    let snapshot = Some((Seq(6), Bytes::from("state at 6")));
    assert_eq!(
        base,
        Some(ExecutionBase::Live {
            snapshot,
            segments,
            wait: Wait::Message
        })
    );
    let segments = vec![(Seq(2), Bytes::from("entries 1 to 2"))];
    let wait = Wait::Until(Timestamp(500));
    assert_eq!(
        load(&*store, two).await,
        Some(ExecutionBase::Live {
            snapshot: None,
            segments,
            wait
        })
    );
    assert_eq!(
        load(&*store, gone).await,
        Some(ExecutionBase::Ended(archive(gone, 9, i64::MAX), vec![]))
    );
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (0, 2));
}

/// Chunks without `reached` leave the position where it was; a lower `reached` too.
pub async fn the_checkpoint_position_moves_only_with_the_last_chunk(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let mut lease = acquire(&*store, SHARD).await;
    for position in 1..=5 {
        append(&*store, &lease, position, "record").await;
    }
    checkpoint(&*store, &lease, vec![live(execution(0, 1), 1, 3, Wait::Running)]).await;
    lease = acquire(&*store, SHARD).await;
    assert_eq!(lease.checkpointed, LogPosition(0));
    for (reached, expected) in [(4, 4), (2, 4)] {
        let moved = store
            .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(reached)))
            .await;
        moved.expect("the owner can checkpoint");
        lease = acquire(&*store, SHARD).await;
        assert_eq!(lease.checkpointed, LogPosition(expected));
    }
}

/// A segment that begins at or before the stored seq and goes past it is kept; one that begins later is damage, and nothing
/// of its chunk stays, not even the position.
pub async fn overlap_is_kept_and_a_gap_refuses_the_whole_chunk(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    append(&*store, &lease, 1, "record").await;
    let (one, two) = (execution(0, 1), execution(0, 2));
    checkpoint(&*store, &lease, vec![live(one, 1, 3, Wait::Running)]).await;
    checkpoint(&*store, &lease, vec![live(one, 2, 5, Wait::Running)]).await;
    assert_eq!(segments(&*store, one).await, [3, 5]);

    let gap = vec![live(two, 1, 1, Wait::Running), live(one, 7, 8, Wait::Running)];
    let refused = store.checkpoint(SHARD, lease.epoch, gap, Some(LogPosition(1))).await;
    assert!(matches!(refused, Err(StoreError::WentBack(_))), "got {refused:?}");
    assert_eq!(segments(&*store, one).await, [3, 5]);
    assert_eq!(load(&*store, two).await, None);
    assert_eq!(acquire(&*store, SHARD).await.checkpointed, LogPosition(0));
}

/// Segments written while an execution lived are kept beside its archive.
pub async fn an_ended_execution_keeps_its_whole_history(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let id = execution(0, 1);
    checkpoint(&*store, &lease, vec![live(id, 1, 3, Wait::Until(Timestamp(5)))]).await;
    checkpoint(&*store, &lease, vec![live(id, 4, 6, Wait::Running)]).await;
    checkpoint(&*store, &lease, vec![CheckpointRow::Ended(archive(id, 8, i64::MAX))]).await;
    let history = vec![
        (Seq(3), Bytes::from("entries 1 to 3")),
        (Seq(6), Bytes::from("entries 4 to 6")),
    ];
    assert_eq!(
        load(&*store, id).await,
        Some(ExecutionBase::Ended(archive(id, 8, i64::MAX), history))
    );
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (0, 0));
    assert!(
        store
            .running(SHARD, None, 10)
            .await
            .expect("ids can be read")
            .is_empty()
    );
}

/// A late repetition of a chunk from before the end changes nothing.
pub async fn an_ended_execution_does_not_come_back_to_life(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let id = execution(0, 1);
    checkpoint(&*store, &lease, vec![CheckpointRow::Ended(archive(id, 8, 10))]).await;
    let late = vec![
        live(id, 1, 3, Wait::Until(Timestamp(1))),
        CheckpointRow::Ended(archive(id, 8, 99)),
    ];
    checkpoint(&*store, &lease, late.clone()).await;
    assert_eq!(
        load(&*store, id).await,
        Some(ExecutionBase::Ended(archive(id, 8, 10), vec![]))
    );
    store
        .expire(SHARD, lease.epoch, Timestamp(10), &[id], 10)
        .await
        .expect("the owner can expire");
    checkpoint(&*store, &lease, late).await;
    assert_eq!(load(&*store, id).await, Some(ExecutionBase::Tombstone { last: Seq(8) }));
    assert_eq!(
        store
            .timers_due(SHARD, Timestamp(100), 10)
            .await
            .expect("timers can be read"),
        []
    );
}

fn reopened(id: ExecutionId, ended: u64) -> CheckpointRow {
    CheckpointRow::Reopened {
        id,
        ended: Seq(ended),
        segment: format!("entries up to {ended}").into(),
        snapshot: format!("state at {ended}").into(),
    }
}

/// An archive gives way to a live execution with the whole history, which may end again; repetitions change nothing.
pub async fn an_ended_execution_can_be_reopened(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let id = execution(0, 1);
    let first = vec![live(id, 1, 3, Wait::Running), CheckpointRow::Ended(archive(id, 5, 10))];
    for row in first.clone() {
        checkpoint(&*store, &lease, vec![row]).await;
    }
    let again = vec![reopened(id, 5), live(id, 6, 7, Wait::Until(Timestamp(500)))];
    for chunk in [&again, &again, &first] {
        checkpoint(&*store, &lease, chunk.clone()).await;
    }
    let lives = ExecutionBase::Live {
        snapshot: Some((Seq(5), "state at 5".into())),
        segments: vec![
            (Seq(3), "entries 1 to 3".into()),
            (Seq(5), "entries up to 5".into()),
            (Seq(7), "entries 6 to 7".into()),
        ],
        wait: Wait::Until(Timestamp(500)),
    };
    assert_eq!(load(&*store, id).await, Some(lives));
    let due = store.timers_due(SHARD, Timestamp(500), 10).await;
    assert_eq!(due.expect("timers can be read"), [(Timestamp(500), id)]);
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (0, 1));
    let expired = store.expired(SHARD, Timestamp(1_000), 10).await;
    assert_eq!(expired.expect("archives can be listed"), [], "its archive is gone");

    let ended = vec![CheckpointRow::Ended(archive(id, 9, 20))];
    for chunk in [&ended, &again, &ended] {
        checkpoint(&*store, &lease, chunk.clone()).await;
    }
    let history = vec![
        (Seq(3), "entries 1 to 3".into()),
        (Seq(5), "entries up to 5".into()),
        (Seq(7), "entries 6 to 7".into()),
    ];
    assert_eq!(
        load(&*store, id).await,
        Some(ExecutionBase::Ended(archive(id, 9, 20), history))
    );
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (0, 0));
}

/// Nothing lives again but what ended where the row says.
pub async fn only_its_latest_end_can_be_reopened(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let (lives, ended, gone, never) = (execution(0, 1), execution(0, 2), execution(0, 3), execution(0, 4));
    let rows = vec![
        live(lives, 1, 3, Wait::Running),
        CheckpointRow::Ended(archive(ended, 5, i64::MAX)),
        CheckpointRow::Ended(archive(gone, 5, 10)),
    ];
    checkpoint(&*store, &lease, rows).await;
    let expired = store.expire(SHARD, lease.epoch, Timestamp(10), &[gone], 10).await;
    expired.expect("the owner can expire");
    let rows = vec![
        reopened(lives, 3),
        reopened(ended, 4),
        reopened(gone, 5),
        reopened(never, 1),
    ];
    checkpoint(&*store, &lease, rows).await;
    assert_eq!(segments(&*store, lives).await, [3]);
    let stays = ExecutionBase::Ended(archive(ended, 5, i64::MAX), vec![]);
    assert_eq!(load(&*store, ended).await, Some(stays));
    assert_eq!(
        load(&*store, gone).await,
        Some(ExecutionBase::Tombstone { last: Seq(5) })
    );
    assert_eq!(load(&*store, never).await, None);
}

async fn positions(store: &dyn StateStore) -> Vec<u64> {
    let records = store
        .read(SHARD, LogPosition(1), usize::MAX)
        .await
        .expect("the log can be read");
    records.iter().map(|record| record.position.0).collect()
}

/// Whatever is asked, records past the checkpoint stay.
pub async fn trimming_stops_at_the_checkpoint(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=6 {
        append(&*store, &lease, position, vec![7; 700_000]).await;
    }
    let trim = async |up_to| {
        store
            .trim(SHARD, lease.epoch, LogPosition(up_to))
            .await
            .expect("the owner can trim");
        positions(&*store).await
    };
    assert_eq!(trim(6).await, [1, 2, 3, 4, 5, 6]);
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(5)))
        .await
        .expect("the owner can checkpoint");
    assert_eq!(trim(2).await, [3, 4, 5, 6]);
    assert_eq!(trim(1).await, [3, 4, 5, 6]);
    assert_eq!(trim(1_000).await, [6]);
    append(&*store, &lease, 7, "record").await;
    assert_eq!(positions(&*store).await, [6, 7]);
}

/// Records that a sink has not sent stay, whatever the checkpoint says.
pub async fn trimming_stops_at_the_lowest_cursor(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=6 {
        append(&*store, &lease, position, "record").await;
    }
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(6)))
        .await
        .expect("the owner can checkpoint");
    for (sink, to) in [("events", 4), ("visibility", 2)] {
        store
            .set_cursor(SHARD, lease.epoch, sink, LogPosition(to))
            .await
            .expect("the owner can set it");
    }
    store
        .trim(SHARD, lease.epoch, LogPosition(6))
        .await
        .expect("the owner can trim");
    assert_eq!(positions(&*store).await, [3, 4, 5, 6]);
    store
        .set_cursor(SHARD, lease.epoch, "visibility", LogPosition(6))
        .await
        .expect("the owner can set it");
    store
        .trim(SHARD, lease.epoch, LogPosition(6))
        .await
        .expect("the owner can trim");
    assert_eq!(positions(&*store).await, [5, 6]);
}

/// A sink that has not sent anything yet keeps the whole log.
pub async fn a_cursor_at_its_beginning_keeps_the_log(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    store
        .set_cursor(SHARD, lease.epoch, "events", LogPosition(0))
        .await
        .expect("the owner can set it");
    for position in 1..=3 {
        append(&*store, &lease, position, "record").await;
    }
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(3)))
        .await
        .expect("the owner can checkpoint");
    store
        .trim(SHARD, lease.epoch, LogPosition(3))
        .await
        .expect("the owner can trim");
    assert_eq!(positions(&*store).await, [1, 2, 3]);
}

/// A sink that is no more does not keep the log for ever, and begins anew should it come back.
pub async fn a_cursor_that_is_forgotten_keeps_nothing(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=3 {
        append(&*store, &lease, position, "record").await;
    }
    for sink in ["events", "gone"] {
        let set = store.set_cursor(SHARD, lease.epoch, sink, LogPosition(1)).await;
        set.expect("the owner can set it");
    }
    let moved = store.set_cursor(SHARD, lease.epoch, "events", LogPosition(3)).await;
    moved.expect("the owner can move it");
    let checkpointed = store.checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(3))).await;
    checkpointed.expect("the owner can checkpoint");
    let trim = || async {
        let trimmed = store.trim(SHARD, lease.epoch, LogPosition(3)).await;
        trimmed.expect("the owner can trim");
        positions(&*store).await
    };
    assert_eq!(trim().await, [2, 3]);
    let former = Epoch(lease.epoch.0 - 1);
    let refused = store.keep_cursors(SHARD, former, &[]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(trim().await, [2, 3]);
    let kept = store.keep_cursors(SHARD, lease.epoch, &["events"]).await;
    kept.expect("the owner can forget it");
    assert_eq!(trim().await, [0; 0]);
    let cursor = |sink: &'static str| store.cursor(SHARD, sink);
    assert_eq!(cursor("events").await.expect("it can be read"), LogPosition(3));
    assert_eq!(cursor("gone").await.expect("it can be read"), LogPosition(0));
}

/// A log that was trimmed to nothing goes on where it was, also after reopening.
pub async fn positions_are_not_used_again_after_trimming(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=3 {
        append(&*store, &lease, position, "record").await;
    }
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(3)))
        .await
        .expect("the owner can checkpoint");
    store
        .trim(SHARD, lease.epoch, LogPosition(3))
        .await
        .expect("the owner can trim");
    assert!(positions(&*store).await.is_empty());
    append(&*store, &lease, 4, "record").await;
    store
        .checkpoint(SHARD, lease.epoch, vec![], Some(LogPosition(4)))
        .await
        .expect("the owner can checkpoint");
    store
        .trim(SHARD, lease.epoch, LogPosition(4))
        .await
        .expect("the owner can trim");
    drop(store);
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    assert_eq!((lease.next, lease.checkpointed), (LogPosition(5), LogPosition(4)));
    append(&*store, &lease, 5, "record").await;
}

/// Due executions come in order of time, up to the asked instant and number, and only by their last wait.
pub async fn timers_come_earliest_first_and_follow_the_last_wait(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let due = [(1, 300), (2, 100), (3, 200), (4, 400), (5, 100)];
    let rows = due.map(|(number, at)| live(execution(0, number), 1, 1, Wait::Until(Timestamp(at))));
    checkpoint(&*store, &lease, rows.to_vec()).await;
    checkpoint(
        &*store,
        &other,
        vec![live(execution(1, 1), 1, 1, Wait::Until(Timestamp(1)))],
    )
    .await;
    let timers = async |until, limit| {
        let timers = store
            .timers_due(SHARD, Timestamp(until), limit)
            .await
            .expect("timers can be read");
        let number = |id| {
            due.iter()
                .map(|(number, _)| *number)
                .find(|number| execution(0, *number) == id)
        };
        timers
            .into_iter()
            .map(|(at, id)| (number(id).expect("an id of this shard"), at.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(timers(99, 10).await, []);
    assert_eq!(timers(300, 10).await, [(2, 100), (5, 100), (3, 200), (1, 300)]);
    assert_eq!(timers(1_000, 3).await, [(2, 100), (5, 100), (3, 200)]);
    checkpoint(
        &*store,
        &lease,
        vec![
            live(execution(0, 2), 2, 2, Wait::Running),
            live(execution(0, 5), 2, 2, Wait::Message),
            live(execution(0, 3), 2, 2, Wait::Until(Timestamp(900))),
            CheckpointRow::Ended(archive(execution(0, 4), 2, i64::MAX)),
        ],
    )
    .await;
    assert_eq!(timers(1_000, 10).await, [(1, 300), (3, 900)]);
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (1, 3));
}

/// Pages of executions with unfinished work: in order, complete, of this shard, without those that only wait.
pub async fn running_executions_are_paged_in_order_of_id(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let wait = |number| if number % 10 == 0 { Wait::Message } else { Wait::Running };
    let rows = (1..=100)
        .rev()
        .map(|number| live(execution(0, number), 1, 1, wait(number)));
    checkpoint(&*store, &lease, rows.collect()).await;
    checkpoint(&*store, &other, vec![live(execution(1, 1), 1, 1, Wait::Running)]).await;
    let mut found = Vec::new();
    loop {
        let page = store
            .running(SHARD, found.last().copied(), 7)
            .await
            .expect("ids can be read");
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    let expected: Vec<_> = (1..=100)
        .filter(|number| number % 10 != 0)
        .map(|number| execution(0, number))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(store.live_counts(SHARD).await.expect("counts can be read"), (90, 10));
}

/// A head is the highest ordinal that was ever written.
pub async fn heads_never_go_back(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let key = execution(0, 1);
    assert_eq!(store.head(key).await.expect("a head can be read"), None);
    for (ordinal, expected) in [(0, 0), (3, 3), (1, 3), (4, 4)] {
        checkpoint(&*store, &lease, vec![CheckpointRow::Head { key, ordinal }]).await;
        assert_eq!(store.head(key).await.expect("a head can be read"), Some(expected));
    }
    assert_eq!(store.head(execution(0, 2)).await.expect("a head can be read"), None);
}

/// An archive goes at its time and leaves a tombstone, which goes at its own; nothing goes early.
pub async fn archives_expire_to_tombstones_and_tombstones_expire(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let ids: Vec<_> = (1..=3).map(|number| execution(0, number)).collect();
    checkpoint(&*store, &lease, vec![live(ids[0], 1, 2, Wait::Running)]).await;
    let ended = ids
        .iter()
        .zip([1_000, 1_001, 9_000])
        .map(|(id, at)| CheckpointRow::Ended(archive(*id, 4, at)));
    checkpoint(&*store, &lease, ended.collect()).await;
    checkpoint(
        &*store,
        &other,
        vec![CheckpointRow::Ended(archive(execution(1, 1), 4, 1))],
    )
    .await;
    let expire = async |now, limit| {
        let due = store
            .expired(SHARD, Timestamp(now), limit)
            .await
            .expect("archives can be read");
        let gone = store
            .expire(SHARD, lease.epoch, Timestamp(now), &due, limit)
            .await
            .expect("the owner can expire");
        assert_eq!(gone.archives, due.len() as u64);
        (due, gone.tombstones)
    };

    assert_eq!(expire(999, 10).await, (vec![], 0));
    assert!(matches!(load(&*store, ids[0]).await, Some(ExecutionBase::Ended(..))));
    assert_eq!(expire(1_005, 1).await, (vec![ids[0]], 0));
    assert_eq!(expire(1_005, 10).await, (vec![ids[1]], 0));
    assert_eq!(
        load(&*store, ids[0]).await,
        Some(ExecutionBase::Tombstone { last: Seq(4) })
    );
    assert!(matches!(load(&*store, ids[2]).await, Some(ExecutionBase::Ended(..))));

    assert_eq!(expire(1_099, 10).await, (vec![], 0));
    assert_eq!(expire(1_100, 10).await, (vec![], 1));
    assert_eq!(load(&*store, ids[0]).await, None);
    assert_eq!(
        load(&*store, ids[1]).await,
        Some(ExecutionBase::Tombstone { last: Seq(4) })
    );
    assert!(
        matches!(load(&*store, execution(1, 1)).await, Some(ExecutionBase::Ended(..))),
        "another shard's archive"
    );
}

/// Listing removes nothing; expiring is idempotent and leaves alone what is alive, not yet expired or another shard's.
pub async fn expiring_twice_and_expiring_what_lives_change_nothing(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let (alive, fresh, due, foreign) = (execution(0, 1), execution(0, 2), execution(0, 3), execution(1, 4));
    checkpoint(&*store, &lease, vec![live(alive, 1, 2, Wait::Running)]).await;
    let ended = [(fresh, 2_000), (due, 1_000)].map(|(id, at)| CheckpointRow::Ended(archive(id, 4, at)));
    checkpoint(&*store, &lease, ended.to_vec()).await;
    checkpoint(&*store, &other, vec![CheckpointRow::Ended(archive(foreign, 4, 1))]).await;
    let now = Timestamp(1_000);
    for _ in 0..2 {
        let listed = store.expired(SHARD, now, 10).await.expect("archives can be read");
        assert_eq!(listed, [due]);
    }
    for expected in [1, 0] {
        let all = [alive, fresh, due, foreign, execution(0, 99)];
        let gone = store.expire(SHARD, lease.epoch, now, &all, 10).await;
        assert_eq!(gone.expect("the owner can expire").archives, expected);
    }
    assert_eq!(store.expired(SHARD, now, 10).await.expect("archives can be read"), []);
    assert!(matches!(load(&*store, alive).await, Some(ExecutionBase::Live { .. })));
    for kept in [fresh, foreign] {
        assert!(matches!(load(&*store, kept).await, Some(ExecutionBase::Ended(..))));
    }
    assert_eq!(
        load(&*store, due).await,
        Some(ExecutionBase::Tombstone { last: Seq(4) })
    );
}

/// Whoever is set aside stays so, with the last reason, through a takeover and a reopening, until it is taken back; the
/// execution itself is as it was, also one that no checkpoint has seen.
pub async fn a_quarantine_lasts_until_it_is_taken_back(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    let other = acquire(&*store, ShardId(1)).await;
    let (one, two, foreign) = (execution(0, 1), execution(0, 2), execution(1, 1));
    let set = async |epoch, id: troupe_core::ExecutionId, reason| {
        let set = store.set_quarantine(id.shard(), epoch, id, reason).await;
        set.expect("the owner can set it aside");
    };
    let found = async |shard| store.quarantined(shard).await.expect("it can be read");
    assert_eq!(found(SHARD).await, []);
    checkpoint(&*store, &lease, vec![live(one, 1, 2, Wait::Running)]).await;
    set(lease.epoch, two, Some("unseen")).await;
    set(lease.epoch, one, Some("first")).await;
    set(lease.epoch, one, Some("it fails")).await;
    set(other.epoch, foreign, Some("elsewhere")).await;
    set(lease.epoch, execution(0, 3), None).await;
    let both = [(one, "it fails".to_owned()), (two, "unseen".to_owned())];
    assert_eq!(found(SHARD).await, both);
    assert_eq!(segments(&*store, one).await, [2]);
    assert_eq!(store.running(SHARD, None, 10).await.expect("ids can be read"), [one]);

    let next = acquire(&*store, SHARD).await;
    let fenced = store.set_quarantine(SHARD, lease.epoch, one, None).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "got {fenced:?}");
    assert_eq!(found(SHARD).await, both);
    set(next.epoch, one, None).await;
    assert_eq!(found(SHARD).await, both[1..]);
    drop(store);
    let store = fixture.open().await;
    let found = store.quarantined(SHARD).await.expect("it can be read");
    assert_eq!(found, both[1..]);
}

/// A checkpoint of several chunks, the last with the position, survives closing and opening.
pub async fn a_large_checkpoint_is_there_after_reopening(fixture: StateFixture<'_>) {
    const CHUNKS: u32 = 8;
    const ROWS: u32 = 500;
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    append(&*store, &lease, 1, "record").await;
    for chunk in 0..CHUNKS {
        let rows = (0..ROWS).map(|row| {
            let id = execution(0, chunk * ROWS + row);
            let segment = Bytes::from(vec![row as u8; 600]);
            let wait = Wait::Until(Timestamp(i64::from(row)));
            CheckpointRow::Live {
                id,
                first: Seq(1),
                last: Seq(2),
                segment,
                snapshot: None,
                wait,
            }
        });
        let reached = (chunk + 1 == CHUNKS).then_some(LogPosition(1));
        store
            .checkpoint(SHARD, lease.epoch, rows.collect(), reached)
            .await
            .expect("the owner can checkpoint");
    }
    drop(store);
    let store = fixture.open().await;
    let lease = store
        .acquire(SHARD, "member-a", LONG_LEASE)
        .await
        .expect("a free shard can be acquired");
    assert_eq!(lease.checkpointed, LogPosition(1));
    assert_eq!(
        store.live_counts(SHARD).await.expect("counts can be read"),
        (0, u64::from(CHUNKS * ROWS))
    );
    let timers = store
        .timers_due(SHARD, Timestamp(i64::MAX), usize::MAX)
        .await
        .expect("timers can be read");
    assert_eq!(timers.len(), (CHUNKS * ROWS) as usize);
    assert!(timers.is_sorted());
    assert_eq!(segments(&*store, execution(0, CHUNKS * ROWS - 1)).await, [2]);
}
