//! What the client does with several servers, logins, keys and failures.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::Query;
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::dto::CommandDto;
use crate::error::ApiError;

fn item(id: &str) -> serde_json::Value {
    serde_json::json!({"id": id, "workflowId": "w", "version": 1, "status": "running", "paused": false,
        "startTime": "2026-11-26T00:00:00.000Z", "sequence": 1})
}

/// A server whose list holds nothing for the first `late` requests.
async fn server(late: usize) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let list = move || async move {
        let items = if count.fetch_add(1, Ordering::Relaxed) < late {
            vec![]
        } else {
            vec![item(&"ab".repeat(16))]
        };
        Json(serde_json::json!({"items": items}))
    };
    (serve(Router::new().route("/api/v1/executions", get(list))).await, asked)
}

async fn serve(router: Router) -> Client {
    client(&[&listening(router).await])
}

fn client(addresses: &[&str]) -> Client {
    with_key(&addresses.join(","), None)
}

fn with_key(servers: &str, key: Option<&str>) -> Client {
    // As `main` does; another test of this process may have been faster.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::new(servers, key).unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    (listener, address)
}

/// Where a server answers so.
async fn listening(router: Router) -> String {
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Where nobody listens.
async fn nowhere() -> String {
    listener().await.1
}

/// Where every request is heard, counted, and never answered.
async fn deaf() -> (String, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let _read = stream.read(&mut [0; 4_096]).await.ok();
        }
    });
    (address, heard)
}

/// Where every request gets this answer, and is counted.
async fn always(status: StatusCode, body: Value) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move || async move {
        count.fetch_add(1, Ordering::Relaxed);
        (status, Json(body))
    };
    (listening(Router::new().fallback(answer)).await, asked)
}

fn unavailable() -> Value {
    serde_json::to_value(ApiError::new(UNAVAILABLE, "it is starting").problem()).unwrap()
}

