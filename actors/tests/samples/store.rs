//! The two files of an embedded store that holds something of everything: owners, log, cursors, spools, inbox, checkpoints,
//! timers, values, definitions, lists, keys and changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use troupe_actors::blobs::reference;
use troupe_backends::{EmbeddedStore, StoreOptions};
use troupe_core::definition::WorkflowDefinition;
use troupe_core::{Epoch, ExecutionId, LogPosition, Seq};
use troupe_ports::{
    ApiKey, ApiKeyStore, Archive, AuditId, AuditLog, AuditQuery, AuditRow, AuditTarget, BlobsPut, CacheLimits,
    CheckpointRow, CommitId, DefinitionStore, EpochAuthority, ExecutionBase, ExecutionQuery, ExecutionSummary, Holder,
    InboxId, InboxItem, InboxLimits, InboxPush, KeyId, LogRecord, Role, SpoolChunk, StateStore, VisibilityStore, Wait,
};

use crate::kept::FORMAT;
use crate::story;
use crate::values::{AT, SHARD, id, json};

const FILES: [&str; 2] = ["log.db", "store.db"];
/// Empty pages compress well.
const LEVEL: i32 = 19;
/// Beyond the length of a file.
const FILE_BYTES_MAX: usize = 8 << 20;
const LEASE: Duration = Duration::from_secs(5);
const SINK: &str = "events";
const OUTPUT: [u8; 32] = [0xca; 32];
/// What lies in an inbox is bytes to a store; those of the gateway have samples there (`gateway/src/members/inbox/samples`).
const COMMAND: InboxId = InboxId([7; 32]);

/// The files of a store that was filled, compressed.
pub(crate) async fn files() -> Vec<Bytes> {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill_log(&store).await;
    fill_checkpoint(&store).await;
    fill_lists(&store).await;
    // The files are whole when it is closed.
    drop(store);
    let compressed = |name: &str| {
        let file = fs::read(directory.path().join(name)).unwrap();
        Bytes::from(zstd::bulk::compress(&file, LEVEL).unwrap())
    };
    FILES.into_iter().map(compressed).collect()
}

/// Checks that all of it is found in such files.
pub(crate) async fn check(files: &[Bytes]) {
    let directory = tempfile::tempdir().unwrap();
    for (name, compressed) in FILES.iter().zip(files) {
        let file = zstd::bulk::decompress(compressed, FILE_BYTES_MAX).unwrap();
        fs::write(directory.path().join(name), file).unwrap();
    }
    let store = open(directory.path());
    check_checkpoint(&store).await;
    check_values(&store).await;
    check_lists(&store).await;
    check_log(&store).await;
}

fn open(directory: &Path) -> EmbeddedStore {
    let options = StoreOptions {
        shards: 5,
        ..StoreOptions::default()
    };
    EmbeddedStore::open(directory, &options).unwrap()
}

fn record(position: u64) -> Bytes {
    format!("record {position}").into()
}

fn commit(position: u64) -> CommitId {
    CommitId((u128::from(position) << 64) | 1)
}

async fn fill_log(store: &EmbeddedStore) {
    let lease = store.acquire(SHARD, "a", LEASE).await.unwrap();
    for position in 1..=3 {
        let appended = store.append(
            SHARD,
            lease.epoch,
            LogPosition(position),
            commit(position),
            record(position),
        );
        appended.await.unwrap();
    }
    store
        .set_cursor(SHARD, lease.epoch, SINK, LogPosition(2))
        .await
        .unwrap();
    let chunk = Bytes::from_static(b"chunk");
    store
        .spool(SHARD, lease.epoch, SINK, LogPosition(3), chunk)
        .await
        .unwrap();
    store.set_format(SHARD, lease.epoch, FORMAT).await.unwrap();
    let most = InboxLimits {
        items: 10,
        bytes: 1_000,
    };
    let pushed = store.inbox_push(SHARD, COMMAND, Bytes::from_static(b"command"), most);
    assert_eq!(pushed.await.unwrap(), InboxPush::Kept);
}

