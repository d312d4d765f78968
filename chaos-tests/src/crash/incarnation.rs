//! One engine process: spawned, listened to, frozen, thawed and killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use troupe_core::Timestamp;
use troupe_ports::{Clock, SystemClock};

use super::child::Orders;
use super::record::Record;

/// How long an engine may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the threads of a stopped process may take to stop.
const STOPS_WITHIN: Duration = Duration::from_millis(2);

/// An engine process and what it said so far. Dropping it kills it.
pub(crate) struct Incarnation {
    child: Child,
    tells: Option<ChildStdin>,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    records: Vec<Record>,
    /// The instant of each record, in nanoseconds.
    instants: Vec<u64>,
}

impl Incarnation {
    pub(super) fn spawn(program: &Path, orders: &Orders) -> anyhow::Result<Self> {
        Self::start(
            Command::new(program)
                .arg(serde_json::to_string(orders)?)
                .env("RUST_BACKTRACE", "0"),
        )
    }

    /// Starts the process that `command` describes, but for where its records go.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("{} does not start", command.get_program().display()))?;
        let tells = child.stdin.take();
        let out = child.stdout.take().context("no pipe")?;
        let (send, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            tells,
            lines,
            reader: Some(reader),
            records: Vec::new(),
            instants: Vec::new(),
        })
    }

    /// When the engine served.
    pub(super) fn ready(&mut self) -> anyhow::Result<Timestamp> {
        if !self.hears(READY_WITHIN, |record| *record == Record::Ready)? {
            bail!("an engine was not ready within {READY_WITHIN:?}");
        }
        Ok(SystemClock.now())
    }

    /// Tells it something, a line on its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let tells = self.tells.as_mut().context("nobody listens there")?;
        tells.write_all(format!("{line}\n").as_bytes())?;
        Ok(tells.flush()?)
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, if it has not ended; everything it said, and when.
    pub(crate) fn end(mut self) -> anyhow::Result<Vec<(u64, Record)>> {
        if !self.has_ended()? {
            self.child.kill()?;
            self.child.wait()?;
        }
        let records = self.last_words()?;
        Ok(std::mem::take(&mut self.instants).into_iter().zip(records).collect())
    }

    /// Whether it says such a thing in time.
    pub(crate) fn hears(&mut self, within: Duration, such: impl Fn(&Record) -> bool) -> anyhow::Result<bool> {
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(within.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    if self.take(&line).is_some_and(&such) {
                        return Ok(true);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(false),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the engine ended by itself"),
            }
        }
    }

    /// Everything it has said so far.
    pub(crate) fn so_far(&mut self) -> &[Record] {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
        &self.records
    }

    /// Everything it has said so far, and when.
    pub(crate) fn timed(&mut self) -> impl Iterator<Item = (u64, &Record)> {
        self.so_far();
        self.instants.iter().copied().zip(&self.records)
    }

    /// What it has said so far but for so many records that are known already, and when.
    pub(crate) fn timed_after(&mut self, known: usize) -> impl Iterator<Item = (u64, &Record)> {
        self.so_far();
        let instants = self.instants.iter().skip(known).copied();
        instants.zip(self.records.iter().skip(known))
    }

    /// Takes a line in. One cut short by the kill is no record.
    fn take(&mut self, line: &str) -> Option<&Record> {
        let (at_ns, record) = Record::parse(line)?;
        self.instants.push(at_ns);
        self.records.push(record);
        self.records.last()
    }

    /// Stops it without its noticing.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.signal("STOP")?;
        // A thread stops when it is next about to run, or when its system call returns.
        std::thread::sleep(STOPS_WITHIN);
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let process = self.child.id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {process}")])
            .status()?;
        if !sent.success() {
            bail!("SIG{name} cannot be sent: {sent}");
        }
        Ok(())
    }

    /// Whether it was frozen in a transaction: whoever wants to write to the same files waits until it thaws.
    ///
    /// SQLite's locks of a WAL (writer, checkpointer, recovery, readers' marks) are the bytes from 120 on of its shared
    /// memory. Where the system does not list locks, none is seen.
    pub(super) fn holds_a_file(&self) -> bool {
        let process = self.child.id().to_string();
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, "POSIX", _, "WRITE", owner, _, from, _] = fields[..] else {
                return false;
            };
            owner == process && from.parse::<u64>().is_ok_and(|from| (120..128).contains(&from))
        })
    }

    /// Kills it; everything it said.
    pub(super) fn kill(mut self) -> anyhow::Result<Vec<Record>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the engine ended by itself: {status}");
        }
        self.child.kill()?;
        self.child.wait()?;
        self.last_words()
    }

    fn last_words(&mut self) -> anyhow::Result<Vec<Record>> {
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        }
        self.so_far();
        Ok(std::mem::take(&mut self.records))
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        // It may be dead already, which is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
