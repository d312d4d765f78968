//! Clauses of [`EventSource`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::source::{EventSource, Incoming, SourceError};

/// Longest that a message takes to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// After so long nothing more comes.
const SILENCE: Duration = Duration::from_millis(300);
/// How many messages a source under test gives that are not settled.
pub const UNSETTLED_MAX: usize = 10;

/// A source under test, which nobody else takes from or sends to.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// Takes from the same place as the ones before; [`UNSETTLED_MAX`] at a time.
    async fn open(&self) -> Arc<dyn EventSource>;

    /// Sends a message with this id, which is its body too; it is safe once this returns.
    async fn send(&self, id: &str);

    /// Ids and reasons of what was set aside so far; waits for so many.
    async fn set_aside(&self, count: usize) -> Vec<(String, String)>;
}

async fn next(source: &dyn EventSource) -> Incoming {
    let next = tokio::time::timeout(PATIENCE, source.next()).await;
    next.expect("a message comes").expect("the source works")
}

fn id(message: &Incoming) -> String {
    message.id.clone().expect("the sender gave an id")
}

async fn silent(source: &dyn EventSource) {
    let next = tokio::time::timeout(SILENCE, source.next()).await;
    assert!(next.is_err(), "a message comes that nobody sent: {next:?}");
}

/// Messages come in the order sent, whole, and not again once they are accepted.
pub async fn accepted_messages_do_not_come_again(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    for number in 0..25 {
        fixture.send(&format!("m{number}")).await;
    }
    for number in 0..25 {
        let message = next(&*source).await;
        assert_eq!(
            (id(&message), &message.body[..]),
            (format!("m{number}"), format!("m{number}").as_bytes())
        );
        assert!(!message.again);
        source.accept(message.receipt).await.expect("it can be accepted");
    }
    drop(source);
    silent(&*fixture.open().await).await;
}

/// What was given and neither accepted nor rejected comes again when its taker is gone.
pub async fn unsettled_messages_come_again(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    for number in 0..6 {
        fixture.send(&format!("m{number}")).await;
    }
    for number in 0..6 {
        let message = next(&*source).await;
        if number % 2 == 0 {
            source.accept(message.receipt).await.expect("it can be accepted");
        }
    }
    drop(source);
    let source = fixture.open().await;
    let mut again = HashSet::new();
    while again.len() < 3 {
        let message = next(&*source).await;
        assert!(message.again);
        again.insert(id(&message));
        source.accept(message.receipt).await.expect("it can be accepted");
    }
    assert_eq!(again, HashSet::from(["m1", "m3", "m5"].map(str::to_owned)));
    silent(&*source).await;
}

/// A source gives a bounded number of messages until some are settled.
pub async fn unsettled_messages_are_bounded(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    for number in 0..UNSETTLED_MAX + 5 {
        fixture.send(&format!("m{number}")).await;
    }
    let mut given = Vec::new();
    for _ in 0..UNSETTLED_MAX {
        given.push(next(&*source).await);
    }
    silent(&*source).await;
    // Not in the order given.
    for message in given.drain(..).rev().take(5) {
        source.accept(message.receipt).await.expect("it can be accepted");
    }
    for _ in 0..5 {
        next(&*source).await;
    }
    silent(&*source).await;
}

/// A rejected message is set aside with the reason and does not come again.
pub async fn rejected_messages_are_set_aside_with_the_reason(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    for (number, reason) in ["no JSON", "é"].into_iter().enumerate() {
        fixture.send(&format!("m{number}")).await;
        let message = next(&*source).await;
        source
            .reject(message.receipt, reason)
            .await
            .expect("it can be rejected");
    }
    let expected = [("m0", "no JSON"), ("m1", "é")].map(|(id, reason)| (id.to_owned(), reason.to_owned()));
    assert_eq!(fixture.set_aside(2).await, expected);
    drop(source);
    silent(&*fixture.open().await).await;
}

/// A receipt is good once.
pub async fn a_message_is_settled_once(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    fixture.send("m").await;
    let message = next(&*source).await;
    source.accept(message.receipt).await.expect("it can be accepted");
    for settled in [
        source.accept(message.receipt).await,
        source.reject(message.receipt, "late").await,
    ] {
        assert!(matches!(settled, Err(SourceError::Stale)), "{settled:?}");
    }
    fixture.send("n").await;
    let message = next(&*source).await;
    assert_eq!(id(&message), "n", "the source goes on");
    drop(source);
    let source = fixture.open().await;
    let again = next(&*source).await;
    assert_eq!((id(&again), again.again), ("n".to_owned(), true));
}
