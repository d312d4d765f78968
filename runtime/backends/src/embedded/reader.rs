//! Threads that answer reads, each with a connection of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;
use troupe_ports::StoreError;

use super::writer::{Failure, Ran};

/// Reads that may wait; beyond it callers are told that the store is unavailable.
const QUEUED_READS_MAX: usize = 65_536;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// Whoever waits for the answer of a read.
pub(super) struct Caller<'a> {
    /// When it asked.
    pub(super) asked: Instant,
    /// Whether it went away.
    pub(super) is_gone: &'a dyn Fn() -> bool,
}

/// Handle of a file's reader threads. Dropping it waits until they have answered what is queued.
pub(super) struct Readers {
    queue: Option<SyncSender<Read>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts one thread a connection.
    pub(super) fn start(name: &str, connections: Vec<Connection>) -> std::io::Result<Self> {
        let (queue, received) = sync_channel::<Read>(QUEUED_READS_MAX);
        let received = Arc::new(Mutex::new(received));
        let mut threads = Vec::with_capacity(connections.len());
        for connection in connections {
            let received = Arc::clone(&received);
            let run = move || {
                while let Some(read) = next(&received) {
                    read(&connection);
                }
            };
            threads.push(
                std::thread::Builder::new()
                    .name(name.to_owned())
                    .stack_size(1 << 20)
                    .spawn(run)?,
            );
        }
        Ok(Self {
            queue: Some(queue),
            threads,
        })
    }

    /// Runs a read that only SQLite can make fail.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.run(move |connection| work(connection).map(Ok)).await
    }

    /// Runs a read and waits for its answer.
    pub(super) async fn run<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
        F: FnOnce(&Connection) -> Ran<T, E> + Send + 'static,
    {
        self.run_for(move |connection, _| work(connection)).await
    }

    /// As [`Readers::run`]; a read that may take long can see whether it still has a caller.
    pub(super) async fn run_for<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
        F: FnOnce(&Connection, &Caller<'_>) -> Ran<T, E> + Send + 'static,
    {
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel::<Result<T, E>>();
        let read: Read = Box::new(move |connection| {
            let is_gone = || reply.is_closed();
            // A caller that went away has chosen not to know.
            if is_gone() {
                return;
            }
            let caller = Caller {
                asked,
                is_gone: &is_gone,
            };
            let outcome = work(connection, &caller).unwrap_or_else(|error| Err(E::unavailable(error.to_string())));
            drop(reply.send(outcome));
        });
        let queue = self
            .queue
            .as_ref()
            .ok_or_else(|| E::unavailable("the readers stopped".to_owned()))?;
        queue.try_send(read).map_err(|error| match error {
            TrySendError::Full(_) => E::unavailable(format!("more than {QUEUED_READS_MAX} reads wait")),
            TrySendError::Disconnected(_) => E::unavailable("the readers stopped".to_owned()),
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(E::unavailable("a reader stopped".to_owned())))
    }
}

/// The lock is held while waiting: whoever has it takes the next read, the others queue for the lock.
fn next(received: &Mutex<Receiver<Read>>) -> Option<Read> {
    received.lock().recv().ok()
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a store's reader thread had panicked");
            }
        }
    }
}
