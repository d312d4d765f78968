//! The shards' shell: lease, recovery, wake-ups, what becomes of failed actors, and the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use troupe_actors::EngineError;
use troupe_actors::checkpointer::CheckpointItem;
use troupe_actors::checkpointer::machine::CheckpointerMachine;
use troupe_actors::committer::machine::CommitterMachine;
use troupe_actors::record::{Mark, read_header};
use troupe_actors::shard::machine::{FailureMachine, Verdict};
use troupe_actors::timers::machine::TimersMachine;
use troupe_core::{Epoch, ExecutionId, ShardId, Timestamp};
use troupe_ports::{Lease, LogRecord, StateStore, StoreError};

use super::events::{SAVE_AFTER, SINK};
use super::keys::head_of;
use super::process::{
    ActorNo, Checkpointer, CheckpointerMessage, Committer, CommitterMessage, EventSink, ExecutionMessage, LEASE_MS,
    ProcessNo, Resume, Serving, ShardMessage, Timers, TimersMessage,
};
use super::schedule::{Call, Caller, Timed};
use super::{World, at_once};

/// Rows that recovery lists at once: few, so that it pages.
const LIST_ROWS: usize = 3;
const RETRY_MS: u64 = 40;
/// Timers in memory: few, so that the window slides.
const TIMERS_MAX: usize = 4;
/// Bytes of log and milliseconds after which a checkpoint is due.
const CHECKPOINT: (usize, u64) = (16 * 1024, 60);

impl World {
    /// A shard that a process serves, and who it is towards the store.
    pub(super) fn caller(&mut self, process: ProcessNo, shard: ShardId) -> Option<(Caller, &mut Serving)> {
        let begun = self.now;
        let serving = self.processes.get_mut(&process)?.shards.get_mut(&shard)?;
        Some((
            Caller {
                process,
                shard,
                epoch: serving.epoch,
                begun,
            },
            serving,
        ))
    }

    /// The shard that a call was made for, if it is still served under the same epoch.
    pub(super) fn serving(&mut self, caller: Caller) -> Option<&mut Serving> {
        let serving = self.processes.get_mut(&caller.process)?.shards.get_mut(&caller.shard)?;
        (serving.epoch == caller.epoch).then_some(serving)
    }

    pub(super) fn acquire(&mut self, process: ProcessNo, shard: ShardId) {
        let now = self.now;
        let Some(state) = self.processes.get(&process) else {
            return;
        };
        if !state.shards.contains_key(&shard) {
            let caller = Caller {
                process,
                shard,
                epoch: Epoch(0),
                begun: now,
            };
            let owner = state.owner.clone();
            self.call(caller, Call::Acquire(owner));
        }
    }

    pub(super) fn acquired(&mut self, caller: Caller, lease: Result<Lease, StoreError>) {
        let Caller { process, shard, .. } = caller;
        let served = self
            .processes
            .get(&process)
            .is_some_and(|state| state.shards.contains_key(&shard));
        if served {
            return;
        }
        let opened = match lease {
            Ok(lease) => self.open(caller, &lease),
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            if let StoreError::Damaged(why) = error {
                self.trouble(format!("shard {shard} cannot be opened: {why}"));
            }
            let pause_ms = RETRY_MS + self.random.below(RETRY_MS);
            self.after(pause_ms, Timed::Acquire(process, shard));
        }
    }

    /// Reads the tail of the log and hands it to the machines beside the executions.
    fn open(&mut self, caller: Caller, lease: &Lease) -> Result<(), StoreError> {
        let Caller {
            process, shard, begun, ..
        } = caller;
        if !self.reaches(process) {
            return Err(StoreError::Unavailable("the tail of the log".into()));
        }
        let cursor = at_once(self.store.cursor(shard, SINK))?;
        at_once(self.store.set_cursor(shard, lease.epoch, SINK, cursor))?;
        let tail = at_once(self.store.read(shard, lease.checkpointed.next(), usize::MAX))?;
        let expected = lease.next.0.saturating_sub(1);
        let found = tail.last().map_or(lease.checkpointed.0, |record| record.position.0);
        if found < expected {
            // Whoever was slow may have lost the shard meanwhile to an owner that checkpointed and trimmed it.
            at_once(self.store.renew(shard, lease.epoch, self.context.options.lease))?;
            return Err(StoreError::Damaged(format!(
                "the log ends at {found} instead of {expected}"
            )));
        }
        let mut checkpointer = VecDeque::new();
        let mut marks: BTreeMap<ExecutionId, Mark> = BTreeMap::new();
        for LogRecord { position, bytes, .. } in tail {
            let (_, items) = read_header(&bytes).map_err(|error| StoreError::Damaged(error.to_string()))?;
            marks.extend(items.iter().map(|item| (item.id, item.mark)));
            let items = items.into_iter().map(|item| CheckpointItem {
                head: head_of(&bytes, &item),
                item,
                snapshot: None,
                end: None,
            });
            let items = items.collect();
            checkpointer.push_back(CheckpointerMessage::Committed {
                position,
                record: bytes,
                items,
            });
        }
        let parked = marks.iter().filter_map(|(id, mark)| match mark {
            Mark::Until(at) => Some((*at, *id)),
            Mark::Running | Mark::Message | Mark::Ended => None,
        });
        let timers = [TimersMessage::Tick, TimersMessage::Recovered(parked.collect())].into();
        let tail = marks
            .iter()
            .filter(|(_, mark)| **mark == Mark::Running)
            .map(|(id, _)| *id)
            .collect();
        let known: BTreeSet<ExecutionId> = marks.keys().copied().collect();
        let serving = Serving {
            epoch: lease.epoch,
            lease_until: lease_until(begun),
            inbox: VecDeque::new(),
            committer: Committer {
                machine: CommitterMachine::new(shard, lease.epoch, lease.next),
                inbox: VecDeque::new(),
                busy: false,
                stopped: false,
                barriers: Vec::new(),
            },
            checkpointer: Checkpointer {
                machine: CheckpointerMachine::new(CHECKPOINT.0, CHECKPOINT.1),
                inbox: checkpointer,
                ticking: false,
                writer: None,
            },
            timers: Timers {
                machine: TimersMachine::new(TIMERS_MAX),
                inbox: timers,
                armed: None,
            },
            events: EventSink::new(cursor, SAVE_AFTER),
            resume: Resume {
                tail,
                known,
                after: None,
                paused: false,
                done: false,
            },
            failures: FailureMachine::default(),
        };
        let caller = Caller {
            epoch: lease.epoch,
            ..caller
        };
        if let Some(state) = self.processes.get_mut(&process) {
            state.shards.insert(shard, serving);
        }
        self.count("recoveries");
        self.after(LEASE_MS / 3, Timed::RenewTick(caller));
        Ok(())
    }

