//! How long executions under way stand still when a member dies or leaves, by the times of their own entries.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::time::Duration;

use bench::{Bench, apply, parsed, until, until_split};
use chrono::DateTime;
use serde_json::Value;
use server::Server;

/// Long enough to tell who waits for the end of one from who waits for a busy machine.
const LEASE: Duration = Duration::from_secs(5);
const DELAY: Duration = Duration::from_millis(200);
/// So many that all executions are under way when the last one has started, on a busy machine too.
const DELAYS: usize = 40;
/// Executions of each member.
const EACH: usize = 20;

/// Waits again and again, and does nothing else.
fn chain() -> String {
    let ms = DELAY.as_millis();
    let node = |n: usize| format!("  - {{ id: d{n}, type: delay, data: {{ delayType: fixed, delayValue: {ms} }} }}\n");
    let nodes: Vec<String> = (1..=DELAYS).map(node).collect();
    let edge = |n: usize| format!("  - {{ source: d{n}, target: d{} }}\n", n + 1);
    let edges: Vec<String> = (1..DELAYS).map(edge).collect();
    format!(
        "id: chain\nname: Chain\nnodes:\n{}edges:\n{}",
        nodes.concat(),
        edges.concat()
    )
}

fn three_members(cluster: &Bench) -> Vec<Server> {
    let members = vec![cluster.member(), cluster.member(), cluster.member()];
    until_split(&members);
    apply(&members[0], &chain());
    members
}

fn cluster() -> Bench {
    Bench::new(&[("CLUSTER_LEASE_MS", &LEASE.as_millis().to_string())])
}

/// Starts executions at each of these members: what starts without a key starts where it is asked. Their ids, member by member.
fn started(members: &[Server]) -> Vec<Vec<String>> {
    let mut ids = vec![Vec::new(); members.len()];
    for _ in 0..EACH {
        for (member, ids) in members.iter().zip(&mut ids) {
            let (status, body) = member.post("/api/v1/workflows/chain/executions", &[], "{\"input\": {}}");
            assert_eq!(status, 202, "{body}");
            ids.push(parsed(&body)["id"].as_str().unwrap().to_owned());
        }
    }
    ids
}

/// What a member answers. A shard may have no owner for a moment longer than a request looks for one.
fn answer(member: &Server, path: &str) -> Value {
    let mut answer = None;
    until("somebody answers", || {
        let (status, body) = member.get(path);
        assert!(matches!(status, 200 | 503), "{path}: {status} {body}");
        answer = (status == 200).then(|| parsed(&body));
        answer.is_some()
    });
    answer.unwrap()
}

/// The longest time between an entry of an execution and its next one, once it has completed, and done everything once.
fn longest_pause(member: &Server, id: &str) -> Duration {
    let path = format!("/api/v1/executions/{id}");
    until("an execution completes", || {
        let shown = answer(member, &path);
        let status = shown["status"].as_str().unwrap();
        assert!(matches!(status, "running" | "completed"), "{shown}");
        status == "completed"
    });
    let history = answer(member, &format!("{path}/history?limit=500"));
    assert!(history["next"].is_null(), "it is not the whole history: {history}");
    let entries = history["items"].as_array().unwrap();
    for (entry, seq) in entries.iter().zip(1_u64..) {
        assert_eq!(entry["seq"], seq, "{id}: {history}");
    }
    let changes = entries.iter().flat_map(|entry| entry["changes"].as_array().unwrap());
    let completed = changes.filter(|change| change["type"] == "node.completed");
    let completed: Vec<&str> = completed.map(|change| change["nodeId"].as_str().unwrap()).collect();
    let chain: Vec<String> = (1..=DELAYS).map(|n| format!("d{n}")).collect();
    assert_eq!(completed, chain, "{id}: {history}");
    let time = |entry: &Value| DateTime::parse_from_rfc3339(entry["time"].as_str().unwrap()).unwrap();
    let pauses = entries.windows(2).map(|two| time(&two[1]) - time(&two[0]));
    pauses.max().unwrap().to_std().unwrap()
}

/// The longest pause of each of these, from the shortest to the longest.
fn longest_pauses<'a>(member: &Server, ids: impl IntoIterator<Item = &'a String>) -> Vec<Duration> {
    let mut pauses: Vec<Duration> = ids.into_iter().map(|id| longest_pause(member, id)).collect();
    pauses.sort_unstable();
    pauses
}

#[test]
fn what_a_member_that_dies_had_under_way_goes_on_soon_after_its_lease() {
    /// After the lease, as a release build on a quiet machine keeps it.
    const AIM: Duration = Duration::from_secs(2);
    let cluster = cluster();
    let mut members = three_members(&cluster);
    let ids = started(&members);
    members.pop().unwrap().kill();
    let of_the_dead = longest_pauses(&members[0], &ids[2]);
    let of_others = longest_pauses(&members[0], ids[..2].iter().flatten());
    println!("longest pauses: {of_the_dead:?}, of others: {of_others:?}");
    // A debug build beside others has twice the time for all of it.
    let most = 2 * (LEASE + AIM) + DELAY;
    for pauses in [&of_the_dead, &of_others] {
        assert!(pauses[pauses.len() - 1] <= most, "more than {most:?}: {pauses:?}");
    }
    // Its leases had most of their time to go.
    let longest = of_the_dead[EACH - 1];
    assert!(
        longest >= LEASE / 2,
        "nothing waited for the lease, so the test proves nothing: {of_the_dead:?}"
    );
}

#[test]
fn what_a_member_that_leaves_had_under_way_does_not_wait_for_its_lease() {
    /// Beside the delay, of 99 executions of 100, as a release build on a quiet machine keeps it.
    const AIM: Duration = Duration::from_millis(500);
    /// A machine that stands still meanwhile says nothing of what a leave costs.
    const TRIES: usize = 3;
    let cluster = cluster();
    let mut members = three_members(&cluster);
    // A debug build beside others has four times the time: still less than is left of a lease.
    let most = 4 * AIM + DELAY;
    let mut missed = Vec::new();
    while missed.len() < TRIES {
        let ids = started(&members);
        let left = members.pop().unwrap().stop();
        assert!(left.success(), "{left}");
        let pauses = longest_pauses(&members[0], ids.iter().flatten());
        println!("longest pauses: {pauses:?}");
        // All but one.
        if pauses[pauses.len() - 2] <= most {
            return;
        }
        missed.push(pauses);
        members.push(cluster.member());
        until_split(&members);
    }
    panic!("each time several executions stood still for more than {most:?}: {missed:?}");
}
