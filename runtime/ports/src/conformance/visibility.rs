//! Clauses of [`VisibilityStore`].

use troupe_core::{Epoch, LogPosition, Seq, ShardId, Timestamp};

use super::{Fixture, execution};
use crate::epochs::EpochAuthority;
use crate::state::StoreError;
use crate::visibility::{ExecutionCursor, ExecutionQuery, ExecutionSummary, VisibilityStore};

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
        error_message: None,
        execution_key: None,
        workflow_name: "Orders".to_owned(),
        tags: Vec::new(),
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
    let is_search = [&query.tag, &query.execution_key, &query.text, &query.id_prefix]
        .into_iter()
        .any(Option::is_some);
    loop {
        let page = store.list(query.clone()).await.expect("lists work");
        assert!(page.items.len() <= query.limit);
        assert!(
            is_search || !page.items.is_empty() || page.next.is_none(),
            "an empty page is the last one"
        );
        found.extend(page.items);
        let Some(next) = page.next else { return found };
        let place = |cursor: ExecutionCursor| (cursor.started_at, cursor.id);
        assert!(
            query.cursor.is_none_or(|before| place(next) < place(before)),
            "each page goes on behind the one before"
        );
        query.cursor = Some(next);
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
    last.error_message = Some("no answer\0within 5 s".to_owned());
    last.execution_key = Some("key".to_owned());
    last.workflow_name = "Bestellungen \"Ä\"".to_owned();
    last.tags = ["z", "a", ""].map(str::to_owned).to_vec();
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

/// The query gives those of `summaries` that are `wanted`, in pages of any size.
async fn expect(
    store: &dyn VisibilityStore,
    query: ExecutionQuery,
    summaries: &[ExecutionSummary],
    wanted: impl Fn(&ExecutionSummary) -> bool,
) {
    let mut expected: Vec<_> = summaries.iter().filter(|summary| wanted(summary)).cloned().collect();
    expected.sort_by_key(|summary| std::cmp::Reverse((summary.started_at, summary.id)));
    for limit in [1, 3, 100] {
        let query = ExecutionQuery { limit, ..query.clone() };
        assert_eq!(all(store, query.clone()).await, expected, "{query:?}");
    }
}

fn tagged(tag: &str) -> ExecutionQuery {
    ExecutionQuery {
        tag: Some(tag.to_owned()),
        ..ExecutionQuery::default()
    }
}

fn with_text(text: &str) -> ExecutionQuery {
    ExecutionQuery {
        text: Some(text.to_owned()),
        ..ExecutionQuery::default()
    }
}

fn with_key(key: &str) -> ExecutionQuery {
    ExecutionQuery {
        execution_key: Some(key.to_owned()),
        ..ExecutionQuery::default()
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Texts that a store may take for something else: quotes, patterns, the syntax of lists, and what no column of it holds.
const ODD: [&str; 14] = [
    "%",
    "_",
    "\\",
    "'",
    "\"",
    ",",
    "{a,b}",
    "[\"a\"]",
    "NULL",
    " ",
    "a\0b",
    "a\u{1a}0",
    "\u{1f3ad}",
    "' OR 1=1 --",
];

/// A tag is found whole, as it is written, whatever else an execution is tagged with.
pub async fn a_tag_finds_the_executions_that_have_it(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let mut summaries: Vec<_> = (0..20_u32)
        .map(|number| ExecutionSummary {
            tags: match number % 4 {
                0 => texts(&["billing", "eu"]),
                1 => texts(&["eu", "billing-old", "Billing"]),
                2 => texts(&["eu", "eu"]),
                _ => Vec::new(),
            },
            // Several start in one instant.
            ..summary(number, i64::from(number / 5))
        })
        .collect();
    for (odd, number) in ODD.into_iter().zip(100..) {
        let tags = texts(&["odd", odd]);
        summaries.push(ExecutionSummary {
            tags,
            ..summary(number, 9)
        });
    }
    project(&*store, summaries.clone()).await;
    let known = ["billing", "eu", "Billing", "billing-old", "odd"];
    let unknown = ["bill", "EU", "billing,eu", "a", "nobody", "a\0c"];
    for tag in known.into_iter().chain(ODD).chain(unknown) {
        expect(&*store, tagged(tag), &summaries, |summary| {
            summary.tags.iter().any(|known| known == tag)
        })
        .await;
    }
    for (tag, expected) in [("billing", 5), ("eu", 15), ("odd", ODD.len()), ("bill", 0)] {
        let found = all(
            &*store,
            ExecutionQuery {
                limit: 100,
                ..tagged(tag)
            },
        )
        .await;
        assert_eq!(found.len(), expected, "{tag}");
    }
}

/// What an execution is found by is what it is listed with, also after it was written anew, corrected or forgotten.
pub async fn tags_follow_their_execution(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let row = |seq, started, tags: &[&str]| ExecutionSummary {
        tags: texts(tags),
        seq: Seq(seq),
        ..summary(1, started)
    };
    let other = ExecutionSummary {
        tags: texts(&["b"]),
        ..summary(2, 0)
    };
    let found = async |expected: &[ExecutionSummary]| {
        for tag in ["a", "b", "c"] {
            expect(&*store, tagged(tag), expected, |summary| {
                summary.tags.iter().any(|known| known == tag)
            })
            .await;
        }
    };
    project(&*store, vec![row(2, 10, &["a", "b"]), other.clone()]).await;
    found(&[row(2, 10, &["a", "b"]), other.clone()]).await;
    // Others, at another time, and then only another time.
    for (seq, started, tags) in [(3, 20, ["b", "c"]), (4, 30, ["b", "c"])] {
        project(&*store, vec![row(seq, started, &tags)]).await;
        found(&[row(seq, started, &tags), other.clone()]).await;
    }
    project(&*store, vec![row(3, 1, &["a"])]).await;
    found(&[row(4, 30, &["b", "c"]), other.clone()]).await;
    let ids = [execution(0, 1)];
    let corrected = store.correct(ShardId(0), None, &ids, vec![row(1, 10, &["a"])]).await;
    corrected.expect("rows can be corrected");
    found(&[row(1, 10, &["a"]), other.clone()]).await;
    project(&*store, vec![row(2, 10, &[])]).await;
    found(&[row(2, 10, &[]), other.clone()]).await;
    project(&*store, vec![row(3, 10, &["c"])]).await;
    let forgotten = store.forget(ShardId(0), None, &ids).await;
    forgotten.expect("forgetting works");
    found(std::slice::from_ref(&other)).await;
    project(&*store, vec![row(1, 10, &["a"])]).await;
    found(&[row(1, 10, &["a"]), other]).await;
}

/// A key is found whole, as it is written, however long it is.
pub async fn a_business_key_finds_its_executions(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let long = "long ".repeat(2_000);
    let nearly = format!("{long}.");
    let keys: Vec<&str> = ["order-1", "order-10", "Order-1", long.as_str(), nearly.as_str()]
        .into_iter()
        .chain(ODD)
        .collect();
    let mut summaries = Vec::new();
    for (number, key) in (0..).zip(keys.iter().chain(&keys)) {
        summaries.push(ExecutionSummary {
            execution_key: Some((*key).to_owned()),
            ..summary(number, i64::from(number / 3))
        });
    }
    summaries.push(summary(200, 7));
    project(&*store, summaries.clone()).await;
    for key in keys.into_iter().chain(["order", "a\0c", ""]) {
        expect(&*store, with_key(key), &summaries, |summary| {
            summary.execution_key.as_deref() == Some(key)
        })
        .await;
    }
}

/// In the id, in id or name of the workflow, in the key and in the message; in upper case or lower, of every script.
pub async fn a_text_is_found_wherever_it_stands(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let plain = |number| ExecutionSummary {
        workflow_id: "w".to_owned(),
        workflow_name: String::new(),
        ..summary(number, i64::from(number))
    };
    let summaries = [
        plain(0x0a),
        ExecutionSummary {
            workflow_id: "Needle-workflow".to_owned(),
            ..plain(0x10)
        },
        ExecutionSummary {
            workflow_name: "The needLE".to_owned(),
            ..plain(0x20)
        },
        ExecutionSummary {
            execution_key: Some("needle".to_owned()),
            ..plain(0x30)
        },
        ExecutionSummary {
            error_message: Some("a NEEDLE in the hay".to_owned()),
            ..plain(0x40)
        },
        ExecutionSummary {
            workflow_name: "Überweisung".to_owned(),
            execution_key: Some("NEEDLE ЖЁЛТЫЙ ΟΔΟΣ".to_owned()),
            ..plain(0x50)
        },
        // What is no text of it finds nothing.
        ExecutionSummary {
            status: "needle".to_owned(),
            error_code: Some("NEEDLE".to_owned()),
            tags: texts(&["needle"]),
            ..plain(0x60)
        },
    ];
    project(&*store, summaries.to_vec()).await;
    let found = async |text: &str, numbers: &[u32]| {
        expect(&*store, with_text(text), &summaries, |summary| {
            numbers.iter().any(|number| summary.id == execution(0, *number))
        })
        .await;
    };
    for text in ["needle", "NEEDLE", "nEEdL"] {
        found(text, &[0x10, 0x20, 0x30, 0x40, 0x50]).await;
    }
    found("needle-W", &[0x10]).await;
    found("e NEEDLE", &[0x20]).await;
    found("needle in THE hay", &[0x40]).await;
    for text in ["überWEISUNG", "ÜBER", "жёлтый", "Жёлтый οδος", "needle жё"] {
        found(text, &[0x50]).await;
    }
    for text in ["uberweisung", "needles", "haystack", "TIMEOUT"] {
        found(text, &[]).await;
    }
    // Anywhere in the id; the whole of it, and not more.
    let id = summaries[0].id.to_string();
    for text in [id.clone(), id.to_ascii_uppercase(), id[7..].to_owned()] {
        found(&text, &[0x0a]).await;
    }
    found(&format!("{id}0"), &[]).await;
    let everybody = [0x0a, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60];
    found(&id[3..20], &everybody).await;
    found("", &everybody).await;
}

/// Nothing in a text stands for something else.
pub async fn characters_of_patterns_stand_for_themselves(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let mut summaries: Vec<_> = ODD
        .into_iter()
        .zip(0_u32..)
        .map(|(odd, number)| ExecutionSummary {
            workflow_id: "w".to_owned(),
            workflow_name: "n".to_owned(),
            error_message: Some(format!("x{odd}y")),
            ..summary(number, 1)
        })
        .collect();
    summaries.push(ExecutionSummary {
        workflow_id: "w".to_owned(),
        workflow_name: "n".to_owned(),
        error_message: Some("xay 100% sure, snake_case É".to_owned()),
        ..summary(100, 1)
    });
    project(&*store, summaries.clone()).await;
    let among = [
        "x%y", "x_y", "%", "_", "0% s", "%sure", "snake_c", "snakeXc", "_case É", "x\\y", "X'Y", "\\%", "x%",
    ];
    for text in ODD.into_iter().chain(among) {
        let lower = text.to_lowercase();
        expect(&*store, with_text(text), &summaries, |summary| {
            let message = summary.error_message.as_deref().unwrap_or_default();
            message.to_lowercase().contains(&lower)
        })
        .await;
    }
}

/// Every filter narrows what the others leave, and pages give all of it.
pub async fn searches_combine_and_are_paged_without_loss(fixture: VisibilityFixture<'_>) {
    let store = fixture.open().await;
    let statuses = ["completed", "failed", "running"];
    let long = "long ".repeat(200);
    let summaries: Vec<_> = (0..90_u32)
        .map(|number| ExecutionSummary {
            workflow_id: if number % 2 == 0 { "orders" } else { "refunds" }.to_owned(),
            workflow_name: String::new(),
            status: statuses[number as usize % statuses.len()].to_owned(),
            parent: (number % 5 == 0).then(|| execution(0, 3)),
            tags: match number % 4 {
                0 | 1 => texts(&["billing"]),
                2 => texts(&["eu", ODD[number as usize / 4 % ODD.len()], &long]),
                _ => Vec::new(),
            },
            execution_key: Some(format!("key-{}", number % 6)),
            error_message: (number % 3 == 1).then(|| format!("100% of {number}")),
            ..summary(number, i64::from(number / 4))
        })
        .collect();
    project(&*store, summaries.clone()).await;
    let is_tagged = |summary: &ExecutionSummary| summary.tags.iter().any(|tag| tag == "billing");
    let has_text = |summary: &ExecutionSummary| summary.error_message.as_deref().is_some_and(|it| it.contains("% of"));
    let workflow_id = || Some("orders".to_owned());
    for status in statuses {
        let of_status = ExecutionQuery {
            status: Some(status.to_owned()),
            ..tagged("billing")
        };
        expect(&*store, of_status.clone(), &summaries, |row| {
            is_tagged(row) && row.status == status
        })
        .await;
        let of_workflow = ExecutionQuery {
            workflow_id: workflow_id(),
            ..of_status.clone()
        };
        expect(&*store, of_workflow, &summaries, |row| {
            is_tagged(row) && row.status == status && row.workflow_id == "orders"
        })
        .await;
        let of_time = ExecutionQuery {
            started_from: Some(Timestamp(5)),
            started_until: Some(Timestamp(15)),
            ..of_status.clone()
        };
        expect(&*store, of_time, &summaries, |row| {
            is_tagged(row) && row.status == status && (5..15).contains(&row.started_at.0)
        })
        .await;
        let of_children = ExecutionQuery {
            children: true,
            ..of_status.clone()
        };
        expect(&*store, of_children, &summaries, |row| {
            is_tagged(row) && row.status == status && row.parent.is_some()
        })
        .await;
        let of_text = ExecutionQuery {
            text: Some("% OF".to_owned()),
            ..of_status.clone()
        };
        expect(&*store, of_text, &summaries, |row| {
            is_tagged(row) && row.status == status && has_text(row)
        })
        .await;
        let of_key = ExecutionQuery {
            execution_key: Some("key-4".to_owned()),
            ..of_status
        };
        expect(&*store, of_key, &summaries, |row| {
            is_tagged(row) && row.status == status && row.execution_key.as_deref() == Some("key-4")
        })
        .await;
    }
    // One of many tags, whatever it is made of, where something else leads to the rows.
    let nearly = format!("{long}.");
    for tag in ["billing", "eu", "e", &long, &nearly].into_iter().chain(ODD) {
        let of_workflow = ExecutionQuery {
            workflow_id: workflow_id(),
            ..tagged(tag)
        };
        expect(&*store, of_workflow, &summaries, |row| {
            row.workflow_id == "orders" && row.tags.iter().any(|known| known == tag)
        })
        .await;
    }
    let of_parent = ExecutionQuery {
        parent: Some(execution(0, 3)),
        ..tagged("billing")
    };
    expect(&*store, of_parent.clone(), &summaries, |row| {
        is_tagged(row) && row.parent.is_some()
    })
    .await;
    let of_parents_key = ExecutionQuery {
        execution_key: Some("key-0".to_owned()),
        workflow_id: workflow_id(),
        ..of_parent
    };
    expect(&*store, of_parents_key, &summaries, |row| {
        is_tagged(row)
            && row.parent.is_some()
            && row.workflow_id == "orders"
            && row.execution_key.as_deref() == Some("key-0")
    })
    .await;
    expect(&*store, with_key("key-2"), &summaries, |row| {
        row.execution_key.as_deref() == Some("key-2")
    })
    .await;
    expect(&*store, with_text("% of"), &summaries, has_text).await;
    // All ids begin with their shard; a longer prefix names few.
    let id = summaries[0x11].id.to_string();
    for digits in [2, 4, 31, 32] {
        let id_prefix = Some(id[..digits].to_owned());
        for query in [
            tagged("billing"),
            with_key("key-5"),
            with_text("orders"),
            with_text("REFUNDS"),
        ] {
            let query = ExecutionQuery {
                id_prefix: id_prefix.clone(),
                ..query
            };
            expect(&*store, query.clone(), &summaries, |row| {
                row.id.to_string().starts_with(&id[..digits])
                    && query.tag.as_ref().is_none_or(|_| is_tagged(row))
                    && query
                        .execution_key
                        .as_ref()
                        .is_none_or(|key| row.execution_key.as_ref() == Some(key))
                    && query
                        .text
                        .as_ref()
                        .is_none_or(|text| row.workflow_id == text.to_lowercase())
            })
            .await;
        }
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
