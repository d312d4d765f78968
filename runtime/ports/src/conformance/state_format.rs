//! Clauses of [`StateStore`] about the format of what a shard holds, and about putting other bytes in its place.

use std::collections::BTreeSet;

use bytes::Bytes;
use troupe_core::{ExecutionId, LogPosition, Seq, ShardId, StateFormat, Timestamp};

use super::state_log::{acquire, append, is_fenced};
use super::{Fixture, execution};
use crate::state::{Archive, CheckpointRow, ExecutionBase, Lease, StateStore, Wait};

type StateFixture<'a> = &'a dyn Fixture<dyn StateStore>;

const SHARD: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);
const SECOND: StateFormat = StateFormat(2);

fn live(id: ExecutionId, first: u64, last: u64, snapshot: Option<&'static str>) -> CheckpointRow {
    CheckpointRow::Live {
        id,
        first: Seq(first),
        last: Seq(last),
        segment: Bytes::from(format!("entries {first} to {last}")),
        snapshot: snapshot.map(Bytes::from),
        wait: Wait::Running,
    }
}

fn archive(id: ExecutionId, last: u64, bytes: &'static str) -> Archive {
    Archive {
        id,
        last: Seq(last),
        bytes: bytes.into(),
        expires_at: Timestamp(1_000),
        tombstone_ms: 100,
    }
}

async fn checkpoint(store: &dyn StateStore, lease: &Lease, rows: Vec<CheckpointRow>) {
    let written = store.checkpoint(lease.shard, lease.epoch, rows, None).await;
    written.expect("the owner can checkpoint");
}

async fn load(store: &dyn StateStore, id: ExecutionId) -> Option<ExecutionBase> {
    store.load(id).await.expect("an execution can be looked up")
}

async fn rewrite(store: &dyn StateStore, lease: &Lease, id: ExecutionId, base: ExecutionBase) -> bool {
    let rewritten = store.rewrite(lease.shard, lease.epoch, id, base).await;
    rewritten.expect("the owner can rewrite")
}

async fn held(store: &dyn StateStore, shard: ShardId) -> StateFormat {
    store.holder(shard).await.expect("the holder can be read").format
}

/// Each shard has its own; an owner may say a newer and an older one.
pub async fn a_shard_holds_the_first_format_until_somebody_says_otherwise(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    assert_eq!(held(&*store, SHARD).await, StateFormat::FIRST);
    let lease = acquire(&*store, SHARD).await;
    assert_eq!(lease.format, StateFormat::FIRST);
    for format in [SECOND, StateFormat(7), StateFormat::FIRST, SECOND] {
        let said = store.set_format(SHARD, lease.epoch, format).await;
        said.expect("the owner can say it");
        assert_eq!(held(&*store, SHARD).await, format);
    }
    assert_eq!(held(&*store, OTHER).await, StateFormat::FIRST);
}

/// It outlives its owner and the process, whether the shard was given up or not.
pub async fn what_was_said_of_the_format_is_there_after_reopening(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    for (shard, is_released) in [(SHARD, true), (OTHER, false)] {
        let lease = acquire(&*store, shard).await;
        let said = store.set_format(shard, lease.epoch, SECOND).await;
        said.expect("the owner can say it");
        if is_released {
            store.release(shard, lease.epoch).await.expect("the owner can release");
        }
    }
    drop(store);
    let store = fixture.open().await;
    for shard in [SHARD, OTHER] {
        assert_eq!(held(&*store, shard).await, SECOND);
        assert_eq!(acquire(&*store, shard).await.format, SECOND);
    }
}

