//! Searches, which no index leads to, over more rows than a page looks at.

use troupe_ports::{ExecutionSummary, Page, VisibilityStore};

use super::*;
use crate::lists::LOOKED_ROWS_MAX;

fn search(change: impl FnOnce(&mut ExecutionQuery)) -> ExecutionQuery {
    let mut query = page();
    change(&mut query);
    query
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// All that is found, in the order of the pages, and how many those are.
async fn all(schema: &Schema, mut query: ExecutionQuery) -> (Vec<ExecutionSummary>, usize) {
    let store = schema.open().await;
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let Page { items, next } = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(items.len() <= query.limit);
        found.extend(items);
        pages += 1;
        match next {
            Some(next) => query.cursor = Some(next),
            None => return (found, pages),
        }
    }
}

/// Each row once, newest first, wherever the pages ended.
fn are_in_order(found: &[ExecutionSummary]) -> bool {
    found
        .iter()
        .is_sorted_by(|one, next| (one.started_at, one.id) > (next.started_at, next.id))
}

/// What is in vain at every row, whatever leads to it.
fn in_vain() -> Vec<(&'static str, ExecutionQuery)> {
    vec![
        ("a text", search(|query| query.text = text("in vain"))),
        (
            "a text of what is done",
            search(|query| {
                query.text = text("in vain");
                query.status = text("completed");
            }),
        ),
        (
            "a text of a tag",
            search(|query| {
                query.text = text("in vain");
                query.tag = text("often");
            }),
        ),
        (
            "a text of a shard",
            search(|query| {
                query.text = text("in vain");
                query.id_prefix = text("0003");
            }),
        ),
        (
            "a tag that none of a business key has",
            search(|query| {
                query.tag = text("never");
                query.execution_key = text("key 7");
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_search_looks_at_so_many_rows_and_the_next_one_goes_on() {
    let schema = Schema::new();
    drop(schema.open().await);
    fill(&mut schema.connection().await).await;
    let store = schema.open().await;
    for (what, query) in in_vain() {
        let first = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(first.items.is_empty(), "{what}");
        let reach = explain(&schema, Question::reach(&query).unwrap()).await;
        let place = first.next.map(|next| (next.started_at, next.id.0));
        let Question { sql, arguments, .. } = Question::of(&query, Way::Walk(place)).unwrap().unwrap();
        let looked = explain(&schema, (sql, arguments)).await;
        for plan in [reach, looked] {
            println!("{what}: {} rows, {} pages", plan.visited, plan.pages);
            assert!(!plan.uses("Seq Scan") && !plan.uses("Sort"), "{what}: {}", plan.text);
            // Along a tag each row costs one of the tag and one of the summary.
            assert!(
                plan.visited <= 2.0 * LOOKED_ROWS_MAX as f64 + 2.0,
                "{what}: {} rows: {}",
                plan.visited,
                plan.text
            );
        }
        let (found, _) = all(&schema, query).await;
        assert!(found.is_empty(), "{what}");
    }
    let rows = usize::try_from(EXECUTIONS + NEW).unwrap();
    let (found, pages) = all(&schema, search(|query| query.text = text("in vain"))).await;
    assert_eq!((found.len(), pages), (0, rows / LOOKED_ROWS_MAX + 1));

    // `key 77` and `key 770` to `key 779`, a hundred each.
    for limit in [7, 1_000] {
        let by_text = search(|query| {
            query.text = text("KEY 77");
            query.limit = limit;
        });
        let (found, pages) = all(&schema, by_text).await;
        assert_eq!(found.len(), 1_100);
        assert!(pages > 1_100 / limit && are_in_order(&found), "{pages} pages");
    }
    // Fewer rows than a page looks at: the end is told at once.
    let of_workflow = search(|query| {
        query.text = text("key 7");
        query.workflow_id = text("workflow 7");
        query.limit = 1_000;
    });
    let (found, pages) = all(&schema, of_workflow).await;
    assert!(pages == 1 && !found.is_empty() && are_in_order(&found), "{pages} pages");
    let is_of = |row: &ExecutionSummary| {
        let key = row.execution_key.as_deref();
        row.workflow_id == "workflow 7" && key.is_some_and(|key| key.starts_with("key 7"))
    };
    assert!(found.iter().all(is_of));
}

/// Ids of the oldest rows begin with `e`, those of the newest with `f`.
async fn fill_by_ids(schema: &Schema, each: usize) {
    let sql = format!(
        "INSERT INTO summary (id, started_ms, seq, version, paused, workflow, status)
         SELECT (CASE WHEN i < {each} THEN 'eeee' ELSE 'ffff' END || lpad(to_hex(i), 28, '0'))::uuid, i, 9, 1, false,
             'orders', 'failed'
         FROM generate_series(0, 2 * {each} - 1) i"
    );
    let mut connection = schema.connection().await;
    run(&mut connection, &sql).await;
    run(&mut connection, "VACUUM ANALYZE summary").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_many_begin_so_are_looked_for_and_few_are_found_at_once() {
    let schema = Schema::new();
    let store = schema.open().await;
    let each = LOOKED_ROWS_MAX + 2_000;
    fill_by_ids(&schema, each).await;
    let by_ids = |prefix: &str| {
        search(|query| {
            query.id_prefix = text(prefix);
            query.limit = 1_000;
        })
    };
    let of_status = ExecutionQuery {
        status: text("failed"),
        ..by_ids("e")
    };
    for query in [by_ids("e"), by_ids("eeee00"), of_status] {
        let first = VisibilityStore::list(&store, query.clone()).await.unwrap();
        assert!(first.items.is_empty() && first.next.is_some(), "{query:?}");
        let place = first.next.map(|next| (next.started_at, next.id.0));
        let reach = explain(&schema, Question::reach(&query).unwrap()).await;
        let Question { sql, arguments, .. } = Question::of(&query, Way::Walk(place)).unwrap().unwrap();
        let looked = explain(&schema, (sql, arguments)).await;
        for plan in [reach, looked] {
            println!("{query:?}: {} rows, {} pages", plan.visited, plan.pages);
            assert!(!plan.uses("Seq Scan") && !plan.uses("Sort"), "{query:?}: {}", plan.text);
            // A row to look at, and one to count.
            let most = 2.0 * LOOKED_ROWS_MAX as f64 + 2.0;
            assert!(plan.visited <= most, "{query:?}: {} rows: {}", plan.visited, plan.text);
        }
        let (found, pages) = all(&schema, query.clone()).await;
        assert_eq!(found.len(), each, "{query:?}");
        assert!(pages > each / 1_000 && are_in_order(&found), "{pages} pages: {query:?}");
    }
    for (prefix, rows) in [
        (format!("eeee{}", "0".repeat(26)), 0x100),
        (format!("eeee{:028x}", 7), 1),
        ("abc".to_owned(), 0),
        ("abcd0".to_owned(), 0),
    ] {
        let few = by_ids(&prefix);
        let of_workflow = ExecutionQuery {
            workflow_id: text("orders"),
            ..few.clone()
        };
        for query in [few, of_workflow] {
            let (found, pages) = all(&schema, query).await;
            assert_eq!((found.len(), pages), (rows, 1), "{prefix}");
            assert!(are_in_order(&found), "{prefix}");
        }
    }
    // More than a page has room for: it goes on behind the last one.
    let paged = ExecutionQuery {
        limit: 7,
        ..by_ids(&format!("eeee{}", "0".repeat(26)))
    };
    let (found, pages) = all(&schema, paged).await;
    assert_eq!((found.len(), pages), (0x100, 0x100 / 7 + 1));
    assert!(are_in_order(&found));
}
