//! Clauses of [`VisibilityStore`].

use troupe_core::{Epoch, LogPosition, Seq, ShardId, Timestamp};

use super::{Fixture, execution};
use crate::epochs::EpochAuthority;
use crate::state::StoreError;
use crate::visibility::{ExecutionQuery, ExecutionSummary, VisibilityStore};

type VisibilityFixture<'a> = &'a dyn Fixture<dyn VisibilityStore>;

fn summary(number: u32, started: i64) -> ExecutionSummary {
    ExecutionSummary {
        id: execution(0, number),
        workflow_id: "orders".to_owned(),
        version: 1,
        status: "running".to_owned(),
        paused: false,
        started_at: Timestamp(started),
        ended_at: None,
        error_code: None,
        execution_key: None,
        parent: None,
        seq: Seq(1),
    }
}

async fn project(store: &dyn VisibilityStore, summaries: Vec<ExecutionSummary>) {
    store
        .project(ShardId(0), None, summaries, LogPosition(1))
        .await
        .expect("summaries can be written");
}

/// Everything that matches, page by page.
async fn all(store: &dyn VisibilityStore, mut query: ExecutionQuery) -> Vec<ExecutionSummary> {
    let mut found = Vec::new();
    loop {
        let page = store.list(query.clone()).await.expect("lists work");
        assert!(page.items.len() <= query.limit);
        assert!(
            !page.items.is_empty() || page.next.is_none(),
            "an empty page is the last one"
        );
        found.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return found,
        }
    }
}

fn everything() -> ExecutionQuery {
    ExecutionQuery {
        limit: 100,
        ..ExecutionQuery::default()
    }
}

/// Projections that come late or twice change nothing.
pub async fn a_lower_seq_never_overwrites_a_higher_one(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let first = summary(1, 100);
    let mut last = ExecutionSummary {
        status: "failed".to_owned(),
        seq: Seq(9),
        ..first.clone()
    };
    last.ended_at = Some(Timestamp(200));
    last.error_code = Some("TIMEOUT".to_owned());
    last.execution_key = Some("key".to_owned());
    last.paused = true;
    let same_seq = ExecutionSummary {
        status: "canceled".to_owned(),
        ..last.clone()
    };
    let sequence = [first.clone(), last.clone(), first, same_seq];
    for projected in sequence.clone() {
        project(&*store, vec![projected]).await;
    }
    assert_eq!(all(&*store, everything()).await, [last.clone()]);
    // The same of another execution, in one batch.
    let id = execution(0, 2);
    let of_other = |summary: ExecutionSummary| ExecutionSummary { id, ..summary };
    project(&*store, sequence.map(of_other).to_vec()).await;
    assert_eq!(all(&*store, everything()).await, [of_other(last.clone()), last]);
}

/// Pages of any size together give every execution once, newest first, those of one instant by id.
pub async fn lists_are_newest_first_and_paged_without_loss(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let summaries: Vec<_> = (0..50).map(|number| summary(number, i64::from(number / 7))).collect();
    project(&*store, summaries.clone()).await;
    let mut expected = summaries;
    expected.sort_by_key(|summary| std::cmp::Reverse((summary.started_at, summary.id)));
    for limit in [1, 6, 7, 50, 100] {
        assert_eq!(
            all(
                &*store,
                ExecutionQuery {
                    limit,
                    ..ExecutionQuery::default()
                }
            )
            .await,
            expected,
            "limit {limit}"
        );
    }
    let query = ExecutionQuery {
        limit: 10,
        ..ExecutionQuery::default()
    };
    let page = store.list(query.clone()).await.expect("lists work");
    project(&*store, vec![summary(99, 1_000)]).await;
    let next = store
        .list(ExecutionQuery {
            cursor: page.next,
            ..query
        })
        .await
        .expect("lists work");
    assert_eq!(
        next.items,
        expected[10..20],
        "what started meanwhile does not shift the pages"
    );
}