/// After everything else of the log: whoever takes the shard changes it.
async fn check_log(store: &EmbeddedStore) {
    let held = Holder {
        epoch: Epoch(1),
        owner: None,
        format: FORMAT,
    };
    assert_eq!(store.holder(SHARD).await.unwrap(), held);
    assert_eq!(store.issued(SHARD).await.unwrap(), Epoch(1));
    let record = |position| LogRecord {
        position: LogPosition(position),
        commit: commit(position),
        bytes: record(position),
    };
    let records = store.read(SHARD, LogPosition(1), usize::MAX).await.unwrap();
    assert_eq!(records, [record(2), record(3)]);
    assert_eq!(store.cursor(SHARD, SINK).await.unwrap(), LogPosition(2));
    let chunk = SpoolChunk {
        up_to: LogPosition(3),
        bytes: Bytes::from_static(b"chunk"),
    };
    let spooled = store.spooled(SHARD, SINK, LogPosition(2), usize::MAX).await.unwrap();
    assert_eq!(spooled, [chunk]);
    let item = InboxItem {
        arrival: 1,
        id: COMMAND,
        bytes: Bytes::from_static(b"command"),
    };
    assert_eq!(store.inbox_read(SHARD, 0, usize::MAX).await.unwrap(), [item]);
    let lease = store.acquire(SHARD, "b", LEASE).await.unwrap();
    let (next, checkpointed) = (LogPosition(4), LogPosition(2));
    assert_eq!(
        (lease.epoch, lease.next, lease.checkpointed),
        (Epoch(2), next, checkpointed)
    );
    assert_eq!((lease.released, lease.format, lease.lost), (false, FORMAT, 0));
}

fn archive(number: u64, expires_ms: u64) -> Archive {
    Archive {
        id: id(number),
        last: Seq(9),
        bytes: Bytes::from_static(b"archive"),
        expires_at: AT.plus_ms(expires_ms),
        tombstone_ms: 1_000,
    }
}

/// `1` runs, `2` waits for a time, `3` for a message, `4` has ended, of `5` a tombstone is left; and the shard's controls.
async fn fill_checkpoint(store: &EmbeddedStore) {
    let epoch = Epoch(1);
    let live = |id, snapshot: Option<&'static [u8]>, wait| CheckpointRow::Live {
        id,
        first: Seq(1),
        last: Seq(8),
        segment: Bytes::from_static(b"segment"),
        snapshot: snapshot.map(Bytes::from_static),
        wait,
    };
    let rows = vec![
        live(id(1), Some(b"snapshot"), Wait::Running),
        live(id(2), None, Wait::Until(AT.plus_ms(60_000))),
        live(id(3), None, Wait::Message),
        live(ExecutionId::controls(SHARD), Some(b"controls"), Wait::Message),
        live(id(4), Some(b"snapshot"), Wait::Running),
        CheckpointRow::Ended(archive(4, 90_000)),
        CheckpointRow::Ended(archive(5, 10)),
        CheckpointRow::Head { key: id(6), ordinal: 4 },
    ];
    store
        .checkpoint(SHARD, epoch, rows, Some(LogPosition(2)))
        .await
        .unwrap();
    store.trim(SHARD, epoch, LogPosition(1)).await.unwrap();
    let expired = store.expire(SHARD, epoch, AT.plus_ms(20), &[id(5)], 10).await.unwrap();
    assert_eq!(expired.archives, 1);
    store
        .set_quarantine(SHARD, epoch, id(3), Some("it is damaged"))
        .await
        .unwrap();
    for root in [id(1), id(2)] {
        let value = json(r#""large""#);
        let put = store.put_blobs(SHARD, epoch, root, AT, vec![(reference(&value), value)], 1_000);
        assert_eq!(put.await.unwrap(), BlobsPut::Kept);
    }
    store.settle_blobs(SHARD, epoch, id(1), true).await.unwrap();
    let most = CacheLimits {
        entries: 10,
        bytes: 1_000,
    };
    store
        .cache_output(OUTPUT, json("[7]"), AT, AT.plus_ms(60_000), most)
        .await
        .unwrap();
}

async fn check_checkpoint(store: &EmbeddedStore) {
    let segments = || vec![(Seq(8), Bytes::from_static(b"segment"))];
    let live = |snapshot: Option<&'static [u8]>, wait| ExecutionBase::Live {
        snapshot: snapshot.map(|bytes| (Seq(8), Bytes::from_static(bytes))),
        segments: segments(),
        wait,
    };
    let due = AT.plus_ms(60_000);
    for (id, base) in [
        (id(1), live(Some(b"snapshot"), Wait::Running)),
        (id(2), live(None, Wait::Until(due))),
        (id(3), live(None, Wait::Message)),
        (ExecutionId::controls(SHARD), live(Some(b"controls"), Wait::Message)),
        (id(4), ExecutionBase::Ended(archive(4, 90_000), segments())),
        (id(5), ExecutionBase::Tombstone { last: Seq(9) }),
    ] {
        assert_eq!(store.load(id).await.unwrap(), Some(base));
    }
    assert_eq!(store.timers_due(SHARD, due, 10).await.unwrap(), [(due, id(2))]);
    assert_eq!(store.running(SHARD, None, 10).await.unwrap(), [id(1)]);
    assert_eq!(store.live_counts(SHARD).await.unwrap(), (1, 2));
    let expired = store.expired(SHARD, AT.plus_ms(90_000), 10).await.unwrap();
    assert_eq!(expired, [id(4)]);
    assert_eq!(store.head(id(6)).await.unwrap(), Some(4));
    let quarantined = store.quarantined(SHARD).await.unwrap();
    assert_eq!(quarantined, [(id(3), "it is damaged".to_owned())]);
}

