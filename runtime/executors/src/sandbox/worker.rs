//! The engine's end of one sandbox process: keeps it fed, hears its answers, kills it when it is late.
//!
//! Calls are pure, so a call that an innocent process took along when it died is simply run again elsewhere.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::lockdown::Lockdown;
use super::pool::{Answer, Call, Queue, Shared, Time, Work};
use super::process::Process;
use super::protocol::{self, FRAME_BYTES_MAX, Fault, PROTOCOL_VERSION, Request, Response, monotonic_ms};
use crate::codes;

/// Calls that a process may hold at once.
const IN_FLIGHT_MAX: usize = 16;
/// While so many bytes wait to be written nothing more is put behind them: their time would pass on the way.
const UNWRITTEN_MAX: usize = 256 * 1024;
/// How often the running call is looked at.
const TICK: Duration = Duration::from_millis(5);
/// Behind a call that has run this long, waiting ones are taken back and nothing new is put.
const LONG: Duration = Duration::from_millis(10);
/// A call that has run this long gives its process back where its workflow holds more than its share, and is known to run
/// long from then on. Long enough that a busy machine does not make it of a quick one.
const OVER: Duration = Duration::from_millis(100);
/// A call that nobody waits for any more may run this long before its process is killed.
const UNWANTED: Duration = Duration::from_millis(50);
/// An extra process that had nothing to do for this long ends.
const EXTRA_IDLE: Duration = Duration::from_secs(10);
/// Wait before another try to start a process, at first and at most.
const RESTART_DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Programs and bytes of source that a process is told before it must forget them all.
const TOLD_MAX: (usize, usize) = (1_024, 32 * 1024 * 1024);

/// Why a process is no longer served.
enum Ended {
    /// The pool closes, or this extra process is not needed any more.
    ForGood,
    /// The process is gone; another takes its place.
    Lost,
}

/// Keeps one place of the pool filled with a live process. `first` is one that has said hello already.
pub(super) async fn work(shared: Arc<Shared>, mut first: Option<Process>, extra: bool) {
    let mut delay = RESTART_DELAYS.0;
    while !shared.closed.is_cancelled() {
        let process = match first.take() {
            Some(process) => Ok(process),
            None => start(&shared).await.map(|(process, _)| process),
        };
        match process {
            Ok(process) => {
                delay = RESTART_DELAYS.0;
                if matches!(Serving::new(&shared, process).serve(extra).await, Ended::ForGood) {
                    break;
                }
            }
            Err(error) => {
                tracing::error!(%error, "no sandbox process can be started");
                shared.fail_waiting(&error.to_string());
                tokio::select! {
                    () = sleep(delay) => {}
                    () = shared.closed.cancelled() => {}
                }
                delay = (delay * 2).min(RESTART_DELAYS.1);
            }
        }
    }
    shared.queue.lock().processes -= 1;
}

