//! That a page costs what is on it, whatever is in the store; the rest is in `tests/`.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::PgArguments;
use troupe_core::{ExecutionId, Timestamp};
use troupe_ports::{AuditCursor, AuditId, AuditQuery, AuditTarget, ExecutionCursor, ExecutionQuery};

use super::list::{Question, Way};

mod searches;
#[path = "../../tests/support/postgres.rs"]
mod support;
mod upgrades;
use support::{Schema, run};

const EXECUTIONS: i64 = 100_000;
const PAGE: usize = 50;

const NEW: i64 = 5_000;

/// Twenty workflows; a fiftieth failed, but none of workflow 2; two in a thousand run; a tenth are children of a hundred parents. One
/// workflow has ten executions, the oldest. A tenth has a tag, the oldest ten another; a hundred each have a business key.
async fn fill(connection: &mut PgConnection) {
    let sql = format!(
        "INSERT INTO summary (id, parent, started_ms, ended_ms, seq, version, paused, workflow, status, execution_key, tags)
         SELECT (lpad(to_hex(i % 32), 4, '0') || lpad(to_hex(i), 28, '0'))::uuid,
             CASE WHEN i % 10 = 3 THEN (lpad(to_hex(i % 1000), 32, '0'))::uuid END,
             i * 10, i * 10 + 5, 9, 1, false,
             CASE WHEN i < 10 THEN 'seldom' ELSE 'workflow ' || i % 20 END,
             CASE WHEN i % 50 = 0 THEN 'failed' WHEN i % 1000 IN (1, 3) THEN 'running' ELSE 'completed' END,
             'key ' || i % 1000,
             CASE WHEN i < 10 THEN ARRAY['seldom'] WHEN i % 10 = 1 THEN ARRAY['often', 'tenth'] ELSE '{{}}' END
         FROM generate_series(0, {EXECUTIONS} - 1) i"
    );
    run(connection, &sql).await;
    // What comes after the statistics is unknown to the planner: a new workflow, and a parent with more children than any other.
    let new = format!(
        "INSERT INTO summary (id, parent, started_ms, seq, version, paused, workflow, status, execution_key, tags)
         SELECT ('ffff' || lpad(to_hex(i), 28, '0'))::uuid, (repeat('b', 32))::uuid, i, 9, 1, false, 'new', 'running', 'new', ARRAY['new']
         FROM generate_series(1, {NEW}) i"
    );
    run(connection, "ALTER TABLE summary SET (autovacuum_enabled = off)").await;
    run(connection, "VACUUM ANALYZE summary, summary_tag").await;
    run(connection, &new).await;
}

struct Plan {
    text: String,
    /// Rows that were looked at in the table or an index.
    visited: f64,
    /// Pages that were looked at.
    pages: f64,
}

impl Plan {
    /// One row more is read than shown. A page of the table for each row, and a way down the index; where nothing is left to show the
    /// walk ends at once.
    fn costs_what_is_on_the_page(&self, what: &str) {
        println!("{what}: {} rows, {} pages", self.visited, self.pages);
        assert!(!self.uses("Seq Scan") && !self.uses("Sort"), "{what}: {}", self.text);
        assert!(
            self.visited <= PAGE as f64 + 1.0,
            "{what}: {} rows for {PAGE}: {}",
            self.visited,
            self.text
        );
        assert!(
            self.pages <= self.visited + 20.0,
            "{what}: {} pages: {}",
            self.pages,
            self.text
        );
    }

    fn uses(&self, node: &str) -> bool {
        self.text.contains(&format!("\"Node Type\": \"{node}\""))
    }
}

fn visited(node: &Value) -> f64 {
    let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
    let inputs = node["Plans"].as_array().map_or(&[][..], Vec::as_slice);
    let own = if inputs.is_empty() {
        number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck")
    } else {
        0.0
    };
    own + inputs.iter().map(visited).sum::<f64>()
}

