//! A `troupe serve` process at a port of its own, over lines of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::runtime::Handle;

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
/// How long one that is told to leave may take to end.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

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
        self.has_served = false;
        Ok(())
    }

    /// Whether it runs. One that ended by itself does not.
    pub(super) fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
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

    /// What the others call it.
    pub(super) fn name(&self) -> anyhow::Result<String> {
        let members = self.ask(&Request::get("/api/v1/members"))?;
        let items = members.body["items"].as_array();
        let own = items.and_then(|items| items.iter().find(|item| item["own"] == true));
        let name = own.and_then(|own| own["name"].as_str());
        Ok(name.context("a replica does not know itself")?.to_owned())
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Tells it to leave.
    pub(super) fn tell_to_leave(&self) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("this replica does not run")?;
        signal(&child.id().to_string(), "TERM")
    }

    /// Waits until it has left; false when it takes too long or fails.
    pub(super) fn has_left(&mut self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status.success());
            }
            if begun.elapsed() > LEAVES_WITHIN {
                self.kill()?;
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(true)
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