#[tokio::test]
async fn where_nobody_listens_another_server_is_asked_and_asked_again() {
    let (gone, (here, asked)) = (nowhere().await, always(StatusCode::OK, json!(1)).await);
    let client = client(&[&gone, &here]);
    // Nobody has got a request that is refused like this: whatever it is, it may be sent again.
    assert_eq!(client.fetch::<u8>(client.post(&["x"])).await.unwrap(), 1);
    assert_eq!(client.server().address().as_str(), format!("{here}/"));
    assert_eq!(client.fetch::<u8>(client.get(&["x"])).await.unwrap(), 1);
    assert_eq!(client.ask_root("readyz").await.unwrap().0, StatusCode::OK);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_failure_names_all_who_were_asked() {
    let (one, two) = (nowhere().await, nowhere().await);
    let vain = client(&[&one, &two]);
    let failure = vain.fetch::<u8>(vain.get(&["x"])).await.unwrap_err();
    assert_eq!(failure.exit, Exit::CannotConnect);
    assert_eq!(failure.code.as_deref(), Some("CANNOT_CONNECT"));
    assert!(
        failure.message.contains(&one) && failure.message.contains(&two),
        "{}",
        failure.message
    );

    let (unwell, _) = always(StatusCode::SERVICE_UNAVAILABLE, unavailable()).await;
    let vain = client(&[&unwell, &two]);
    let failure = vain.fetch::<u8>(vain.get(&["x"])).await.unwrap_err();
    assert_eq!(failure.code.as_deref(), Some(UNAVAILABLE), "it may be asked again");
    for part in [unwell.as_str(), "it is starting", two.as_str()] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test]
async fn what_may_have_been_received_is_sent_again_only_where_that_changes_nothing() {
    let (here, asked) = always(StatusCode::OK, json!(1)).await;
    let (lost, heard) = deaf().await;
    let careful = client(&[&lost, &here]);
    let failure = careful.fetch::<u8>(careful.post(&["x"])).await.unwrap_err();
    assert_eq!(failure.exit, Exit::CannotConnect);
    assert_eq!(failure.hint.as_deref(), Some(UNKNOWN));
    assert!(!failure.message.contains(&here), "{}", failure.message);
    assert_eq!(heard.load(Ordering::Relaxed), 1);
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    for (times, key) in [(1, None), (2, Some("k"))] {
        let client = client(&[&lost, &here]);
        let request = match key {
            Some(key) => client.post(&["x"]).header("idempotency-key", key).json(&1),
            None => client.get(&["x"]),
        };
        assert_eq!(client.fetch::<u8>(request).await.unwrap(), 1);
        assert_eq!(heard.load(Ordering::Relaxed), 1 + times);
        assert_eq!(asked.load(Ordering::Relaxed), times);
    }
}

#[tokio::test]
async fn another_server_is_asked_where_one_is_unwell_and_not_where_it_refuses() {
    let refusal = serde_json::to_value(ApiError::new("STOPPED", "lunch").problem()).unwrap();
    for (status, body, goes_on) in [
        (StatusCode::SERVICE_UNAVAILABLE, unavailable(), true),
        (StatusCode::BAD_GATEWAY, json!("a proxy"), true),
        (StatusCode::SERVICE_UNAVAILABLE, refusal, false),
        (StatusCode::NOT_FOUND, json!("no"), false),
    ] {
        let (first, _) = always(status, body.clone()).await;
        let (second, asked) = always(StatusCode::OK, json!(1)).await;
        let client = client(&[&first, &second]);
        // What it has done about a command is not known.
        let command = client.fetch::<u8>(client.post(&["x"])).await.unwrap_err();
        let is_named = command.message.contains(&first);
        assert!(is_named || !goes_on, "{status} {body}: {}", command.message);
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{status} {body}");
        let question = client.fetch::<u8>(client.get(&["x"])).await;
        assert_eq!(question.is_ok(), goes_on, "{status} {body}");
        assert_eq!(asked.load(Ordering::Relaxed), usize::from(goes_on), "{status} {body}");
    }
}

#[tokio::test]
async fn each_server_gets_its_own_login_and_path_and_the_key() {
    let told = |headers: HeaderMap, uri: Uri| async move {
        let shown = headers[AUTHORIZATION].to_str().unwrap().to_owned();
        Json(json!([uri.to_string(), shown]))
    };
    let here = listening(Router::new().fallback(told)).await;
    let gone = nowhere().await.replace("http://", "http://u:secret@");
    let asked = async |here: &str| {
        let client = with_key(&format!("{gone}/a, {here}"), Some("key"));
        let request = client.get(&["x/y"]).query(&[("q", "1")]);
        client.fetch::<[String; 2]>(request).await.unwrap()
    };
    assert_eq!(asked(&here).await, ["/api/v1/x%2Fy?q=1", "Bearer key"]);
    let with_login = here.replace("http://", "http://u:p@");
    let under = asked(&format!("{with_login}/under/")).await;
    assert_eq!(under, ["/under/api/v1/x%2Fy?q=1", "Basic dTpw"]);
}

#[test]
fn each_address_is_checked() {
    for (wrong, named) in [
        ("", "empty"),
        ("http://a,", "empty"),
        ("http://a,,http://b", "empty"),
        ("http://a,b", "`b`"),
        ("http://a,ftp://b", "`ftp://b`"),
        ("http://a,http://b?c", "`http://b?c`"),
        ("http://u:Left,Right@h,nonsense", "address 1 of 3"),
    ] {
        let failure = Client::new(wrong, None).err().unwrap();
        assert_eq!(failure.exit, Exit::Usage, "{wrong}");
        assert!(failure.message.contains(named), "{wrong}: {}", failure.message);
        assert!(!failure.message.contains("Left"), "{}", failure.message);
        assert!(failure.hint.unwrap().contains("--server"), "{wrong}");
    }
    let twice = with_key("http://a, http://a/,http://b", None);
    assert_eq!(twice.servers.len(), 2);
}

#[test]
fn a_login_in_the_address_of_a_server_is_not_shown() {
    for server in ["http://u:Left/Right@h:1", "ftp://u:Left@h"] {
        let failure = Client::new(server, None).err().unwrap();
        let shown = failure.message;
        assert!(!shown.contains("Left") && !shown.contains("Right"), "{shown}");
    }
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::new("http://u:Left@h:1", None).unwrap();
    assert_eq!(client.server().address().as_str(), "http://h:1/");
}

#[test]
fn a_key_is_shown_to_members_only_where_it_is_as_safe_as_at_the_server() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let may = |server: &str, member: &str| {
        let client = Client::new(server, Some("key")).unwrap();
        client.server().may_ask(&Url::parse(member).unwrap())
    };
    assert!(may("http://127.0.0.1:1", "http://127.0.0.1:2"));
    assert!(may("http://localhost:1", "http://[::1]:2"));
    assert!(may("http://127.0.0.1:1", "http://[::ffff:127.0.0.1]:2"));
    assert!(may("http://127.0.0.1:1", "https://10.0.0.1:2"));
    assert!(may("https://127.0.0.1:1", "https://127.0.0.1:2"));
    assert!(may("http://a.example", "http://b.example"));
    assert!(may("http://a.example", "https://10.0.0.1:2"));
    assert!(may("https://a.example", "https://b.example"));
    // It may be the end of a tunnel: what leaves this machine does so in the clear.
    for tunnel in [
        "http://127.0.0.1:1",
        "http://localhost:1",
        "http://[::1]:1",
        "http://localhost.:1",
    ] {
        assert!(!may(tunnel, "http://10.0.0.1:2"), "{tunnel}");
    }
    assert!(!may("https://127.0.0.1:1", "http://10.0.0.1:2"));
    assert!(!may("https://127.0.0.1:1", "http://127.0.0.1:2"));
    assert!(!may("https://a.example", "http://b.example"));
    assert!(!may("https://a.example", "https://127.0.0.1:2"));
    assert!(!may("http://a.example", "http://app.localhost:2"));
    assert!(!may("http://a.example", "http://127.0.0.1:2"));
    assert!(!may("http://a.example", "http://0.0.0.0:2"));
    assert!(!may("http://a.example", "ftp://b.example"));
    // Of several, the one that named the member.
    let several = with_key("http://127.0.0.1:1,http://a.example", Some("key"));
    let here = Url::parse("http://127.0.0.1:2").unwrap();
    assert!(several.server().may_ask(&here));
    several.pass_over();
    assert!(!several.server().may_ask(&here));
}

