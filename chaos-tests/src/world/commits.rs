//! The committer's shell, and the store at the other end of its calls.

use bytes::Bytes;
use troupe_actors::checkpointer::CheckpointItem;
use troupe_actors::committer::machine::{Action, Batch};
use troupe_core::{LogPosition, ShardId};
use troupe_ports::{AppendError, CommitId, StateStore, StoreError, VisibilityStore};

use super::controls::ControlNotify;
use super::process::{
    ActorNo, CheckpointerMessage, CommitterMessage, ExecutionMessage, ListsMessage, ProcessNo, ShardMessage,
};
use super::schedule::{Answer, Call, Caller, Timed};
use super::{World, at_once};
use crate::crash::Record;

impl World {
    pub(super) fn committer_step(&mut self, process: ProcessNo, shard: ShardId) {
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let committer = &mut serving.committer;
        let action = match committer.inbox.pop_front() {
            None => return,
            Some(CommitterMessage::Append(appends)) => {
                if committer.machine.gather(appends) {
                    committer.inbox.push_back(CommitterMessage::Flush);
                }
                return;
            }
            Some(CommitterMessage::Held(appends)) => return committer.machine.hold(appends),
            Some(CommitterMessage::Go) => {
                if committer.machine.go() {
                    committer.inbox.push_back(CommitterMessage::Flush);
                }
                return;
            }
            Some(CommitterMessage::Control(entry, notify)) => {
                if committer.machine.gather_control(*entry, notify) {
                    committer.inbox.push_back(CommitterMessage::Flush);
                }
                return;
            }
            Some(CommitterMessage::ControlBarrier(told)) => {
                committer.told.push(told);
                committer.machine.begin()
            }
            Some(CommitterMessage::Flush) => committer.machine.begin(),
            Some(CommitterMessage::Barrier(actor, id)) => {
                committer.barriers.push((actor, id));
                committer.machine.begin()
            }
        };
        self.commit(caller, action);
    }

    fn commit(&mut self, caller: Caller, action: Action<ActorNo, ControlNotify>) {
        let Some(serving) = self.serving(caller) else { return };
        let committer = &mut serving.committer;
        committer.busy = false;
        match action {
            Action::Idle => {
                for (actor, id) in std::mem::take(&mut committer.barriers) {
                    serving.inbox.push_back(ShardMessage::Rebuild(actor, id));
                }
                for told in std::mem::take(&mut committer.told) {
                    self.told_shard(caller, told);
                }
                self.give_back(caller);
            }
            Action::Append {
                position,
                commit,
                record,
            } => {
                committer.busy = true;
                self.call(
                    caller,
                    Call::Append {
                        position,
                        commit,
                        record,
                    },
                );
            }
            Action::Probe(position) => {
                committer.busy = true;
                self.count("probes");
                self.call(caller, Call::Probe(position));
            }
            Action::Wait(wait_ms) => {
                committer.busy = true;
                self.after(wait_ms, Timed::CommitterRetry(caller));
            }
            Action::Committed(batch) => {
                self.release(caller, batch);
                self.commit(caller, Action::Idle);
            }
            Action::Fenced => {
                committer.stopped = true;
                serving.inbox.push_back(ShardMessage::Fenced);
            }
            // Nothing that this store acknowledges is lost.
            Action::WentBack(why) | Action::Halt(why) => {
                committer.stopped = true;
                serving.inbox.push_back(ShardMessage::Halt(why));
            }
        }
    }

