//! Searches of lists beside what the engine needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::task::JoinHandle;
use troupe_backends::PostgresStore;
use troupe_core::Epoch;
use troupe_ports::{
    DefinitionStore, EpochAuthority, ExecutionQuery, ExecutionSummary, Page, StoreError, VisibilityStore,
};

use super::support::{Schema, run};
use super::{NOW, SHARD, analysis, definition};

/// More than a store has connections.
const SEARCHES: usize = 20;
/// Most of them that run at once.
const RUNNING_MAX: i64 = 2;

type Answer = Result<Page<ExecutionSummary>, StoreError>;

/// What people ask: by a text, a tag, a business key, or the beginning of an id.
fn searches() -> [ExecutionQuery; 4] {
    let all = || ExecutionQuery {
        limit: 10,
        ..ExecutionQuery::default()
    };
    let name = || Some("abc".to_owned());
    [
        ExecutionQuery { text: name(), ..all() },
        ExecutionQuery { tag: name(), ..all() },
        ExecutionQuery {
            execution_key: name(),
            ..all()
        },
        ExecutionQuery {
            id_prefix: name(),
            ..all()
        },
    ]
}

fn ask(store: &Arc<PostgresStore>) -> Vec<JoinHandle<Answer>> {
    let asked = searches().into_iter().cycle().take(SEARCHES).map(|query| {
        let store = Arc::clone(store);
        tokio::spawn(async move { VisibilityStore::list(&*store, query).await })
    });
    asked.collect()
}

/// Sessions of the store that wait for the table of summaries.
async fn running(schema: &Schema) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting)
        .bind(&schema.options.schema)
        .fetch_one(&mut schema.connection().await)
        .await
        .unwrap()
}

async fn until_they_run(schema: &Schema, searches: i64) {
    let begun = Instant::now();
    while running(schema).await < searches {
        assert!(begun.elapsed() < Duration::from_secs(10), "searches run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until so many wait for the table of summaries, whoever they are.
async fn until_they_wait(schema: &Schema, sessions: i64) {
    let mut connection = schema.connection().await;
    let begun = Instant::now();
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = to_regclass('summary') AND NOT granted";
    loop {
        let found: i64 = sqlx::query_scalar(waiting).fetch_one(&mut connection).await.unwrap();
        if found >= sessions {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{found} wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A schema whose server knows the store by the name of it.
fn named() -> Schema {
    let mut schema = Schema::new();
    let joint = if schema.options.url.contains('?') { '&' } else { '?' };
    schema.options.url = format!(
        "{}{joint}application_name={}",
        schema.options.url, schema.options.schema
    );
    schema
}

/// However many searches there are, and whether or not anybody waits for them: no takeover waits for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_leave_the_connections_to_the_engine() {
    let schema = named();
    let store = Arc::new(schema.open().await);
    let mut holder = schema.connection().await;
    run(&mut holder, "BEGIN; LOCK TABLE summary").await;
    let left = ask(&store);
    until_they_run(&schema, RUNNING_MAX).await;
    left.iter().for_each(JoinHandle::abort);
    let waiting = ask(&store);
    let engine = async {
        for after in 0..5 {
            assert_eq!(store.issued(SHARD).await.unwrap(), Epoch(after));
            store.issue(SHARD, Epoch(after), "owner").await.unwrap();
            let version = definition("orders", &format!("version {after}"));
            store.put(version, analysis(), None, NOW).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(8), engine)
        .await
        .expect("the engine waits for no search");
    let running = running(&schema).await;
    assert!(running <= RUNNING_MAX, "{running} searches run at once");
    run(&mut holder, "COMMIT").await;
    for answer in join_all(waiting).await {
        let answer = answer.unwrap();
        // A slow machine kept the table for longer than a search may take.
        assert!(
            matches!(&answer, Ok(page) if page.items.is_empty()) || matches!(answer, Err(StoreError::Unavailable(_))),
            "got {answer:?}"
        );
    }
}

/// A page of a search is two statements. Whoever gave up on the second one while the server runs it would let another search run
/// beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_statements_of_a_search_may_take_their_time() {
    // Neither takes longer than a statement may; both take longer than one may and the margin.
    const HELD: Duration = Duration::from_millis(2_300);
    let schema = named();
    let store = Arc::new(schema.open().await);
    let mut first = schema.connection().await;
    let mut second = schema.connection().await;
    run(&mut first, "BEGIN; LOCK TABLE summary").await;
    let [by_text, ..] = searches();
    let asked = tokio::spawn({
        let store = Arc::clone(&store);
        async move { VisibilityStore::list(&*store, by_text).await }
    });
    until_they_run(&schema, 1).await;
    // Behind the first statement, and before the second one.
    let queued = tokio::spawn(async move {
        run(&mut second, "BEGIN; LOCK TABLE summary").await;
        second
    });
    until_they_wait(&schema, 2).await;
    tokio::time::sleep(HELD).await;
    run(&mut first, "COMMIT").await;
    let mut second = queued.await.unwrap();
    tokio::time::sleep(HELD).await;
    run(&mut second, "COMMIT").await;
    let answer = asked.await.unwrap();
    // A slow machine kept the table for longer than a statement may take: then the server ended it.
    assert!(
        answer.is_ok() || matches!(&answer, Err(StoreError::Unavailable(why)) if why.contains("statement timeout")),
        "got {answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_takes_too_long_is_told_what_helps() {
    let mut schema = Schema::new();
    schema.options.statement_timeout = Duration::from_secs(1);
    let store = Arc::new(schema.open().await);
    let mut holder = schema.connection().await;
    run(&mut holder, "BEGIN; LOCK TABLE summary").await;
    for query in searches() {
        let late = VisibilityStore::list(&*store, query).await;
        assert!(
            matches!(&late, Err(StoreError::Unavailable(why)) if why.contains("statement timeout") && why.contains("narrow it")),
            "got {late:?}"
        );
    }
    // Nor does one wait for its turn for ever.
    let mut impatient = schema.options.clone();
    impatient.statement_timeout = Duration::from_secs(10);
    impatient.connect_timeout = Duration::from_secs(1);
    let store = Arc::new(PostgresStore::open(&impatient).await.unwrap());
    let begun = Instant::now();
    let answers = join_all(ask(&store)).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for late in answers {
        let late = late.unwrap();
        assert!(
            matches!(&late, Err(StoreError::Unavailable(why)) if why.contains("narrow it")),
            "got {late:?}"
        );
    }
    run(&mut holder, "COMMIT").await;
    for query in searches() {
        VisibilityStore::list(&*store, query).await.unwrap();
    }
}
