//! Redis comes back from an older copy of its files: what a server and its operator see of it.
#![allow(clippy::unwrap_used)]

#[path = "server/bench.rs"]
mod bench;
mod server;
#[path = "server/services.rs"]
mod services;

use std::collections::BTreeSet;
use std::time::Duration;

use bench::{Bench, CALLED, SHARDS, apply, parsed, until};
use server::Server;
use tempfile::TempDir;

/// Enough for each of the eight shards to have several.
const MANY: usize = 40;

/// Ends at once.
const FLOW: &str = "
id: flow
name: Flow
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: last, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: first, target: last }
";

fn start(server: &Server, workflow: &str, many: usize) -> BTreeSet<String> {
    let one = |_| {
        let path = format!("/api/v1/workflows/{workflow}/executions");
        let (status, body) = server.post(&path, &[], "{\"input\": {}}");
        assert_eq!(status, 202, "{body}");
        parsed(&body)["id"].as_str().unwrap().to_owned()
    };
    (0..many).map(one).collect()
}

/// Lets what waits go on.
fn complete(server: &Server, id: &str) {
    let path = format!("/api/v1/executions/{id}/nodes/call/complete");
    let (status, body) = server.post(&path, &[], "{\"output\": {}}");
    assert!((200..300).contains(&status), "{status} {body}");
}

