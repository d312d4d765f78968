//! An execution's actor failed: its children ask what it wants of them, as in `actors/src/shard/lost_word.rs`.

use troupe_core::ExecutionId;
use troupe_ports::{ExecutionCursor, ExecutionQuery, VisibilityStore};

use super::process::{ExecutionMessage, ProcessNo};
use super::schedule::{Caller, Timed};
use super::{World, at_once};

/// Children that are asked for at once: few, so that it takes several pages.
const LIST_ROWS: usize = 2;
/// Pause before lists are asked again.
const ASK_AGAIN_MS: u64 = 20;

impl World {
    pub(super) fn ask_children(&mut self, process: ProcessNo, parent: ExecutionId) {
        let shard = parent.shard();
        let Some(state) = self.processes.get(&process) else {
            return;
        };
        let with_actor = state.directory.keys().filter(|id| id.shard() == shard);
        let with_actor: Vec<ExecutionId> = with_actor.copied().collect();
        for id in with_actor {
            self.deliver(process, id, ExecutionMessage::AskParent(parent));
        }
        if let Some((caller, _)) = self.caller(process, shard) {
            self.count("children asked");
            self.after(0, Timed::AskChildren(caller, parent, None));
        }
    }

    /// Those that only wait are in the lists.
    pub(super) fn ask_listed(&mut self, caller: Caller, parent: ExecutionId, after: Option<ExecutionCursor>) {
        if self.serving(caller).is_none() {
            return;
        }
        if !self.reaches(caller.process) {
            return self.after(ASK_AGAIN_MS, Timed::AskChildren(caller, parent, after));
        }
        let query = ExecutionQuery {
            status: Some("running".to_owned()),
            parent: Some(parent),
            cursor: after,
            limit: LIST_ROWS,
            ..ExecutionQuery::default()
        };
        let page = match at_once(self.lists.list(query)) {
            Ok(page) => page,
            Err(error) => return self.trouble(format!("children of {parent} cannot be listed: {error}")),
        };
        for child in page.items {
            let state = self.processes.get(&caller.process);
            if state.is_some_and(|state| !state.directory.contains_key(&child.id)) {
                self.deliver(caller.process, child.id, ExecutionMessage::AskParent(parent));
            }
        }
        if let Some(next) = page.next {
            let pause_ms = self.random.below(2);
            self.after(pause_ms, Timed::AskChildren(caller, parent, Some(next)));
        }
    }
}