/// A shard's format and contents belong to whoever owns it.
pub async fn a_former_owner_cannot_change_the_format_or_rewrite(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let (former, id) = (acquire(&*store, SHARD).await, execution(0, 1));
    checkpoint(&*store, &former, vec![live(id, 1, 2, None)]).await;
    let stored = load(&*store, id).await.expect("it is stored");
    let owner = acquire(&*store, SHARD).await;
    is_fenced(store.set_format(SHARD, former.epoch, SECOND).await, owner.epoch);
    is_fenced(store.rewrite(SHARD, former.epoch, id, stored).await, owner.epoch);
    let chunk = store.rewrite_spool(SHARD, former.epoch, "events", LogPosition(1), Bytes::new());
    is_fenced(chunk.await, owner.epoch);
    assert_eq!(held(&*store, SHARD).await, StateFormat::FIRST);
}

/// What lives and what has an archive, of this shard alone; nothing that is gone.
pub async fn everything_that_lives_or_is_archived_is_listed(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let (lease, other) = (acquire(&*store, SHARD).await, acquire(&*store, OTHER).await);
    let listed = async || {
        let listed = store.stored(SHARD).await.expect("a shard can be listed");
        listed.into_iter().collect::<BTreeSet<_>>()
    };
    assert_eq!(listed().await, BTreeSet::new());
    let mut expected: BTreeSet<_> = (0..2_500).map(|number| execution(0, number)).collect();
    checkpoint(
        &*store,
        &lease,
        expected.iter().map(|id| live(*id, 1, 1, None)).collect(),
    )
    .await;
    let (ended, gone, controls) = (execution(0, 3_000), execution(0, 3_001), ExecutionId::controls(SHARD));
    let expired = Archive {
        expires_at: Timestamp(1),
        ..archive(gone, 3, "gone")
    };
    let rows = vec![
        CheckpointRow::Ended(archive(ended, 2, "ended")),
        CheckpointRow::Ended(expired),
        live(controls, 1, 1, Some("controls")),
    ];
    checkpoint(&*store, &lease, rows).await;
    checkpoint(&*store, &other, vec![live(execution(1, 1), 1, 1, None)]).await;
    let removed = store.expire(SHARD, lease.epoch, Timestamp(2), &[gone], 0).await;
    assert_eq!(removed.expect("archives can expire").archives, 1);
    expected.extend([ended, controls]);
    assert_eq!(listed().await, expected);
}

/// Its bytes are changed, and nothing else of it; where something was written meanwhile nothing is changed.
pub async fn what_lives_is_rewritten_if_it_has_the_same_seqs(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let (lease, id, bare) = (acquire(&*store, SHARD).await, execution(0, 1), execution(0, 2));
    let rows = vec![
        live(id, 1, 2, Some("state")),
        live(id, 3, 5, None),
        live(bare, 1, 1, None),
    ];
    checkpoint(&*store, &lease, rows).await;
    let base = |snapshot: Option<(u64, &'static str)>, segments: &[(u64, &'static str)]| ExecutionBase::Live {
        snapshot: snapshot.map(|(seq, bytes)| (Seq(seq), bytes.into())),
        segments: segments
            .iter()
            .map(|(last, bytes)| (Seq(*last), (*bytes).into()))
            .collect(),
        wait: Wait::Running,
    };
    let other = base(Some((2, "")), &[(2, "\u{0}one"), (5, "two")]);
    assert!(rewrite(&*store, &lease, id, other.clone()).await);
    assert!(rewrite(&*store, &lease, bare, base(None, &[(1, "bare")])).await);
    for (which, wrong) in [
        (id, base(None, &[(2, "a"), (5, "b")])),
        (id, base(Some((5, "s")), &[(2, "a"), (5, "b")])),
        (id, base(Some((2, "s")), &[(2, "a")])),
        (id, base(Some((2, "s")), &[(2, "a"), (4, "b")])),
        (bare, base(Some((1, "s")), &[(1, "a")])),
        (execution(0, 3), base(None, &[])),
        (
            id,
            ExecutionBase::Ended(archive(id, 5, "x"), vec![(Seq(2), "a".into()), (Seq(5), "b".into())]),
        ),
    ] {
        assert!(!rewrite(&*store, &lease, which, wrong.clone()).await, "{wrong:?}");
    }
    assert_eq!(load(&*store, id).await, Some(other));
    assert_eq!(load(&*store, bare).await, Some(base(None, &[(1, "bare")])));
    // It is what it was: the next entries follow, and it has unfinished work.
    checkpoint(&*store, &lease, vec![live(bare, 2, 2, None)]).await;
    assert_eq!(
        load(&*store, bare).await,
        Some(base(None, &[(1, "bare"), (2, "entries 2 to 2")]))
    );
    let running = store.running(SHARD, None, 9).await;
    assert_eq!(running.expect("what runs can be listed"), [id, bare]);
}

