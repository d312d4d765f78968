//! The shards' shell: lease, recovery, wake-ups, what becomes of failed actors, and the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use troupe_actors::EngineError;
use troupe_actors::checkpointer::machine::CheckpointerMachine;
use troupe_actors::checkpointer::{CheckpointItem, Pending};
use troupe_actors::committer::machine::CommitterMachine;
use troupe_actors::execution::load::{Loaded, load_over};
use troupe_actors::record::{Mark, read_header};
use troupe_actors::shard::machine::{FailureMachine, Verdict};
use troupe_actors::sinks::spool::SpoolIndex;
use troupe_actors::timers::machine::TimersMachine;
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId, Timestamp};
use troupe_ports::{ExecutionCursor, ExecutionQuery, Lease, LogRecord, StateStore, StoreError, VisibilityStore};

use super::events::{CALL, SAVE_AFTER, SINK};
use super::keys::head_of;
use super::lists::changes_lists;
use super::process::{
    ActorNo, Checkpointer, CheckpointerMessage, Committer, CommitterMessage, EventSink, ExecutionMessage, LEASE_MS,
    Lists, ListsMessage, ProcessNo, Resume, Serving, ShardMessage, Sweep, Timers, TimersMessage,
};
use super::rooms::room_of;
use super::schedule::{Call, Caller, Timed};
use super::{World, at_once};
use crate::crash::Record;

