//! `deploy/cluster`, which `make cluster` runs: what it says works, a replica that is killed takes nothing with it, also not for who watches
//! at that one, Ctrl-C leaves nothing behind, and other accounts of the machine come in nowhere.
#![allow(clippy::unwrap_used)]

mod server;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{ask, troupe};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long each step may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Executions that are under way when a replica is killed: more than it takes to have some in its shards.
const UNDER_WAY: usize = 12;
/// What the script takes, from its first port on: three replicas, Redis, and PostgreSQL.
const PORTS: [u16; 5] = [0, 1, 2, REDIS, POSTGRES];
const REDIS: u16 = 20;
const POSTGRES: u16 = 21;
/// How it ends when it is told to.
const STOPPED: i32 = 130;

const WAITS: &str = "
id: waits
name: Waits
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: wait, type: delay, data: { delayType: fixed, delayValue: 3000 } }
  - { id: last, type: function, data: { handlerId: echo } }
edges:
  - { id: e1, source: first, target: wait }
  - { id: e2, source: wait, target: last }
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A port from which on the script finds all of its own free. Other tests take ports from 28,000 on, or are given them by the system.
fn free_port() -> u16 {
    const STEP: u16 = 30;
    const PLACES: u16 = 500;
    // Whoever looks at the same time begins elsewhere.
    let first = u16::try_from(std::process::id() % u32::from(PLACES)).unwrap();
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..PLACES)
        .map(|place| 10_000 + (first + place) % PLACES * STEP)
        .find(|base| PORTS.iter().all(|at| is_free(base + at)))
        .unwrap()
}

/// A process of this machine. Number and begin together are no other's, also once it has ended.
#[derive(Debug)]
struct Process {
    number: u32,
    began: String,
    parent: u32,
    has_ended: bool,
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let found = numbers.filter_map(|number| {
        // It may end meanwhile.
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some(Process {
            number,
            began: (*fields.get(19)?).to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            has_ended: *fields.first()? == "Z",
        })
    });
    found.collect()
}

/// Everybody whom this process started, and whom those started.
fn below(number: u32) -> Vec<Process> {
    let all = processes();
    let mut known = BTreeSet::from([number]);
    loop {
        let more = all.iter().filter(|process| known.contains(&process.parent));
        let more: Vec<u32> = more.map(|process| process.number).collect();
        let before = known.len();
        known.extend(more);
        if known.len() == before {
            break;
        }
    }
    known.remove(&number);
    all.into_iter()
        .filter(|process| known.contains(&process.number))
        .collect()
}

/// How many replicas, and servers of Redis and of PostgreSQL, are among those whom this process started, and whom those started. What helps
/// them says that it is something else.
fn serving(number: u32) -> [usize; 3] {
    let lines = below(number).into_iter().map(|process| {
        // It may end meanwhile.
        let line = std::fs::read(format!("/proc/{}/cmdline", process.number)).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = words.next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        (name, words.next().unwrap_or_default().into_owned())
    });
    let lines: Vec<(String, String)> = lines.collect();
    let count = |is_one: fn(&str, &str) -> bool| lines.iter().filter(|(name, first)| is_one(name, first)).count();
    [
        count(|name, first| name == "troupe" && first == "serve"),
        // It adds where it listens.
        count(|name, _| name.starts_with("redis-server")),
        count(|name, _| name == "postgres"),
    ]
}

/// Lines as they come. Also what nobody asks for is read: who writes them must not wait for their reader.
fn lines(of: impl Read + Send + 'static) -> Receiver<String> {
    let (say, said) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(of).lines().map_while(Result::ok) {
            drop(say.send(line));
        }
    });
    said
}

/// Those that still run.
fn left(of: &[Process]) -> Vec<Process> {
    let is_one = |process: &Process| {
        let same = |known: &Process| (known.number, &known.began) == (process.number, &process.began);
        !process.has_ended && of.iter().any(same)
    };
    processes().into_iter().filter(is_one).collect()
}

