//! Writes rows. Those of changes to the definition store are durable before the change is answered: both are in the same
//! store. Those of commands are queued: the state may be in another store, and commands must go on while the one of the
//! rows is away. What a command did is in the log of its execution in any case, with the principal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use troupe_ports::{AuditLog, AuditPage, AuditQuery, AuditRow, StoreError};

use crate::error::ApiError;

/// Rows that wait while the store is away; beyond it they are lost, each with an error in the server's log that tells it whole.
const QUEUED_MAX: usize = 10_000;
/// Rows of one write.
const BATCH: usize = 500;
/// How often a row is tried before its change is answered without it, and the pause between.
const KEEP_TRIES: usize = 3;
const KEEP_PAUSE: Duration = Duration::from_millis(200);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why a row is given up that the store has been given, or has not.
const NOT_ANSWERED: &str = "the server stops, and the store has not answered: it may have the row all the same";
const NOT_TRIED: &str = "the server stops";

/// Records rows in an [`AuditLog`].
pub struct AuditTrail {
    log: Arc<dyn AuditLog>,
    queue: Mutex<Option<Sender<AuditRow>>>,
    writer: Mutex<Option<JoinHandle<usize>>>,
    pending: Arc<AtomicUsize>,
    giving_up: CancellationToken,
}

impl AuditTrail {
    /// Starts the task that writes what is queued; it ends once the trail is closed or dropped.
    #[must_use]
    pub fn start(log: Arc<dyn AuditLog>) -> Self {
        let (queue, queued) = channel(QUEUED_MAX);
        let (giving_up, pending) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let writer = Writer {
            log: Arc::clone(&log),
            pending: Arc::clone(&pending),
            giving_up: giving_up.clone(),
        };
        Self {
            log,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(tokio::spawn(writer.run(queued)))),
            pending,
            giving_up,
        }
    }

    /// Lists rows.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.log.list(query).await
    }

    /// Has a row written soon.
    pub fn queue(&self, row: AuditRow) {
        let queue = self.queue.lock().clone();
        let refused = match queue {
            None => Some((row, NOT_TRIED)),
            Some(queue) => {
                self.pending.fetch_add(1, Ordering::AcqRel);
                match queue.try_send(row) {
                    Ok(()) => None,
                    Err(error) => {
                        self.pending.fetch_sub(1, Ordering::AcqRel);
                        Some((error.into_inner(), "too many wait for the store"))
                    }
                }
            }
        };
        troupe_telemetry::audit_rows_pending(self.pending.load(Ordering::Acquire));
        if let Some((row, why)) = refused {
            lost(&row, why);
        }
    }

    /// Writes a row; `Ok` means durable.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store does not take it now. The row is queued then.
    ///
    /// # Cancel safety
    /// Dropping the future loses the row: spawn it where that must not be.
    pub async fn keep(&self, row: AuditRow) -> Result<(), ApiError> {
        let mut tries = 1;
        loop {
            let error = match self.log.record(vec![row.clone()]).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if tries == KEEP_TRIES {
                self.queue(row);
                let detail = format!("the change was made, but who made it is not on record yet: {error}");
                let hint = "look at what was changed; the record is written when the store is back";
                return Err(ApiError::new("UNAVAILABLE", detail).with_hint(hint));
            }
            tries += 1;
            tokio::time::sleep(KEEP_PAUSE).await;
        }
    }

    /// Writes what is queued, but gives up after `within`. Returns how many of the rows that were ever queued the store will never have, or never said
    /// that it has; the log has each of them.
    pub async fn close(&self, within: Duration) -> usize {
        drop(self.queue.lock().take());
        let Some(mut writer) = self.writer.lock().take() else {
            return 0;
        };
        if let Ok(ended) = tokio::time::timeout(within, &mut writer).await {
            return told(ended);
        }
        self.giving_up.cancel();
        told(writer.await)
    }
}

fn told(ended: Result<usize, tokio::task::JoinError>) -> usize {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "the writer of audit rows failed; what it had queued is lost");
        0
    })
}

impl std::fmt::Debug for AuditTrail {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pending = self.pending.load(Ordering::Relaxed);
        out.debug_struct("AuditTrail")
            .field("pending", &pending)
            .finish_non_exhaustive()
    }
}

/// A row that no store will have: the server's log has it instead.
fn lost(row: &AuditRow, why: &str) {
    troupe_telemetry::audit_row_lost();
    tracing::error!(
        why,
        at_ms = row.at.0,
        principal = row.principal.as_deref().unwrap_or_default(),
        action = row.action,
        target_kind = row.target.kind,
        target_id = row.target.id,
        request = row.request.as_deref().unwrap_or_default(),
        outcome = row.outcome.as_deref().unwrap_or_default(),
        "an audit row is lost"
    );
}

fn all_lost(rows: &[AuditRow], why: &str) -> usize {
    for row in rows {
        lost(row, why);
    }
    rows.len()
}

struct Writer {
    log: Arc<dyn AuditLog>,
    pending: Arc<AtomicUsize>,
    giving_up: CancellationToken,
}

impl Writer {
    /// Writes what is queued until nobody queues any more; returns how many rows were lost.
    async fn run(self, mut queued: Receiver<AuditRow>) -> usize {
        let (mut rows, mut given_up) = (Vec::with_capacity(BATCH), 0);
        while queued.recv_many(&mut rows, BATCH).await > 0 {
            let count = rows.len();
            given_up += self.write(std::mem::take(&mut rows)).await;
            let before = self.pending.fetch_sub(count, Ordering::AcqRel);
            troupe_telemetry::audit_rows_pending(before.saturating_sub(count));
        }
        given_up
    }