#[tokio::test]
async fn a_command_that_is_queued_has_no_outcome_yet() {
    let queued = || async {
        let queued = QueuedDto::new(Some("ab".to_owned()), Some("key".to_owned()));
        (StatusCode::ACCEPTED, Json(queued))
    };
    let client = serve(Router::new().route("/api/v1/executions/ab/cancel", post(queued))).await;
    let command = client.post(&["executions", "ab", "cancel"]);
    let failure = client.fetch::<CommandDto>(command).await.unwrap_err();
    assert_eq!(failure.exit, Exit::WaitTimeout);
    assert!(failure.hint.unwrap().contains("troupe show ab"));
}

#[tokio::test]
async fn a_beginning_is_looked_up_once_more_before_it_is_not_found() {
    for (late, requests) in [(0, 1), (1, 2)] {
        let (client, asked) = server(late).await;
        assert_eq!(client.execution_id("abab").await.unwrap(), "ab".repeat(16));
        assert_eq!(asked.load(Ordering::Relaxed), requests);
    }
    let (client, asked) = server(usize::MAX).await;
    assert_eq!(client.execution_id("abab").await.unwrap_err().exit, Exit::NotFound);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// Pages of a list, each of which names the next one: none at the end. `busy` requests are refused for now, the first ones.
async fn pages(pages: &'static [&'static [&'static str]], busy: usize) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let list = move |Query(query): Query<BTreeMap<String, String>>| async move {
        if count.fetch_add(1, Ordering::Relaxed) < busy {
            return Err(ApiError::new("UNAVAILABLE", "others search"));
        }
        let at: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let items: Vec<_> = pages[at].iter().map(|begin| item(&begin.repeat(16))).collect();
        let next = (at + 1 < pages.len()).then(|| (at + 1).to_string());
        Ok(Json(serde_json::json!({"items": items, "next": next})))
    };
    (serve(Router::new().route("/api/v1/executions", get(list))).await, asked)
}

#[tokio::test]
async fn a_beginning_is_looked_up_on_all_pages() {
    let (client, asked) = pages(&[&[], &["ab"], &[]], 0).await;
    assert_eq!(client.execution_id("a").await.unwrap(), "ab".repeat(16));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // Two are enough to know that there is no one.
    let (client, asked) = pages(&[&[], &["ab"], &["ac"], &[], &[]], 0).await;
    assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::Conflict);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let (client, asked) = pages(&[&[], &[]], 0).await;
    assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::NotFound);
    assert_eq!(asked.load(Ordering::Relaxed), 4, "all of it, once more");
}

#[tokio::test]
async fn a_page_that_a_server_cannot_give_for_now_is_asked_for_again() {
    let again = AGAIN_MAX as usize;
    let (client, asked) = pages(&[&["ab"]], again).await;
    assert_eq!(client.execution_id("a").await.unwrap(), "ab".repeat(16));
    assert_eq!(asked.load(Ordering::Relaxed), again + 1);
    let (client, asked) = pages(&[&["ab"]], usize::MAX).await;
    assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::CannotConnect);
    assert_eq!(asked.load(Ordering::Relaxed), again + 1);
}