async fn check_values(store: &EmbeddedStore) {
    let value = json(r#""large""#);
    let hash = reference(&value).hash;
    for root in [id(1), id(2)] {
        assert_eq!(store.blob(root, hash).await.unwrap().as_ref(), Some(&value));
    }
    let unconfirmed = store.unconfirmed_blobs(SHARD, AT.plus_ms(1), 10).await.unwrap();
    assert_eq!(unconfirmed, [id(2)]);
    assert_eq!(store.cached_output(OUTPUT, AT).await.unwrap(), Some(json("[7]")));
    assert_eq!(store.cached_output(OUTPUT, AT.plus_ms(60_000)).await.unwrap(), None);
}

fn definition() -> WorkflowDefinition {
    serde_json::from_value(story::definition()).unwrap()
}

fn summary() -> ExecutionSummary {
    ExecutionSummary {
        id: id(4),
        workflow_id: "orders".to_owned(),
        version: 1,
        status: "failed".to_owned(),
        paused: true,
        started_at: AT,
        ended_at: Some(AT.plus_ms(90)),
        error_code: Some("TIMEOUT".to_owned()),
        error_message: Some("it took too long".to_owned()),
        execution_key: Some("order-7".to_owned()),
        workflow_name: "Orders".to_owned(),
        tags: vec!["a".to_owned(), "b".to_owned()],
        parent: Some(id(1)),
        seq: Seq(9),
    }
}

fn key() -> ApiKey {
    ApiKey {
        id: KeyId([1, 2, 3, 4, 5, 6, 7, 8]),
        name: "ada".to_owned(),
        role: Role::Operator,
        secret: [0x5e; 32],
        created_at: AT,
        created_by: Some("root".to_owned()),
        expires_at: Some(AT.plus_ms(1)),
        revoked_at: None,
        used_at: None,
    }
}

fn change() -> AuditRow {
    AuditRow {
        id: AuditId([9; 16]),
        at: AT,
        principal: Some("ada".to_owned()),
        action: "workflow.put".to_owned(),
        target: AuditTarget {
            kind: "workflow".to_owned(),
            id: "orders".to_owned(),
        },
        before: Some([1; 32]),
        after: Some([2; 32]),
        request: Some("request-7".to_owned()),
        outcome: Some("ok".to_owned()),
    }
}

async fn fill_lists(store: &EmbeddedStore) {
    DefinitionStore::put(store, definition(), json(r#"{"paths":2}"#), None, AT)
        .await
        .unwrap();
    assert!(DefinitionStore::archive(store, "orders", true).await.unwrap());
    store
        .project(SHARD, None, vec![summary()], LogPosition(3))
        .await
        .unwrap();
    ApiKeyStore::create(store, key()).await.unwrap();
    store.used(vec![(key().id, AT.plus_ms(2))]).await.unwrap();
    store.revoke(key().id, AT.plus_ms(3)).await.unwrap();
    store.record(vec![change()]).await.unwrap();
}

async fn check_lists(store: &EmbeddedStore) {
    let stored = DefinitionStore::get(store, "orders", None).await.unwrap().unwrap();
    assert_eq!(stored.definition, Arc::new(definition()));
    assert_eq!((stored.version, stored.stored_at, stored.archived), (1, AT, true));
    assert_eq!(stored.analysis, json(r#"{"paths":2}"#));
    let query = ExecutionQuery {
        limit: 10,
        ..ExecutionQuery::default()
    };
    let page = VisibilityStore::list(store, query).await.unwrap();
    assert_eq!(page.items, [summary()]);
    assert_eq!(store.projected(SHARD).await.unwrap(), LogPosition(3));
    let revoked = ApiKey {
        revoked_at: Some(AT.plus_ms(3)),
        used_at: Some(AT.plus_ms(2)),
        ..key()
    };
    let found = ApiKeyStore::get(store, key().id).await.unwrap();
    assert_eq!(found, Some(revoked));
    let query = AuditQuery {
        limit: 10,
        ..AuditQuery::default()
    };
    let changes = AuditLog::list(store, query).await.unwrap();
    assert_eq!(changes.items, [change()]);
}
