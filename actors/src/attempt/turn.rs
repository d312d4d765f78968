//! When an attempt's turn comes: what it waits for, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use troupe_core::NodeIx;
use troupe_core::plan::Plan;

use super::actor::Shared;
use super::leave::{Leave, LeaveNeeds};
use super::machine::Turn;
use crate::breakers::{Admitted, Answer, Guard};
use crate::context::ShardContext;
use crate::evaluation::RunningAttempts;

/// Pause before a lease that has lapsed is looked at again.
const LEASE_POLL: Duration = Duration::from_millis(20);

/// What an attempt waits for before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptWait {
    /// A slot of its key (`data.concurrency`).
    Slot,
    /// As many attempts of its node type as the engine allows run already.
    NodeType,
    /// As many attempts as the engine allows run already.
    Permit,
    /// Its target is unwell: the breaker is open.
    Breaker,
    /// Too many bytes wait for a bus or for the lists.
    Backlog,
}

impl AttemptWait {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Slot, Self::NodeType, Self::Permit, Self::Breaker, Self::Backlog];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::NodeType => "node_type",
            Self::Permit => "permit",
            Self::Breaker => "breaker",
            Self::Backlog => "backlog",
        }
    }
}

/// What one attempt waits for.
#[derive(Debug, Default)]
pub(super) struct Wait(AtomicU8);

impl Wait {
    pub(super) fn get(&self) -> Option<AttemptWait> {
        let place = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        AttemptWait::ALL.get(usize::from(place)).copied()
    }
}

/// How many attempts wait for what.
#[derive(Debug, Default)]
pub struct AttemptWaits([AtomicU64; AttemptWait::ALL.len()]);

impl AttemptWaits {
    /// How many wait for this.
    #[must_use]
    pub fn count(&self, what: AttemptWait) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}

/// Says what an attempt waits for until it is dropped.
struct Waiting<'a> {
    wait: &'a Wait,
    count: &'a AtomicU64,
}

