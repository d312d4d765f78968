//! The projection for lists: the store that a world's lists live in, and the shell of the actor that writes them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use troupe_actors::EngineError;
use troupe_actors::execution::load::{Loaded, load_over};
use troupe_actors::execution::view::{changes_summary, summary};
use troupe_actors::record::{RecordItem, read_frames};
use troupe_core::{Epoch, ExecutionId, LogPosition, ShardId};
use troupe_ports::{ExecutionCursor, ExecutionQuery, ExecutionSummary, Page, StoreError, VisibilityStore};

use super::process::{ListsMessage, ProcessNo};
use super::schedule::{Call, Caller, Timed};
use super::{World, at_once};

/// Pause before what gathered is written.
const WRITE_AFTER_MS: u64 = 10;
/// Pause before a write is repeated.
const RETRY_MS: u64 = 25;

/// Lists in memory, with the contract of [`VisibilityStore`].
#[derive(Debug)]
pub(super) struct SimulatedLists {
    rows: Mutex<BTreeMap<ExecutionId, ExecutionSummary>>,
    projected: Mutex<BTreeMap<ShardId, LogPosition>>,
}

impl SimulatedLists {
    pub(super) fn new() -> Self {
        Self {
            rows: Mutex::default(),
            projected: Mutex::default(),
        }
    }

