//! The `http` node type against servers on loopback.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value as JsonValue, json};
use support::{failure, output, run, task_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use troupe_executors::{EgressPolicy, HttpExecutor, HttpOptions};
use troupe_ports::{Clock, Executed, Secrets, SystemClock};

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

async fn serve_on<S, F>(mut stream: S, answer: Arc<F>)
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
    F: Fn(&Seen) -> String,
{
    let mut bytes = Vec::new();
    let head = loop {
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        })
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    while bytes.len() < head + 4 + length {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    let body = String::from_utf8_lossy(&bytes[head + 4..]).into_owned();
    let seen = Seen { line, headers, body };
    let _ = stream.write_all(answer(&seen).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Serves one request a connection on a free port; gives the port.
async fn server(answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_on(stream, Arc::clone(&answer)));
        }
    });
    port
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn echo(seen: &Seen) -> String {
    let headers: serde_json::Map<_, _> = seen
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let body = json!({"line": seen.line, "headers": headers, "body": seen.body}).to_string();
    reply("200 OK", "content-type: application/json\r\n", &body)
}

struct Fixed;

impl Secrets for Fixed {
    fn get(&self, name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "hunter22-secret".to_owned())
    }
}

fn executor(allowed: &[&str]) -> HttpExecutor {
    let egress = EgressPolicy::allowing(allowed.iter().copied()).unwrap();
    HttpExecutor::new(
        &HttpOptions {
            egress,
            ..HttpOptions::default()
        },
        Arc::new(Fixed),
    )
    .unwrap()
}

async fn fetch(data: JsonValue) -> Executed {
    run(
        &executor(&["127.0.0.1", "localhost"]),
        task_of("w", "http", &data, &json!(null)),
    )
    .await
}

#[tokio::test]
async fn calls_carry_the_trace_on_unless_the_node_names_one() {
    let url = format!("http://127.0.0.1:{}/", server(echo).await);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (headers, expected) in [(json!({}), json!(trace)), (json!({"TraceParent": "own"}), json!("own"))] {
        let mut task = task_of("w", "http", &json!({"url": url, "headers": headers}), &json!(null));
        task.trace_parent = Some(trace.into());
        let result = output(&run(&executor(&["127.0.0.1"]), task).await);
        assert_eq!(result["body"]["headers"]["traceparent"], expected);
    }
    let result = output(&fetch(json!({"url": url})).await);
    assert_eq!(result["body"]["headers"].get("traceparent"), None);
}

#[tokio::test]
async fn requests_carry_what_the_node_says() {
    let port = server(echo).await;
    let url = format!("http://127.0.0.1:{port}/a?x=1");
    let data = json!({"url": url, "method": "post", "headers": {"X-Own": "1"}, "query": {"q": "a b", "many": [1, 2]}, "body": {"k": [1]}});
    let task = task_of("w", "http", &data, &json!(null));
    let executed = run(&executor(&["127.0.0.1"]), task.clone()).await;
    let result = output(&executed);
    assert_eq!(
        (&result["status"], &result["headers"]["content-type"]),
        (&json!(200), &json!("application/json"))
    );
    let seen = &result["body"];
    assert_eq!(seen["line"], "POST /a?x=1&q=a+b&many=1&many=2 HTTP/1.1");
    assert_eq!(seen["body"], "{\"k\":[1]}");
    assert_eq!(seen["headers"]["content-type"], "application/json");
    assert_eq!(seen["headers"]["x-own"], "1");
    assert_eq!(seen["headers"]["idempotency-key"], task.idempotency_key());

    for method in ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"] {
        let result = output(&fetch(json!({"url": url, "method": method})).await);
        if method == "HEAD" {
            assert_eq!(result["body"], json!(null));
            continue;
        }
        assert!(result["body"]["line"].as_str().unwrap().starts_with(method), "{result}");
        let keyed = result["body"]["headers"].get("idempotency-key").is_some();
        assert_eq!(keyed, !["GET", "OPTIONS"].contains(&method), "{method}");
    }
    let off = output(&fetch(json!({"url": url, "method": "PUT", "body": "t", "idempotencyKey": false})).await);
    assert_eq!(off["body"]["headers"].get("idempotency-key"), None);
    assert_eq!(off["body"]["headers"]["content-type"], "text/plain; charset=utf-8");
    let form = json!({"url": url, "method": "POST", "headers": {"Content-Type": "application/x-www-form-urlencoded"}, "body": {"a": "1&2", "b": 3}});
    assert_eq!(output(&fetch(form).await)["body"]["body"], "a=1%262&b=3");
}

