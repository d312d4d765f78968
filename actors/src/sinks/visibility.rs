//! The projection for lists, written in batches.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use troupe_core::{Epoch, LogPosition, ShardId};
use troupe_ports::{ExecutionSummary, StoreError};

use super::machine::ProjectionMachine;
use crate::context::EngineContext;
use crate::gauges::ListProgress;

const RETRY: Duration = Duration::from_millis(500);

/// What the projection hears.
#[derive(Debug)]
pub enum VisibilityMessage {
    /// A record changed what lists show.
    Changed {
        /// Where it stands.
        position: LogPosition,
        /// The summaries.
        summaries: Vec<ExecutionSummary>,
    },
    /// Write what has gathered.
    Write,
    /// Write everything up to this position now and answer when it is written.
    Flush(LogPosition, oneshot::Sender<()>),
}

/// What the projection is made of.
#[derive(Debug)]
pub struct VisibilityArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// Its epoch, if one was issued.
    pub epoch: Option<Epoch>,
    /// Told what is written. Whoever sends a [`VisibilityMessage::Changed`] has told it of the record.
    pub progress: Arc<ListProgress>,
}

/// Projects one shard's executions.
#[derive(Debug)]
pub struct VisibilityActor;

/// What the projection keeps.
#[derive(Debug)]
pub struct VisibilityState {
    arguments: VisibilityArguments,
    machine: ProjectionMachine,
    /// Records with changes that were taken in and are not written.
    unwritten: usize,
    armed: bool,
}

impl Actor for VisibilityActor {
    type Msg = VisibilityMessage;
    type State = VisibilityState;
    type Arguments = VisibilityArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        arguments: VisibilityArguments,
    ) -> Result<VisibilityState, ActorProcessingErr> {
        Ok(VisibilityState {
            arguments,
            machine: ProjectionMachine::default(),
            unwritten: 0,
            armed: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: VisibilityMessage,
        state: &mut VisibilityState,
    ) -> Result<(), ActorProcessingErr> {
        let after = Duration::from_millis(state.arguments.engine.options.visibility_ms);
        match message {
            VisibilityMessage::Changed { position, summaries } => {
                state.unwritten += 1;
                if state.machine.changed(position, summaries) {
                    state.arm(&myself, after);
                }
            }
            VisibilityMessage::Write => {
                state.armed = false;
                if !state.write().await {
                    state.arm(&myself, RETRY);
                }
            }
            VisibilityMessage::Flush(position, reply) => {
                state.machine.reached(position);
                if state.write().await {
                    // Whoever asked may be gone; nothing depends on the answer.
                    reply.send(()).ok();
                } else {
                    state.arm(&myself, RETRY);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut VisibilityState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut VisibilityState) -> Result<(), ActorProcessingErr> {
        state.write().await;
        Ok(())
    }
}

impl VisibilityState {
    fn arm(&mut self, myself: &ActorRef<VisibilityMessage>, after: Duration) {
        if std::mem::replace(&mut self.armed, true) {
            return;
        }
        let myself = myself.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // A stopped projection catches up from the log.
            myself.send_message(VisibilityMessage::Write).ok();
        });
    }

    async fn write(&mut self) -> bool {
        let (summaries, up_to) = self.machine.take();
        let arguments = &self.arguments;
        let (engine, progress) = (&arguments.engine, &arguments.progress);
        let began = engine.now();
        let lists = &engine.parts.visibility;
        let written = lists
            .project(arguments.shard, arguments.epoch, summaries.clone(), up_to)
            .await;
        let (outage, who) = (&engine.outages.lists, u64::from(arguments.shard.0));
        match &written {
            Ok(()) => {
                outage.over(who);
                progress.written(up_to, std::mem::take(&mut self.unwritten), began);
            }
            // Whoever owns the shard now finds in the log what lists lack.
            Err(StoreError::Fenced { owner, .. }) => {
                tracing::debug!(shard = arguments.shard.0, %owner, "lists are another owner's to write");
            }
            Err(error) => {
                outage.failed(who, error);
                progress.failed(error.to_string(), engine.now());
                self.machine.put_back(summaries);
            }
        }
        written.is_ok()
    }
}
