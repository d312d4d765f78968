//! Starts under a business key: the checkpointer and the store know the latest execution of the key; if that one is open it
//! is the answer, else the next one starts. The deciding is the shell's, what it decides from is the machines'.

use troupe_actors::EngineError;
use troupe_actors::execution::machine::Reply;
use troupe_actors::record::{RecordItem, read_frames};
use troupe_core::{ExecutionId, KeySpace, Seq, ShardId};
use troupe_ports::StateStore;

use super::clients::Answer;
use super::process::{CheckpointerMessage, ExecutionMessage, ProcessNo, Respond};
use super::schedule::Caller;
use super::{SHARDS, World, at_once};

impl World {
    /// Asks which execution of a client's key is the latest.
    pub(super) fn start_under_key(&mut self, client: usize, request: u64, shard: ShardId) {
        let process = self.server(shard);
        let stopped = process.and_then(|process| self.refused_by_stop(process, self.clients[client].workflow()));
        if let Some(error) = stopped {
            return self.refuse(Respond::Client(client, request), error);
        }
        match process.and_then(|process| self.caller(process, shard)) {
            Some((_, serving)) => {
                let ask = CheckpointerMessage::Head(client, request);
                serving.checkpointer.inbox.push_back(ask);
            }
            None => {
                let error = EngineError::Unavailable("nobody serves the shard".into());
                self.refuse(Respond::Client(client, request), error);
            }
        }
    }

    /// The checkpointer's answer, and then the store's.
    pub(super) fn latest_of_key(&mut self, caller: Caller, client: usize, request: u64) {
        let head = self.clients[client].run(0);
        let reachable = self.reaches(caller.process);
        self.store.set_reachable(reachable);
        let stored = at_once(self.store.head(head));
        self.store.set_reachable(true);
        let Some(serving) = self.serving(caller) else { return };
        let pending = serving.checkpointer.machine.head(head);
        match (stored, pending) {
            (Err(error), _) => self.refuse(Respond::Client(client, request), error.into()),
            (Ok(None), None) => self.start_run(caller.process, client, request, 0),
            (Ok(stored), pending) => {
                let ordinal = stored.max(pending).unwrap_or(0);
                let latest = self.clients[client].run(ordinal);
                let read = ExecutionMessage::Read(Respond::Key(client, request, ordinal));
                self.deliver(caller.process, latest, read);
            }
        }
    }

    /// What the latest execution of a key answered: it decides.
    pub(super) fn latest_is(&mut self, process: ProcessNo, client: usize, request: u64, ordinal: u64, answer: Reply) {
        match answer {
            // Its archive is gone: it ended.
            Reply::Refused(EngineError::NotFound(id)) => {
                self.forgotten.push((id, self.now));
                self.start_run(process, client, request, ordinal + 1);
            }
            Reply::View(state) if state.status.is_terminal() => self.start_run(process, client, request, ordinal + 1),
            Reply::View(state) if self.clients[client].supersedes() => {
                let asking = &self.clients[client];
                let next = asking.run(ordinal + 1);
                let started = Box::new(asking.started(next, Some(ordinal + 1)));
                self.workflows.insert(next, asking.workflow().to_owned());
                let reply = Respond::Client(client, request);
                self.deliver(process, state.id, ExecutionMessage::Supersede { started, reply });
            }
            Reply::View(state) => {
                let (id, existing) = (state.id, true);
                self.answer(client, request, Answer::Started { id, existing });
                self.count("found under a key");
            }
            Reply::Refused(error) => self.refuse(Respond::Client(client, request), error),
            Reply::Started(_) | Reply::Commanded(_) | Reply::Reopened(..) => {
                self.trouble("a read was answered with something else".into());
            }
        }
    }

    fn start_run(&mut self, process: ProcessNo, client: usize, request: u64, ordinal: u64) {
        let asking = &self.clients[client];
        let id = asking.run(ordinal);
        let started = Box::new(asking.started(id, Some(ordinal)));
        self.workflows.insert(id, asking.workflow().to_owned());
        self.count("runs of a key");
        let (fresh, reply) = (false, Respond::Client(client, request));
        self.deliver(process, id, ExecutionMessage::Start { started, fresh, reply });
    }
}

/// Business key and ordinal of a first entry.
pub(super) fn head_of(record: &[u8], item: &RecordItem) -> Option<(ExecutionId, u64)> {
    if item.seq != Seq(1) || item.id.is_controls() {
        return None;
    }
    let entry = read_frames(&record[item.frame.clone()]).next()?.ok()?;
    let started = entry.event.start()?;
    let (key, ordinal) = (started.execution_key.as_ref()?, started.key_ordinal?);
    let head = ExecutionId::derived(SHARDS, KeySpace::Business, started.workflow.as_str(), key, 0);
    Some((head, ordinal))
}
