//! One writer a file: everything queued goes into one transaction, which is acknowledged when it is durable.
//!
//! While a transaction syncs, the next one gathers; nothing waits on purpose. Transactions run on a thread of their own,
//! except that a caller with a small job who finds the file idle and quick to sync runs its transaction itself: handing
//! it to another thread and back costs as much as the sync. A job that runs writes either everything
//! or, when it answers with an error of its own, nothing. When SQLite itself fails, the whole transaction is rolled back
//! and every job in it is answered with "unavailable": nothing is acknowledged that might be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;
use troupe_ports::{AppendError, DefinitionError, StoreError};

use super::schema::WalLimit;

/// Jobs that may wait for the writer; beyond it callers are told that the store is unavailable.
const QUEUED_JOBS_MAX: usize = 65_536;
/// Jobs of one transaction, so that an acknowledgement does not wait for an endless one.
const TRANSACTION_JOBS_MAX: usize = 1_024;
/// How long what rides may wait for a transaction.
const RIDER_WAIT: Duration = Duration::from_millis(50);
/// A caller writes by itself only while transactions take less than this: it blocks a thread of the runtime meanwhile.
const QUICK: Duration = Duration::from_millis(1);

/// An error type that can say that the store failed or that the outcome is unknown.
pub(super) trait Failure: Send + 'static {
    /// The store failed.
    fn unavailable(why: String) -> Self;
}

impl Failure for StoreError {
    fn unavailable(why: String) -> Self {
        Self::Unavailable(why)
    }
}

impl Failure for AppendError {
    fn unavailable(why: String) -> Self {
        Self::Store(StoreError::Unavailable(why))
    }
}

impl Failure for DefinitionError {
    fn unavailable(why: String) -> Self {
        Self::Unavailable(why)
    }
}

/// What a job makes of the database: SQLite's failure, or the job's own answer.
pub(super) type Ran<T, E> = rusqlite::Result<Result<T, E>>;

trait Job: Send {
    /// Runs inside the transaction.
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Answers the caller once the transaction's fate is known.
    fn answer(self: Box<Self>, failed: Option<&str>);
}

struct Task<T, E, F> {
    work: Option<F>,
    outcome: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Job for Task<T, E, F>
where
    T: Send,
    E: Failure,
    F: FnOnce(&Connection) -> Ran<T, E> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.outcome = Some(work(connection)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<&str>) {
        let outcome = match (failed, self.outcome) {
            (Some(why), _) => Err(E::unavailable(why.to_owned())),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(E::unavailable("the transaction ended early".to_owned())),
        };
        // A caller that went away has chosen not to know.
        drop(self.reply.send(outcome));
    }
}

fn task<T, E, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: Failure,
    F: FnOnce(&Connection) -> Ran<T, E> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Task {
        work: Some(work),
        outcome: None,
        reply,
    });
    (job, answer)
}

async fn answered<T, E: Failure>(answer: oneshot::Receiver<Result<T, E>>) -> Result<T, E> {
    answer
        .await
        .unwrap_or_else(|_| Err(E::unavailable("the writer stopped".to_owned())))
}

enum Message {
    Job(Box<dyn Job>),
    /// The rider has something: it goes with the next transaction, or gets one of its own soon.
    Nudge,
    /// The write-ahead log has become long.
    Shorten,
}

/// Work that rides with each transaction, before the jobs, and that nobody waits for.
pub(super) trait Rider: Send {
    /// Writes what there is.
    fn write(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells whether what was just written is durable.
    fn settled(&mut self, committed: bool);
}

/// Nothing rides.
pub(super) struct NoRider;

impl Rider for NoRider {
    fn write(&mut self, _: &Connection) -> rusqlite::Result<()> {
        Ok(())
    }

    fn settled(&mut self, _: bool) {}
}

/// Counts since the file was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub commits: AtomicU64,
    pub syncs: AtomicU64,
}

/// Handle of a file's writer. Dropping it lets the queue drain, closes the file and waits for both.
pub(super) struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    file: Arc<Mutex<OpenFile>>,
    counts: Arc<Counts>,
}

impl Writer {
    /// Starts the thread that writes to `connection` from now on.
    pub(super) fn start(
        name: &str,
        connection: Connection,
        limit: WalLimit,
        rider: Box<dyn Rider>,
    ) -> std::io::Result<Self> {
        let (queue, received) = sync_channel(QUEUED_JOBS_MAX);
        let counts = Arc::new(Counts::default());
        let file = Arc::new(Mutex::new(OpenFile {
            connection,
            limit,
            rider,
            counts: Arc::clone(&counts),
            alone: false,
            failed: false,
        }));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(1 << 20)
            .spawn({
                let file = Arc::clone(&file);
                move || {
                    Loop {
                        file,
                        received,
                        unwritten_since: None,
                    }
                    .run()
                }
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            file,
            counts,
        })
    }

    /// Queues `work` at once (the returned future only waits for the answer), so a dropped future changes nothing.
    pub(super) async fn run<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
        F: FnOnce(&Connection) -> Ran<T, E> + Send + 'static,
    {
        let (job, answer) = task(work);
        self.queue(job).map_err(E::unavailable)?;
        answered(answer).await
    }

