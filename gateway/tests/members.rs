//! Several processes on one Redis and one PostgreSQL: whichever is asked answers for all.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bench::{Bench, CALLED, FLOW, PATIENCE, SHORT_LEASE, apply, metric, parsed, until, until_split};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use server::Server;
use services::Deployment;

/// Members may call this machine, and two calls are enough for a breaker.
fn cluster() -> Bench {
    Bench::new(&[SHORT_LEASE, ("HTTP_ALLOW", "127.0.0.1"), ("BREAKERS_CALLS_MIN", "2")])
}

/// Starts an execution and tells how long that took.
fn start(server: &Server, workflow: &str, n: usize, key: Option<&str>) -> (String, Duration) {
    let begun = Instant::now();
    let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let path = format!("/api/v1/workflows/{workflow}/executions");
    let (status, body) = server.post(&path, &headers, &format!("{{\"input\": {{\"n\": {n}}}}}"));
    assert_eq!(status, 202, "{body}");
    (parsed(&body)["id"].as_str().unwrap().to_owned(), begun.elapsed())
}

fn until_completed(server: &Server, ids: &BTreeSet<String>) {
    for id in ids {
        until("an execution completes", || {
            let (status, body) = server.get(&format!("/api/v1/executions/{id}"));
            // Its shard may have no owner for a moment longer than a request looks for one.
            assert!(matches!(status, 200 | 503), "{body}");
            if status == 503 {
                return false;
            }
            let shown = parsed(&body);
            let status = shown["status"].as_str().unwrap();
            assert!(matches!(status, "running" | "completed"), "{body}");
            status == "completed"
        });
    }
}