#[tokio::test]
async fn authentication_is_sent_and_never_comes_back() {
    let port = server(|seen| {
        let line = format!(
            "{} {:?} {:?}",
            seen.line,
            seen.header("authorization"),
            seen.header("x-key")
        );
        assert!(line.contains("hunter22") || line.contains("aHVudGVyMjI"), "{line}");
        let failing = seen.line.contains("fail");
        echo(seen).replacen("200 OK", if failing { "400 Bad" } else { "200 OK" }, 1)
    })
    .await;
    let url = format!("http://127.0.0.1:{port}/");
    for (kind, config) in [
        ("bearer", json!({"token": "{{ secrets.TOKEN }}"})),
        ("basic", json!({"username": "", "password": "{{ secrets.TOKEN }}"})),
        ("apiKey", json!({"name": "X-Key", "key": "{{ secrets.TOKEN }}"})),
        (
            "apiKey",
            json!({"in": "query", "name": "key", "key": "{{ secrets.TOKEN }}"}),
        ),
    ] {
        let mut config = config;
        if kind == "basic" {
            config["username"] = json!("hunter22");
        }
        for path in ["", "fail"] {
            let data = json!({"url": format!("{url}{path}"), "authentication": {"type": kind, "config": config}});
            let executed = fetch(data).await;
            let told = format!("{executed:?}");
            assert!(told.contains("[secret]"), "{kind} {told}");
            assert!(
                !told.contains("hunter22-secret") && !told.contains("aHVudGVyMjI"),
                "{kind} {told}"
            );
            assert_eq!(told.contains("HTTP_400"), path == "fail", "{told}");
        }
    }
    let executed = fetch(json!({"url": url, "headers": {"a": "{{ secrets.NONE }}"}})).await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("SECRET_NOT_FOUND", false)
    );
}