/// Starts a process and waits for its hello.
///
/// # Errors
/// When it cannot be started, is no sandbox, or takes too long.
pub(super) async fn start(shared: &Shared) -> io::Result<(Process, Lockdown)> {
    let mut process = shared.spawner.spawn().await?;
    let hello = async {
        let mut bytes = Vec::new();
        loop {
            if let Some((length, body)) = protocol::split(&bytes).map_err(|_| no_sandbox())? {
                let response = Response::read(body).map_err(|_| no_sandbox())?;
                return if length == bytes.len() {
                    Ok(response)
                } else {
                    Err(no_sandbox())
                };
            }
            if process.output.read_buf(&mut bytes).await? == 0 {
                return Err(no_sandbox());
            }
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the sandbox process is not ready in time");
    match timeout(shared.options.start_timeout, hello).await.map_err(late)?? {
        Response::Hello {
            version: PROTOCOL_VERSION,
            lockdown,
        } => {
            let lockdown: Lockdown = serde_json::from_str(&lockdown).map_err(io::Error::other)?;
            Ok((process, lockdown))
        }
        Response::Hello { .. } | Response::Done { .. } | Response::TakenBack { .. } => Err(no_sandbox()),
    }
}

fn no_sandbox() -> io::Error {
    io::Error::other("the started program is no sandbox: it must call `run_child_if_requested` first in `main`")
}

struct Serving<'a> {
    shared: &'a Arc<Shared>,
    process: Process,
    /// In the order in which the process runs them; the first is the running one.
    in_flight: VecDeque<Call>,
    /// Calls that were taken back and whose process has not said that it has not begun them. Until it has, it may run one
    /// of them, so it gets nothing new: that would wait behind it, and be blamed for it.
    taken_back: HashSet<u64>,
    /// Since when the first has been the first.
    head_since: Instant,
    /// The workflow for which the queue counts the running call as a long one.
    blocked: Option<Box<str>>,
    /// Whether the running call was found to hold no more than its workflow's share.
    kept: bool,
    told: HashSet<u64>,
    told_bytes: usize,
    out: Vec<u8>,
    written: usize,
    read: Vec<u8>,
}

impl<'a> Serving<'a> {
    fn new(shared: &'a Arc<Shared>, process: Process) -> Self {
        Self {
            shared,
            process,
            in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
            taken_back: HashSet::new(),
            head_since: Instant::now(),
            blocked: None,
            kept: false,
            told: HashSet::new(),
            told_bytes: 0,
            out: Vec::new(),
            written: 0,
            read: Vec::with_capacity(16 * 1024),
        }
    }

    async fn serve(mut self, extra: bool) -> Ended {
        let mut tick = pin!(sleep(TICK));
        let mut idle_since = Instant::now();
        let ended = loop {
            self.fill();
            let busy = !self.in_flight.is_empty() || !self.taken_back.is_empty();
            if busy {
                idle_since = Instant::now();
            }
            tokio::select! {
                biased;
                () = self.shared.closed.cancelled() => break Ended::ForGood,
                count = self.process.output.read_buf(&mut self.read) => {
                    if !matches!(count, Ok(1..)) || !self.hear() {
                        break Ended::Lost;
                    }
                }
                count = self.process.input.write(&self.out[self.written..]), if self.written < self.out.len() => {
                    match count {
                        Ok(count) => self.wrote(count),
                        // The answers that are still in the pipe are lost with the process.
                        Err(_) => break Ended::Lost,
                    }
                }
                () = self.shared.work.notified(), if self.has_room() => {}
                () = &mut tick, if busy || extra => {
                    if !self.look() {
                        break Ended::Lost;
                    }
                    if extra && !busy && idle_since.elapsed() > EXTRA_IDLE {
                        break Ended::ForGood;
                    }
                    tick.as_mut().reset(Instant::now() + TICK);
                }
            }
        };
        self.unblock();
        if let Err(error) = self.process.child.kill().await {
            tracing::warn!(%error, "a sandbox process cannot be killed");
        }
        self.give_back();
        ended
    }

    /// Whether the process aborted by itself: Rust code does when it gets no memory. A panic ends with a status instead.
    fn has_aborted(&mut self) -> bool {
        let status = self.process.child.try_wait().ok().flatten();
        status.and_then(|status| status.signal()) == Some(libc::SIGABRT)
    }

    fn has_room(&self) -> bool {
        match self.in_flight.front() {
            _ if !self.taken_back.is_empty() => false,
            None => true,
            Some(head) => {
                self.in_flight.len() < IN_FLIGHT_MAX
                    && !head.alone
                    && self.head_since.elapsed() < LONG
                    && self.out.len() - self.written < UNWRITTEN_MAX
                    && !self.is_full()
            }
        }
    }

    fn is_full(&self) -> bool {
        self.told.len() >= TOLD_MAX.0 || self.told_bytes >= TOLD_MAX.1
    }

    /// Takes a fair share of what waits.
    fn fill(&mut self) {
        if !self.has_room() {
            return;
        }
        let shared = Arc::clone(self.shared);
        let mut queue = shared.queue.lock();
        let share = queue.calls.len().div_ceil(queue.processes.max(1)).max(1);
        let mut taken = 0;
        while taken < share && self.has_room() {
            let Some(place) = queue.next() else { break };
            queue.calls[place].alone |= queue.calls[place].work.runs_long();
            if queue.calls[place].alone && !self.in_flight.is_empty() {
                break;
            }
            let Some(call) = queue.calls.remove(place) else { break };
            if call.answer.is_closed() {
                continue;
            }
            if matches!(call.time, Time::Until(instant_ms) if instant_ms <= monotonic_ms()) {
                call.fail(Fault::new(
                    codes::TIMEOUT,
                    "the deadline passed before a sandbox process was free",
                    true,
                ));
                continue;
            }
            taken += 1;
            if call.work.runs_long() {
                self.hold(&mut queue, call.work.workflow());
                self.kept = true;
            }
            self.dispatch(call);
        }
        if queue.next().is_some() {
            shared.work.notify_one();
        }
    }

    fn dispatch(&mut self, mut call: Call) {
        call.deadline_ms = call.time.deadline_ms();
        if self.in_flight.is_empty() {
            self.head_since = Instant::now();
            if self.is_full() {
                Request::Reset.write(&mut self.out);
                self.told.clear();
                self.told_bytes = 0;
            }
        }
        let number = call.number;
        match &call.work {
            Work::Program {
                program,
                input,
                context,
            } => {
                if self.told.insert(program.number) {
                    self.told_bytes += program.source.len();
                    let define = Request::Define {
                        program: program.number,
                        kind: program.kind,
                        context: &program.context(),
                        name: &program.name,
                        source: &program.source,
                    };
                    define.write(&mut self.out);
                }
                let (program, deadline_ms) = (program.number, call.deadline_ms);
                let input = input.as_str();
                Request::Call {
                    call: number,
                    program,
                    deadline_ms,
                    input,
                    context,
                }
                .write(&mut self.out);
            }
            Work::Check { name, source } => {
                Request::Check {
                    call: number,
                    deadline_ms: call.deadline_ms,
                    name,
                    source,
                }
                .write(&mut self.out);
            }
            Work::CheckExpressions { sources } => {
                Request::CheckExpressions {
                    call: number,
                    deadline_ms: call.deadline_ms,
                    sources,
                }
                .write(&mut self.out);
            }
            Work::Probe => Request::Probe { call: number }.write(&mut self.out),
        }
        self.in_flight.push_back(call);
    }

    fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > 1024 * 1024 {
                self.out = Vec::new();
            }
        }
    }

    /// Hands out the answers that have come; false when the process talks nonsense.
    fn hear(&mut self) -> bool {
        let mut used = 0;
        loop {
            let body = match protocol::split(&self.read[used..]) {
                Ok(Some((length, body))) => {
                    used += length;
                    body
                }
                Ok(None) => break,
                Err(_) => return false,
            };
            let (call, logs, result) = match Response::read(body) {
                Ok(Response::Done { call, logs, result }) => (call, logs, result),
                Ok(Response::TakenBack { call }) => {
                    self.taken_back.remove(&call);
                    continue;
                }
                Ok(Response::Hello { .. }) | Err(_) => return false,
            };
            // It had begun before it was taken back: it runs, or ran, elsewhere.
            if self.taken_back.remove(&call) {
                continue;
            }
            let Some(place) = self.in_flight.iter().position(|waiting| waiting.number == call) else {
                return false;
            };
            if let Some(call) = self.in_flight.remove(place) {
                if place == 0 && self.head_since.elapsed() < OVER {
                    call.work.set_runs_long(false);
                }
                call.answered(Answer { logs, result });
            }
            if place == 0 {
                self.head_since = Instant::now();
                self.unblock();
            }
        }
        self.read.drain(..used);
        self.read.len() <= FRAME_BYTES_MAX + 4
    }

    /// Looks at the running call; false when the process must die.
    fn look(&mut self) -> bool {
        let running = self.head_since.elapsed();
        let Some(head) = self.in_flight.front() else {
            // It runs what was taken back, which runs elsewhere too: nothing is lost with it.
            return self.taken_back.is_empty() || running < OVER;
        };
        let grace = u64::try_from(self.shared.options.kill_grace.as_millis()).unwrap_or(u64::MAX);
        if monotonic_ms() >= head.deadline_ms.saturating_add(grace) {
            if let Some(head) = self.in_flight.pop_front() {
                tracing::warn!(
                    call = head.number,
                    "a sandbox process is killed: it is past its deadline"
                );
                head.fail(Fault::new(
                    codes::TIMEOUT,
                    "the code ran past its deadline and was killed",
                    true,
                ));
            }
            self.requeue(false);
            return false;
        }
        if head.answer.is_closed() && running > UNWANTED {
            self.in_flight.pop_front();
            self.requeue(false);
            return false;
        }
        if running > LONG {
            for call in self.in_flight.iter().skip(1) {
                Request::Cancel { call: call.number }.write(&mut self.out);
                self.taken_back.insert(call.number);
            }
            let head = self.in_flight.pop_front();
            self.requeue(false);
            self.in_flight.extend(head);
            if self.blocked.is_none()
                && let Some(head) = self.in_flight.front()
            {
                let workflow: Box<str> = head.work.workflow().into();
                let shared = Arc::clone(self.shared);
                self.hold(&mut shared.queue.lock(), &workflow);
            }
            Queue::grow(self.shared);
        }
        if running > OVER && !self.kept && !self.keeps_process() {
            return false;
        }
        true
    }

    /// Whether the running call may keep its process for longer. Where its workflow holds more than its share, it goes to
    /// the end of the queue and its process dies: that is the only way to stop it.
    fn keeps_process(&mut self) -> bool {
        let shared = Arc::clone(self.shared);
        let mut queue = shared.queue.lock();
        let Some(head) = self.in_flight.front() else {
            return true;
        };
        head.work.set_runs_long(true);
        self.kept = !(head.work.runs_long() && queue.is_over(head.work.workflow()));
        if !self.kept {
            queue.calls.extend(self.in_flight.pop_front());
        }
        self.kept
    }

    fn hold(&mut self, queue: &mut Queue, workflow: &str) {
        queue.hold(workflow);
        self.blocked = Some(workflow.into());
    }

    fn unblock(&mut self) {
        if let Some(workflow) = self.blocked.take() {
            self.kept = false;
            self.shared.queue.lock().release(&workflow);
            self.shared.work.notify_one();
        }
    }

    /// Puts every call back to the front of the queue, in order.
    fn requeue(&mut self, alone: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let mut queue = self.shared.queue.lock();
        while let Some(mut call) = self.in_flight.pop_back() {
            call.alone |= alone;
            queue.calls.push_front(call);
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// The process died: a single call is to blame; of several, each runs again on its own.
    fn give_back(&mut self) {
        if self.shared.closed.is_cancelled() {
            for call in self.in_flight.drain(..) {
                call.fail(Fault::new(codes::SANDBOX_UNAVAILABLE, "the sandbox closes", true));
            }
        } else if self.in_flight.len() == 1 && self.taken_back.is_empty() {
            let aborted = self.has_aborted();
            if let Some(call) = self.in_flight.pop_front() {
                tracing::warn!(call = call.number, aborted, "a sandbox process crashed");
                call.fail(if aborted {
                    let message = "the code needs more memory than its process may have";
                    Fault::new(codes::MEMORY_LIMIT, message, false)
                } else {
                    Fault::new(
                        codes::SANDBOX_CRASHED,
                        "the sandbox process died while it ran this call",
                        true,
                    )
                });
            }
        } else {
            self.requeue(true);
        }
    }
}
