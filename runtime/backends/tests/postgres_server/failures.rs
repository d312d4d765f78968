//! A server that goes away, comes back, or says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use troupe_backends::{PostgresOptions, PostgresStore};
use troupe_core::{Epoch, LogPosition};
use troupe_ports::{DefinitionError, DefinitionStore, EpochAuthority, EpochError, StoreError, VisibilityStore};

use super::support::{PostgresServer, Schema, run};
use super::{NOW, SHARD, analysis, definition, summary};

/// What one writer was told.
#[derive(Default)]
struct Acknowledged {
    versions: BTreeMap<u32, String>,
    epoch: Epoch,
    projected: LogPosition,
    failures: usize,
}

/// Writes until told to stop. Whatever fails must say that the server is unavailable.
async fn write(store: Arc<PostgresStore>, writer: u16, stop: Arc<AtomicBool>) -> Acknowledged {
    let (workflow, shard) = (format!("workflow-{writer}"), troupe_core::ShardId(writer));
    let mut acknowledged = Acknowledged::default();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let text = format!("text {number}");
        match store.put(definition(&workflow, &text), analysis(), None, NOW).await {
            Ok(stored) => drop(acknowledged.versions.insert(stored.version, text)),
            Err(DefinitionError::Unavailable(_)) => acknowledged.failures += 1,
            Err(other) => panic!("{other}"),
        }
        match store.issued(shard).await {
            Ok(latest) => match store.issue(shard, latest, "owner").await {
                Ok(epoch) => acknowledged.epoch = epoch,
                Err(EpochError::Store(StoreError::Unavailable(_))) => acknowledged.failures += 1,
                Err(other) => panic!("{other}"),
            },
            Err(StoreError::Unavailable(_)) => acknowledged.failures += 1,
            Err(other) => panic!("{other}"),
        }
        let summaries = (0..20)
            .map(|row| summary(u64::from(writer) * 100 + row, number))
            .collect();
        match store.project(shard, None, summaries, LogPosition(number)).await {
            Ok(()) => acknowledged.projected = LogPosition(number),
            Err(StoreError::Unavailable(_)) => acknowledged.failures += 1,
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_of_the_server_and_the_store_goes_on() {
    let mut server = PostgresServer::start(&[]);
    let store = Arc::new(PostgresStore::open(&server.options()).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(write(Arc::clone(&store), writer, Arc::clone(&stop))))
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        tokio::task::block_in_place(|| server.stop_immediately());
        tokio::time::sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| server.resume());
    }
    // Those that waited for a connection during the outage try again within a second.
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    stop.store(true, Ordering::Release);
    let mut failures = 0;
    for (writer, task) in (0..).zip(writers) {
        let acknowledged = task.await.unwrap();
        failures += acknowledged.failures;
        let workflow = format!("workflow-{writer}");
        let last = acknowledged
            .versions
            .keys()
            .next_back()
            .copied()
            .expect("something was acknowledged");
        for (version, text) in &acknowledged.versions {
            let found = store
                .get(&workflow, Some(*version))
                .await
                .unwrap()
                .expect("an acknowledged version is there");
            assert_eq!(found.definition.description, *text, "version {version}");
        }
        // What was not acknowledged may be there too, without a gap.
        let latest = store.get(&workflow, None).await.unwrap().unwrap().version;
        assert!(latest >= last, "{latest} < {last}");
        for version in 1..=latest {
            assert!(
                store.get(&workflow, Some(version)).await.unwrap().is_some(),
                "version {version} of {latest}"
            );
        }
        let shard = troupe_core::ShardId(writer);
        assert!(store.issued(shard).await.unwrap() >= acknowledged.epoch);
        assert!(store.projected(shard).await.unwrap() >= acknowledged.projected);
    }
    assert!(failures > 0, "the crashes were noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_told_in_time() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let options = PostgresOptions::new(format!("postgres://user:s3cret@{nobody}/database"));
    let begun = Instant::now();
    match PostgresStore::open(&options).await {
        Err(StoreError::Unavailable(why)) => {
            assert!(
                why.contains(&nobody.port().to_string()) && why.contains("refused"),
                "{why}"
            );
            assert!(!why.contains("s3cret"), "{why}");
        }
        other => panic!("expected a failure, got {other:?}"),
    }
    assert!(begun.elapsed() < options.connect_timeout + Duration::from_secs(1));

    let schema = Schema::new();
    let mut options = schema.options.clone();
    options.url = format!("{}_that_does_not_exist", options.url);
    let missing = PostgresStore::open(&options).await;
    assert!(
        matches!(&missing, Err(StoreError::Unavailable(why)) if why.contains("create the database")),
        "got {missing:?}"
    );
}

/// Passes bytes on to the shared server until it is frozen; frozen connections stay open and silent for ever.
struct Proxy {
    port: u16,
    frozen: watch::Sender<bool>,
}

/// Ends when the proxy is frozen.
async fn freezes(frozen: &mut watch::Receiver<bool>) {
    if frozen.wait_for(|frozen| *frozen).await.is_err() {
        std::future::pending().await
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16_384];
    loop {
        let read = tokio::select! {
            biased;
            () = freezes(&mut frozen) => std::future::pending().await,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

impl Proxy {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, watched) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = TcpStream::connect(&server).await.unwrap().into_split();
                tokio::spawn(pass(from_client, to_server, watched.clone()));
                tokio::spawn(pass(from_server, to_client, watched.clone()));
            }
        });
        Self { port, frozen }
    }
}

