//! What users name may hold anything: nothing of it may stop a projection, and all of it comes back.

use sqlx::Row;
use troupe_backends::{EmbeddedStore, StoreOptions};
use troupe_core::LogPosition;
use troupe_ports::{DefinitionError, DefinitionStore, ExecutionQuery, ExecutionSummary, VisibilityStore};

use super::support::{Schema, run};
use super::{NOW, SHARD, analysis, definition, summary};

const ODD: &str = "\0 \u{1a}0 'quoted\" % _ \\ \u{1F3AD}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn summaries_keep_odd_texts() {
    let schema = Schema::new();
    let store = schema.open().await;
    let odd = ExecutionSummary {
        workflow_id: ODD.to_owned(),
        error_code: Some(ODD.to_owned()),
        error_message: Some(ODD.repeat(1_000)),
        execution_key: Some(ODD.repeat(10_000)),
        workflow_name: ODD.to_owned(),
        tags: vec![ODD.to_owned(), String::new(), "\0".to_owned()],
        ..summary(1, 1)
    };
    let long = ExecutionSummary {
        workflow_id: "w".repeat(10_000),
        tags: vec!["t".repeat(10_000)],
        ..summary(2, 1)
    };
    store
        .project(
            SHARD,
            None,
            vec![odd.clone(), long.clone(), summary(3, 1)],
            LogPosition(1),
        )
        .await
        .unwrap();
    let of = async |workflow: &str| {
        let query = ExecutionQuery {
            workflow_id: Some(workflow.to_owned()),
            limit: 10,
            ..ExecutionQuery::default()
        };
        VisibilityStore::list(&store, query).await.unwrap().items
    };
    assert_eq!(of(ODD).await, std::slice::from_ref(&odd));
    assert_eq!(of("orders").await, [summary(3, 1)]);
    let found = of(&long.workflow_id).await;
    assert_eq!(found.len(), 1);
    assert!(
        long.workflow_id.starts_with(&found[0].workflow_id),
        "an absurd name is cut off"
    );
    let tagged = async |tag: &str| {
        let query = ExecutionQuery {
            tag: Some(tag.to_owned()),
            limit: 10,
            ..ExecutionQuery::default()
        };
        VisibilityStore::list(&store, query).await.unwrap().items
    };
    assert_eq!(tagged(ODD).await, [odd]);
    assert_eq!(
        tagged(&long.tags[0]).await,
        found,
        "an absurd tag is cut off wherever it is named"
    );
}

/// What counts of a tag is the same whatever keeps it, the beginning of an absurd one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_count_in_every_store_alike() {
    let schema = Schema::new();
    let directory = tempfile::tempdir().unwrap();
    let postgres = schema.open().await;
    let embedded = EmbeddedStore::open(directory.path(), &StoreOptions::default()).unwrap();
    let stores: [&dyn VisibilityStore; 2] = [&postgres, &embedded];
    let tags = [
        ODD.to_owned(),
        "plain".to_owned(),
        "x".repeat(1_024),
        // Alike in all that counts.
        format!("{}a", "y".repeat(1_024)),
        format!("{}b", "y".repeat(1_024)),
        "é".repeat(1_000),
        format!("a{}", "é".repeat(1_000)),
        "\0".repeat(1_500),
        "\u{1a}".repeat(1_025),
        format!("{}\0", "z".repeat(1_023)),
    ];
    let rows = || {
        let rows = (1..).zip(&tags).map(|(number, tag)| ExecutionSummary {
            tags: vec![tag.clone(), "all".to_owned()],
            ..summary(number, 1)
        });
        rows.collect::<Vec<_>>()
    };
    for store in stores {
        store.project(SHARD, None, rows(), LogPosition(1)).await.unwrap();
    }
    let found = async |store: &dyn VisibilityStore, tag: &str, workflow_id: Option<&str>| {
        let query = ExecutionQuery {
            tag: Some(tag.to_owned()),
            workflow_id: workflow_id.map(str::to_owned),
            limit: 100,
            ..ExecutionQuery::default()
        };
        store.list(query).await.unwrap().items
    };
    for tag in &tags {
        for workflow_id in [None, Some("orders")] {
            let [one, other] = [
                found(stores[0], tag, workflow_id).await,
                found(stores[1], tag, workflow_id).await,
            ];
            let is_twin = tag.starts_with(&"y".repeat(1_024));
            assert_eq!(one.len(), if is_twin { 2 } else { 1 }, "{tag:?}");
            assert_eq!(one, other, "{tag:?}");
            assert!(tag.starts_with(&one[0].tags[0]), "{tag:?}");
        }
    }
    let all = found(stores[0], "all", None).await;
    assert_eq!(all.len(), tags.len());
    assert_eq!(all, found(stores[1], "all", None).await);
}