/// The plan of a session of the pool, as it ran.
async fn explain(schema: &Schema, (sql, arguments): (String, PgArguments)) -> Plan {
    let store = schema.open().await;
    let mut connection = store.database.connection().await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"));
    // Text: the driver is built without its JSON.
    let rows = sqlx::query_with(sql, arguments)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let text: String = sqlx::Row::try_get_unchecked(&rows, 0).unwrap();
    let plan: Value = serde_json::from_str(&text).unwrap();
    let root = &plan[0]["Plan"];
    let pages = |name: &str| root[name].as_f64().unwrap();
    connection.give_back();
    Plan {
        visited: visited(root),
        pages: pages("Shared Hit Blocks") + pages("Shared Read Blocks"),
        text,
    }
}

fn page() -> ExecutionQuery {
    ExecutionQuery {
        limit: PAGE,
        ..ExecutionQuery::default()
    }
}

fn questions() -> Vec<(&'static str, ExecutionQuery)> {
    let workflow = |id: &str| ExecutionQuery {
        workflow_id: Some(id.to_owned()),
        ..page()
    };
    let status = |query: ExecutionQuery, status: &str| ExecutionQuery {
        status: Some(status.to_owned()),
        ..query
    };
    let key = |key: &str| ExecutionQuery {
        execution_key: Some(key.to_owned()),
        ..page()
    };
    let tag = |tag: &str, query: ExecutionQuery| ExecutionQuery {
        tag: Some(tag.to_owned()),
        ..query
    };
    let at = |number: i64, query: ExecutionQuery| ExecutionQuery {
        cursor: Some(ExecutionCursor {
            started_at: Timestamp(number * 10),
            id: ExecutionId([0; 16]),
        }),
        ..query
    };
    let children = |[first, last]: [u8; 2]| {
        let mut parent = [first; 16];
        parent[15] = last;
        ExecutionQuery {
            parent: Some(ExecutionId(parent)),
            ..page()
        }
    };
    vec![
        ("the newest", page()),
        ("a page in the middle", at(EXECUTIONS / 2, page())),
        ("a workflow", workflow("workflow 7")),
        ("a workflow, in the middle", at(EXECUTIONS / 2, workflow("workflow 7"))),
        ("a workflow that is seldom run", workflow("seldom")),
        ("a workflow that does not exist", workflow("nothing")),
        ("what failed", status(page(), "failed")),
        ("what runs", status(page(), "running")),
        ("what is done", status(page(), "completed")),
        ("a status that nothing has", status(page(), "canceled")),
        (
            "what is done of a workflow",
            status(workflow("workflow 7"), "completed"),
        ),
        ("a new workflow", workflow("new")),
        ("what runs of a new workflow", status(workflow("new"), "running")),
        ("what failed of a workflow", status(workflow("workflow 0"), "failed")),
        (
            "what failed where nothing did",
            status(workflow("workflow 2"), "failed"),
        ),
        (
            "children that run",
            ExecutionQuery {
                children: true,
                ..status(page(), "running")
            },
        ),
        ("children of one", children([0, 3])),
        ("children of one that run", status(children([0, 3]), "running")),
        ("children of a new one", children([0xbb; 2])),
        ("children of a new one that run", status(children([0xbb; 2]), "running")),
        (
            "a span of time",
            ExecutionQuery {
                started_from: Some(Timestamp(300_000)),
                started_until: Some(Timestamp(600_000)),
                ..page()
            },
        ),
        ("executions of a business key", key("key 7")),
        ("executions of a new business key", key("new")),
        ("executions of no business key", key("key")),
        (
            "executions of a business key, in the middle",
            at(EXECUTIONS / 2, key("key 7")),
        ),
        ("of a tag: often", tag("often", page())),
        (
            "of a tag: often, in the middle",
            at(EXECUTIONS / 2, tag("often", page())),
        ),
        ("of a tag: seldom", tag("seldom", page())),
        ("of a tag: new", tag("new", page())),
        ("of a tag: none", tag("ofte", page())),
        ("of a tag: done", tag("often", status(page(), "completed"))),
        (
            "what failed of a workflow with a tag that it has not",
            tag("often", status(workflow("workflow 0"), "failed")),
        ),
        (
            "what failed in a span of time, in the middle",
            at(
                45_000,
                ExecutionQuery {
                    started_from: Some(Timestamp(300_000)),
                    started_until: Some(Timestamp(600_000)),
                    ..status(page(), "failed")
                },
            ),
        ),
        (
            "ids with a short prefix",
            ExecutionQuery {
                id_prefix: Some("00".to_owned()),
                ..page()
            },
        ),
        (
            "what runs of a shard",
            ExecutionQuery {
                id_prefix: Some("0003".to_owned()),
                ..status(page(), "running")
            },
        ),
        (
            "ids with a long prefix",
            ExecutionQuery {
                id_prefix: Some(format!("{:04x}{:025x}", 7, 0)),
                ..page()
            },
        ),
        (
            "one id",
            ExecutionQuery {
                id_prefix: Some(format!("{:04x}{:028x}", 7, 7)),
                ..page()
            },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_costs_what_is_on_it() {
    let schema = Schema::new();
    drop(schema.open().await);
    fill(&mut schema.connection().await).await;
    for (what, query) in questions() {
        let way = match what {
            "ids with a long prefix" | "one id" => Way::Ids,
            _ => Way::Walk(None),
        };
        let Question { sql, arguments, .. } = Question::of(&query, way).unwrap().unwrap();
        let plan = explain(&schema, (sql, arguments)).await;
        match what {
            // Besides a page of its index, each row of a tag costs its summary, found by id.
            _ if what.starts_with("of a tag") => {
                println!("{what}: {} rows, {} pages", plan.visited, plan.pages);
                assert!(!plan.uses("Seq Scan") && !plan.uses("Sort"), "{what}: {}", plan.text);
                assert!(
                    plan.visited <= PAGE as f64 + 10.0,
                    "{what}: {} rows: {}",
                    plan.visited,
                    plan.text
                );
                assert!(
                    plan.pages <= PAGE as f64 * 8.0,
                    "{what}: {} pages: {}",
                    plan.pages,
                    plan.text
                );
            }
            // Nothing of it has the tag; all that failed of the workflow is looked at.
            "what failed of a workflow with a tag that it has not" => {
                assert!(!plan.uses("Seq Scan") && !plan.uses("Sort"), "{what}: {}", plan.text);
                assert!(plan.visited <= EXECUTIONS as f64 / 40.0, "{what}: {}", plan.text);
            }
            // Some 128 ids begin so, and 5,200 run: the first are sorted, the others passed in the index.
            "ids with a long prefix" | "one id" | "what runs of a shard" => {
                assert!(!plan.uses("Seq Scan") && plan.pages <= 200.0, "{what}: {}", plan.text);
            }
            _ => plan.costs_what_is_on_the_page(what),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_audit_rows_costs_what_is_on_it() {
    let schema = Schema::new();
    drop(schema.open().await);
    let mut connection = schema.connection().await;
    // One principal and one workflow had their say long ago.
    let sql = "INSERT INTO audit (id, at_ms, principal, action, target_kind, target_id)
         SELECT (lpad(to_hex(i), 32, '0'))::uuid, i, CASE WHEN i < 10 THEN 'seldom' ELSE 'somebody ' || i % 5 END, 'put', 'workflow',
             CASE WHEN i < 10 THEN 'old' ELSE 'workflow ' || i % 20 END
         FROM generate_series(0, 49999) i";
    run(&mut connection, sql).await;
    run(&mut connection, "VACUUM ANALYZE audit").await;
    let page = AuditQuery {
        limit: PAGE,
        ..AuditQuery::default()
    };
    let of_target = |id: &str| AuditQuery {
        target: Some(AuditTarget {
            kind: "workflow".to_owned(),
            id: id.to_owned(),
        }),
        ..page.clone()
    };
    let by = |principal: &str| AuditQuery {
        principal: Some(principal.to_owned()),
        ..page.clone()
    };
    let questions = [
        ("the newest", page.clone()),
        ("of a workflow", of_target("workflow 3")),
        ("of an old workflow", of_target("old")),
        ("of no workflow", of_target("workflow")),
        ("by somebody", by("somebody 3")),
        ("by somebody long ago", by("seldom")),
        (
            "by somebody, in the middle",
            AuditQuery {
                cursor: Some(AuditCursor {
                    at: Timestamp(25_000),
                    id: AuditId([0; 16]),
                }),
                ..by("somebody 3")
            },
        ),
    ];
    for (what, query) in questions {
        let plan = explain(&schema, super::audit::statement(&query, PAGE + 1).unwrap()).await;
        plan.costs_what_is_on_the_page(what);
    }
}