/// The options for a schema through a proxy, with short timeouts.
async fn through_proxy(schema: &Schema) -> (Proxy, PostgresOptions) {
    let server: sqlx::postgres::PgConnectOptions = schema.options.url.parse().unwrap();
    let proxy = Proxy::to(format!("{}:{}", server.get_host(), server.get_port())).await;
    let user = server.get_username();
    let options = PostgresOptions {
        url: format!(
            "postgres://{user}@127.0.0.1:{}/{}?sslmode=disable&application_name={}",
            proxy.port,
            server.get_database().unwrap_or(user),
            schema.options.schema
        ),
        connections_max: 2,
        // Above what a busy server takes for what nothing stands in the way of.
        connect_timeout: Duration::from_secs(2),
        statement_timeout: Duration::from_secs(2),
        ..schema.options.clone()
    };
    (proxy, options)
}

/// What `pg_stat_activity` says of a session that waits for a lock.
const WAITING: &str = "wait_event_type = 'Lock'";
/// What it says of one whose client says nothing more.
const SILENT: &str = "state = 'idle in transaction'";

/// Waits until so many sessions that go through the proxy are in a state.
async fn until_they_are(schema: &Schema, state: &str, sessions: i64) {
    let mut connection = schema.connection().await;
    let begun = Instant::now();
    loop {
        let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND {state}"
        )))
        .bind(&schema.options.schema)
        .fetch_one(&mut connection)
        .await
        .unwrap();
        if found >= sessions {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{found}: {state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Idle connections and busy ones alike: nobody waits for them longer than for an answer, and they hold no place in the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_told_in_time_and_left_for_one_that_answers() {
    let schema = Schema::new();
    let (proxy, options) = through_proxy(&schema).await;
    let store = Arc::new(PostgresStore::open(&options).await.unwrap());
    for after in 0..4 {
        store.issue(SHARD, Epoch(after), "owner").await.unwrap();
        let mut holder = schema.connection().await;
        let busy = after % 2 == 1;
        if busy {
            run(&mut holder, "BEGIN; LOCK TABLE epoch").await;
        }
        let ask = || {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let begun = Instant::now();
                (store.issued(SHARD).await, begun.elapsed())
            })
        };
        let mut asked = Vec::new();
        if busy {
            asked = vec![ask(), ask()];
            until_they_are(&schema, WAITING, 2).await;
        }
        proxy.frozen.send(true).unwrap();
        asked.extend([ask(), ask(), ask()]);
        for answer in asked {
            let (silent, waited) = answer.await.unwrap();
            assert!(matches!(silent, Err(StoreError::Unavailable(_))), "got {silent:?}");
            assert!(waited < Duration::from_secs(15), "{waited:?}");
        }
        run(&mut holder, "ROLLBACK").await;
        // Connections that were frozen stay so; new ones are passed on.
        proxy.frozen.send(false).unwrap();
        let begun = Instant::now();
        while let Err(error) = store.issued(SHARD).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
        }
    }
}

/// A process that stops in the middle of a transaction does not keep its lock: the server ends its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_freezes_while_it_stores_does_not_stop_the_others() {
    let schema = Schema::new();
    let store = schema.open().await;
    store
        .put(definition("orders", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    let (proxy, mut options) = through_proxy(&schema).await;
    options.statement_timeout = Duration::from_secs(4);
    let frozen = PostgresStore::open(&options).await.unwrap();
    let mut holder = schema.connection().await;
    run(
        &mut holder,
        "BEGIN; SELECT FROM workflow WHERE id = 'orders' FOR UPDATE",
    )
    .await;
    let stored = tokio::spawn(async move { frozen.put(definition("orders", "second"), analysis(), None, NOW).await });
    until_they_are(&schema, WAITING, 1).await;
    proxy.frozen.send(true).unwrap();
    // The frozen one gets the lock, and does not know.
    run(&mut holder, "COMMIT").await;
    until_they_are(&schema, SILENT, 1).await;
    let begun = Instant::now();
    let other = store.put(definition("orders", "third"), analysis(), None, NOW).await;
    assert_eq!(other.unwrap().version, 2);
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waited for the lock");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let unknown = stored.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(
        matches!(unknown, Err(DefinitionError::Unavailable(_))),
        "got {unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_freezes_while_it_makes_the_tables_does_not_stop_the_others() {
    let schema = Schema::new();
    let (proxy, mut options) = through_proxy(&schema).await;
    options.statement_timeout = Duration::from_secs(4);
    let mut holder = schema.connection().await;
    let lock = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('troupe schema {}', 0))",
        schema.options.schema
    );
    run(&mut holder, &lock).await;
    let impatient = PostgresOptions {
        migrate_timeout: Duration::from_millis(200),
        ..schema.options.clone()
    };
    let waited = PostgresStore::open(&impatient).await;
    assert!(
        matches!(&waited, Err(StoreError::Unavailable(why)) if why.contains("another replica")),
        "got {waited:?}"
    );
    let frozen = tokio::spawn(async move { PostgresStore::open(&options).await });
    until_they_are(&schema, WAITING, 1).await;
    proxy.frozen.send(true).unwrap();
    run(&mut holder, "COMMIT").await;
    until_they_are(&schema, SILENT, 1).await;
    let begun = Instant::now();
    let store = schema.open().await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waited for the lock");
    store
        .put(definition("orders", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    frozen.abort();
}