    /// Entries that were held wait no longer.
    pub(super) fn go(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.committer.inbox.push_back(CommitterMessage::Go);
        }
    }

    pub(super) fn committer_retry(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            let action = serving.committer.machine.retry();
            self.commit(caller, action);
        }
    }

    /// Hands a durable batch to everyone who waited: first those who keep it, then those who act on it.
    fn release(&mut self, caller: Caller, batch: Batch<ActorNo, ControlNotify>) {
        let Batch {
            position,
            record,
            items,
            appends,
            controls,
        } = batch;
        self.count("commits");
        *self.counts.entry("entries").or_default() += items.len() as u64;
        let mut told: Vec<(ActorNo, troupe_core::Seq)> = Vec::new();
        let mut kept = Vec::with_capacity(items.len());
        let mut summaries = Vec::new();
        let mut items = items.into_iter();
        for (item, append) in items.by_ref().take(appends.len()).zip(appends) {
            let draft = *append.draft;
            summaries.extend(draft.summary.map(|summary| *summary));
            match told.last_mut() {
                Some((actor, last)) if *actor == append.notify => *last = draft.entry.seq,
                _ => told.push((append.notify, draft.entry.seq)),
            }
            kept.push(CheckpointItem {
                item,
                snapshot: draft.snapshot,
                end: draft.end,
                head: draft.head,
            });
        }
        for (item, (entry, notify)) in items.zip(controls) {
            kept.push(CheckpointItem {
                item,
                snapshot: Some(notify.snapshot()),
                end: None,
                head: None,
            });
            self.control_committed(caller, &entry, notify);
        }
        if let Some(serving) = self.serving(caller) {
            if !summaries.is_empty() {
                serving
                    .lists
                    .inbox
                    .push_back(ListsMessage::Changed(position, summaries));
            }
            let committed = CheckpointerMessage::Committed {
                position,
                record: record.clone(),
                items: kept,
            };
            serving.checkpointer.inbox.push_back(committed);
        }
        self.offer_events(caller, position, record);
        let Some(state) = self.processes.get_mut(&caller.process) else {
            return;
        };
        for (actor, seq) in told {
            if let Some(execution) = state.executions.get_mut(&actor) {
                execution.inbox.push_back(ExecutionMessage::Durable(seq));
            }
        }
    }

    /// Whether a process reaches the store.
    pub(super) fn reaches(&self, process: ProcessNo) -> bool {
        self.store_up && self.processes.get(&process).is_some_and(|state| !state.partitioned)
    }

    /// Calls the store: the call travels, and so does its answer; either may be lost.
    pub(super) fn call(&mut self, caller: Caller, call: Call) {
        let travel_ms = self.random.below(3);
        let reaches = self.reaches(caller.process);
        let unknown = !reaches || !self.healed && self.random.once_in(25);
        if !unknown {
            return self.after(
                travel_ms,
                Timed::Arrive {
                    caller,
                    call,
                    answered: true,
                },
            );
        }
        self.count(if matches!(call, Call::Append { .. }) {
            "unknown appends"
        } else {
            "unknown calls"
        });
        let answer = unavailable(&call);
        // Whatever cannot be reached now may still be on its way; only another machine's store can take its time.
        let arrives_after_ms = match self.random.below(3) {
            0 => None,
            1 => Some(travel_ms),
            _ => Some(if self.scenario.remote {
                self.random.below(200)
            } else {
                travel_ms
            }),
        };
        let lost = !reaches && !self.scenario.remote;
        if let Some(after_ms) = arrives_after_ms.filter(|_| !lost) {
            self.after(
                after_ms,
                Timed::Arrive {
                    caller,
                    call,
                    answered: false,
                },
            );
        }
        let waited_ms = travel_ms + self.random.below(30);
        self.after(waited_ms, Timed::Answered(caller, answer));
    }

    pub(super) fn arrive(&mut self, caller: Caller, call: Call, answered: bool) {
        let Caller { shard, epoch, .. } = caller;
        let answer = match call {
            Call::Append {
                position,
                commit,
                record,
            } => match self.write(caller, position, commit, record) {
                Ok(()) if self.options.answers_unsynced => {
                    if !answered {
                        return;
                    }
                    Answer::Appended(Ok(()))
                }
                Ok(()) => {
                    let sync_ms = if self.scenario.remote { 0 } else { self.random.below(3) };
                    return self.after(sync_ms, Timed::Synced { caller, answered });
                }
                Err(error) => Answer::Appended(Err(error)),
            },
            Call::Probe(position) => {
                let read = at_once(self.store.read(shard, position, 1));
                Answer::Probed(read.map(|tail| {
                    tail.first()
                        .filter(|record| record.position == position)
                        .map(|record| record.commit)
                }))
            }
            Call::Acquire(owner) => {
                let acquired = at_once(self.store.acquire(shard, &owner, self.context.options.lease));
                if let Ok(lease) = &acquired {
                    self.record(Record::Acquired {
                        shard: shard.0,
                        epoch: lease.epoch.0,
                        next: lease.next.0,
                    });
                }
                Answer::Acquired(acquired)
            }
            Call::Release => {
                // Where that cannot be done the lease runs out.
                let released = at_once(self.store.release(shard, epoch));
                self.count(if released.is_ok() {
                    "leases given back"
                } else {
                    "leases lost before"
                });
                Answer::Released
            }
            Call::Renew => Answer::Renewed(at_once(self.store.renew(shard, epoch, self.context.options.lease))),
            Call::Checkpoint(rows, reached) => {
                Answer::Written(at_once(self.store.checkpoint(shard, epoch, rows, reached)))
            }
            Call::SetCursor(to) => {
                let set = at_once(self.store.set_cursor(shard, epoch, super::events::SINK, to));
                Answer::CursorSet(to, set)
            }
            Call::Spool { up_to, chunk, reached } => {
                let bytes = chunk.len() as u64;
                let spooled = at_once(self.store.spool(shard, epoch, super::events::SINK, up_to, chunk));
                Answer::Spooled((up_to, bytes, reached), spooled)
            }
            Call::Project(summaries, up_to) => {
                Answer::Projected(at_once(self.lists.project(shard, None, summaries, up_to)))
            }
            Call::Trim(up_to) => Answer::Written(at_once(self.store.trim(shard, epoch, up_to))),
        };
        self.send_back(caller, answer, answered);
    }

    /// A planted fault lets whoever comes pass for the owner.
    fn write(
        &mut self,
        caller: Caller,
        position: LogPosition,
        commit: CommitId,
        record: Bytes,
    ) -> Result<(), AppendError> {
        let Caller { shard, epoch, .. } = caller;
        let epoch = if self.options.no_epoch_check {
            self.store.epoch(shard)
        } else {
            epoch
        };
        self.store.write(shard, epoch, position, commit, record)
    }

    pub(super) fn synced(&mut self, caller: Caller, answered: bool) {
        self.store.sync(caller.shard);
        self.send_back(caller, Answer::Appended(Ok(())), answered);
    }

    fn send_back(&mut self, caller: Caller, answer: Answer, answered: bool) {
        self.note(format_args!("{} {} {answer:?}", caller.process, caller.shard));
        if let Answer::Appended(Err(AppendError::Store(StoreError::Fenced { .. }))) = &answer {
            self.count("fenced appends");
        }
        if answered {
            let travel_ms = self.random.below(2);
            self.after(travel_ms, Timed::Answered(caller, answer));
        }
    }

    pub(super) fn answered(&mut self, caller: Caller, answer: Answer) {
        match answer {
            Answer::Acquired(lease) => self.acquired(caller, lease),
            Answer::Released => self.given_back(caller),
            Answer::Renewed(renewed) => self.renewed(caller, renewed),
            Answer::Written(written) => self.written(caller, written),
            Answer::CursorSet(to, set) => self.cursor_set(caller, to, set),
            Answer::Spooled(what, spooled) => self.spooled(caller, what, spooled),
            Answer::Projected(written) => self.lists_written(caller, written),
            Answer::Appended(appended) => {
                if let Some(serving) = self.serving(caller) {
                    let action = serving.committer.machine.appended(appended);
                    self.commit(caller, action);
                }
            }
            Answer::Probed(probed) => {
                if let Some(serving) = self.serving(caller) {
                    let action = serving.committer.machine.probed(probed);
                    self.commit(caller, action);
                }
            }
        }
    }
}

fn unavailable(call: &Call) -> Answer {
    let error = StoreError::Unavailable("nobody answers".into());
    match call {
        Call::Acquire(_) => Answer::Acquired(Err(error)),
        Call::Release => Answer::Released,
        Call::Renew => Answer::Renewed(Err(error)),
        Call::Append { .. } => Answer::Appended(Err(AppendError::Store(error))),
        Call::Probe(_) => Answer::Probed(Err(error)),
        Call::Checkpoint(..) | Call::Trim(_) => Answer::Written(Err(error)),
        Call::SetCursor(to) => Answer::CursorSet(*to, Err(error)),
        Call::Spool { up_to, chunk, reached } => Answer::Spooled((*up_to, chunk.len() as u64, *reached), Err(error)),
        Call::Project(..) => Answer::Projected(Err(error)),
    }
}