/// What lists show, by status.
fn listed(server: &Server, status: &str) -> BTreeSet<String> {
    let (code, body) = server.get(&format!("/api/v1/executions?status={status}&limit=500"));
    assert_eq!(code, 200, "{body}");
    let page = parsed(&body);
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn status(server: &Server, id: &str) -> u16 {
    server.get(&format!("/api/v1/executions/{id}")).0
}

fn served(server: &Server) -> u64 {
    let (_, body) = server.get("/readyz");
    parsed(&body)["shardsServed"].as_u64().unwrap_or(0)
}

/// What happens before the copy and after it.
struct Past {
    /// They had ended before.
    ended: BTreeSet<String>,
    /// They waited.
    waiting: BTreeSet<String>,
    /// Only the newer files know them.
    lost: BTreeSet<String>,
    copy: TempDir,
}

impl Past {
    fn of(bench: &Bench, server: &Server, lost: usize) -> Self {
        for definition in [FLOW, CALLED] {
            apply(server, definition);
        }
        let ended = start(server, "flow", MANY);
        let waiting = start(server, "called", MANY);
        until("the first have ended", || listed(server, "completed") == ended);
        until("the others wait", || listed(server, "running") == waiting);
        // Nothing is being written.
        std::thread::sleep(Duration::from_millis(500));
        let copy = bench.redis.copy();
        let lost = start(server, "flow", lost);
        until("the lists show all", || listed(server, "completed") == &ended | &lost);
        Self {
            ended,
            waiting,
            lost,
            copy,
        }
    }

    /// The product serves what is left, nothing pretends to know more, and what waited goes on; `since` have ended meanwhile.
    fn is_what_is_left(&self, server: &Server, since: &BTreeSet<String>) {
        // A checkpoint that was on its way when Redis went back may have kept one.
        let kept: BTreeSet<String> = self
            .lost
            .iter()
            .filter(|id| status(server, id) == 200)
            .cloned()
            .collect();
        assert!(
            kept.len() < self.lost.len(),
            "nothing was lost: the test proves nothing"
        );
        let ended = &(&self.ended | since) | &kept;
        until("lists show what has ended", || listed(server, "completed") == ended);
        assert_eq!(listed(server, "running"), self.waiting);
        for id in &ended {
            assert_eq!(status(server, id), 200);
        }
        // One that ended since the copy waits again.
        for id in &self.waiting {
            complete(server, id);
        }
        let more = start(server, "flow", MANY);
        let all = &(&ended | &self.waiting) | &more;
        until("everything ends", || listed(server, "completed") == all);
    }
}

#[test]
fn relaxed_durability_goes_on_from_what_is_left_without_a_restart() {
    let mut bench = Bench::new(&[("STORE_DURABILITY", "relaxed")]);
    let server = bench.member();
    let past = Past::of(&bench, &server, MANY);
    let half: Vec<&String> = past.waiting.iter().take(MANY / 2).collect();
    half.iter().for_each(|id| complete(&server, id));
    until("half of them have ended", || {
        listed(&server, "running").len() == MANY / 2
    });
    // Who comes next has none of the lost records in memory: a checkpoint holds them.
    assert!(server.stop().success());
    let server = bench.member();
    until("every shard is served", || served(&server) == SHARDS);
    bench.redis.restore(&past.copy);
    let since = begins_again(&server);
    past.is_what_is_left(&server, &since);
}

/// A shard learns that Redis went back when it next writes, and begins again; what was started meanwhile.
fn begins_again(server: &Server) -> BTreeSet<String> {
    let mut since = BTreeSet::new();
    let mut in_a_row = 0;
    until("every shard takes starts again", || {
        let (status, body) = server.post("/api/v1/workflows/flow/executions", &[], "{\"input\": {}}");
        assert!(matches!(status, 202 | 503), "{status} {body}");
        in_a_row = if status == 202 { in_a_row + 1 } else { 0 };
        if status == 202 {
            since.insert(parsed(&body)["id"].as_str().unwrap().to_owned());
        }
        in_a_row > 4 * SHARDS
    });
    // A copy may know of a member that is gone, and shards be on their way to it and back.
    until("every shard is served", || served(server) == SHARDS);
    since
}

/// A copy that is younger than the last checkpoint but one lacks nothing that its owner does not have in memory.
fn an_owner_that_lives_gives_redis_back_what_it_has_lost(durability: &str) {
    let mut bench = Bench::new(&[("STORE_DURABILITY", durability)]);
    let server = bench.member();
    let past = Past::of(&bench, &server, 2 * usize::try_from(SHARDS).unwrap());
    let some: BTreeSet<String> = past.waiting.iter().take(MANY / 4).cloned().collect();
    some.iter().for_each(|id| complete(&server, id));
    until("some more have ended", || {
        listed(&server, "running").len() == MANY - some.len()
    });
    bench.redis.restore(&past.copy);
    let since = begins_again(&server);
    let ended = [&past.lost, &some, &since]
        .into_iter()
        .fold(past.ended.clone(), |all, more| &all | more);
    for id in &ended {
        assert_eq!(status(&server, id), 200, "{id}");
    }
    until("lists show what has ended", || listed(&server, "completed") == ended);
    let waiting = &past.waiting - &some;
    assert_eq!(listed(&server, "running"), waiting);
    waiting.iter().for_each(|id| complete(&server, id));
    let all = &ended | &waiting;
    until("everything ends", || listed(&server, "completed") == all);
}

#[test]
fn an_owner_that_lives_gives_a_strict_redis_back_what_it_has_lost() {
    an_owner_that_lives_gives_redis_back_what_it_has_lost("strict");
}

#[test]
fn an_owner_that_lives_gives_a_relaxed_redis_back_what_it_has_lost() {
    an_owner_that_lives_gives_redis_back_what_it_has_lost("relaxed");
}

#[test]
fn strict_durability_halts_what_has_lost_records_until_an_operator_accepts_it() {
    let mut bench = Bench::new(&[("STORE_DURABILITY", "strict")]);
    let server = bench.member();
    let past = Past::of(&bench, &server, 3);
    server.kill();
    bench.redis.restore(&past.copy);

    let server = bench.member();
    let mut halted = Vec::new();
    // Leases of the process that was killed have to expire first.
    until("every shard is served or halted", || {
        let ready = parsed(&server.get("/readyz").1);
        let found = ready["halted"].as_array().unwrap_or_else(|| panic!("{ready}")).iter();
        halted = found.map(|shard| shard["shard"].as_u64().unwrap()).collect();
        served(&server) + halted.len() as u64 == SHARDS
    });
    assert!((1..=3).contains(&halted.len()), "those that have lost one: {halted:?}");
    let lost = past.lost.iter().next().unwrap();
    let (status, body) = server.get(&format!("/api/v1/executions/{lost}"));
    assert_ne!(status, 200, "{body}");
    assert!(body.contains("DAMAGED"), "{body}");
    server.kill();

    let accepted: Vec<String> = halted.iter().map(ToString::to_string).collect();
    let mut arguments = Vec::new();
    for shard in &accepted {
        arguments.extend(["--accept-loss", shard.as_str()]);
    }
    let server = bench.member_with(&arguments, &[]);
    until("the loss is accepted", || served(&server) == SHARDS);
    server.kill();
    let server = bench.member();
    until("a loss is accepted once", || served(&server) == SHARDS);
    past.is_what_is_left(&server, &BTreeSet::new());
}