/// Filters apply together.
pub async fn filters_narrow_the_list(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let statuses = ["completed", "failed", "running", "canceled", "pending"];
    let summaries: Vec<_> = (0..60_u32)
        .map(|number| ExecutionSummary {
            workflow_id: if number % 2 == 0 { "orders" } else { "refunds" }.to_owned(),
            parent: (number % 7 == 0).then(|| execution(0, 3)),
            status: statuses[number as usize % statuses.len()].to_owned(),
            ..summary(number, i64::from(number) * 10)
        })
        .collect();
    project(&*store, summaries.clone()).await;
    let matching = |wanted: &dyn Fn(&ExecutionSummary) -> bool| -> Vec<_> {
        summaries
            .iter()
            .rev()
            .filter(|summary| wanted(summary))
            .cloned()
            .collect()
    };
    let limit = 4;
    let workflow_id = Some("orders".to_owned());
    let query = ExecutionQuery {
        workflow_id: workflow_id.clone(),
        limit,
        ..ExecutionQuery::default()
    };
    assert_eq!(
        all(&*store, query).await,
        matching(&|summary| summary.workflow_id == "orders")
    );
    for status in statuses {
        let query = ExecutionQuery {
            status: Some(status.to_owned()),
            limit,
            ..ExecutionQuery::default()
        };
        assert_eq!(
            all(&*store, query).await,
            matching(&|summary| summary.status == status),
            "{status}"
        );
    }
    let parent = Some(execution(0, 3));
    let query = ExecutionQuery {
        parent,
        limit,
        ..ExecutionQuery::default()
    };
    assert_eq!(all(&*store, query).await, matching(&|summary| summary.parent == parent));
    let query = ExecutionQuery {
        children: true,
        limit,
        ..ExecutionQuery::default()
    };
    assert_eq!(all(&*store, query).await, matching(&|summary| summary.parent.is_some()));
    let started_from = Some(Timestamp(100));
    let started_until = Some(Timestamp(400));
    let query = ExecutionQuery {
        started_from,
        started_until,
        limit,
        ..ExecutionQuery::default()
    };
    assert_eq!(
        all(&*store, query.clone()).await,
        matching(&|summary| (100..400).contains(&summary.started_at.0))
    );
    let query = ExecutionQuery {
        workflow_id,
        status: Some("failed".to_owned()),
        ..query
    };
    let both = matching(&|summary| {
        (100..400).contains(&summary.started_at.0) && summary.workflow_id == "orders" && summary.status == "failed"
    });
    assert_eq!(all(&*store, query).await, both);
    let query = ExecutionQuery {
        workflow_id: Some("nothing".to_owned()),
        limit,
        ..ExecutionQuery::default()
    };
    assert_eq!(all(&*store, query).await, []);
}

/// A prefix has any number of digits; what is no prefix finds nothing.
pub async fn an_id_prefix_finds_its_executions(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let summaries: Vec<_> = (0..40).map(|number| summary(number, i64::from(number))).collect();
    project(&*store, summaries.clone()).await;
    let full = summaries[0x1a].id.to_string();
    for digits in [0, 1, 5, 30, 31, 32] {
        let id_prefix = Some(full[..digits].to_owned());
        let found = all(
            &*store,
            ExecutionQuery {
                id_prefix,
                ..everything()
            },
        )
        .await;
        let expected: Vec<_> = summaries
            .iter()
            .rev()
            .filter(|summary| summary.id.to_string().starts_with(&full[..digits]))
            .collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{digits} digits");
    }
    for wrong in ["x", "%", "00' OR 1=1 --", &"0".repeat(33)] {
        let id_prefix = Some(wrong.to_owned());
        assert_eq!(
            all(
                &*store,
                ExecutionQuery {
                    id_prefix,
                    ..everything()
                }
            )
            .await,
            [],
            "{wrong}"
        );
    }
}

/// Forgetting removes what was named, and only that.
pub async fn forgotten_summaries_are_gone(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    project(
        &*store,
        (0..5).map(|number| summary(number, i64::from(number))).collect(),
    )
    .await;
    store
        .forget(ShardId(0), None, &[execution(0, 1), execution(0, 3), execution(0, 77)])
        .await
        .expect("forgetting works");
    let left: Vec<_> = all(&*store, everything())
        .await
        .into_iter()
        .map(|summary| summary.id)
        .collect();
    assert_eq!(left, [4, 2, 0].map(|number| execution(0, number)));
}

