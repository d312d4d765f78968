//! One writer thread a file: everything queued goes into one transaction, which is acknowledged when it is durable.
//!
//! While a transaction syncs, the next one gathers; nothing waits on purpose. A job that runs writes either everything
//! or, when it answers with an error of its own, nothing. When SQLite itself fails, the whole transaction is rolled back
//! and every job in it is answered with "unavailable": nothing is acknowledged that might be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

enum Message {
    Job(Box<dyn Job>),
    /// The rider has something: it goes with the next transaction, or gets one of its own soon.
    Nudge,
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

/// Handle of a writer thread. Dropping it lets the queue drain, closes the file and waits for both.
pub(super) struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

impl Writer {
    /// Starts the thread that owns `connection` from now on.
    pub(super) fn start(
        name: &str,
        connection: Connection,
        limit: WalLimit,
        rider: Box<dyn Rider>,
    ) -> std::io::Result<Self> {
        let (queue, received) = sync_channel(QUEUED_JOBS_MAX);
        let counts = Arc::new(Counts::default());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(1 << 20)
            .spawn({
                let counts = Arc::clone(&counts);
                move || {
                    Loop {
                        connection,
                        received,
                        limit,
                        rider,
                        counts,
                        unwritten_since: None,
                    }
                    .run()
                }
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
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
        let (reply, answer) = oneshot::channel();
        self.send(Message::Job(Box::new(Task {
            work: Some(work),
            outcome: None,
            reply,
        })))
        .map_err(E::unavailable)?;
        answer
            .await
            .unwrap_or_else(|_| Err(E::unavailable("the writer stopped".to_owned())))
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

struct Loop {
    connection: Connection,
    received: Receiver<Message>,
    limit: WalLimit,
    rider: Box<dyn Rider>,
    counts: Arc<Counts>,
    unwritten_since: Option<Instant>,
}

impl Loop {
    fn run(mut self) {
        let mut jobs = Vec::new();
        while self.gather(&mut jobs) {
            let failed = self.commit(&mut jobs).err().map(|error| error.to_string());
            if let Some(why) = &failed {
                tracing::error!(error = why, jobs = jobs.len(), "a store transaction failed");
            }
            for job in jobs.drain(..) {
                job.answer(failed.as_deref());
            }
            self.shorten_wal();
        }
        if let Err(error) = self.commit(&mut jobs) {
            tracing::warn!(%error, "the last cursors were not written; what they cover will be sent again");
        }
    }

    /// Waits for work; false when no more can come.
    fn gather(&mut self, jobs: &mut Vec<Box<dyn Job>>) -> bool {
        while jobs.is_empty() {
            let message = match self.unwritten_since {
                None => self.received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => self.received.recv_timeout(RIDER_WAIT.saturating_sub(since.elapsed())),
            };
            match message {
                Ok(Message::Job(job)) => jobs.push(job),
                Ok(Message::Nudge) => self.unwritten_since = self.unwritten_since.or_else(|| Some(Instant::now())),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while jobs.len() < TRANSACTION_JOBS_MAX {
            match self.received.try_recv() {
                Ok(Message::Job(job)) => jobs.push(job),
                Ok(Message::Nudge) => self.unwritten_since = self.unwritten_since.or_else(|| Some(Instant::now())),
                Err(_) => break,
            }
        }
        true
    }

    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        let before = self.connection.total_changes();
        let ran = self.transaction(jobs);
        self.rider.settled(ran.is_ok());
        match ran {
            Ok(()) => {
                self.unwritten_since = None;
                if self.connection.total_changes() != before {
                    self.counts.commits.fetch_add(1, Ordering::Relaxed);
                    self.counts.syncs.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) => {
                if !self.connection.is_autocommit()
                    && let Err(error) = self.connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "a failed store transaction could not be rolled back");
                }
                self.unwritten_since = self.unwritten_since.map(|_| Instant::now());
                Err(error)
            }
        }
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

    /// Copies the WAL into the file once it is long, after the acknowledgements, so that the next commits overwrite it.
    fn shorten_wal(&mut self) {
        match self.limit.shorten(&self.connection) {
            Ok(syncs) => {
                self.counts.syncs.fetch_add(syncs, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be copied into the file"),
        }
    }
}
