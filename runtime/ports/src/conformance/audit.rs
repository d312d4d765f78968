//! Clauses of [`AuditLog`].

use troupe_core::Timestamp;

use super::Fixture;
use crate::audit::{AuditId, AuditLog, AuditQuery, AuditRow, AuditTarget};

type AuditFixture<'a> = &'a dyn Fixture<dyn AuditLog>;

fn target(kind: &str, id: &str) -> AuditTarget {
    AuditTarget {
        kind: kind.to_owned(),
        id: id.to_owned(),
    }
}

fn row(number: u8, at: i64) -> AuditRow {
    AuditRow {
        id: AuditId([number; 16]),
        at: Timestamp(at),
        principal: Some("ada".to_owned()),
        action: "workflow.put".to_owned(),
        target: target("workflow", "orders"),
        before: Some([number; 32]),
        after: Some([number + 1; 32]),
        request: Some(format!("request-{number}")),
        outcome: Some("ok".to_owned()),
    }
}

async fn record(log: &dyn AuditLog, rows: Vec<AuditRow>) {
    log.record(rows).await.expect("rows can be recorded");
}

/// Everything that matches, page by page.
async fn all(log: &dyn AuditLog, mut query: AuditQuery) -> Vec<AuditRow> {
    let mut found = Vec::new();
    loop {
        let page = log.list(query.clone()).await.expect("rows can be listed");
        assert!(page.items.len() <= query.limit);
        found.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return found,
        }
    }
}

fn everything(limit: usize) -> AuditQuery {
    AuditQuery {
        limit,
        ..AuditQuery::default()
    }
}

/// What was recorded comes back whole, also what is left out of a row, also after reopening.
pub async fn rows_come_back_as_they_were_recorded(fixture: AuditFixture<'_>) {
    let log = fixture.open().await;
    let full = row(1, 10);
    let sparse = AuditRow {
        principal: None,
        before: None,
        after: None,
        request: None,
        outcome: None,
        target: target("key", "\0 odd — \u{1F3AD}"),
        ..row(2, 20)
    };
    record(&*log, vec![full.clone(), sparse.clone()]).await;
    assert_eq!(all(&*log, everything(10)).await, [sparse.clone(), full.clone()]);
    drop(log);
    let log = fixture.open().await;
    assert_eq!(all(&*log, everything(10)).await, [sparse, full]);
}

/// A recorder that does not know whether it has recorded does it again; the row stays what it was.
pub async fn a_row_is_recorded_once_and_never_changed(fixture: AuditFixture<'_>) {
    let log = fixture.open().await;
    record(&*log, vec![row(1, 10)]).await;
    let other = AuditRow {
        action: "workflow.delete".to_owned(),
        ..row(1, 99)
    };
    record(&*log, vec![row(2, 20), other.clone(), row(2, 20)]).await;
    record(&*log, vec![other]).await;
    record(&*log, vec![]).await;
    assert_eq!(all(&*log, everything(10)).await, [row(2, 20), row(1, 10)]);
}

/// Pages of any size together give every row once, newest first, those of one instant by id.
pub async fn rows_are_listed_newest_first_and_paged_without_loss(fixture: AuditFixture<'_>) {
    let log = fixture.open().await;
    let rows: Vec<_> = (0..50).map(|number| row(number, i64::from(number / 7))).collect();
    record(&*log, rows.clone()).await;
    let mut expected = rows;
    expected.sort_by_key(|row| std::cmp::Reverse((row.at, row.id)));
    for limit in [1, 6, 7, 50, 100] {
        assert_eq!(all(&*log, everything(limit)).await, expected, "limit {limit}");
    }
}

/// Filters apply together.
pub async fn filters_narrow_the_rows(fixture: AuditFixture<'_>) {
    let log = fixture.open().await;
    let rows: Vec<_> = (0..60_u8)
        .map(|number| AuditRow {
            principal: [Some("ada"), Some("bob"), None][usize::from(number) % 3].map(str::to_owned),
            action: if number % 2 == 0 {
                "workflow.put"
            } else {
                "workflow.delete"
            }
            .to_owned(),
            target: target(
                ["workflow", "key"][usize::from(number) / 30],
                ["a", "b"][usize::from(number) % 5 / 4],
            ),
            ..row(number, i64::from(number) * 10)
        })
        .collect();
    record(&*log, rows.clone()).await;
    let matching = |wanted: &dyn Fn(&AuditRow) -> bool| -> Vec<_> {
        rows.iter().rev().filter(|row| wanted(row)).cloned().collect()
    };
    let query = AuditQuery {
        target: Some(target("workflow", "b")),
        ..everything(4)
    };
    let of_target = |row: &AuditRow| row.target == target("workflow", "b");
    assert_eq!(all(&*log, query.clone()).await, matching(&of_target));
    let query = AuditQuery {
        principal: Some("bob".to_owned()),
        ..query
    };
    let of_both = |row: &AuditRow| of_target(row) && row.principal.as_deref() == Some("bob");
    assert_eq!(all(&*log, query.clone()).await, matching(&of_both));
    let query = AuditQuery { target: None, ..query };
    assert_eq!(
        all(&*log, query.clone()).await,
        matching(&|row| row.principal.as_deref() == Some("bob"))
    );
    let query = AuditQuery {
        action: Some("workflow.put".to_owned()),
        from: Some(Timestamp(100)),
        until: Some(Timestamp(400)),
        ..query
    };
    let of_all = |row: &AuditRow| {
        row.principal.as_deref() == Some("bob") && row.action == "workflow.put" && (100..400).contains(&row.at.0)
    };
    assert_eq!(all(&*log, query.clone()).await, matching(&of_all));
    let query = AuditQuery {
        principal: None,
        from: None,
        until: None,
        ..query
    };
    assert_eq!(
        all(&*log, query.clone()).await,
        matching(&|row| row.action == "workflow.put")
    );
    let query = AuditQuery {
        principal: Some("nobody".to_owned()),
        ..query
    };
    assert_eq!(all(&*log, query).await, []);
}