#[test]
fn whichever_member_is_asked_answers_for_all() {
    let cluster = cluster();
    let servers = [cluster.member(), cluster.member(), cluster.member()];
    let all: Vec<&Server> = servers.iter().collect();
    until_split(&servers);
    apply(all[0], FLOW);
    apply(all[1], CALLED);
    // The same key at each of them is the same execution, wherever its shard is.
    for key in (0..8).map(|n| format!("key {n}")) {
        let ids: BTreeSet<String> = all
            .iter()
            .map(|server| start(server, "flow", 1, Some(&key)).0)
            .collect();
        assert_eq!(ids.len(), 1, "{key}: {ids:?}");
    }
    // Commands and reads at one that has not the shard: each of them works on what another one started.
    let mut ids = BTreeSet::new();
    for (n, server) in all.iter().enumerate() {
        let (id, _) = start(server, "called", n, None);
        for other in &all {
            let (begun, path) = (Instant::now(), format!("/api/v1/executions/{id}/nodes/call"));
            loop {
                let (status, body) = other.get(&path);
                if status == 200 && parsed(&body)["status"] == "running" {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{status} {body}");
                std::thread::sleep(Duration::from_millis(20));
            }
            let (status, body) = other.get(&format!("/api/v1/executions/{id}/history?limit=10"));
            assert!(
                status == 200 && !parsed(&body)["items"].as_array().unwrap().is_empty(),
                "{body}"
            );
            let paused = other.post(&format!("/api/v1/executions/{id}/pause"), &[], "");
            assert_eq!(paused.0, 200, "{}", paused.1);
            let resumed = other.post(&format!("/api/v1/executions/{id}/resume"), &[], "");
            assert_eq!(resumed.0, 200, "{}", resumed.1);
        }
        let caller = all[(n + 1) % all.len()];
        let done = caller.post(
            &format!("/api/v1/executions/{id}/nodes/call/complete"),
            &[],
            "{\"output\": 7}",
        );
        assert_eq!(done.0, 200, "{}", done.1);
        ids.insert(id);
    }
    until_completed(all[2], &ids);
    let missing = all[0].get("/api/v1/executions/00000000000000000000000000000001");
    assert_eq!(missing.0, 404, "{}", missing.1);
    // Nobody passes for a member without the secret.
    let forged = all[0].post(
        "/api/v1/controls/stop",
        &[(
            "x-troupe-member",
            "v2.1790000000000.AAAAAAAAAAAAAAAA.YQ.bG9jYWw.YWRtaW4.AAAA.AAAA",
        )],
        "{\"all\": true}",
    );
    assert_eq!(forged.0, 401, "{}", forged.1);
    assert_eq!(parsed(&forged.1)["code"], "MEMBER_SIGNATURE_INVALID");
}

/// A line to a member that is started later, on which somebody listens, and is the first to ask: with what is about to be asked, under
/// a signature of their own.
struct Line {
    address: String,
    /// Where it leads to.
    to: Arc<OnceLock<String>>,
    said: Arc<Said>,
}

/// What was said on a line.
#[derive(Default)]
struct Said {
    /// On each connection.
    heard: Mutex<Vec<Vec<u8>>>,
    /// How what was forged was answered.
    forged: Mutex<Vec<String>>,
}

/// A request that somebody has heard.
struct Heard {
    method: String,
    path: String,
    /// Those that are signed, and the signature.
    headers: Vec<(String, String)>,
}

impl Line {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            to: Arc::default(),
            said: Arc::default(),
        };
        let (to, said) = (Arc::clone(&line.to), Arc::clone(&line.said));
        std::thread::spawn(move || {
            for asking in listener.incoming() {
                let (asking, to, said) = (asking.unwrap(), Arc::clone(&to), Arc::clone(&said));
                std::thread::spawn(move || pass_on(asking, to.wait(), &said));
            }
        });
        line
    }

    /// What was asked for clients: what members tell each other now and then may still be on its way.
    fn heard(&self) -> Vec<Heard> {
        let mut all = Vec::new();
        for said in self.said.heard.lock().unwrap().iter() {
            let text = String::from_utf8_lossy(said);
            for (end, _) in text.match_indices(" HTTP/1.1\r\n") {
                let begins = ["GET /", "POST /"].map(|verb| text[..end].rfind(verb));
                let (method, path) = text[begins.into_iter().max().flatten().unwrap()..end]
                    .split_once(' ')
                    .unwrap();
                if path.starts_with("/api/v1/members/") {
                    continue;
                }
                let head = text[end..].split("\r\n\r\n").next().unwrap();
                let headers = head.lines().filter_map(|line| line.split_once(": "));
                let headers = headers.filter(|(name, _)| matches!(*name, "x-troupe-member" | "idempotency-key"));
                all.push(Heard {
                    method: method.to_owned(),
                    path: path.to_owned(),
                    headers: headers
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .collect(),
                });
            }
        }
        all
    }
}

