//! A `troupe serve` process at a port of its own, over lines of its own.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Handle;
use troupe_telemetry::catalogue::FENCED_COMMITS;

use super::http::{Answer, Request, ask};
use crate::chaos::deployment::{LEASE, Lines};
use crate::chaos::proxy::Proxy;
use crate::chaos::servers::{free_port, signal};
use crate::crash::child::Fault as Planted;

/// The key that replicas accept as an administrator's.
const SECRET: &str = "chaos-0123456789abcdef0123456789abcdef";
/// Largest body of a request and payload of a message: small, so that a huge one costs little.
pub(super) const BODY_KIB: usize = 64;
/// How long a replica may take to answer what needs no other one.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// What all replicas of a deployment are told.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) prefix: String,
    pub(super) planted: Option<Planted>,
}

/// A replica. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) place: usize,
    pub(super) port: u16,
    /// To the servers.
    pub(super) lines: Lines,
    /// From the other replicas to this one.
    pub(super) between: Proxy,
    /// Whether it has been ready since it was started last.
    pub(super) has_served: bool,
    /// A fault has ended it, or made it stand still: nobody waits for it, and nobody starts it anew.
    pub(super) is_hit: bool,
    /// What the others call it; empty until it has served.
    pub(super) name: String,
    /// How often it has learned that another owner has one of its shards: in the runs before, and in this one as far as it was asked.
    fenced: (u64, u64),
    child: Option<Child>,
    runs: u32,
}

impl Replica {
    /// One that does not run yet.
    pub(super) fn new(place: usize, lines: &Lines, runtime: &Handle) -> anyhow::Result<Self> {
        let port = free_port()?;
        Ok(Self {
            place,
            port,
            lines: lines.of_one(runtime)?,
            between: Proxy::start(runtime, port)?,
            has_served: false,
            is_hit: false,
            name: String::new(),
            fenced: (0, 0),
            child: None,
            runs: 0,
        })
    }

    /// Starts it, for the first time or again.
    pub(super) fn run(&mut self, setting: &Setting) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("replica {} runs", self.place);
        }
        let state = setting.folder.join(format!("replica-{}", self.place));
        std::fs::create_dir_all(&state)?;
        let log = std::fs::File::create(setting.folder.join(format!("replica-{}-{}.log", self.place, self.runs)))?;
        self.runs += 1;
        let mut command = Command::new(&setting.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TROUPE_") {
                command.env_remove(name);
            }
        }
        let redis = self.lines.redis.as_ref().context("replicas share a Redis")?;
        let settings = [
            ("STORE_STATE", format!("redis://127.0.0.1:{}", redis.port())),
            (
                "STORE_DEFINITIONS",
                format!("postgres://postgres@127.0.0.1:{}/postgres", self.lines.postgres.port()),
            ),
            (
                "STORE_EVENTS",
                format!("amqp://guest:guest@127.0.0.1:{}", self.lines.rabbitmq.port()),
            ),
            ("STORE_PREFIX", setting.prefix.clone()),
            ("STATE_DIR", state.display().to_string()),
            ("CLUSTER_LEASE_MS", LEASE.as_millis().to_string()),
            ("CLUSTER_ADDRESS", format!("http://127.0.0.1:{}", self.between.port())),
            ("BOOTSTRAP_KEY", SECRET.to_owned()),
            ("LIMITS_BODY_KIB", BODY_KIB.to_string()),
            ("SANDBOX_PROCESSES", "1".to_owned()),
        ];
        let settings = settings
            .into_iter()
            .map(|(name, value)| (format!("TROUPE_{name}"), value));
        let child = command
            .envs(settings)
            .envs(setting.planted.and_then(planted))
            .env("NO_COLOR", "1")
            .args(["serve", "-q", "--listen", &format!("127.0.0.1:{}", self.port)])
            .current_dir(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", setting.program.display()))?;
        self.child = Some(child);
        self.fenced = (self.shards_lost(), 0);
        (self.has_served, self.is_hit) = (false, false);
        Ok(())
    }

    /// How it has ended, if it has. It may be started again then.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("this replica does not run")?;
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    pub(super) fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        ask(self.port, SECRET, request, ANSWERS_WITHIN)
    }

    /// How many shards it serves; none while it is not ready.
    pub(super) fn shards(&mut self) -> Option<u64> {
        // It may not listen yet.
        let answer = self.ask(&Request::get("/readyz")).ok()?;
        self.has_served |= answer.is_success();
        answer.is_success().then(|| answer.body["shardsServed"].as_u64())?
    }

    /// Asks it what the others call it.
    pub(super) fn ask_its_name(&mut self) -> anyhow::Result<()> {
        let members = self.ask(&Request::get("/api/v1/members"))?;
        let items = members.body["items"].as_array();
        let own = items.and_then(|items| items.iter().find(|item| item["own"] == true));
        let name = own.and_then(|own| own["name"].as_str());
        self.name = name.context("a replica does not know itself")?.to_owned();
        Ok(())
    }

    /// Asks it how often it has learned that another owner has one of its shards, and tells how much more that is than when it was asked
    /// last. Whoever is to end it asks before: what it counted is gone with it.
    pub(super) fn ask_fenced(&mut self) -> u64 {
        // One that is down counts nothing.
        let answer = self.ask(&Request::get("/metrics")).ok();
        let text = answer.as_ref().and_then(|answer| answer.body.as_str());
        let (_, known) = self.fenced;
        let now = text.and_then(|text| counter(text, FENCED_COMMITS)).unwrap_or(known);
        self.fenced.1 = now.max(known);
        now.saturating_sub(known)
    }

    /// How often it has learned that over all its runs, as far as it was asked.
    pub(super) fn shards_lost(&self) -> u64 {
        self.fenced.0 + self.fenced.1
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Tells it to leave; how it had ended, if it had done so before, by itself.
    pub(super) fn tell_to_leave(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let ended = self.ended()?;
        if ended.is_none() {
            self.signal("TERM")?;
        }
        Ok(ended)
    }

    /// Makes it stand still, and lets it go on.
    pub(super) fn stand(&self, still: bool) -> anyhow::Result<()> {
        self.signal(if still { "STOP" } else { "CONT" })
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("this replica does not run")?;
        signal(&child.id().to_string(), name)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A failed kill leaves a process behind, which a drop cannot tell anybody.
        self.kill().ok();
    }
}