    /// Everything that is listed.
    pub(super) fn rows(&self) -> BTreeMap<ExecutionId, ExecutionSummary> {
        lock(&self.rows).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while it was held fails the test anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl VisibilityStore for SimulatedLists {
    async fn project(
        &self,
        shard: ShardId,
        _: Option<Epoch>,
        summaries: Vec<ExecutionSummary>,
        up_to: LogPosition,
    ) -> Result<(), StoreError> {
        let mut rows = lock(&self.rows);
        for summary in summaries {
            if rows.get(&summary.id).is_none_or(|known| known.seq < summary.seq) {
                rows.insert(summary.id, summary);
            }
        }
        let mut projected = lock(&self.projected);
        let known = projected.entry(shard).or_default();
        *known = (*known).max(up_to);
        Ok(())
    }

    async fn rewind(&self, shard: ShardId, _: Option<Epoch>, to: LogPosition) -> Result<(), StoreError> {
        if let Some(known) = lock(&self.projected).get_mut(&shard) {
            *known = (*known).min(to);
        }
        Ok(())
    }

    async fn correct(
        &self,
        _: ShardId,
        _: Option<Epoch>,
        ahead: &[ExecutionId],
        left: Vec<ExecutionSummary>,
    ) -> Result<(), StoreError> {
        let mut rows = lock(&self.rows);
        ahead.iter().for_each(|id| drop(rows.remove(id)));
        rows.extend(left.into_iter().map(|summary| (summary.id, summary)));
        Ok(())
    }

    async fn projected(&self, shard: ShardId) -> Result<LogPosition, StoreError> {
        Ok(lock(&self.projected).get(&shard).copied().unwrap_or_default())
    }

    /// Knows what the engine itself asks: which children, of one execution or of all, or executions of a workflow are open, newest
    /// first.
    async fn list(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError> {
        let rows = lock(&self.rows);
        let place = |row: &ExecutionSummary| (row.started_at, row.id);
        let mut found: Vec<ExecutionSummary> = rows
            .values()
            .filter(|row| {
                query
                    .parent
                    .map_or(!query.children || row.parent.is_some(), |of| row.parent == Some(of))
            })
            .filter(|row| {
                query
                    .workflow_id
                    .as_ref()
                    .is_none_or(|workflow| *workflow == row.workflow_id)
            })
            .filter(|row| query.status.as_ref().is_none_or(|status| *status == row.status))
            .filter(|row| {
                let prefix = query.id_prefix.as_deref().unwrap_or_default();
                row.id.to_string().starts_with(prefix)
            })
            .filter(|row| query.cursor.is_none_or(|last| place(row) < (last.started_at, last.id)))
            .cloned()
            .collect();
        found.sort_by_key(|row| std::cmp::Reverse(place(row)));
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| more).map(ExecutionCursor::from);
        Ok(Page { items: found, next })
    }

    async fn forget(&self, _: ShardId, _: Option<Epoch>, ids: &[ExecutionId]) -> Result<(), StoreError> {
        let mut rows = lock(&self.rows);
        ids.iter().for_each(|id| drop(rows.remove(id)));
        Ok(())
    }
}

impl World {
    pub(super) fn lists_step(&mut self, process: ProcessNo, shard: ShardId) {
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let lists = &mut serving.lists;
        match lists.inbox.pop_front() {
            None => {}
            Some(ListsMessage::Changed(position, summaries)) => {
                let arms = lists.machine.changed(position, summaries) && !lists.armed;
                lists.armed |= arms;
                self.after_if(arms, WRITE_AFTER_MS, Timed::ListsTick(caller));
            }
            Some(ListsMessage::Write) => {
                lists.armed = false;
                self.write_lists(caller);
            }
            Some(ListsMessage::Forget) => {
                lists.forgetting = true;
                self.write_lists(caller);
            }
            Some(ListsMessage::Flush(position)) => {
                lists.machine.reached(position);
                lists.flushing = true;
                self.write_lists(caller);
            }
        }
    }

    fn after_if(&mut self, wanted: bool, ms: u64, event: Timed) {
        if wanted {
            self.after(ms, event);
        }
    }

    fn write_lists(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        let lists = &mut serving.lists;
        lists.busy = true;
        let (summaries, up_to) = lists.machine.take();
        lists.writing = summaries.clone();
        self.call(caller, Call::Project(summaries, up_to));
    }

    pub(super) fn lists_written(&mut self, caller: Caller, written: Result<(), StoreError>) {
        let Some(serving) = self.serving(caller) else { return };
        let lists = &mut serving.lists;
        lists.busy = false;
        let summaries = std::mem::take(&mut lists.writing);
        let flushed = std::mem::take(&mut lists.flushing);
        let forgets = std::mem::take(&mut lists.forgetting);
        if written.is_ok() {
            if flushed && let Some(writer) = &mut serving.checkpointer.writer {
                writer.projected();
            }
            if forgets {
                self.lists_are_clean(caller, true);
            }
            return self.count("lists written");
        }
        lists.machine.put_back(summaries);
        let armed = std::mem::replace(&mut lists.armed, true);
        if flushed && let Some(writer) = &mut serving.checkpointer.writer {
            writer.not_projected();
        }
        if !armed {
            self.after(RETRY_MS, Timed::ListsTick(caller));
        }
        if forgets {
            self.lists_are_clean(caller, false);
        }
    }

    pub(super) fn lists_tick(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.lists.inbox.push_back(ListsMessage::Write);
        }
    }

    /// Summaries of executions whose latest change was committed and not projected.
    pub(super) fn summaries_of(
        &mut self,
        caller: Caller,
        changed: impl IntoIterator<Item = ExecutionId>,
    ) -> Result<Vec<ExecutionSummary>, StoreError> {
        let mut summaries = Vec::new();
        for id in changed {
            let Some(serving) = self.serving(caller) else { break };
            let pending = serving.checkpointer.machine.pending(id);
            match at_once(load_over(&self.context, id, pending.as_ref())) {
                Ok(Loaded::Found(found)) => summaries.push(summary(&found.state, &found.compiled.plan)),
                Ok(Loaded::Missing | Loaded::Tombstone(_)) => {}
                Err(EngineError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
                Err(error) => self.trouble(format!("{id} cannot be listed: {error}")),
            }
        }
        Ok(summaries)
    }
}

/// Whether an entry of a record changed what lists show.
pub(super) fn changes_lists(record: &[u8], item: &RecordItem) -> bool {
    let mut entries = read_frames(&record[item.frame.clone()]);
    entries
        .next()
        .is_some_and(|entry| entry.is_ok_and(|entry| changes_summary(&entry)))
}
