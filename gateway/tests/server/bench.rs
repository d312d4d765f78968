//! Members of one deployment, and what tests of them have in common.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::Server;
use crate::services::{Deployment, Redis};

/// How long a test waits for what must come, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How many shards a deployment has.
pub(crate) const SHARDS: u64 = 8;
/// The setting for a lease that is soon over once its holder is killed.
pub(crate) const SHORT_LEASE: (&str, &str) = ("CLUSTER_LEASE_MS", "2000");

/// Waits a moment between two steps.
pub(crate) const FLOW: &str = "
id: flow
name: Flow
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: wait, type: delay, data: { delayType: fixed, delayValue: 700 } }
  - { id: last, type: function, data: { handlerId: echo, output: '({n: trigger.n})' } }
edges:
  - { id: e1, source: first, target: wait }
  - { id: e2, source: wait, target: last }
";

/// Waits until somebody calls.
pub(crate) const CALLED: &str = "
id: called
name: Called
nodes:
  - { id: begin, type: function, data: { handlerId: echo } }
  - { id: call, type: webhook, data: { method: POST } }
edges:
  - { id: e1, source: begin, target: call }
";

/// A deployment with a Redis of its own. Members are declared after it: they are to be gone before what they work on.
pub(crate) struct Bench {
    pub(crate) deployment: Deployment,
    pub(crate) redis: Redis,
    /// The directory of its members; they share it unless a test gives them others.
    pub(crate) state: TempDir,
    settings: Vec<(String, String)>,
}

impl Bench {
    /// One whose members have these settings, named without their prefix.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        let (deployment, redis) = (Deployment::new(), Redis::start());
        let url = redis.url();
        let stores = [
            ("STORE_STATE", url.as_str()),
            ("STORE_DEFINITIONS", &deployment.postgres),
            ("STORE_PREFIX", &deployment.prefix),
        ];
        let settings = stores
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            deployment,
            redis,
            state: tempfile::tempdir().unwrap(),
            settings,
        }
    }

    /// The settings of a member that has more of them; the later one of a name holds.
    pub(crate) fn settings<'a>(&'a self, more: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
        let own = self.settings.iter().map(|(name, value)| (name.clone(), value.as_str()));
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), *value));
        own.chain(more).collect()
    }

    /// Starts a member.
    pub(crate) fn member(&self) -> Server {
        self.member_with(&[], &[])
    }

    /// As [`Bench::member`], with arguments and more settings.
    pub(crate) fn member_with(&self, arguments: &[&str], more: &[(&str, &str)]) -> Server {
        Server::with_settings(self.state.path(), arguments, &self.settings(more))
    }
}

/// Stores a definition by the command line.
pub(crate) fn apply(server: &Server, definition: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("definition.yaml");
    std::fs::write(&file, definition).unwrap();
    server.line(&["apply", "-q", &file.display().to_string()]);
}

/// The JSON that a server answered.
pub(crate) fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Waits until it holds; fails with `what` if that takes too long.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many shards a member serves, once nothing is missing there.
pub(crate) fn shards(server: &Server) -> Option<u64> {
    let (status, body) = server.get("/readyz");
    (status == 200).then(|| parsed(&body)["shardsServed"].as_u64().unwrap())
}

/// Waits until these members have all shards, and none of them more than its share.
pub(crate) fn until_split<'a>(members: impl IntoIterator<Item = &'a Server>) {
    let members: Vec<&Server> = members.into_iter().collect();
    let most = SHARDS.div_ceil(members.len() as u64);
    until("the shards are split", || {
        let served: Option<Vec<u64>> = members.iter().map(|member| shards(member)).collect();
        served.is_some_and(|served| served.iter().all(|n| *n <= most) && served.iter().sum::<u64>() == SHARDS)
    });
}

/// The sum of the lines of `/metrics` that are this name, with its labels if it has any, and a number.
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = server.get("/metrics");
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    values.sum()
}