/// Rows that recovery lists at once: few, so that it pages.
const LIST_ROWS: usize = 3;
const RETRY_MS: u64 = 40;
/// Pause before the store is asked again to remember that an execution is set aside.
const SAVE_AGAIN_MS: u64 = 100;
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
        if !state.shards.contains_key(&shard) && state.stopping.is_none() {
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
            .is_some_and(|state| state.shards.contains_key(&shard) || state.stopping.is_some());
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
        let mutants = self.options.mutants;
        let cursor = at_once(self.store.cursor(shard, SINK))?;
        at_once(self.store.set_cursor(shard, lease.epoch, SINK, cursor))?;
        let spool = SpoolIndex::new(at_once(self.store.spool_extent(shard, SINK))?);
        let projected = at_once(self.lists.projected(shard))?;
        let from = lease.checkpointed.min(projected).next();
        let tail = at_once(self.store.read(shard, from, usize::MAX))?;
        let expected = lease.next.0.saturating_sub(1);
        let found = tail.last().map_or(lease.checkpointed.0, |record| record.position.0);
        if found < expected && lease.checkpointed.0 < expected {
            // Whoever was slow may have lost the shard meanwhile to an owner that checkpointed and trimmed it.
            at_once(self.store.renew(shard, lease.epoch, self.context.options.lease))?;
            return Err(StoreError::Damaged(format!(
                "the log ends at {found} instead of {expected}"
            )));
        }
        let set_aside = at_once(self.store.quarantined(shard))?;
        let mut checkpointer = CheckpointerMachine::new(CHECKPOINT.0, CHECKPOINT.1).with(mutants);
        let mut marks: BTreeMap<ExecutionId, Mark> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        for LogRecord { position, bytes, .. } in tail {
            let (_, items) = read_header(&bytes).map_err(|error| StoreError::Damaged(error.to_string()))?;
            if position > projected {
                let executions = items.iter().filter(|item| !item.id.is_controls());
                let listed = executions.filter(|item| changes_lists(&bytes, item));
                changed.extend(listed.map(|item| item.id));
            }
            if position <= lease.checkpointed {
                continue;
            }
            let executions = items.iter().filter(|item| !item.id.is_controls());
            marks.extend(executions.map(|item| (item.id, item.mark)));
            let items = items.into_iter().map(|item| CheckpointItem {
                head: head_of(&bytes, &item),
                item,
                snapshot: None,
                end: None,
            });
            checkpointer.committed(position, &bytes, items.collect(), self.now);
        }
        let pending = checkpointer.pending(ExecutionId::controls(shard));
        let controls = self.controls_of(shard, pending.map(|pending| pending.frames).unwrap_or_default())?;
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
                machine: CommitterMachine::new(shard, lease.epoch, lease.next).with(mutants),
                inbox: VecDeque::new(),
                busy: false,
                stopped: false,
                barriers: Vec::new(),
                told: Vec::new(),
            },
            checkpointer: Checkpointer {
                machine: checkpointer,
                inbox: [CheckpointerMessage::Tick].into(),
                ticking: false,
                writer: None,
            },
            timers: Timers {
                machine: TimersMachine::new(TIMERS_MAX).with(mutants),
                inbox: timers,
                armed: None,
            },
            events: EventSink::new(cursor, spool, SAVE_AFTER, CALL),
            lists: Lists::new(),
            mail: BTreeMap::new(),
            resume: Resume {
                tail,
                known,
                after: None,
                children: VecDeque::new(),
                sweep: Sweep::NotYet,
                swept: false,
                paused: false,
                done: false,
            },
            failures: FailureMachine::new(mutants),
            released: lease.released,
            failed: BTreeSet::new(),
            closing: false,
            gives_back: false,
            controls,
        };
        let caller = Caller {
            epoch: lease.epoch,
            ..caller
        };
        for (id, _) in &set_aside {
            let pending = serving.checkpointer.machine.pending(*id);
            self.keep_room(process, *id, pending.as_ref())?;
        }
        if let Some(state) = self.processes.get_mut(&process) {
            state.shards.insert(shard, serving);
            let quarantined = |(id, reason)| (id, EngineError::Quarantined { id, reason });
            state.quarantine.retain(|id, _| id.shard() != shard);
            state.quarantine.extend(set_aside.into_iter().map(quarantined));
        }
        self.list_anew(caller, LogPosition(expected), changed)?;
        self.count("recoveries");
        self.heed_controls(process, shard);
        self.after(0, Timed::CancelStopped(caller, 0));
        self.reconcile(process);
        self.after(LEASE_MS / 3, Timed::RenewTick(caller));
        self.forget_regularly(caller);
        Ok(())
    }

    /// What is set aside runs, where only so many may.
    fn keep_room(&mut self, process: ProcessNo, id: ExecutionId, pending: Option<&Pending>) -> Result<(), StoreError> {
        match at_once(load_over(&self.context, id, pending)) {
            Ok(Loaded::Found(found)) if found.state.has_room() => {
                let asking = room_of(&found.compiled.plan, &found.state);
                if let (Some((key, asking)), Some(state)) = (asking, self.processes.get_mut(&process)) {
                    state.rooms.runs(key, asking.id);
                    self.count("set aside with room");
                }
            }
            Ok(Loaded::Found(found)) if found.state.status.is_terminal() => self.leave_room(process, id),
            Ok(Loaded::Found(_) | Loaded::Missing | Loaded::Tombstone(_)) => {}
            Err(EngineError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
            Err(error) => self.trouble(format!("{id} is set aside and cannot be loaded: {error}")),
        }
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
        if let Some(id) = resume.tail.pop_front().or_else(|| resume.next_child()) {
            return self.deliver(process, id, ExecutionMessage::Recover);
        }
        if !reachable {
            resume.paused = true;
            return self.after(RETRY_MS, Timed::ResumeRetry(caller));
        }
        if let Sweep::Listing(after) = resume.sweep {
            return self.sweep_children(caller, after);
        }
        match at_once(store.running(shard, resume.after, LIST_ROWS)) {
            Ok(listed) => {
                if listed.is_empty() {
                    resume.sweep = Sweep::Listing(None);
                }
                resume.after = listed.last().copied().or(resume.after);
                resume
                    .tail
                    .extend(listed.into_iter().filter(|id| !resume.known.contains(id)));
            }
            Err(error) => self.trouble(format!("recovery cannot list: {error}")),
        }
    }

    /// What lists lack of the tail, before anything goes on.
    fn list_anew(
        &mut self,
        caller: Caller,
        last: LogPosition,
        changed: BTreeSet<ExecutionId>,
    ) -> Result<(), StoreError> {
        let summaries = match self.summaries_of(caller, changed) {
            Ok(summaries) => summaries,
            Err(error) => {
                if let Some(state) = self.processes.get_mut(&caller.process) {
                    state.shards.remove(&caller.shard);
                }
                return Err(error);
            }
        };
        let Some(serving) = self.serving(caller) else {
            return Ok(());
        };
        let open = summaries
            .iter()
            .filter(|summary| summary.parent.is_some() && summary.ended_at.is_none());
        serving.resume.children = open.map(|summary| summary.id).collect();
        if !summaries.is_empty() {
            serving.lists.inbox.push_back(ListsMessage::Changed(last, summaries));
        }
        Ok(())
    }

    /// Children that only wait are loaded too, and ask their parents: what those told them last may be lost.
    fn sweep_children(&mut self, caller: Caller, after: Option<ExecutionCursor>) {
        let query = ExecutionQuery {
            status: Some("running".to_owned()),
            id_prefix: Some(format!("{:04x}", caller.shard.0)),
            children: true,
            cursor: after,
            limit: LIST_ROWS,
            ..ExecutionQuery::default()
        };
        let listed = at_once(self.lists.list(query));
        let Some(serving) = self.serving(caller) else { return };
        let resume = &mut serving.resume;
        match listed {
            Ok(page) => {
                resume.children.extend(page.items.iter().map(|child| child.id));
                match page.next {
                    Some(next) => resume.sweep = Sweep::Listing(Some(next)),
                    None => resume.swept = true,
                }
                resume.done = resume.swept && resume.children.is_empty();
            }
            Err(error) => self.trouble(format!("children cannot be listed: {error}")),
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
            Err(StoreError::Unavailable(_) | StoreError::WentBack(_) | StoreError::Damaged(_)) => {}
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
                serving.failed.insert(id);
                if serving.failures.failed(id, now) == Verdict::Quarantine {
                    return self.quarantine(process, actor, id);
                }
                serving.committer.inbox.push_back(CommitterMessage::Barrier(actor, id));
            }
            Some(ShardMessage::Rebuild(actor, id)) => self.rebuild(process, actor, id),
            Some(ShardMessage::Control(request, number)) => self.control_shard(process, shard, *request, number),
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
        self.record(Record::SetAside { id });
        self.save_quarantine(process, id);
    }

    /// Until the store has it, a restart would try the execution again.
    pub(super) fn save_quarantine(&mut self, process: ProcessNo, id: ExecutionId) {
        let reachable = self.reaches(process);
        let Some((caller, serving)) = self.caller(process, id.shard()) else {
            return;
        };
        let pending = serving.checkpointer.machine.pending(id);
        let Some(EngineError::Quarantined { reason, .. }) =
            self.processes.get(&process).and_then(|state| state.quarantine.get(&id))
        else {
            return;
        };
        let reason = reason.clone();
        let reason = Some(reason.as_str());
        self.store.set_reachable(reachable);
        let has_room = self.keep_room(process, id, pending.as_ref());
        self.store.set_reachable(true);
        let saved = has_room.is_ok()
            && reachable
            && at_once(self.store.set_quarantine(caller.shard, caller.epoch, id, reason)).is_ok();
        if !saved {
            self.after(SAVE_AGAIN_MS, Timed::SaveQuarantine(process, id));
        }
    }

    /// An operator takes back what is set aside.
    pub(super) fn take_one_back(&mut self, process: ProcessNo, id: ExecutionId) {
        let Some((caller, _)) = self.caller(process, id.shard()) else {
            return;
        };
        if at_once(self.store.set_quarantine(caller.shard, caller.epoch, id, None)).is_err() {
            return;
        }
        if let Some(state) = self.processes.get_mut(&process) {
            state.quarantine.remove(&id);
        }
        self.count("released");
        self.deliver(process, id, ExecutionMessage::Wake);
    }

    fn rebuild(&mut self, process: ProcessNo, actor: ActorNo, id: ExecutionId) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        let Some(serving) = state.shards.get(&id.shard()) else {
            return;
        };
        let serving_epoch = serving.epoch.0;
        if state.directory.get(&id) != Some(&actor) {
            return;
        }
        state.directory.remove(&id);
        self.drop_actor(process, actor);
        self.count("rebuilt");
        let (epoch, at) = (serving_epoch, self.now);
        self.record(Record::Restarted { id, epoch, at });
        self.deliver(process, id, ExecutionMessage::Wake);
        self.ask_children(process, id);
    }

    /// Drops everything of a shard at once.
    pub(super) fn leave(&mut self, process: ProcessNo, shard: ShardId) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.shards.remove(&shard);
        self.withdraw(process, shard);
        self.after(RETRY_MS, Timed::Acquire(process, shard));
        self.end_if_let_go(process);
    }

    /// Drops every execution of a shard.
    pub(super) fn withdraw(&mut self, process: ProcessNo, shard: ShardId) {
        let Some(state) = self.processes.get_mut(&process) else {
            return;
        };
        state.rooms.forget_shard(shard);
        // Whoever waits for it repeats what it asked.
        state.spreading.retain(|_, spreading| !spreading.waits_for(shard));
        state.quarantine.retain(|id, _| id.shard() != shard);
        state.expiring.retain(|id| id.shard() != shard);
        let ours = state
            .executions
            .iter()
            .filter(|(_, execution)| execution.id.shard() == shard);
        let actors: Vec<ActorNo> = ours.map(|(actor, _)| *actor).collect();
        state.directory.retain(|id, _| id.shard() != shard);
        for actor in actors {
            self.drop_actor(process, actor);
        }
    }
}

/// Until when a lease holds that was asked for at `begun`, with the margin of the engine.
fn lease_until(begun: Timestamp) -> Timestamp {
    begun.plus_ms(LEASE_MS * 9 / 10)
}