#[tokio::test]
async fn oauth2_tokens_are_fetched_once_and_renewed_when_refused() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let token_port = server(move |seen| {
        assert_eq!(seen.body, "grant_type=client_credentials&scope=a+b");
        assert_eq!(seen.header("authorization"), Some("Basic aWQ6c2VjcmV0LW9mLWNsaWVudA=="));
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        reply(
            "200 OK",
            "",
            &json!({"access_token": format!("token-{number}"), "expires_in": 3600}).to_string(),
        )
    })
    .await;
    let port = server(|seen| match seen.header("authorization") {
        Some("Bearer token-1") if seen.line.contains("revoked") => reply("401 Unauthorized", "", ""),
        Some(token) => reply("200 OK", "", token),
        None => reply("403 Forbidden", "", ""),
    })
    .await;
    let config = json!({"tokenUrl": format!("http://127.0.0.1:{token_port}/"), "clientId": "id", "clientSecret": "secret-of-client", "scope": "a b"});
    let data = |path: &str| {
        let url = format!("http://127.0.0.1:{port}/{path}");
        task_of(
            "w",
            "http",
            &json!({"url": url, "authentication": {"type": "oauth2", "config": config}}),
            &json!(null),
        )
    };
    let executor = executor(&["127.0.0.1"]);
    let all = futures::future::join_all((0..10).map(|_| run(&executor, data("")))).await;
    assert!(
        all.iter().all(|executed| output(executed)["body"] == "Bearer [secret]"),
        "{all:?}"
    );
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    assert_eq!(output(&run(&executor, data("revoked")).await)["status"], 200);
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn failures_have_codes_and_say_whether_to_try_again() {
    for (status, headers, retryable, wait) in [
        ("404 Not Found", "", false, None),
        ("429 Too Many", "retry-after: 7\r\n", true, Some(7_000)),
        ("503 Unavailable", "retry-after: 2\r\n", true, Some(2_000)),
        ("500 Error", "", true, None),
    ] {
        let port = server(move |_| reply(status, headers, "why")).await;
        let executed = fetch(json!({"url": format!("http://127.0.0.1:{port}/p?key=x")})).await;
        let failed = failure(&executed);
        assert_eq!(failed.error.code, format!("HTTP_{}", &status[..3]));
        assert_eq!((failed.retryable, failed.retry_after_ms), (retryable, wait), "{status}");
        assert_eq!(
            failed.error.details.as_ref().unwrap().to_value().unwrap()["body"],
            "why"
        );
        assert!(!failed.error.message.contains("key=x"), "{}", failed.error.message);
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let cut = server(|_| "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc".to_owned()).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let large = server(|_| reply("200 OK", "", &"x".repeat(5 << 20))).await;
    for (data, code, retryable) in [
        (
            json!({"url": format!("http://127.0.0.1:{closed}/")}),
            "HTTP_CONNECT",
            true,
        ),
        (
            json!({"url": format!("https://127.0.0.1:{plain_port}/")}),
            "HTTP_TLS",
            false,
        ),
        (
            json!({"url": format!("http://127.0.0.1:{cut}/")}),
            "HTTP_RESPONSE",
            true,
        ),
        (
            json!({"url": format!("http://127.0.0.1:{large}/")}),
            "OUTPUT_TOO_LARGE",
            false,
        ),
        (json!({"url": "http://x y/"}), "HTTP_REQUEST_INVALID", false),
        (json!({"url": "gopher://x/"}), "HTTP_REQUEST_INVALID", false),
        (json!({}), "HTTP_REQUEST_INVALID", false),
        (
            json!({"url": "http://x/", "headers": {"a b": "c"}}),
            "HTTP_REQUEST_INVALID",
            false,
        ),
        (
            json!({"url": "http://x/", "headers": {"a": "b\r\nc: d"}}),
            "HTTP_REQUEST_INVALID",
            false,
        ),
        (
            json!({"url": "http://x/", "method": "CONNECT"}),
            "HTTP_REQUEST_INVALID",
            false,
        ),
        (
            json!({"url": "http://x/", "authentication": {"type": "magic"}}),
            "HTTP_REQUEST_INVALID",
            false,
        ),
    ] {
        let executed = fetch(data.clone()).await;
        let failed = failure(&executed);
        assert_eq!(
            (failed.error.code.as_str(), failed.retryable),
            (code, retryable),
            "{data}: {failed:?}"
        );
    }
}

#[tokio::test]
async fn a_silent_target_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut task = task_of("w", "http", &json!({"url": url}), &json!(null));
    task.deadline = SystemClock.now().plus_ms(100);
    let executed = run(&executor(&["127.0.0.1"]), task).await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("TIMEOUT", true)
    );
}

