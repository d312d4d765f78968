//! Clauses of [`Membership`].

use std::time::{Duration, Instant};

use troupe_core::{FormatRange, StateFormat};

use super::Fixture;
use crate::members::{Member, Membership};

type MembersFixture<'a> = &'a dyn Fixture<dyn Membership>;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);
/// How long a clause waits for the register's clock before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        address: format!("http://{name}:7654"),
        draining: false,
        release: "1".to_owned(),
        reads: FormatRange::WITH_TRIAL,
        at_most: None,
    }
}

async fn names(register: &dyn Membership) -> Vec<String> {
    let members = register.members().await.expect("the register can be read");
    members.into_iter().map(|member| member.name).collect()
}

/// Who is announced is in the register, in order of name, with what it said last.
pub async fn members_are_listed_as_they_were_announced_last(fixture: MembersFixture<'_>) {
    let register = fixture.open().await;
    assert!(names(&*register).await.is_empty());
    for name in ["b", "a", "c"] {
        register
            .announce(&member(name), LONG)
            .await
            .expect("a member can be announced");
    }
    let draining = Member {
        draining: true,
        at_most: Some(StateFormat::FIRST),
        ..member("b")
    };
    let told = register
        .announce(&draining, LONG)
        .await
        .expect("a member can be announced again");
    assert_eq!(told, [member("a"), draining, member("c")]);
    assert_eq!(register.members().await.expect("the register can be read"), told);
}

/// Who is not announced again within its time is gone; who leaves is gone at once, and may leave twice.
pub async fn members_go_when_their_time_is_over_or_they_leave(fixture: MembersFixture<'_>) {
    let register = fixture.open().await;
    // The short one comes last: it is still there when they are looked at.
    for name in ["long", "leaves"] {
        register
            .announce(&member(name), LONG)
            .await
            .expect("a member can be announced");
    }
    let begun = Instant::now();
    register
        .announce(&member("short"), SHORT)
        .await
        .expect("a member can be announced");
    assert_eq!(names(&*register).await.len(), 3);
    for _ in 0..2 {
        register.leave("leaves").await.expect("a member can leave");
    }
    while names(&*register).await != ["long"] {
        assert!(begun.elapsed() < PATIENCE, "a member outlives its time");
        tokio::time::sleep(SHORT / 4).await;
    }
    assert!(begun.elapsed() >= SHORT / 2, "nobody goes before its time is over");
}

/// The first secret that is proposed is everybody's; each name has its own.
pub async fn the_first_secret_is_everybodys(fixture: MembersFixture<'_>) {
    let register = fixture.open().await;
    let secret = async |name, proposed: &'static [u8]| {
        let secret = register.secret(name, proposed).await;
        secret.expect("a secret can be shared")
    };
    assert_eq!(secret("one", b"first").await, b"first");
    assert_eq!(secret("one", b"second").await, b"first");
    assert_eq!(secret("two", b"\0\xff").await, b"\0\xff");
    drop(fixture.open().await);
    assert_eq!(secret("two", b"third").await, b"\0\xff");
}