/// Asks the replica at a port, for clients, which know no more of it.
pub(super) fn knock(port: u16, request: &Request, within: Duration) -> anyhow::Result<Answer> {
    ask(port, SECRET, request, within)
}

/// The value of a counter without labels; none where it is not exposed.
fn counter(metrics: &str, name: &str) -> Option<u64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse().ok()
}

/// Faults that are planted in the gateway, as it is told of them.
const PLANTED: [(Planted, &str); 3] = [
    (Planted::AcceptMessageBeforeStart, "accept-before-start"),
    (Planted::StartMessageUnderFreshKey, "start-under-fresh-key"),
    (Planted::ForwardUnderFreshKey, "forward-under-fresh-key"),
];

fn planted(fault: Planted) -> Option<(&'static str, &'static str)> {
    let (_, name) = PLANTED.into_iter().find(|(known, _)| *known == fault)?;
    Some(("TROUPE_INTERNAL_PLANTED", name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::chaos::servers::until;

    #[test]
    fn a_counter_is_read_and_no_other_one() {
        let text = "# HELP m 9 of them.\n# TYPE m counter\nmany 8\nm_too 7\nm 3\n";
        assert_eq!((counter(text, "m"), counter(text, "man")), (Some(3), None));
    }

    #[test]
    fn one_that_ended_by_itself_is_not_taken_for_one_that_leaves() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let line = || Proxy::start(runtime.handle(), 1).unwrap();
        let lines = Lines {
            redis: Some(line()),
            postgres: line(),
            rabbitmq: line(),
        };
        let told = |script: &str, ends: bool| {
            let program = folder.path().join("program");
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let setting = Setting {
                program,
                folder: folder.path().to_owned(),
                prefix: "p".to_owned(),
                planted: None,
            };
            let mut replica = Replica::new(0, &lines, runtime.handle()).unwrap();
            replica.run(&setting).unwrap();
            // One that has ended is reaped by whoever tells it to leave.
            let state = || std::fs::read_to_string(format!("/proc/{}/stat", replica.child.as_ref().unwrap().id()));
            let is_over = || Ok(!ends || state().is_ok_and(|state| state.contains(") Z ")));
            until("it ends", Duration::from_secs(10), is_over).unwrap();
            replica.tell_to_leave().unwrap().map(|status| status.code())
        };
        assert_eq!(told("exit 0", true), Some(Some(0)));
        assert_eq!(told("exit 3", true), Some(Some(3)));
        assert_eq!(told("exec sleep 60", false), None);
    }
}
