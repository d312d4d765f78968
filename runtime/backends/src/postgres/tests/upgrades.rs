//! Tables that are brought up to date under members of the release before.

use std::time::{Duration, Instant};

use troupe_core::{LogPosition, Seq, ShardId};
use troupe_ports::{ExecutionSummary, StoreError, VisibilityStore};

use super::*;
use crate::postgres::{PostgresOptions, PostgresStore, migrate};

const SHARD: ShardId = ShardId(0);

fn summary(number: u64) -> ExecutionSummary {
    ExecutionSummary {
        id: ExecutionId::fresh(SHARD, Timestamp(7), number),
        workflow_id: "orders".to_owned(),
        version: 1,
        status: "running".to_owned(),
        paused: false,
        started_at: Timestamp(7),
        ended_at: None,
        error_code: None,
        error_message: None,
        execution_key: Some("key".to_owned()),
        workflow_name: String::new(),
        tags: Vec::new(),
        parent: None,
        seq: Seq(1),
    }
}

async fn project(store: &PostgresStore, number: u64) -> Result<(), StoreError> {
    let rows = vec![summary(number)];
    store.project(SHARD, None, rows, LogPosition(number)).await
}

/// The options of a member that the server knows by the name of the schema.
fn named(schema: &Schema) -> PostgresOptions {
    let url = &schema.options.url;
    let joint = if url.contains('?') { '&' } else { '?' };
    PostgresOptions {
        url: format!("{url}{joint}application_name={}", schema.options.schema),
        migrate_timeout: Duration::from_secs(120),
        ..schema.options.clone()
    }
}

/// Sessions of the member that are in a state.
async fn sessions(schema: &Schema, state: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND {state}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(&schema.options.schema)
        .fetch_one(&mut schema.connection().await)
        .await
        .unwrap()
}

/// Waits until the member waits for a lock.
async fn until_it_waits(schema: &Schema) {
    let begun = Instant::now();
    while sessions(schema, "wait_event_type = 'Lock'").await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it waits for nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens a store of a schema that lacks the index. However long others keep that up, no start waits for it.
async fn opened_at_once(schema: &Schema) -> PostgresStore {
    let options = named(schema);
    let opened = tokio::time::timeout(Duration::from_secs(20), PostgresStore::open(&options)).await;
    opened.expect("a start waits for no index").unwrap()
}

/// Waits until the store has made the index; that waits for whatever else the server does.
async fn until_made(store: &mut PostgresStore) {
    let making = store.making.as_mut().expect("the index was missing");
    let made = tokio::time::timeout(Duration::from_secs(120), &mut making.0).await;
    made.expect("nobody keeps it up").unwrap();
}

/// Whether the index is there and serves; none if there is none.
async fn is_valid(connection: &mut PgConnection) -> Option<bool> {
    sqlx::query_scalar("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('summary_key')")
        .fetch_optional(connection)
        .await
        .unwrap()
}

/// Somebody reads for long, as a backup does: the change of the tables waits for that one, and the others do not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_release_before_read_on_while_a_change_of_the_tables_waits() {
    let schema = Schema::new();
    let mut member = schema.connection().await;
    run(&mut member, &format!("CREATE SCHEMA {}", schema.options.schema)).await;
    migrate::migrator()
        .run_direct(Some(3), &mut member, false)
        .await
        .unwrap();
    let old = format!(
        "INSERT INTO summary (id, started_ms, seq, version, paused, workflow, status, execution_key)
         VALUES ('{}', 7, 1, 1, false, 'orders', 'running', 'key')",
        summary(1).id
    );
    run(&mut member, &old).await;
    let mut backup = schema.connection().await;
    run(&mut backup, "BEGIN; LOCK TABLE summary IN ACCESS SHARE MODE").await;
    let options = named(&schema);
    let opening = tokio::spawn(async move { PostgresStore::open(&options).await });
    until_it_waits(&schema).await;
    run(
        &mut member,
        "SET statement_timeout = '20s'; SELECT count(*) FROM summary",
    )
    .await;
    assert!(!opening.is_finished(), "it waits for the backup");
    run(&mut backup, "COMMIT").await;
    let mut store = opening.await.unwrap().unwrap();
    until_made(&mut store).await;
    assert_eq!(is_valid(&mut member).await, Some(true));
    let by_key = ExecutionQuery {
        execution_key: Some("key".to_owned()),
        ..page()
    };
    let found = VisibilityStore::list(&store, by_key).await.unwrap();
    assert_eq!(found.items, [summary(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_made_while_executions_are_projected() {
    let schema = Schema::new();
    let store = schema.open().await;
    let mut connection = schema.connection().await;
    assert_eq!(is_valid(&mut connection).await, Some(true), "new tables have it");
    project(&store, 1).await.unwrap();
    run(&mut connection, "DROP INDEX summary_key").await;
    let mut writer = schema.connection().await;
    run(&mut writer, "BEGIN; UPDATE summary SET paused = true").await;
    let mut making = opened_at_once(&schema).await;
    until_it_waits(&schema).await;
    // Nobody waits for the index: no writer, no reader, and no other member that starts.
    project(&making, 2).await.unwrap();
    project(&store, 3).await.unwrap();
    let listed = VisibilityStore::list(&store, page()).await.unwrap();
    assert_eq!(listed.items.len(), 3);
    let mut other = schema.open().await;
    project(&other, 4).await.unwrap();
    until_made(&mut other).await;
    assert_eq!(
        is_valid(&mut connection).await,
        Some(false),
        "it is being made, by the first one"
    );
    run(&mut writer, "COMMIT").await;
    until_made(&mut making).await;
    assert_eq!(is_valid(&mut connection).await, Some(true));
    assert!(schema.open().await.making.is_none(), "nothing is left to do");
}

/// A store that is closed or dropped leaves nothing running; the server ends what it has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_an_index_ends_with_its_store() {
    let schema = Schema::new();
    let store = schema.open().await;
    project(&store, 1).await.unwrap();
    let mut connection = schema.connection().await;
    for is_closed in [true, false] {
        run(&mut connection, "DROP INDEX summary_key").await;
        let mut writer = schema.connection().await;
        run(&mut writer, "BEGIN; UPDATE summary SET paused = true").await;
        let making = opened_at_once(&schema).await;
        until_it_waits(&schema).await;
        let task = making.making.as_ref().unwrap().0.abort_handle();
        assert!(!task.is_finished());
        if is_closed {
            making.close().await;
        } else {
            drop(making);
        }
        let begun = Instant::now();
        while !task.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        run(&mut writer, "COMMIT").await;
        let begun = Instant::now();
        while is_valid(&mut connection).await != Some(true) || sessions(&schema, "true").await > 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "the server goes on to the end"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a start that was ended while it made the index left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_index_is_made_anew() {
    let schema = Schema::new();
    let store = schema.open().await;
    project(&store, 1).await.unwrap();
    let mut connection = schema.connection().await;
    run(
        &mut connection,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'summary_key'::regclass",
    )
    .await;
    until_made(&mut opened_at_once(&schema).await).await;
    assert_eq!(is_valid(&mut connection).await, Some(true));
}
