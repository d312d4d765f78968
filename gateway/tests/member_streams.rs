//! Event streams of several members: a reader hears of all of them, and takes a place only where it asks.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use bench::{Bench, FLOW, PATIENCE, SHORT_LEASE, apply, parsed, until, until_split};
use server::Server;

/// Asks for the coming and going of executions: the status, and what comes behind the head.
fn follow(server: &Server, more_headers: &str) -> (u16, BufReader<TcpStream>) {
    let address = server.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET /api/v1/stream?topics=executions HTTP/1.1\r\nhost: {address}\r\n{more_headers}\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the answer broke off: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reader)
}

/// What comes, as it comes.
fn heard(mut events: BufReader<TcpStream>) -> Arc<Mutex<String>> {
    let text = Arc::<Mutex<String>>::default();
    let all = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut line = String::new();
        while events.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            all.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
    text
}

#[test]
fn a_reader_takes_a_place_only_at_the_member_that_it_asks() {
    let cluster = Bench::new(&[SHORT_LEASE, ("LIMITS_STREAMS_MAX", "1")]);
    let servers = [cluster.member(), cluster.member()];
    until_split(&servers);
    apply(&servers[0], FLOW);
    let heard = servers.each_ref().map(|server| {
        let (status, events) = follow(server, "");
        assert_eq!(status, 200, "nobody else has asked it");
        heard(events)
    });
    let mut started: [Vec<String>; 2] = Default::default();
    until("each reader hears of what the other member runs", || {
        // What starts without a key starts where it is asked.
        for (server, ids) in servers.iter().zip(&mut started) {
            let (status, body) = server.post("/api/v1/workflows/flow/executions", &[], "{\"input\": {\"n\": 1}}");
            assert_eq!(status, 202, "{body}");
            ids.push(parsed(&body)["id"].as_str().unwrap().to_owned());
        }
        let hears = |reader: usize, of: usize| {
            let text = heard[reader].lock().unwrap();
            started[of].iter().any(|id| text.contains(id.as_str()))
        };
        hears(0, 1) && hears(1, 0)
    });
    for server in &servers {
        assert_eq!(follow(server, "").0, 429, "its place is taken");
        assert_eq!(
            follow(server, "x-troupe-here-only: 1\r\n").0,
            429,
            "nobody has signed that"
        );
    }
}