    /// Tries until the store takes them, or it is time to give up; returns how many were lost. One that it will never take must not keep the others.
    async fn write(&self, rows: Vec<AuditRow>) -> usize {
        let mut pause = RETRY_FIRST;
        loop {
            if self.giving_up.is_cancelled() {
                return all_lost(&rows, NOT_TRIED);
            }
            let recorded = tokio::select! {
                biased;
                recorded = self.log.record(rows.clone()) => recorded,
                // A store that is gone may take longer over each batch than there is time for all.
                () = self.giving_up.cancelled() => return all_lost(&rows, NOT_ANSWERED),
            };
            let why = match recorded {
                Ok(()) => return 0,
                Err(StoreError::Damaged(why)) => {
                    if rows.len() == 1 {
                        return all_lost(&rows, &why);
                    }
                    let mut given_up = 0;
                    for row in rows {
                        given_up += Box::pin(self.write(vec![row])).await;
                    }
                    return given_up;
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(why, rows = rows.len(), "audit rows wait for their store");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.giving_up.cancelled() => return all_lost(&rows, &why),
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_trait::async_trait;
    use troupe_core::Timestamp;
    use troupe_ports::{AuditId, AuditTarget};

    use super::*;

    /// Refuses so many times, then takes; never takes rows of principal `poison`.
    struct Log {
        refusals: AtomicUsize,
        rows: Mutex<Vec<AuditRow>>,
    }

    #[async_trait]
    impl AuditLog for Log {
        async fn record(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
            let less = |left: usize| left.checked_sub(1);
            if self
                .refusals
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
                .is_ok()
            {
                return Err(StoreError::Unavailable("away".to_owned()));
            }
            if rows.iter().any(|row| row.principal.as_deref() == Some("poison")) {
                return Err(StoreError::Damaged("poison".to_owned()));
            }
            self.rows.lock().extend(rows);
            Ok(())
        }

        async fn list(&self, _: AuditQuery) -> Result<AuditPage, StoreError> {
            Err(StoreError::Unavailable("nobody lists".to_owned()))
        }
    }

    /// Never answers, as a server behind a line that swallows everything.
    struct Swallowed;

    #[async_trait]
    impl AuditLog for Swallowed {
        async fn record(&self, _: Vec<AuditRow>) -> Result<(), StoreError> {
            std::future::pending().await
        }

        async fn list(&self, _: AuditQuery) -> Result<AuditPage, StoreError> {
            std::future::pending().await
        }
    }

    fn trail(refusals: usize) -> (Arc<Log>, AuditTrail) {
        let log = Arc::new(Log {
            refusals: AtomicUsize::new(refusals),
            rows: Mutex::default(),
        });
        (Arc::clone(&log), AuditTrail::start(log))
    }

    fn row(number: u8, principal: &str) -> AuditRow {
        AuditRow {
            id: AuditId([number; 16]),
            at: Timestamp(1),
            principal: Some(principal.to_owned()),
            action: "execution.cancel".to_owned(),
            target: AuditTarget {
                kind: "execution".to_owned(),
                id: "x".to_owned(),
            },
            before: None,
            after: None,
            request: None,
            outcome: Some("ok".to_owned()),
        }
    }

    fn numbers(log: &Log) -> Vec<u8> {
        log.rows.lock().iter().map(|row| row.id.0[0]).collect()
    }

    #[tokio::test]
    async fn rows_that_are_queued_outlast_a_store_that_is_away() {
        let (log, trail) = trail(2);
        for number in 0..5 {
            trail.queue(row(number, "ada"));
        }
        trail.close(Duration::from_secs(60)).await;
        assert_eq!(numbers(&log), [0, 1, 2, 3, 4]);
        assert_eq!(trail.pending.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn closing_does_not_wait_for_ever() {
        let (log, trail) = trail(usize::MAX);
        trail.queue(row(1, "ada"));
        assert_eq!(trail.close(Duration::from_millis(50)).await, 1);
        assert!(numbers(&log).is_empty());
    }

    #[tokio::test]
    async fn closing_does_not_wait_for_a_store_that_never_answers() {
        let trail = AuditTrail::start(Arc::new(Swallowed));
        let count = 2 * BATCH + 1;
        for _ in 0..count {
            trail.queue(row(1, "ada"));
        }
        let closed = tokio::time::timeout(Duration::from_secs(10), trail.close(Duration::from_millis(50))).await;
        assert_eq!(closed.ok(), Some(count), "it ends in time and loses no row in silence");
        assert_eq!(trail.pending.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn a_row_that_no_store_takes_keeps_no_other_one() {
        let (log, trail) = trail(0);
        for (number, principal) in [(0, "ada"), (1, "poison"), (2, "bob")] {
            trail.queue(row(number, principal));
        }
        assert_eq!(trail.close(Duration::from_secs(60)).await, 1);
        assert_eq!(numbers(&log), [0, 2]);
    }

    #[tokio::test]
    async fn a_row_that_is_to_be_kept_is_there_or_the_caller_hears_of_it() {
        let (log, trail) = trail(KEEP_TRIES - 1);
        trail.keep(row(1, "ada")).await.unwrap();
        assert_eq!(numbers(&log), [1]);
        log.refusals.store(KEEP_TRIES, Ordering::Release);
        assert_eq!(trail.keep(row(2, "ada")).await.unwrap_err().code(), "UNAVAILABLE");
        trail.close(Duration::from_secs(60)).await;
        assert_eq!(numbers(&log), [1, 2], "it comes later");
    }
}
