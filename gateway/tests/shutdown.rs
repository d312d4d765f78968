//! A server that is told to stop does not wait for its clients for ever.
#![allow(clippy::unwrap_used)]

mod product;

use std::time::Duration;

use axum::http::StatusCode;
use product::{PARKED, Product};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use troupe::server::serve;

/// What a stop may take on a busy machine too; the drain time of these products is 100 ms.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn half_a_request_does_not_keep_a_server_that_stops() {
    let product = Product::new().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, told) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(product.app.clone(), listener, async move {
        told.await.unwrap();
    }));
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/workflows HTTP/1.1\r\nhost: {address}\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body once it reads it.
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    client.write_all(b"{").await.unwrap();
    stop.send(()).unwrap();
    let served = tokio::time::timeout(SOON, serving).await;
    served.expect("it stops although the client is there").unwrap().unwrap();
    assert!(!product.app.engine.status().ready, "the engine was shut down");
    drop(client);
}

#[tokio::test]
async fn who_waits_for_an_end_is_answered_when_the_server_stops() {
    let product = Product::with(&[PARKED]).await;
    let headers = [("prefer", "wait=60")];
    let asked = product.send("POST", "/api/v1/workflows/parked/executions", &headers, "");
    let stops = async {
        // It has begun.
        product.listed("/api/v1/executions").await;
        product.app.closing.cancel();
    };
    let both = async { tokio::join!(asked, stops) };
    let (reply, ()) = tokio::time::timeout(SOON, both)
        .await
        .expect("it is not kept for the whole minute");
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
    assert_eq!(reply.body["status"], "running", "{reply:?}");
}