impl<'a> Waiting<'a> {
    fn begin(shard: &'a ShardContext, shared: &'a Shared, what: AttemptWait) -> Self {
        let count = &shard.engine.counters.attempts_waiting.0[what as usize];
        count.fetch_add(1, Ordering::Relaxed);
        shared.wait.0.store(what as u8 + 1, Ordering::Relaxed);
        let wait = &shared.wait;
        Self { wait, count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wait.0.store(0, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an attempt needs to run.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) leave: LeaveNeeds,
    pub(super) guard: Option<Guard>,
    pub(super) plan: Arc<Plan>,
    pub(super) node: NodeIx,
    pub(super) running: Arc<RunningAttempts>,
}

/// Counts an attempt that runs, also when it is dropped.
#[derive(Debug)]
pub(super) struct Running<'a> {
    all: &'a AtomicU64,
    of_shard: &'a AtomicU64,
    of_node: &'a AtomicU32,
}

impl<'a> Running<'a> {
    fn new(shard: &'a ShardContext, of_node: &'a AtomicU32) -> Self {
        let (all, of_shard) = (&shard.engine.counters.attempts_running, &shard.attempts_running);
        all.fetch_add(1, Ordering::Relaxed);
        of_shard.fetch_add(1, Ordering::Relaxed);
        of_node.fetch_add(1, Ordering::Relaxed);
        Self { all, of_shard, of_node }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        self.of_shard.fetch_sub(1, Ordering::Relaxed);
        self.of_node.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The turn of an attempt that nothing keeps waiting, as [`my_turn`] would give it.
pub(super) fn turn_at_once<'a>(
    shard: &'a ShardContext,
    needs: &'a Needs,
    shared: &Shared,
) -> Option<(Leave, Option<Admitted>, Running<'a>)> {
    if !shard.gate.is_open(shard.engine.now()) || leaves(shard) {
        return None;
    }
    if shard.gauges.backlog_bytes() > shard.engine.options.backlog.hold_bytes {
        return None;
    }
    let leave = shard.engine.limits.leave_at_once(&needs.leave)?;
    if needs.guard.is_some() && shard.engine.breakers.any() {
        return None;
    }
    match enter(shard, needs, shared) {
        Some((Turn::Start, counted)) => Some((leave, None, counted?)),
        // Found again, and heeded, by who waits.
        Some((Turn::Aborted | Turn::Hold, _)) | None => None,
    }
}

/// Whoever takes the shard next dispatches what has not started; the actor is about to be dropped.
fn leaves(shard: &ShardContext) -> bool {
    shard.engine.draining.load(Ordering::Acquire) || shard.leaving.load(Ordering::Acquire)
}

/// Counted under the lock too: whoever has put a control in force sees every attempt that came before it. None where a control
/// lets nothing pass.
fn enter<'a>(shard: &'a ShardContext, needs: &'a Needs, shared: &Shared) -> Option<(Turn, Option<Running<'a>>)> {
    shard.controls.enter(&needs.plan, needs.node, || {
        let turn = shared.gate.start();
        let counted = matches!(turn, Turn::Start).then(|| Running::new(shard, needs.running.of(needs.node)));
        (turn, counted)
    })
}

/// Waits until nothing keeps the attempt from running: its key, the engine's limits, the lease, its target, which may be
/// unwell, and the execution, which may be paused. None when it was aborted.
///
/// One that is parked before its target holds nothing that others need.
pub(super) async fn my_turn<'a>(
    shard: &'a ShardContext,
    needs: &'a Needs,
    shared: &Shared,
) -> Option<(Leave, Option<Admitted>, Running<'a>)> {
    let mut admitted = None;
    loop {
        let leave = tokio::select! {
            biased;
            leave = leave(shard, needs, shared) => leave,
            () = shared.cancel.cancelled() => return None,
        };
        while !shard.gate.is_open(shard.engine.now()) {
            tokio::time::sleep(LEASE_POLL).await;
        }
        if !leave.holds() {
            // The store was away for longer than a slot lasts.
            continue;
        }
        if leaves(shard) {
            return std::future::pending().await;
        }
        let hold_bytes = shard.engine.options.backlog.hold_bytes;
        if shard.gauges.backlog_bytes() > hold_bytes {
            drop(leave);
            let _waiting = Waiting::begin(shard, shared, AttemptWait::Backlog);
            tokio::select! {
                () = shard.gauges.until_backlog_is_below(hold_bytes) => {}
                () = shared.cancel.cancelled() => return None,
            }
            continue;
        }
        if let (None, Some(guard)) = (&admitted, &needs.guard) {
            match guard.ask(&shard.engine, needs.leave.rank) {
                Answer::Unknown => {}
                Answer::Go(go) => admitted = Some(go),
                Answer::Parked(released) => {
                    drop(leave);
                    let _waiting = Waiting::begin(shard, shared, AttemptWait::Breaker);
                    tokio::select! {
                        released = released => admitted = released.ok(),
                        () = shared.cancel.cancelled() => return None,
                    }
                    continue;
                }
            }
        }
        match enter(shard, needs, shared) {
            Some((Turn::Start, counted)) => return counted.map(|counted| (leave, admitted, counted)),
            Some((Turn::Aborted, _)) => return None,
            None => {
                drop(leave);
                // Another one may go meanwhile.
                admitted = None;
                tokio::select! {
                    () = shard.controls.let_pass(&needs.plan, needs.node) => {}
                    () = shared.cancel.cancelled() => return None,
                }
            }
            Some((Turn::Hold, _)) => {
                drop(leave);
                // Another one may go meanwhile.
                admitted = None;
                shared.wake.notified().await;
            }
        }
    }
}

async fn leave(shard: &ShardContext, needs: &Needs, shared: &Shared) -> Leave {
    let waits = |what| Waiting::begin(shard, shared, what);
    shard.engine.limits.leave(&needs.leave, waits).await
}
