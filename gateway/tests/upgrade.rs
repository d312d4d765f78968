//! Processes of one deployment are replaced, one by one and under load, by those of a release with another format of the state, and
//! back again.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bench::{Bench, FLOW, PATIENCE, SHORT_LEASE, apply, parsed, until, until_split};
use serde_json::Value;
use server::{Server, ask, troupe};

/// Which release a process plays.
#[derive(Clone, Copy)]
enum Release {
    This,
    /// The one after it, with the next format.
    Next,
    /// That one, and it keeps this one's format.
    Pinned,
}

impl Release {
    /// What sets a process of it apart.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::This => &[],
            Self::Next => &[("INTERNAL_TRIAL_FORMAT", "1")],
            Self::Pinned => &[("INTERNAL_TRIAL_FORMAT", "1"), ("ENGINE_FORMAT", "1")],
        }
    }
}

fn member(cluster: &Bench, release: Release) -> Server {
    cluster.member_with(&[], release.settings())
}

/// The highest format that a member writes, and that one holds, as `server` sees them.
fn formats(server: &Server) -> (u64, u64) {
    let (status, body) = server.get("/api/v1/members");
    assert_eq!(status, 200, "{body}");
    let members = parsed(&body)["items"].as_array().unwrap().clone();
    let highest = |name: &str| {
        members
            .iter()
            .filter_map(|member| member[name].as_u64())
            .max()
            .unwrap_or(0)
    };
    (highest("writes"), highest("holds"))
}

fn until_formats(server: &Server, writes: u64, holds: u64) {
    until(&format!("format {writes} is written and {holds} held"), || {
        formats(server) == (writes, holds)
    });
}

/// Where requests go.
type Addresses = Arc<Mutex<Vec<String>>>;

/// Starts executions at one after the other until told to stop: their ids, and the longest that one of them took.
fn keep_starting(addresses: Addresses, stop: Arc<AtomicBool>) -> JoinHandle<(BTreeSet<String>, Duration)> {
    std::thread::spawn(move || {
        let (mut ids, mut longest) = (BTreeSet::new(), Duration::ZERO);
        for n in 0.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            let (begun, key) = (Instant::now(), format!("key {n}"));
            let id = loop {
                let address = {
                    let mut addresses = addresses.lock().unwrap();
                    addresses.rotate_left(1);
                    addresses[0].clone()
                };
                let path = "/api/v1/workflows/flow/executions";
                let body = format!("{{\"input\": {{\"n\": {n}}}}}");
                // One that has just stopped is asked no more; what it may have done has the same key.
                if let Ok((status, body)) = ask(&address, "POST", path, &[("idempotency-key", &key)], &body) {
                    if status == 202 {
                        break parsed(&body)["id"].as_str().unwrap().to_owned();
                    }
                    assert_eq!(status, 503, "{body}");
                }
                assert!(begun.elapsed() < PATIENCE, "a start is not answered");
            };
            assert!(ids.insert(id), "each key has an execution of its own");
            longest = longest.max(begun.elapsed());
        }
        (ids, longest)
    })
}

/// Replaces each of them by one of `release`, while `during` holds before the next one goes.
fn roll(
    cluster: &Bench,
    servers: &mut Vec<Server>,
    addresses: &Addresses,
    release: Release,
    mut during: impl FnMut(&Server),
) {
    for _ in 0..servers.len() {
        let server = member(cluster, release);
        addresses.lock().unwrap().push(server.url().to_owned());
        during(&server);
        let left = servers.remove(0);
        addresses.lock().unwrap().retain(|address| address != left.url());
        servers.push(server);
        let ended = left.stop();
        assert!(ended.success(), "{ended}");
        until_split(servers.iter());
    }
}