    /// Resumes one execution that has unfinished work.
    pub(super) fn resume_step(&mut self, process: ProcessNo, shard: ShardId) {
        let reachable = self.reaches(process);
        let store = std::sync::Arc::clone(&self.store);
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let resume = &mut serving.resume;
        if let Some(id) = resume.tail.pop_front() {
            return self.deliver(process, id, ExecutionMessage::Recover);
        }
        if !reachable {
            resume.paused = true;
            return self.after(RETRY_MS, Timed::ResumeRetry(caller));
        }
        match at_once(store.running(shard, resume.after, LIST_ROWS)) {
            Ok(listed) => {
                resume.done = listed.is_empty();
                resume.after = listed.last().copied().or(resume.after);
                resume
                    .tail
                    .extend(listed.into_iter().filter(|id| !resume.known.contains(id)));
            }
            Err(error) => self.trouble(format!("recovery cannot list: {error}")),
        }
    }

    pub(super) fn resume_retry(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.resume.paused = false;
        }
    }

    pub(super) fn renew(&mut self, caller: Caller) {
        let now = self.now;
        if self.serving(caller).is_some() {
            self.call(Caller { begun: now, ..caller }, Call::Renew);
            self.after(LEASE_MS / 3, Timed::RenewTick(caller));
        }
    }

    pub(super) fn renewed(&mut self, caller: Caller, renewed: Result<Timestamp, StoreError>) {
        let Some(serving) = self.serving(caller) else { return };
        match renewed {
            Ok(_) => serving.lease_until = serving.lease_until.max(lease_until(caller.begun)),
            Err(StoreError::Fenced { .. } | StoreError::Held(_)) => serving.inbox.push_back(ShardMessage::Fenced),
            Err(StoreError::Unavailable(_) | StoreError::Damaged(_)) => {}
        }
    }

    pub(super) fn shard_step(&mut self, process: ProcessNo, shard: ShardId) {
        let now = self.now;
        let Some((_, serving)) = self.caller(process, shard) else {
            return;
        };
        match serving.inbox.pop_front() {
            None => {}
            Some(ShardMessage::Due(due)) => {
                for id in due {
                    self.deliver(process, id, ExecutionMessage::Wake);
                }
            }
            Some(ShardMessage::Fenced) => {
                self.count("fenced");
                self.leave(process, shard);
            }
            Some(ShardMessage::Halt(why)) => {
                self.trouble(format!("shard {shard} halts: {why}"));
                self.leave(process, shard);
            }
            Some(ShardMessage::Failed(actor)) => {
                let Some(state) = self.processes.get_mut(&process) else {
                    return;
                };
                let Some(execution) = state.executions.get(&actor) else {
                    return;
                };
                let (id, Some(serving)) = (execution.id, state.shards.get_mut(&shard)) else {
                    return;
                };
                if serving.failures.failed(id, now) == Verdict::Quarantine {
                    return self.quarantine(process, actor, id);
                }
                serving.committer.inbox.push_back(CommitterMessage::Barrier(actor, id));
            }
            Some(ShardMessage::Rebuild(actor, id)) => self.rebuild(process, actor, id),
        }
    }

    fn quarantine(&mut self, process: ProcessNo, actor: ActorNo, id: ExecutionId) {
        self.count("quarantined");
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let reason = "its actor failed again and again".to_owned();
        state.quarantine.insert(id, EngineError::Quarantined { id, reason });
        state.directory.remove(&id);
        self.drop_actor(process, actor);
    }

    fn rebuild(&mut self, process: ProcessNo, actor: ActorNo, id: ExecutionId) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        if state.directory.get(&id) != Some(&actor) {
            return;
        }
        state.directory.remove(&id);
        self.drop_actor(process, actor);
        self.count("rebuilt");
        self.deliver(process, id, ExecutionMessage::Wake);
    }

    /// Drops everything of a shard at once.
    pub(super) fn leave(&mut self, process: ProcessNo, shard: ShardId) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.shards.remove(&shard);
        let ours = state
            .executions
            .iter()
            .filter(|(_, execution)| execution.id.shard() == shard);
        let actors: Vec<ActorNo> = ours.map(|(actor, _)| *actor).collect();
        state.directory.retain(|id, _| id.shard() != shard);
        for actor in actors {
            self.drop_actor(process, actor);
        }
        self.after(RETRY_MS, Timed::Acquire(process, shard));
    }
}

/// Until when a lease holds that was asked for at `begun`, with the margin of the engine.
fn lease_until(begun: Timestamp) -> Timestamp {
    begun.plus_ms(LEASE_MS * 9 / 10)
}
