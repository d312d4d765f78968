//! Taking messages from RabbitMQ: the suite of event sources, then lost connections. On the shared broker.
#![allow(clippy::unwrap_used)]

#[path = "support/rabbitmq/queue.rs"]
mod queue;
#[path = "support/rabbitmq.rs"]
mod support;

use std::collections::HashSet;
use std::time::Duration;

use queue::Queue;
use support::consumer::broker;
use support::proxy::Proxy;
use support::soon;
use troupe_ports::conformance::source::SourceFixture;
use troupe_ports::{EventSource, SourceError};

troupe_ports::event_source_conformance!(Queue::new());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_a_lost_connection_are_stale_and_its_messages_come_again() {
    let url = broker();
    let (credentials, target) = url.strip_prefix("amqp://").unwrap().rsplit_once('@').unwrap();
    let proxy = Proxy::to(target).await;
    let mut queue = Queue::at(format!("amqp://{credentials}@{}", proxy.address));
    (queue.options.connect_timeout, queue.options.confirm_timeout) = (Duration::from_secs(1), Duration::from_secs(3));
    let source = queue.start().await;
    queue.send("kept").await;
    queue.send("held").await;
    queue.send("unread").await;
    let kept = soon("a message", source.next()).await.unwrap();
    source.accept(kept.receipt).await.unwrap();
    let held = soon("a message", source.next()).await.unwrap();
    assert_eq!(
        (held.key.as_str(), held.media_type.as_deref()),
        ("shop.order.paid", Some("text/plain"))
    );
    assert_eq!(held.headers, [("origin".to_owned(), "test".to_owned())]);

    assert!(!source.is_stale(held.receipt));
    // A reject has to wait for the broker: it is what notices first.
    proxy.fall_silent();
    let error = soon("the reject", source.reject(held.receipt, "why"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SourceError::Unavailable(why) if why.contains("no answer")),
        "{error}"
    );
    let error = soon("the accept", source.accept(held.receipt)).await.unwrap_err();
    assert!(matches!(error, SourceError::Stale), "{error}");
    assert!(source.is_stale(held.receipt));
    proxy.pass_again();
    // The reject may have arrived meanwhile, and been confirmed to nobody: then it is set aside and, once the old connection is
    // found dead, comes again as well. It is never lost.
    let mut missing = HashSet::from(["held", "unread"].map(str::to_owned));
    while !missing.is_empty() {
        let again = soon("the message", source.next()).await.unwrap();
        assert_ne!(again.receipt.connection, held.receipt.connection, "{again:?}");
        assert!(again.again);
        missing.remove(again.id.as_ref().unwrap());
        source.accept(again.receipt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_declared_again() {
    let queue = Queue::new();
    let source = queue.start().await;
    queue.send("one").await;
    let one = soon("a message", source.next()).await.unwrap();
    source.accept(one.receipt).await.unwrap();
    queue.client().await.delete_queue(&queue.queue.name).await;
    let next = tokio::spawn(async move { source.next().await.unwrap().id });
    // What is sent while there is no queue goes nowhere.
    let sent = async {
        while !next.is_finished() {
            queue.send("two").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("a message over the new queue", sent).await;
    assert_eq!(next.await.unwrap().as_deref(), Some("two"));
}