/// A member of an older release goes on while the tables are brought up to date. It does not know what lists are searched by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_older_releases_are_listed_and_searched() {
    let schema = Schema::new();
    let store = schema.open().await;
    let tagged = |number, seq| ExecutionSummary {
        tags: vec!["a".to_owned(), "b".to_owned()],
        workflow_name: "Orders".to_owned(),
        ..summary(number, seq)
    };
    let rows = vec![tagged(2, 1), tagged(3, 1)];
    store.project(SHARD, None, rows, LogPosition(1)).await.unwrap();
    let old = ExecutionSummary {
        execution_key: Some("Key".to_owned()),
        ..summary(1, 1)
    };
    let mut connection = schema.connection().await;
    let [old_id, updated_id, gone_id] = [1, 2, 3].map(|number| summary(number, 1).id);
    let as_older_releases_do = format!(
        "INSERT INTO summary AS s
            (id, workflow, version, status, paused, started_ms, ended_ms, error_code, execution_key, seq, parent)
         VALUES ('{old_id}', 'orders', 1, 'running', false, 1, NULL, NULL, 'Key', 1, NULL),
            ('{updated_id}', 'orders', 1, 'running', false, 2, NULL, NULL, NULL, 2, NULL)
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, seq = excluded.seq WHERE s.seq < excluded.seq;
         DELETE FROM summary WHERE id = '{gone_id}'"
    );
    run(&mut connection, &as_older_releases_do).await;
    let found = async |query: ExecutionQuery| {
        let query = ExecutionQuery { limit: 10, ..query };
        VisibilityStore::list(&store, query).await.unwrap().items
    };
    let with_tag = ExecutionQuery {
        tag: Some("b".to_owned()),
        ..ExecutionQuery::default()
    };
    assert_eq!(found(with_tag).await, [tagged(2, 2)]);
    assert_eq!(found(ExecutionQuery::default()).await, [tagged(2, 2), old.clone()]);
    let with_key = ExecutionQuery {
        execution_key: old.execution_key.clone(),
        ..ExecutionQuery::default()
    };
    let with_text = ExecutionQuery {
        text: Some("kEY".to_owned()),
        ..ExecutionQuery::default()
    };
    for query in [with_key, with_text] {
        assert_eq!(found(query).await, std::slice::from_ref(&old));
    }
    let tags: i64 = sqlx::query_scalar("SELECT count(*) FROM summary_tag")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tags, 2, "nothing is left of what was removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_keep_odd_texts_and_the_order_of_their_keys() {
    let schema = Schema::new();
    let store = schema.open().await;
    let mut odd = definition(ODD, ODD);
    odd.extra
        .insert("z".to_owned(), serde_json::json!({ "b": 1.0, "a": ODD, "": null }));
    store.put(odd.clone(), analysis(), None, NOW).await.unwrap();
    let found = store.get(ODD, None).await.unwrap().unwrap();
    odd.version = 1;
    assert_eq!((found.workflow.as_str(), &*found.definition), (ODD, &odd));
    let text = |of| serde_json::to_string(of).unwrap();
    assert_eq!(text(&*found.definition), text(&odd));
    assert_eq!(DefinitionStore::list(&store, None, 10).await.unwrap().len(), 1);
    assert!(store.archive(ODD, true).await.unwrap());
    // For people, beside the text that counts.
    let read = sqlx::query("SELECT document->'z'->>'a', document->>'name' FROM definition")
        .fetch_one(&mut schema.connection().await)
        .await
        .unwrap();
    assert_eq!(read.get::<String, _>(0), ODD.replace('\0', "\u{fffd}"));
    assert_eq!(read.get::<String, _>(1), ODD.replace('\0', "\u{fffd}"));

    let long = definition(&"w".repeat(1_025), "first");
    let refused = store.put(long, analysis(), None, NOW).await;
    assert!(matches!(refused, Err(DefinitionError::Refused(_))), "got {refused:?}");
}

/// Larger than a statement may be: several are made of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_is_projected_whole() {
    let schema = Schema::new();
    let store = schema.open().await;
    let summaries: Vec<_> = (0..12_001).map(|number| summary(number, 1)).collect();
    store.project(SHARD, None, summaries, LogPosition(9)).await.unwrap();
    assert_eq!(store.projected(SHARD).await.unwrap(), LogPosition(9));
    let mut query = ExecutionQuery {
        limit: 1_000_000,
        ..ExecutionQuery::default()
    };
    let mut found = 0;
    loop {
        let page = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(page.items.len() <= 1_000, "a page is bounded whatever was asked for");
        found += page.items.len();
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found, 12_001);
}
