//! What loads an engine process: its clients, and many starts at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use troupe_core::{ExecutionId, Timestamp};

use crate::crash::clients::{client, looker, start_or_not};
use crate::crash::door::Door;
use crate::crash::record::Record;
use crate::crash::workload::later_key;

/// Pause before a start is asked for again that must be acknowledged.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The clients of one engine process.
pub(super) struct Load {
    door: Door,
    incarnation: u32,
    next: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
    is_busy: watch::Sender<bool>,
    looker: Option<JoinHandle<()>>,
}

impl Load {
    /// None yet.
    pub(super) fn new(door: Door, incarnation: u32) -> Self {
        Self {
            door,
            incarnation,
            next: Arc::default(),
            clients: Vec::new(),
            is_busy: watch::Sender::new(false),
            looker: None,
        }
    }

    /// Whether there are clients: nobody else asks for anything either where there are none.
    pub(super) fn is_busy(&self) -> watch::Receiver<bool> {
        self.is_busy.subscribe()
    }

    /// From now on there are so many.
    pub(super) fn of(&mut self, clients: u32) {
        self.is_busy.send_replace(clients > 0);
        let clients = clients as usize;
        for client in self.clients.drain(clients.min(self.clients.len())..) {
            // What it was told and could not record is only missing from the evidence.
            client.abort();
        }
        while self.clients.len() < clients {
            let client = client(self.door.clone(), self.incarnation, Arc::clone(&self.next));
            self.clients.push(tokio::spawn(client));
        }
    }

    /// Starts executions that wait for an instant each, from `due` on, evenly over so many milliseconds.
    pub(super) fn later(&self, count: u64, at_once: u64, due: Timestamp, within_ms: u64) {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let next = Arc::new(AtomicU64::new(0));
        for _ in 0..at_once {
            let (door, next, incarnation) = (self.door.clone(), Arc::clone(&next), self.incarnation);
            tokio::spawn(async move {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        return;
                    }
                    let due = due.plus_ms(within_ms * place / count);
                    start_patiently(&door, later_key(incarnation, first + place, due)).await;
                }
            });
        }
    }

    /// From now on somebody only looks at these, where they are served here; at none: nobody does.
    pub(super) fn look(&mut self, ids: Vec<ExecutionId>) {
        if let Some(looker) = self.looker.take() {
            looker.abort();
        }
        if !ids.is_empty() {
            self.looker = Some(tokio::spawn(looker(self.door.clone(), ids)));
        }
    }

    /// Starts many at once; those that are refused because there is too much are counted, and not asked for again.
    pub(super) fn burst(&self, workflow: &str, count: u64, at_once: u64) {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let next = Arc::new(AtomicU64::new(first));
        for _ in 0..at_once {
            let (door, next) = (self.door.clone(), Arc::clone(&next));
            let (workflow, incarnation) = (workflow.to_owned(), self.incarnation);
            tokio::spawn(async move {
                let mut refused = 0;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count {
                        break;
                    }
                    let key = format!("{workflow}/{incarnation}-{number}");
                    refused += u64::from(!start(&door, key).await);
                }
                if refused > 0 {
                    let what = OVERLOADED.to_owned();
                    Record::Counted { what, times: refused }.emit();
                }
            });
        }
    }
}

/// Asks for a start until it is acknowledged, or until another try would not mend it.
async fn start_patiently(door: &Door, key: String) {
    while let Err(why) = start_or_not(door, key.clone()).await {
        if !why.passes {
            let what = format!("start {key}: {}", why.what);
            Record::Trouble { what }.emit();
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What is counted when starts are refused because there is too much to do.
pub(super) const OVERLOADED: &str = "starts refused as too many";

/// Whether it was not refused as one too many.
async fn start(door: &Door, key: String) -> bool {
    match start_or_not(door, key.clone()).await {
        Ok(_) => true,
        Err(why) if why.code == "OVERLOADED" => false,
        Err(why) if why.passes => true,
        Err(why) => {
            let what = format!("start {key}: {}", why.what);
            Record::Trouble { what }.emit();
            true
        }
    }
}