fn pass_on(mut asking: TcpStream, to: &str, said: &Said) {
    let Ok(mut asked) = TcpStream::connect(to) else { return };
    let (mut answers, mut back) = (asked.try_clone().unwrap(), asking.try_clone().unwrap());
    // Either may hang up.
    std::thread::spawn(move || {
        std::io::copy(&mut answers, &mut back).ok();
        back.shutdown(Shutdown::Both).ok();
    });
    let connection = {
        let mut all = said.heard.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    let mut chunk = [0_u8; 4_096];
    while let Ok(bytes @ 1..) = asking.read(&mut chunk) {
        if let Some(forged) = forged(&chunk[..bytes]) {
            let answer = first_line(to, &forged).unwrap_or_else(|error| error.to_string());
            said.forged.lock().unwrap().push(answer);
        }
        said.heard.lock().unwrap()[connection].extend_from_slice(&chunk[..bytes]);
        if asked.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
    asked.shutdown(Shutdown::Both).ok();
}

/// The same under another signature, and with its own nonce; none where nobody has signed it.
fn forged(request: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(request).ok()?;
    let begin = text.find("x-troupe-member: ")?;
    let end = begin + text[begin..].find("\r\n")?;
    let signature = text[..end].rfind('.')? + 1;
    let mut forged = request.to_vec();
    forged[signature] = if forged[signature] == b'A' { b'B' } else { b'A' };
    Some(forged)
}

/// How a member begins to answer.
fn first_line(to: &str, request: &[u8]) -> std::io::Result<String> {
    let (mut stream, mut line) = (TcpStream::connect(to)?, String::new());
    stream.write_all(request)?;
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

impl Heard {
    /// What a member answers to it: status and detail.
    fn again_at(&self, member: &Server) -> (u16, String) {
        let headers = self.headers.iter();
        let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, body) = server::ask(member.url(), &self.method, &self.path, &headers, "").unwrap();
        let detail = parsed(&body)["detail"].as_str().unwrap_or_default().to_owned();
        (status, detail)
    }

    /// The same with a nonce of somebody else's.
    fn forged(&self) -> Self {
        let forged = |(name, value): &(String, String)| {
            let mut parts: Vec<&str> = value.split('.').collect();
            if name == "x-troupe-member" {
                parts[2] = "AAAAAAAAAAAAAAAA";
            }
            (name.clone(), parts.join("."))
        };
        Self {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.iter().map(forged).collect(),
        }
    }
}

#[test]
fn a_signed_request_is_taken_once_by_the_member_that_it_is_meant_for() {
    let (cluster, line) = (cluster(), Line::new());
    let a = cluster.member();
    let b = cluster.member_with(&[], &[("CLUSTER_ADDRESS", &line.address)]);
    line.to
        .set(b.url().strip_prefix("http://").unwrap().to_owned())
        .unwrap();
    until_split([&a, &b]);
    apply(&a, FLOW);
    let listed = || {
        let (status, body) = a.get("/api/v1/controls");
        assert_eq!(status, 200, "{body}");
    };
    // What was forged in its place has taken nothing from it.
    listed();
    // Some of them belong to shards of the other one. Nothing but its policy tells a repetition of such a start.
    for n in 0..12 {
        let body = format!(
            "{{\"input\": {{\"n\": {n}}}, \"executionKey\": \"order-{n}\", \"keyPolicy\": {{\"onOpen\": \"useExisting\"}}}}"
        );
        let (status, answer) = a.post("/api/v1/workflows/flow/executions", &[], &body);
        assert!(matches!(status, 200 | 202), "{status} {answer}");
    }
    let heard = line.heard();
    let forged = line.said.forged.lock().unwrap().clone();
    assert!(forged.len() >= heard.len(), "{forged:?}");
    assert!(forged.iter().all(|answer| answer.contains(" 401 ")), "{forged:?}");
    for path in ["/api/v1/workflows/flow/executions", "/api/v1/controls"] {
        assert!(heard.iter().any(|request| request.path == path), "{path}");
    }
    for request in &heard {
        for (again, member, why) in [
            (request.again_at(&b), "b", "used already"),
            (request.again_at(&a), "a", "another member"),
            (request.forged().again_at(&b), "b", "not signed with the secret"),
        ] {
            assert_eq!(again.0, 401, "{} at {member}: {}", request.path, again.1);
            assert!(again.1.contains(why), "{} at {member}: {}", request.path, again.1);
        }
    }
    // Who signs anew is answered.
    listed();
}

/// As with clocks that differ, or another build: nothing is wrong with what the client has shown.
#[test]
fn a_member_that_refuses_the_signature_of_another_one_is_one_that_does_not_answer() {
    let cluster = cluster();
    let [a, b] = ["a", "b"].map(|letter| cluster.member_with(&[], &[("CLUSTER_SECRET", &letter.repeat(32))]));
    until_split([&a, &b]);
    apply(&a, CALLED);
    // What starts without a key starts where it is asked.
    let (id, _) = start(&b, "called", 1, None);
    let (status, body) = a.get(&format!("/api/v1/executions/{id}"));
    let problem = parsed(&body);
    assert_eq!((status, problem["code"].as_str()), (503, Some("UNAVAILABLE")), "{body}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("not signed with the secret"),
        "{body}"
    );
    assert!(problem["hint"].as_str().unwrap().contains("clocks"), "{body}");
    assert_eq!(a.exit(&["show", &id]), 6, "the command line was right");
    let path = format!("/api/v1/executions/{id}");
    let bare = server::ask(a.url(), "HEAD", &path, &[], "").unwrap();
    assert_eq!(bare, (503, String::new()), "a refusal needs no body");
    // It lives and could read no letter: what nobody runs is not said to be queued.
    let (status, body) = a.post(&format!("{path}/pause"), &[("idempotency-key", "p")], "");
    let problem = parsed(&body);
    assert_eq!((status, problem["code"].as_str()), (503, Some("UNAVAILABLE")), "{body}");
    assert!(problem["hint"].as_str().unwrap().contains("clocks"), "{body}");
    let kept = metric(&a, "troupe_inbox_commands_total{outcome=\"kept\"}");
    assert_eq!((kept, metric(&b, "troupe_inbox_depth")), (0.0, 0.0));
    assert_eq!(parsed(&b.get(&path).1)["paused"], false);
}

/// Messages start it.
const PAID: &str = "
id: paid
name: Paid
nodes:
  - id: on-paid
    type: trigger
    data: { triggerType: event, config: { exchange: EXCHANGE, exchangeType: topic, routingKey: paid } }
  - { id: ship, type: function, data: { handlerId: echo } }
edges:
  - { source: on-paid, target: ship }
";

/// The queue of the trigger of [`PAID`], and its exchange; they go when this is dropped, whether the test passes or not.
struct Queue {
    url: String,
    exchange: String,
    name: String,
}

impl Queue {
    fn of(deployment: &Deployment) -> Self {
        Self {
            url: deployment.rabbitmq.clone(),
            exchange: format!("{}.paid", deployment.prefix),
            name: format!("{}.trigger.paid.on-paid", deployment.prefix),
        }
    }

    /// Whether it is there and took the message.
    async fn takes(&self, channel: &Channel, id: &str) -> bool {
        let properties = BasicProperties::default().with_message_id(id.into());
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        // The exchange without a name finds queues by theirs.
        let sent = channel.basic_publish("".into(), self.name.as_str().into(), options, b"{}", properties);
        matches!(sent.await.unwrap().await.unwrap(), Confirmation::Ack(None))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (url, exchange) = (self.url.clone(), self.exchange.clone());
        let queues = [self.name.clone(), format!("{}.dead", self.name)];
        let clean = async move {
            let connection = Connection::connect(&url, ConnectionProperties::default())
                .await
                .unwrap();
            let channel = connection.create_channel().await.unwrap();
            for queue in &queues {
                let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
                deleted.await.unwrap();
            }
            let deleted = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
            deleted.await.unwrap();
        };
        // The test's own runtime cannot be waited for here.
        let cleaned = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(clean)).join();
        assert!(cleaned.is_ok() || std::thread::panicking(), "something is left behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_a_member_refuses_is_asked_for_a_few_times_a_second() {
    const MESSAGES: u32 = 32;
    let cluster = cluster();
    let queue = Queue::of(&cluster.deployment);
    let connection = Connection::connect(&queue.url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let events = ("STORE_EVENTS", cluster.deployment.rabbitmq.as_str());
    let a = cluster.member_with(&[], &[("CLUSTER_SECRET", &"a".repeat(32)), events]);
    // Only the other one takes messages.
    let b = cluster.member_with(&[], &[("CLUSTER_SECRET", &"b".repeat(32))]);
    until_split([&a, &b]);
    apply(&a, &PAID.replace("EXCHANGE", &queue.exchange));
    let begun = Instant::now();
    while !queue.takes(&channel, "m-0").await {
        assert!(begun.elapsed() < PATIENCE, "there is no queue");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let begun = Instant::now();
    for n in 1..MESSAGES {
        assert!(queue.takes(&channel, &format!("m-{n}")).await);
    }
    let route = "method=\"POST\",route=\"/api/v1/workflows/{id}/executions\",status=\"401\"";
    let refused = || metric(&b, &format!("troupe_http_requests_total{{{route}}}"));
    until("a start is refused", || refused() > 0.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = metric(&a, "troupe_trigger_messages_total{outcome=\"started\"}");
    let (refused, took) = (refused(), begun.elapsed());
    let each = took.as_secs_f64() / 0.25 + 2.0;
    let most = (f64::from(MESSAGES) - started) * each;
    assert!(
        refused <= most,
        "{refused} refusals in {took:?}, {started} of {MESSAGES} started"
    );
}

#[test]
fn a_member_may_die_or_leave_while_everybody_works() {
    // Long enough to tell who waits for the end of one from who waits for a busy machine.
    const LEASE: Duration = Duration::from_secs(5);
    let lease_ms = LEASE.as_millis().to_string();
    let cluster = Bench::new(&[("CLUSTER_LEASE_MS", &lease_ms)]);
    let (a, b, c) = (cluster.member(), cluster.member(), cluster.member());
    until_split([&a, &b, &c]);
    apply(&a, FLOW);
    let (mut ids, mut slowest) = (BTreeSet::new(), BTreeMap::<&str, Duration>::new());
    let mut work = |phase: &'static str, servers: &[&Server], count: usize| {
        for n in 0..count {
            // A key may be any shard's, so also one of the member that goes.
            let key = format!("{phase} {n}");
            let (id, took) = start(servers[n % servers.len()], "flow", n, Some(&key));
            ids.insert(id);
            let slowest = slowest.entry(phase).or_default();
            *slowest = took.max(*slowest);
        }
    };
    work("before", &[&a, &b, &c], 30);
    c.kill();
    work("death", &[&a, &b], 60);
    until_split([&a, &b]);
    let leaves = Command::new("kill")
        .args(["-TERM", &b.child.id().to_string()])
        .status()
        .unwrap();
    assert!(leaves.success());
    work("leave", &[&a], 200);
    until_split([&a]);
    let d = cluster.member();
    work("join", &[&a, &d], 60);
    until_split([&a, &d]);
    println!("slowest starts: {slowest:?}");
    // Soon after the lease; and nobody waits for a lease when a member leaves: two thirds of it or more would be left.
    assert!(slowest["death"] < LEASE + Duration::from_secs(5), "{slowest:?}");
    assert!(slowest["leave"] < LEASE * 3 / 5, "{slowest:?}");
    until_completed(&d, &ids);
}

#[test]
fn a_start_under_a_business_key_finds_its_shard() {
    let cluster = cluster();
    let (a, b) = (cluster.member(), cluster.member());
    until_split([&a, &b]);
    apply(&a, FLOW);
    let mut ids = BTreeSet::new();
    // Several of them belong to shards of either.
    for n in 0..12 {
        let body = format!(
            "{{\"input\": {{\"n\": {n}}}, \"executionKey\": \"order-{n}\", \"keyPolicy\": {{\"onOpen\": \"useExisting\"}}}}"
        );
        for asked in [&a, &b] {
            let (status, answer) = asked.post("/api/v1/workflows/flow/executions", &[], &body);
            assert!(matches!(status, 200 | 202), "{status} {answer}");
            ids.insert(parsed(&answer)["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(ids.len(), 12, "one execution a key, whoever is asked");
    until_completed(&b, &ids);
}

#[test]
fn a_breaker_that_one_member_opens_is_shown_by_all() {
    let cluster = cluster();
    let (a, b) = (cluster.member(), cluster.member());
    until_split([&a, &b]);
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let target = format!("http:127.0.0.1:{port}");
    let calls = format!(
        "
id: calls
name: Calls
nodes:
  - {{ id: call, type: http, data: {{ method: GET, url: 'http://127.0.0.1:{port}/', retryPolicy: {{ maxAttempts: 1 }} }} }}
edges: []
"
    );
    apply(&a, &calls);
    // What starts without a key starts where it is asked.
    for n in 0..4 {
        start(&a, "calls", n, None);
    }
    let shown = |server: &Server| {
        let (status, body) = server.get("/api/v1/breakers");
        assert_eq!(status, 200, "{body}");
        let page = parsed(&body);
        let items = page["items"].as_array().unwrap().iter();
        items
            .filter(|item| item["target"] == target.as_str())
            .cloned()
            .collect::<Vec<_>>()
    };
    let is_open = |server: &Server| shown(server).iter().any(|breaker| breaker["state"] != "closed");
    until("the member that calls opens its breaker", || is_open(&a));
    until("the other one shows it", || is_open(&b));
    assert_eq!(shown(&b).len(), 1, "one line a target");
}

/// A server that answers each call after a moment, and counts those under way; what is cut off is over.
struct Site {
    address: String,
    /// Paths, and how many calls of each are under way and were at most.
    calls: Arc<Mutex<BTreeMap<String, (usize, usize)>>>,
}

impl Site {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let calls = Arc::<Mutex<BTreeMap<String, (usize, usize)>>>::default();
        let all = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, calls) = (stream.unwrap(), Arc::clone(&all));
                std::thread::spawn(move || answer(stream, &calls));
            }
        });
        Self { address, calls }
    }
}

fn answer(mut stream: TcpStream, calls: &Mutex<BTreeMap<String, (usize, usize)>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let path = String::from_utf8_lossy(&head)
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let count = |change: isize| {
        let mut calls = calls.lock().unwrap();
        let (now, most) = calls.entry(path.clone()).or_default();
        *now = now.checked_add_signed(change).unwrap();
        *most = (*now).max(*most);
    };
    count(1);
    std::thread::sleep(Duration::from_millis(30));
    count(-1);
    // Whoever asked may be gone.
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}",
        )
        .ok();
}

#[test]
fn limits_are_those_of_all_members_and_hold_when_one_dies() {
    let (cluster, site) = (cluster(), Site::start());
    let member = || cluster.member_with(&[], &[("HTTP_ALLOW", &site.address)]);
    let (a, b, c) = (member(), member(), member());
    until_split([&a, &b, &c]);
    let call = |path: &str, more: &str| {
        format!(
            "{{ id: call, type: http, data: {{ method: GET, url: 'http://{}/{path}', {more} }} }}",
            site.address
        )
    };
    let slot = call("slot", "concurrency: { key: \"'slot'\", limit: 1, scope: global }");
    for id in ["one", "other"] {
        apply(&a, &format!("id: {id}\nname: {id}\nnodes: [{slot}]\nedges: []\n"));
    }
    let room = call("room", "timeout: 20000");
    let settings = "settings: { concurrency: { limit: 2 } }";
    apply(
        &a,
        &format!("id: rooms\nname: rooms\n{settings}\nnodes: [{room}]\nedges: []\n"),
    );
    let mut ids = BTreeSet::new();
    let mut some = |servers: &[&Server], count: usize| {
        for n in 0..count {
            for workflow in ["one", "other", "rooms"] {
                ids.insert(start(servers[n % servers.len()], workflow, n, None).0);
            }
        }
    };
    some(&[&a, &b, &c], 12);
    c.kill();
    some(&[&a, &b], 6);
    for id in &ids {
        until("an execution completes", || {
            let (status, body) = a.get(&format!("/api/v1/executions/{id}"));
            // Its shard may have no owner for a moment longer than a request looks for one.
            assert!(matches!(status, 200 | 503), "{body}");
            let shown = parsed(&body);
            assert_ne!(shown["status"], "failed", "{body}");
            status == 200 && shown["status"] == "completed"
        });
    }
    let calls = site.calls.lock().unwrap();
    let most: BTreeMap<&str, usize> = calls.iter().map(|(path, (_, most))| (path.as_str(), *most)).collect();
    assert_eq!(most, BTreeMap::from([("/room", 2), ("/slot", 1)]));
}

#[test]
fn an_outage_of_redis_that_outlasts_every_lease_moves_no_shard() {
    let cluster = cluster();
    let (a, b) = (cluster.member(), cluster.member());
    until_split([&a, &b]);
    apply(&a, FLOW);
    let ids: BTreeSet<String> = (0..10).map(|n| start(&a, "flow", n, None).0).collect();
    cluster.redis.signal("STOP");
    // Both leases and both places in the register are over by then.
    std::thread::sleep(Duration::from_millis(5_000));
    cluster.redis.signal("CONT");
    until_completed(&b, &ids);
    until_split([&a, &b]);
    for server in [&a, &b] {
        assert_eq!(metric(server, "troupe_fenced_commits_total"), 0.0);
    }
}