/// The same of what ended; it expires when it would have.
pub async fn what_ended_is_rewritten_if_it_has_the_same_seqs(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let (lease, id) = (acquire(&*store, SHARD).await, execution(0, 1));
    checkpoint(&*store, &lease, vec![live(id, 1, 2, None)]).await;
    checkpoint(&*store, &lease, vec![CheckpointRow::Ended(archive(id, 3, "final"))]).await;
    let ended = |last, bytes, segments: &[(u64, &'static str)]| {
        let segments = segments.iter().map(|(last, bytes)| (Seq(*last), (*bytes).into()));
        ExecutionBase::Ended(archive(id, last, bytes), segments.collect())
    };
    let other = ended(3, "other", &[(2, "others")]);
    assert!(rewrite(&*store, &lease, id, other.clone()).await);
    for wrong in [
        ended(4, "x", &[(2, "y")]),
        ended(3, "x", &[]),
        ended(3, "x", &[(1, "y")]),
        ExecutionBase::Live {
            snapshot: None,
            segments: vec![(Seq(2), "y".into())],
            wait: Wait::Running,
        },
    ] {
        assert!(!rewrite(&*store, &lease, id, wrong.clone()).await, "{wrong:?}");
    }
    assert_eq!(load(&*store, id).await, Some(other));
    let expired = store.expired(SHARD, Timestamp(1_000), 9).await;
    assert_eq!(expired.expect("what expired can be listed"), [id]);
    let removed = store.expire(SHARD, lease.epoch, Timestamp(1_000), &[id], 0).await;
    assert_eq!(removed.expect("archives can expire").archives, 1);
    assert!(!rewrite(&*store, &lease, id, ended(3, "late", &[(2, "late")])).await);
    assert_eq!(load(&*store, id).await, Some(ExecutionBase::Tombstone { last: Seq(3) }));
}

/// Its place stays; what was sent meanwhile does not come back.
pub async fn a_chunk_of_a_spool_is_rewritten_if_it_is_there(fixture: StateFixture<'_>) {
    let store = fixture.open().await;
    let lease = acquire(&*store, SHARD).await;
    for position in 1..=4 {
        append(&*store, &lease, position, "record").await;
    }
    let set = store.set_cursor(SHARD, lease.epoch, "events", LogPosition(0)).await;
    set.expect("the owner can set it");
    for up_to in [2, 4] {
        let chunk = store.spool(SHARD, lease.epoch, "events", LogPosition(up_to), "chunk".into());
        chunk.await.expect("the owner can spool");
    }
    for up_to in [4, 3] {
        let other = Bytes::from_static(b"\0other");
        let chunk = store.rewrite_spool(SHARD, lease.epoch, "events", LogPosition(up_to), other);
        chunk.await.expect("the owner can rewrite");
    }
    let chunks = store.spooled(SHARD, "events", LogPosition(0), usize::MAX).await;
    let chunks: Vec<_> = chunks
        .expect("a spool can be read")
        .into_iter()
        .map(|chunk| (chunk.up_to.0, chunk.bytes))
        .collect();
    assert_eq!(chunks, [(2, "chunk".into()), (4, Bytes::from_static(b"\0other"))]);
}