#[test]
fn members_are_replaced_by_a_release_with_another_format_and_back_under_load() {
    let cluster = Bench::new(&[SHORT_LEASE]);
    let mut servers: Vec<Server> = (0..3).map(|_| member(&cluster, Release::This)).collect();
    until_split(&servers);
    apply(&servers[0], FLOW);
    assert_eq!(formats(&servers[0]), (1, 1));
    let addresses: Addresses = Arc::new(Mutex::new(
        servers.iter().map(|server| server.url().to_owned()).collect(),
    ));
    let stop = Arc::default();
    let load = keep_starting(addresses.clone(), Arc::clone(&stop));
    roll(&cluster, &mut servers, &addresses, Release::Next, |server| {
        assert_eq!(formats(server), (1, 1), "not everybody reads the next one");
    });
    until_formats(&servers[0], 2, 2);
    let table = servers[0].line(&["members"]);
    assert!(table.contains("1-2"), "{table}");
    // Something of everything is of the next format by then.
    std::thread::sleep(Duration::from_secs(7));
    roll(&cluster, &mut servers, &addresses, Release::This, |server| {
        until_formats(server, 1, 1);
    });
    stop.store(true, Ordering::Release);
    let (ids, longest) = load.join().unwrap();
    println!("{} executions; the longest start took {longest:?}", ids.len());
    assert!(ids.len() > 100, "{} executions", ids.len());
    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    for id in &ids {
        until("an execution completes", || {
            let (status, body) = servers[0].get(&format!("/api/v1/executions/{id}"));
            assert_eq!(status, 200, "{body}");
            let shown = parsed(&body)["status"].as_str().unwrap().to_owned();
            let is_running = shown == "running";
            if !is_running {
                *statuses.entry(shown).or_default() += 1;
            }
            !is_running
        });
    }
    assert_eq!(statuses, [("completed".to_owned(), ids.len())].into());
    for server in &servers {
        let (_, body) = server.get("/readyz");
        assert_eq!(
            (&parsed(&body)["quarantined"], &parsed(&body)["halted"]),
            (&0.into(), &Value::Array(vec![]))
        );
    }
}

/// What a process says that cannot start with these settings.
fn refused(state: &Path, settings: &[(String, &str)]) -> String {
    let mut command = troupe();
    command
        .envs(settings.iter().map(|(name, value)| (format!("TROUPE_{name}"), value)))
        .args(["dev", "-q", "--listen", "127.0.0.1:0", "--state"])
        .arg(state)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(state);
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it starts, or waits for something");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn tells_what_to_do(told: &str) {
    for part in ["holds state of format 2", "STATE_FORMAT_NEWER", "engine.format"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_release_that_reads_nothing_of_it_says_so_until_a_newer_one_has_written_it_anew() {
    let cluster = Bench::new(&[SHORT_LEASE]);
    let next = member(&cluster, Release::Next);
    until_formats(&next, 2, 2);
    assert!(next.stop().success());
    tells_what_to_do(&refused(
        cluster.state.path(),
        &cluster.settings(Release::This.settings()),
    ));
    let pinned = member(&cluster, Release::Pinned);
    until_formats(&pinned, 1, 1);
    assert!(pinned.stop().success());
    let back = member(&cluster, Release::This);
    until_split([&back]);
}

#[test]
fn an_older_release_does_not_open_an_embedded_store_of_a_newer_one() {
    let state = tempfile::tempdir().unwrap();
    let next = [("INTERNAL_TRIAL_FORMAT".to_owned(), "1")];
    let server = Server::with_settings(state.path(), &[], &next);
    apply(&server, FLOW);
    let (status, body) = server.post("/api/v1/workflows/flow/executions", &[], "{\"input\": {\"n\": 1}}");
    assert_eq!(status, 202, "{body}");
    let path = format!("/api/v1/executions/{}", parsed(&body)["id"].as_str().unwrap());
    let is_completed = |server: &Server| {
        let (status, body) = server.get(&path);
        assert_eq!(status, 200, "{body}");
        parsed(&body)["status"] == "completed"
    };
    until("it completes", || is_completed(&server));
    assert!(server.stop().success());
    tells_what_to_do(&refused(state.path(), &[]));
    // The newer one has it all.
    let server = Server::with_settings(state.path(), &[], &next);
    assert!(is_completed(&server));
}
