//! Clauses of [`EpochAuthority`].

use troupe_core::{Epoch, ShardId};

use super::Fixture;
use crate::epochs::{EpochAuthority, EpochError};

type EpochFixture<'a> = &'a dyn Fixture<dyn EpochAuthority>;

const SHARD: ShardId = ShardId(0);
/// Candidates for one shard that have looked at the same time.
const CANDIDATES: usize = 8;

async fn issue(authority: &dyn EpochAuthority, shard: ShardId, after: u64) -> u64 {
    let issued = authority.issue(shard, Epoch(after), "owner").await;
    issued.expect("an epoch can be issued").0
}

async fn issued(authority: &dyn EpochAuthority, shard: ShardId) -> u64 {
    authority.issued(shard).await.expect("the latest epoch can be read").0
}

/// Epochs begin at 1 and each is the next one; what was issued last is what an owner reads, also a former one.
pub async fn epochs_count_from_one(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    assert_eq!(issued(&*authority, SHARD).await, 0);
    for after in 0..5 {
        assert_eq!(issue(&*authority, SHARD, after).await, after + 1);
        assert_eq!(issued(&*authority, SHARD).await, after + 1);
    }
}

/// A candidate that looked too early is told the latest one, and no epoch is used up.
pub async fn a_candidate_that_looked_too_early_conflicts(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    issue(&*authority, SHARD, 0).await;
    issue(&*authority, SHARD, 1).await;
    for after in [0, 1] {
        let late = authority.issue(SHARD, Epoch(after), "late").await;
        assert!(
            matches!(late, Err(EpochError::Conflict { latest: Epoch(2) })),
            "got {late:?}"
        );
    }
    assert_eq!(issued(&*authority, SHARD).await, 2);
}

/// Where the state store has seen more than was issued here (a restored authority), epochs go on from there.
pub async fn epochs_follow_what_the_state_store_has_seen(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    assert_eq!(issue(&*authority, SHARD, 41).await, 42);
    assert_eq!(issue(&*authority, SHARD, 1_000_000).await, 1_000_001);
    assert_eq!(issued(&*authority, SHARD).await, 1_000_001);
}

/// One of many candidates gets the epoch; the others are told so. Nothing is skipped and nothing is issued twice.
pub async fn only_one_of_many_racing_candidates_is_issued_an_epoch(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    let names: Vec<_> = (0..CANDIDATES).map(|number| format!("candidate {number}")).collect();
    for after in 0..10 {
        let attempts = names.iter().map(|name| authority.issue(SHARD, Epoch(after), name));
        let answers = futures::future::join_all(attempts).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "one winner: {won:?}");
        for answer in won {
            assert_eq!(answer.expect("it won").0, after + 1);
        }
        for answer in lost {
            assert!(
                matches!(answer, Err(EpochError::Conflict { latest }) if latest.0 == after + 1),
                "got {answer:?}"
            );
        }
    }
    assert_eq!(issued(&*authority, SHARD).await, 10);
}

/// Shards have epochs of their own.
pub async fn shards_are_ordered_independently(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    for shard in [0, 7, 31] {
        assert_eq!(
            issue(&*authority, ShardId(shard), u64::from(shard)).await,
            u64::from(shard) + 1
        );
    }
    for (shard, expected) in [(0, 1), (1, 0), (7, 8), (31, 32)] {
        assert_eq!(issued(&*authority, ShardId(shard)).await, expected);
    }
}

/// What was issued survives closing and opening.
pub async fn epochs_are_there_after_reopening(fixture: EpochFixture<'_>) {
    let authority = fixture.open().await;
    issue(&*authority, SHARD, 0).await;
    issue(&*authority, SHARD, 8).await;
    drop(authority);
    let authority = fixture.open().await;
    assert_eq!(issued(&*authority, SHARD).await, 9);
    let late = authority.issue(SHARD, Epoch(8), "late").await;
    assert!(
        matches!(late, Err(EpochError::Conflict { latest: Epoch(9) })),
        "got {late:?}"
    );
    assert_eq!(issue(&*authority, SHARD, 9).await, 10);
}