/// The position is the shard's own, starts at 0 and only grows.
pub async fn the_projected_position_never_goes_back(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let projected = async |shard| {
        store
            .projected(ShardId(shard))
            .await
            .expect("the position can be read")
            .0
    };
    assert_eq!(projected(0).await, 0);
    for (to, expected) in [(5, 5), (3, 5), (8, 8)] {
        store
            .project(ShardId(0), None, vec![], LogPosition(to))
            .await
            .expect("the position can be written");
        assert_eq!(projected(0).await, expected);
    }
    assert_eq!(projected(1).await, 0);
}

/// But where the log itself went back; never forward.
pub async fn the_projected_position_is_rewound_with_its_log(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let kept = summary(1, 100);
    for shard in [0, 1] {
        store
            .project(ShardId(shard), None, vec![kept.clone()], LogPosition(8))
            .await
            .expect("the position can be written");
    }
    for (to, expected) in [(9, 8), (3, 3), (5, 3)] {
        store
            .rewind(ShardId(0), None, LogPosition(to))
            .await
            .expect("the position can be rewound");
        let projected = store.projected(ShardId(0)).await;
        assert_eq!(projected.expect("the position can be read"), LogPosition(expected));
    }
    let other = store.projected(ShardId(1)).await;
    assert_eq!(other.expect("the position can be read"), LogPosition(8));
    store
        .rewind(ShardId(2), None, LogPosition(1))
        .await
        .expect("a shard that nothing was projected of has nothing to rewind");
    assert_eq!(store.projected(ShardId(2)).await.expect("a position"), LogPosition(0));
    assert_eq!(
        all(&*store, everything()).await,
        [kept],
        "rows are the caller's business"
    );
}

/// What a log that went back has left of executions comes in the place of what it had, in one step.
pub async fn a_correction_puts_lower_seqs_in_the_place_of_higher_ones(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let later = |number| ExecutionSummary {
        status: "completed".to_owned(),
        seq: Seq(9),
        ..summary(number, i64::from(number))
    };
    project(&*store, (0..5).map(later).collect()).await;
    let ids = [1, 2, 3, 77].map(|number| execution(0, number));
    store
        .correct(ShardId(0), None, &ids, vec![summary(1, 1), summary(3, 3)])
        .await
        .expect("rows can be corrected");
    let expected = [later(4), summary(3, 3), summary(1, 1), later(0)];
    assert_eq!(all(&*store, everything()).await, expected);
    let projected = store.projected(ShardId(0)).await;
    assert_eq!(
        projected.expect("the position can be read"),
        LogPosition(1),
        "no record was projected"
    );
    store
        .correct(ShardId(0), None, &[], Vec::new())
        .await
        .expect("nothing is to be corrected");
    assert_eq!(all(&*store, everything()).await, expected);
}

/// Between its two halves a failure would lose rows for good: nobody ever sees a row missing.
pub async fn a_correction_happens_whole_or_not_at_all(fixture: VisibilityFixture<'_>) {
    const ROWS: u32 = 50;
    let store = fixture.open().await;
    let rows = |seq| -> Vec<_> {
        let row = |number| ExecutionSummary {
            seq: Seq(seq),
            ..summary(number, i64::from(number))
        };
        (0..ROWS).map(row).collect()
    };
    project(&*store, rows(1_000)).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let reader = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        async move {
            while !*stopped.borrow() {
                let found = all(&*store, everything()).await;
                assert_eq!(found.len(), ROWS as usize, "rows are missing in between");
                let seqs: std::collections::BTreeSet<_> = found.iter().map(|row| row.seq).collect();
                assert_eq!(seqs.len(), 1, "half of the rows are corrected: {seqs:?}");
            }
        }
    });
    let ids: Vec<_> = (0..ROWS).map(|number| execution(0, number)).collect();
    for seq in (1..60).rev() {
        let corrected = store.correct(ShardId(0), None, &ids, rows(seq)).await;
        corrected.expect("rows can be corrected");
    }
    stop.send_replace(true);
    reader.await.expect("no row was ever missing");
    assert_eq!(
        all(&*store, everything()).await.first().map(|row| row.seq),
        Some(Seq(1))
    );
}