#[tokio::test]
async fn redirects_are_checked_and_drop_credentials() {
    let other = server(echo).await;
    let port = server(move |seen| {
        let path = seen.line.split(' ').nth(1).unwrap().to_owned();
        let to = match path.as_str() {
            "/loop" => "/loop".to_owned(),
            "/metadata" => "http://169.254.169.254/latest".to_owned(),
            "/decimal" => "http://2852039166/".to_owned(),
            "/file" => "file:///etc/passwd".to_owned(),
            "/other" | "/other307" => format!("http://127.0.0.1:{other}/there"),
            _ => return echo(seen),
        };
        let status = if path == "/other307" {
            "307 Temporary"
        } else {
            "302 Found"
        };
        reply(status, &format!("location: {to}\r\n"), "")
    })
    .await;
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    for (path, code) in [
        ("loop", "HTTP_REDIRECT"),
        ("metadata", "EGRESS_DENIED"),
        ("decimal", "EGRESS_DENIED"),
        ("file", "EGRESS_DENIED"),
    ] {
        let executed = fetch(json!({"url": url(path)})).await;
        assert_eq!(
            (failure(&executed).error.code.as_str(), failure(&executed).retryable),
            (code, false),
            "{path}"
        );
    }
    let secret = json!({"Authorization": "own", "X-Mine": "{{ secrets.TOKEN }}", "X-Plain": "1"});
    let crossed = output(&fetch(json!({"url": url("other"), "method": "POST", "body": "b", "headers": secret})).await);
    let seen = &crossed["body"];
    assert_eq!(seen["line"], "GET /there HTTP/1.1");
    assert_eq!(
        (seen["headers"].get("authorization"), seen["headers"].get("x-mine")),
        (None, None)
    );
    assert_eq!((&seen["headers"]["x-plain"], &seen["body"]), (&json!("1"), &json!("")));
    let kept = output(&fetch(json!({"url": url("other307"), "method": "POST", "body": "b"})).await);
    assert_eq!(
        (&kept["body"]["line"], &kept["body"]["body"]),
        (&json!("POST /there HTTP/1.1"), &json!("b"))
    );
    let executed = fetch(json!({"url": url("other307"), "method": "POST", "body": {"s": "{{ secrets.TOKEN }}"}})).await;
    assert_eq!(failure(&executed).error.code, "HTTP_REDIRECT");
    let unfollowed = output(&fetch(json!({"url": url("other"), "followRedirects": false})).await);
    assert_eq!(unfollowed["status"], 302);
}

#[tokio::test]
async fn the_guard_is_on_by_default() {
    let port = server(echo).await;
    let guarded = executor(&[]);
    // `localhost` is a name: the connector's resolver refuses it. The rest are literals.
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "0x7f.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
    ] {
        let data = json!({"url": format!("http://{host}:{port}/")});
        let executed = run(&guarded, task_of("w", "http", &data, &json!(null))).await;
        let failed = failure(&executed);
        assert_eq!(
            (failed.error.code.as_str(), failed.retryable),
            ("EGRESS_DENIED", false),
            "{host}: {failed:?}"
        );
    }
    let listed = executor(&[&format!("localhost:{port}")]);
    let data = json!({"url": format!("http://localhost:{port}/")});
    assert_eq!(
        output(&run(&listed, task_of("w", "http", &data, &json!(null))).await)["status"],
        200
    );
    let token_url = json!({"url": format!("http://localhost:{port}/"), "authentication": {"type": "oauth2",
        "config": {"tokenUrl": format!("http://127.0.0.1:{port}/"), "clientId": "i", "clientSecret": "s"}}});
    let executed = run(&listed, task_of("w", "http", &token_url, &json!(null))).await;
    assert_eq!(failure(&executed).error.code, "EGRESS_DENIED");
}

#[tokio::test]
async fn tls_is_verified() {
    let certificate = include_bytes!("tls/certificate.pem");
    let key = include_bytes!("tls/key.pem");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![rustls::pki_types::pem::PemObject::from_pem_slice(certificate).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::pem::PemObject::from_pem_slice(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let answer = Arc::new(echo);
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve_on(stream, answer).await;
                }
            });
        }
    });
    let data = json!({"url": format!("https://localhost:{port}/")});
    let egress = EgressPolicy::allowing(["localhost"]).unwrap();
    let extra_roots_pem = vec![include_bytes!("tls/authority.pem").to_vec()];
    let options = HttpOptions {
        egress,
        extra_roots_pem,
        ..HttpOptions::default()
    };
    let trusting = HttpExecutor::new(&options, Arc::new(Fixed)).unwrap();
    assert_eq!(
        output(&run(&trusting, task_of("w", "http", &data, &json!(null))).await)["status"],
        200
    );
    let executed = fetch(data).await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("HTTP_TLS", false)
    );
}
