//! An execution's actor finds out what it runs.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use super::actor::ExecutionShell;
use super::load::{Loaded, load};
use super::machine::{ExecutionMachine, Input};
use super::message::{ExecutionMessage, Respond};
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::request::StartOutcome;
use crate::rooms;
use crate::shard::ShardMessage;

const LOAD_RETRY_FIRST: Duration = Duration::from_millis(50);
const LOAD_RETRY_MAX: Duration = Duration::from_secs(1);

/// What loading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It can go on.
    Machine,
    /// It never was, or its archive is gone.
    Nothing,
    /// It is set aside.
    Damaged,
}

impl ExecutionShell {
    /// Loads for someone who waits for an answer: gives the reply back once there is a machine, else has answered.
    pub(super) async fn load_for(
        &mut self,
        myself: &ActorRef<ExecutionMessage>,
        reply: Respond,
        or_new: Option<Arc<CompiledPlan>>,
    ) -> Option<Respond> {
        if self.machine.is_some() {
            return Some(reply);
        }
        match load(&self.shard, self.id).await {
            // Its archive is about to go: nobody reopens it any more.
            Ok(Loaded::Found(found))
                if found.state.status.is_terminal() && self.shard.engine.expiring.contains(&self.id) =>
            {
                let gone = Loaded::Tombstone(found.state.seq);
                self.loaded(myself, gone, reply, or_new).await
            }
            Ok(loaded) => self.loaded(myself, loaded, reply, or_new).await,
            Err(error @ EngineError::Damaged(_)) => {
                self.quarantine(&error);
                reply.refuse(EngineError::Quarantined {
                    id: self.id,
                    reason: error.to_string(),
                });
                None
            }
            Err(error) => {
                reply.refuse(error);
                None
            }
        }
    }

    async fn loaded(
        &mut self,
        myself: &ActorRef<ExecutionMessage>,
        loaded: Loaded,
        reply: Respond,
        or_new: Option<Arc<CompiledPlan>>,
    ) -> Option<Respond> {
        let options = self.machine_options();
        match (loaded, reply) {
            (Loaded::Found(found), reply) => {
                let found = *found;
                if found.state.room.is_some() && found.state.status.is_terminal() {
                    // Its actor may have failed before it could say so.
                    rooms::leave(&self.shard, self.id);
                }
                let machine =
                    ExecutionMachine::at(found.compiled, found.state, found.last_at, found.segment_bytes, options);
                self.machine = Some(Box::new(machine));
                // Attempts that this engine itself has lost are not those that the last owner gave up.
                let drained = self.shard.released && !self.shard.failed.contains(&self.id);
                self.give(myself, Input::TakeOver { drained }).await;
                Some(reply)
            }
            (Loaded::Tombstone(last), Respond::Start(reply, _)) => {
                // Whoever asked may be gone; nothing depends on the answer.
                reply
                    .send(Ok(StartOutcome {
                        id: self.id,
                        seq: last,
                        existing: true,
                        pending: false,
                    }))
                    .ok();
                None
            }
            (Loaded::Missing, reply) => match or_new {
                Some(compiled) => {
                    self.machine = Some(Box::new(ExecutionMachine::new(compiled, self.id, options)));
                    Some(reply)
                }
                None => {
                    reply.refuse(EngineError::NotFound(self.id));
                    None
                }
            },
            (Loaded::Tombstone(_), reply) => {
                reply.refuse(EngineError::NotFound(self.id));
                None
            }
        }
    }

    /// Loads until the store answers: nobody else would wake this execution again.
    pub(super) async fn load_patiently(&mut self, myself: &ActorRef<ExecutionMessage>) -> Found {
        let mut pause = LOAD_RETRY_FIRST;
        while self.machine.is_none() {
            match load(&self.shard, self.id).await {
                Ok(Loaded::Missing | Loaded::Tombstone(_)) => return Found::Nothing,
                Ok(loaded) => {
                    self.loaded(myself, loaded, Respond::Nobody, None).await;
                }
                Err(error @ (EngineError::Unavailable(_) | EngineError::Elsewhere(_) | EngineError::Fenced)) => {
                    tracing::warn!(id = %self.id, %error, "an execution waits for the store");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOAD_RETRY_MAX);
                }
                Err(error) => {
                    self.quarantine(&error);
                    return Found::Damaged;
                }
            }
        }
        Found::Machine
    }

    pub(super) fn quarantine(&self, error: &EngineError) {
        let message = ShardMessage::Quarantine(self.id, error.to_string());
        if self.shard.supervisor.send_message(message).is_err() {
            tracing::debug!(id = %self.id, "a quarantine came after its shard was lost");
        }
    }

    /// Something that the execution needs is damaged: what it did not hand over yet never happened.
    pub(super) fn give_up(&mut self, error: &EngineError) {
        self.machine = None;
        self.actions.clear();
        self.quarantine(error);
    }
}