/// Once a later epoch was issued, a former owner shows nothing, however late: not what was forgotten meanwhile either.
pub async fn a_former_owner_projects_nothing<F>(fixture: &F)
where
    F: Fixture<dyn VisibilityStore> + Fixture<dyn EpochAuthority>,
{
    let (shard, former, owner) = (ShardId(0), Epoch(1), Epoch(2));
    // One after the other: an embedded store admits one user.
    let issue = async |after| {
        let authority = Fixture::<dyn EpochAuthority>::open(fixture).await;
        let issued = authority.issue(shard, Epoch(after), "owner").await;
        assert_eq!(issued.expect("an epoch can be issued"), Epoch(after + 1));
    };
    let lists = async || Fixture::<dyn VisibilityStore>::open(fixture).await;
    let written = async |store: &dyn VisibilityStore, epoch, seq, up_to| {
        let row = ExecutionSummary {
            seq: Seq(seq),
            ..summary(1, 100)
        };
        store.project(shard, epoch, vec![row], LogPosition(up_to)).await
    };
    issue(0).await;
    let store = lists().await;
    let first = written(&*store, Some(former), 1, 1).await;
    first.expect("its epoch is the latest");
    drop(store);
    issue(1).await;
    let store = lists().await;
    store
        .forget(shard, Some(owner), &[execution(0, 1)])
        .await
        .expect("forgetting works");
    let late = written(&*store, Some(former), 2, 9).await;
    assert!(
        matches!(late, Err(StoreError::Fenced { owner: now, ours, .. }) if (now, ours) == (owner, former)),
        "got {late:?}"
    );
    assert_eq!(all(&*store, everything()).await, []);
    let projected = store.projected(shard).await;
    assert_eq!(projected.expect("the position can be read"), LogPosition(1));
    let other = store.project(ShardId(1), Some(former), vec![], LogPosition(7)).await;
    other.expect("epochs are a shard's own");
    let seqs = async || -> Vec<_> { all(&*store, everything()).await.iter().map(|row| row.seq).collect() };
    for (epoch, seq) in [(Some(owner), 3), (None, 4)] {
        let done = written(&*store, epoch, seq, seq).await;
        done.expect("the owner can write, and whoever needs no epoch");
        assert_eq!(seqs().await, [Seq(seq)]);
    }
    // What it corrects comes in the place of later rows: a former owner's would stay for good.
    let ids = [execution(0, 1)];
    let corrected = async |epoch| store.correct(shard, epoch, &ids, vec![summary(1, 100)]).await;
    let rewound = async |epoch| store.rewind(shard, epoch, LogPosition(2)).await;
    let forgotten = async |epoch| store.forget(shard, epoch, &ids).await;
    for late in [
        corrected(Some(former)).await,
        rewound(Some(former)).await,
        forgotten(Some(former)).await,
    ] {
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "got {late:?}");
    }
    assert_eq!(seqs().await, [Seq(4)]);
    let position = async || store.projected(shard).await.expect("the position can be read");
    assert_eq!(position().await, LogPosition(4));
    corrected(Some(owner)).await.expect("the owner can correct");
    rewound(Some(owner)).await.expect("the owner can rewind");
    assert_eq!(
        (seqs().await, position().await),
        (vec![summary(1, 100).seq], LogPosition(2))
    );
}

/// Summaries and positions survive closing and opening.
pub async fn summaries_are_there_after_reopening(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let summaries: Vec<_> = (0..5).map(|number| summary(number, i64::from(number))).collect();
    store
        .project(ShardId(0), None, summaries.clone(), LogPosition(12))
        .await
        .expect("summaries can be written");
    drop(store);
    let store = fixture.open().await;
    assert_eq!(all(&*store, everything()).await.len(), summaries.len());
    assert_eq!(
        store.projected(ShardId(0)).await.expect("the position can be read"),
        LogPosition(12)
    );
}