fn signal(number: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &number.to_string()])
        .stderr(Stdio::null())
        .status();
    // It may have ended by itself.
    drop(sent);
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The script, with its ports from this one on and its files in this directory.
fn script(port: u16, directory: &Path) -> Command {
    let mut command = Command::new(root().join("deploy/cluster"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    for name in ["REPLICAS", "STATE", "DEFINITIONS", "EVENTS"] {
        command.env_remove(name);
    }
    command
        .env("TROUPE", env!("CARGO_BIN_EXE_troupe"))
        .env("PORT", port.to_string())
        .env("DIRECTORY", directory)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// `troupe ls --watch --json` of a workflow. Dropping it kills it.
struct Watcher {
    process: Child,
    shown: Receiver<String>,
    said: Receiver<String>,
}

impl Watcher {
    fn start(servers: &str, key: &str, workflow: &str) -> Self {
        let mut process = troupe()
            .args(["ls", workflow, "--watch", "--json", "--every", "0.2", "-n", "100"])
            .env("TROUPE_API_KEY", key)
            .env("TROUPE_SERVER", servers)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (shown, said) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        Self {
            process,
            shown: lines(shown),
            said: lines(said),
        }
    }

    /// The executions that it shows as completed at its next look.
    fn completed(&self) -> BTreeSet<String> {
        let Ok(page) = self.shown.recv_timeout(PATIENCE) else {
            panic!("it shows nothing: {:#?}", self.said.try_iter().collect::<Vec<_>>());
        };
        let page: Value = serde_json::from_str(&page).unwrap();
        let items = page["items"].as_array().unwrap().iter();
        let completed = items.filter(|item| item["status"] == "completed");
        completed.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The script while it runs. Dropping it ends whatever it has started.
struct Cluster {
    script: Child,
    /// What it says, line by line.
    said: Receiver<String>,
    heard: Vec<String>,
    port: u16,
    directory: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // PostgreSQL refuses to run as root: whoever runs it then must come in.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let mut script = script(port, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(script.stderr.take().unwrap());
        Self {
            script,
            said,
            heard: Vec::new(),
            port,
            directory,
        }
    }

    /// Waits until it says this, and gives the whole line.
    fn until_said(&mut self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.said.recv_timeout(left) else {
                panic!("it does not say `{what}`: {:#?}\n{}", self.heard, self.logs());
            };
            self.heard.push(line.clone());
            if line.contains(what) {
                return line;
            }
        }
    }

    /// What its servers and replicas have logged.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.directory.path()).into_iter().flatten();
        let paths = files.filter_map(|file| Some(file.ok()?.path()));
        let logs = paths.filter(|path| path.extension().is_some_and(|end| end == "log"));
        logs.filter_map(|log| {
            Some(format!(
                "{}:\n{}",
                log.display(),
                std::fs::read_to_string(log.clone()).ok()?
            ))
        })
        .collect()
    }

    fn url(&self, replica: u16) -> String {
        format!("http://127.0.0.1:{}", self.port + replica)
    }

    /// What a command prints that must succeed at a replica.
    fn call(&self, replica: u16, key: &str, arguments: &[&str]) -> String {
        let output = troupe()
            .args(arguments)
            .env("TROUPE_API_KEY", key)
            .env("TROUPE_SERVER", self.url(replica))
            .current_dir(root())
            .output()
            .unwrap();
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {talk}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a replica shows an execution as completed.
    fn until_completed(&self, replica: u16, key: &str, id: &str) {
        let (path, bearer) = (format!("/api/v1/executions/{id}"), format!("Bearer {key}"));
        let headers = [("authorization", bearer.as_str())];
        until(&format!("{id} completes"), || {
            let (status, body) = ask(&self.url(replica), "GET", &path, &headers, "").unwrap();
            // Its shard may have no owner for a moment longer than a request looks for one.
            assert!(matches!(status, 200 | 503), "{body}");
            let shown: Value = serde_json::from_str(&body).unwrap();
            assert_ne!(shown["status"], "failed", "{body}");
            status == 200 && shown["status"] == "completed"
        });
    }

    /// Checks that its servers are for those who have their passwords, and that nobody else sees these.
    fn lets_in_nobody_else(&self) {
        let passwords = ["redis.password", "postgres.password"].map(|name| {
            let file = self.directory.path().join(name);
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            std::fs::read_to_string(file).unwrap()
        });
        let shows = |text: &str| passwords.iter().any(|password| text.contains(password.as_str()));
        assert!(passwords.iter().all(|password| password.len() == 64));
        assert!(!self.heard.iter().any(|line| shows(line)), "{:#?}", self.heard);
        for process in below(self.script.id()) {
            // It may end meanwhile.
            let line = std::fs::read(format!("/proc/{}/cmdline", process.number)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            assert!(!shows(&line), "{line}");
        }
        let mut redis = TcpStream::connect(("127.0.0.1", self.port + REDIS)).unwrap();
        redis.set_read_timeout(Some(PATIENCE)).unwrap();
        redis.write_all(b"PING\r\n").unwrap();
        let mut answer = [0; 7];
        redis.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"-NOAUTH");
        for login in ["postgres", "postgres:postgres"] {
            let url = format!("postgres://{login}@127.0.0.1:{}/postgres", self.port + POSTGRES);
            let refused = Runtime::new().unwrap().block_on(PgConnection::connect(&url));
            let error = refused.unwrap_err();
            let code = error.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("28P01"), "{error}");
        }
    }

    /// Tells it to stop; how it ended.
    fn stop(&mut self) -> ExitStatus {
        signal(self.script.id(), "TERM");
        let mut ended = None;
        until("it stops", || {
            ended = self.script.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The number of one that has ended may be another one's by now.
        if !matches!(self.script.try_wait(), Ok(None)) {
            return;
        }
        // It stops by itself what it has started, but for what it does not come to.
        let number = self.script.id();
        let started = below(number);
        let begun = Instant::now();
        signal(number, "TERM");
        while matches!(self.script.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        left(&started).iter().for_each(|process| signal(process.number, "KILL"));
        drop(self.script.kill());
        drop(self.script.wait());
    }
}

#[test]
fn what_the_cluster_script_says_works_and_it_leaves_nothing_behind() {
    let mut cluster = Cluster::start();
    let line = cluster.until_said("export TROUPE_API_KEY=");
    let (_, key) = line.split_once("TROUPE_API_KEY=").unwrap();
    let key = key.split_whitespace().next().unwrap();
    let (_, servers) = line.split_once("TROUPE_SERVER=").unwrap();
    assert_eq!(servers, [0, 1, 2].map(|replica| cluster.url(replica)).join(","));
    let advice = cluster.until_said(" apply ");
    assert!(
        advice.contains("apply examples/report.yaml && ") && advice.contains("start report --wait"),
        "{advice}"
    );
    cluster.until_said("Ctrl-C stops everything");
    cluster.lets_in_nobody_else();

    cluster.call(0, key, &["apply", "examples/report.yaml"]);
    let report = cluster.call(0, key, &["start", "report", "--wait"]);
    assert!(report.contains("Sales in April"), "{report}");
    let id = cluster.call(1, key, &["start", "report", "-q"]);
    cluster.until_completed(2, key, &id);
    until("each knows the others", || {
        let members = |replica| cluster.call(replica, key, &["members", "-q"]).lines().count();
        (0..3).all(|replica| members(replica) == 3)
    });

    let file = cluster.directory.path().join("waits.yaml");
    std::fs::write(&file, WAITS).unwrap();
    cluster.call(0, key, &["apply", "-q", &file.display().to_string()]);
    // At the first one, which is killed.
    let watcher = Watcher::start(servers, key, "waits");
    assert!(watcher.completed().is_empty());
    let start = |_| cluster.call(0, key, &["start", "waits", "-q"]);
    let ids: BTreeSet<String> = (0..UNDER_WAY).map(start).collect();
    let mut started = below(cluster.script.id());
    // As it says how to.
    let kill = format!("{}   kill -9 ", cluster.url(0));
    let killed = cluster.heard.iter().find_map(|line| line.split_once(&kill));
    let (_, number) = killed.unwrap();
    signal(number.trim().parse().unwrap(), "KILL");
    let gone = format!("the replica at {} is gone", cluster.url(0));
    cluster.until_said(&gone);
    for id in &ids {
        cluster.until_completed(1, key, id);
    }
    until("whoever watches sees each completed", || watcher.completed() == ids);
    let instead = format!(" instead of {}/", cluster.url(0));
    let said: Vec<String> = watcher.said.try_iter().collect();
    let is_note = |line: &String| line.starts_with("now asking ") && line.ends_with(&instead);
    assert!(said.iter().any(is_note), "{said:#?}");
    drop(watcher);

    until("two replicas and two servers run", || {
        serving(cluster.script.id()) == [2, 1, 1]
    });
    started.extend(below(cluster.script.id()));
    assert_eq!(cluster.stop().code(), Some(STOPPED), "{:#?}", cluster.heard);
    cluster.until_said("stopped; what was acknowledged is in");
    until("nothing that it started is left", || left(&started).is_empty());
    for at in PORTS {
        let port = cluster.port + at;
        assert!(
            TcpStream::connect(("127.0.0.1", port)).is_err(),
            "somebody listens at {port}"
        );
    }
}

#[test]
fn what_another_account_may_have_made_is_not_taken_over() {
    let place = tempfile::tempdir().unwrap();
    let made = |name: &str, mode: u32| {
        let directory = place.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
        directory
    };
    let refused = |mut script: Command, why: &str| {
        let output = script.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "`{why}` is not in {said}");
    };
    // Where nothing of the directory is wrong, it stops at its first port.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let own = made("own", 0o700);
    refused(script(port, &own), "somebody listens");
    refused(script(port, &made("shared", 0o777)), "other accounts may write");
    let link = place.path().join("link");
    symlink(&own, &link).unwrap();
    refused(script(port, &link), "is no directory");
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let theirs = if is_root {
        let directory = made("theirs", 0o755);
        chown(&directory, Some(1), None).unwrap();
        directory
    } else {
        PathBuf::from("/usr")
    };
    refused(script(port, &theirs), "belongs to another account");

    // Data of a PostgreSQL that lets in everybody.
    std::fs::create_dir(own.join("postgres")).unwrap();
    std::fs::write(own.join("postgres/PG_VERSION"), "15\n").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut script = script(free - POSTGRES, &own);
    script.env("STATE", "redis://127.0.0.1:1").env("REPLICAS", "0");
    refused(script, "asks nobody for a password");
}