    /// As [`Writer::run`], but runs small `work` on this thread if the file is idle.
    pub(super) async fn run_small<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
        F: FnOnce(&Connection) -> Ran<T, E> + Send + 'static,
    {
        let (job, answer) = task(work);
        if let Some(job) = self.write_alone(job) {
            self.queue(job).map_err(E::unavailable)?;
        }
        answered(answer).await
    }

    fn queue(&self, job: Box<dyn Job>) -> Result<(), String> {
        self.send(Message::Job(job))
    }

    /// Runs a job on this thread if the file is idle; gives it back otherwise.
    fn write_alone(&self, job: Box<dyn Job>) -> Option<Box<dyn Job>> {
        let Some(mut file) = self.file.try_lock().filter(|file| file.alone) else {
            return Some(job);
        };
        let long = file.write(&mut vec![job]);
        drop(file);
        if long {
            // A full queue has transactions after which the thread looks by itself.
            drop(self.send(Message::Shorten));
        }
        None
    }

    /// Tells the writer that its rider has something. A full queue needs no telling: its transactions carry it.
    pub(super) fn nudge(&self) {
        drop(self.send(Message::Nudge));
    }

    /// Counts since the file was opened.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn send(&self, message: Message) -> Result<(), String> {
        let queue = self.queue.as_ref().ok_or_else(|| "the writer stopped".to_owned())?;
        queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => format!("more than {QUEUED_JOBS_MAX} requests wait for the writer"),
            TrySendError::Disconnected(_) => "the writer stopped".to_owned(),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a store's writer thread had panicked");
        }
    }
}

struct OpenFile {
    connection: Connection,
    limit: WalLimit,
    rider: Box<dyn Rider>,
    counts: Arc<Counts>,
    /// The last transaction was quick and had one job: whoever has the next one may run it.
    alone: bool,
    /// The last transaction failed.
    failed: bool,
}

impl OpenFile {
    /// Runs all jobs in one transaction and answers them. True if the write-ahead log has become long.
    fn write(&mut self, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        let (begun, count) = (Instant::now(), jobs.len());
        let failed = self.commit(jobs).err().map(|error| error.to_string());
        if let Some(why) = &failed {
            tracing::error!(error = why, jobs = count, "a store transaction failed");
        }
        for job in jobs.drain(..) {
            job.answer(failed.as_deref());
        }
        self.failed = failed.is_some();
        self.alone = !self.failed && count <= 1 && begun.elapsed() < QUICK;
        self.limit.reached(&self.connection).unwrap_or_else(|error| {
            tracing::warn!(%error, "the length of the write-ahead log is unknown");
            false
        })
    }

    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        let before = self.connection.total_changes();
        let ran = self.transaction(jobs);
        self.rider.settled(ran.is_ok());
        if ran.is_ok() {
            if self.connection.total_changes() != before {
                self.counts.commits.fetch_add(1, Ordering::Relaxed);
                self.counts.syncs.fetch_add(1, Ordering::Relaxed);
            }
        } else if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed store transaction could not be rolled back");
        }
        ran
    }

    fn transaction(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.rider.write(&self.connection)?;
        for job in jobs {
            job.run(&self.connection)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Copies the WAL into the file, after the acknowledgements, so that the next commits overwrite it.
    fn shorten_wal(&mut self) {
        match self.limit.shorten(&self.connection) {
            Ok(syncs) => {
                self.counts.syncs.fetch_add(syncs, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be copied into the file"),
        }
    }
}

struct Loop {
    file: Arc<Mutex<OpenFile>>,
    received: Receiver<Message>,
    unwritten_since: Option<Instant>,
}

impl Loop {
    fn run(mut self) {
        let mut jobs = Vec::new();
        while let Some(shorten) = self.gather(&mut jobs) {
            let mut file = self.file.lock();
            // Only to shorten: no transaction, unless the rider has waited long enough.
            let rides = self.unwritten_since.is_some_and(|since| since.elapsed() >= RIDER_WAIT);
            let mut long = shorten;
            if rides || !jobs.is_empty() {
                long |= file.write(&mut jobs);
                self.unwritten_since = file
                    .failed
                    .then(Instant::now)
                    .filter(|_| self.unwritten_since.is_some());
            }
            if long {
                file.shorten_wal();
            }
        }
        if let Err(error) = self.file.lock().commit(&mut jobs) {
            tracing::warn!(%error, "the last cursors were not written; what they cover will be sent again");
        }
    }

    /// Waits for work; none when no more can come. True if the WAL is to be shortened.
    fn gather(&mut self, jobs: &mut Vec<Box<dyn Job>>) -> Option<bool> {
        let mut shorten = false;
        while jobs.is_empty() && !shorten {
            let message = match self.unwritten_since {
                None => self.received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => self.received.recv_timeout(RIDER_WAIT.saturating_sub(since.elapsed())),
            };
            match message {
                Ok(message) => shorten |= self.take(message, jobs),
                Err(RecvTimeoutError::Timeout) => return Some(false),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        while jobs.len() < TRANSACTION_JOBS_MAX
            && let Ok(message) = self.received.try_recv()
        {
            shorten |= self.take(message, jobs);
        }
        Some(shorten)
    }

    /// True if the WAL is to be shortened.
    fn take(&mut self, message: Message, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        match message {
            Message::Job(job) => jobs.push(job),
            Message::Nudge => self.unwritten_since = self.unwritten_since.or_else(|| Some(Instant::now())),
            Message::Shorten => return true,
        }
        false
    }
}
