//! The timers' shell.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::AbortHandle;
use troupe_core::control::Scope;
use troupe_core::{Epoch, ExecutionId, ShardId, Timestamp, WorkflowId};

use super::machine::TimersMachine;
use crate::context::EngineContext;
use crate::controls::ShardControls;
use crate::shard::ShardMessage;

/// Longest sleep: clocks may be set, so none is trusted for longer.
const SLEEP_MAX_MS: u64 = 1_000;
/// Pause before timers that are due are looked at again while too many executions are active.
const CROWDED_MS: u64 = 10;
/// Pause before the store is asked again after it failed.
const RETRY_MS: u64 = 200;

/// What the timers hear.
#[derive(Debug)]
pub enum TimersMessage {
    /// The deadline of an execution with an actor.
    Set(ExecutionId, Option<Timestamp>),
    /// An execution gives up its actor until then.
    Park(ExecutionId, Timestamp),
    /// A wider scope keeps an execution of this workflow from going on, which it would at this time; or no longer. By the
    /// controls of this version.
    HeldBack(ExecutionId, WorkflowId, Option<Timestamp>, u64),
    /// A scope is held no longer.
    Lifted(Scope),
    /// The tail of the log holds executions that wait.
    Recovered(Vec<(Timestamp, ExecutionId)>),
    /// A checkpoint was written.
    Checkpointed,
    /// Something may be due.
    Tick,
}

/// What the timers are made of.
#[derive(Debug)]
pub struct TimersArguments {
    /// The engine.
    pub engine: Arc<EngineContext>,
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Controls in force.
    pub controls: Arc<ShardControls>,
    /// Routes the wake-ups.
    pub supervisor: ActorRef<ShardMessage>,
}

/// Wakes executions of one shard.
#[derive(Debug)]
pub struct TimersActor;

/// What the timers keep.
#[derive(Debug)]
pub struct TimersState {
    arguments: TimersArguments,
    machine: TimersMachine,
    armed: Option<(Timestamp, AbortHandle)>,
}

impl Actor for TimersActor {
    type Msg = TimersMessage;
    type State = TimersState;
    type Arguments = TimersArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: TimersArguments,
    ) -> Result<TimersState, ActorProcessingErr> {
        myself.send_message(TimersMessage::Tick)?;
        let machine = TimersMachine::new(arguments.engine.options.timers_max).with(arguments.engine.options.mutants);
        Ok(TimersState {
            arguments,
            machine,
            armed: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: TimersMessage,
        state: &mut TimersState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TimersMessage::Set(id, at) => state.machine.set(id, at),
            TimersMessage::Park(id, at) => state.machine.park(id, at),
            TimersMessage::HeldBack(id, workflow, at, seen) => {
                let is_current = state.arguments.controls.version() == seen;
                state.machine.hold_back(id, workflow, at, is_current);
            }
            TimersMessage::Lifted(scope) => state.machine.lifted(&scope, state.arguments.engine.now()),
            TimersMessage::Recovered(parked) => {
                parked.into_iter().for_each(|(at, id)| state.machine.park(id, at));
            }
            TimersMessage::Checkpointed => state.machine.checkpointed(),
            TimersMessage::Tick => state.armed = None,
        }
        let wait = state.refill().await;
        let wait = state.fire()?.or(wait);
        state.arm(&myself, wait);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        _: SupervisionEvent,
        _: &mut TimersState,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut TimersState) -> Result<(), ActorProcessingErr> {
        if let Some((_, armed)) = state.armed.take() {
            armed.abort();
        }
        Ok(())
    }
}

impl TimersState {
    /// Reads the store when the window runs low; the pause before another try if that failed.
    async fn refill(&mut self) -> Option<u64> {
        let mut factor = 1;
        while let Some(asked) = self.machine.wants().map(|rows| rows * factor) {
            let store = &self.arguments.engine.parts.state;
            let (outage, who) = (&self.arguments.engine.outages.timers, u64::from(self.arguments.shard.0));
            match store.timers_due(self.arguments.shard, Timestamp(i64::MAX), asked).await {
                Ok(rows) if self.machine.refill(&rows, asked) => {
                    outage.over(who);
                    return None;
                }
                Ok(_) => factor *= 2,
                Err(error) => {
                    outage.failed(who, &error);
                    return Some(RETRY_MS);
                }
            }
        }
        None
    }

    /// Hands what is due to the shard; a pause if more is due than may be active.
    fn fire(&mut self) -> Result<Option<u64>, ActorProcessingErr> {
        let engine = &self.arguments.engine;
        let now = engine.now();
        self.machine.hold_everything(self.arguments.controls.hold_everything());
        if self.machine.next().is_none_or(|first| first > now) {
            return Ok(None);
        }
        let room = engine.options.executions_max.saturating_sub(engine.directory.len());
        let due = self.machine.due(now, room.max(1));
        for (at, _) in &due {
            // What was held back is not late by the time it was held.
            engine
                .metrics
                .timer_fired(now.since_ms((*at).max(self.machine.lifted_at())));
        }
        self.arguments
            .supervisor
            .send_message(ShardMessage::Due(due.into_iter().map(|(_, id)| id).collect()))?;
        Ok(self.machine.next().filter(|next| *next <= now).map(|_| CROWDED_MS))
    }

    fn arm(&mut self, myself: &ActorRef<TimersMessage>, wait: Option<u64>) {
        let now = self.arguments.engine.now();
        let next = self.machine.next();
        let Some(at) = wait.map(|wait| now.plus_ms(wait)).or(next) else {
            return;
        };
        if self.armed.as_ref().is_some_and(|(armed, _)| *armed <= at) {
            return;
        }
        if let Some((_, armed)) = self.armed.take() {
            armed.abort();
        }
        let sleep = Duration::from_millis(at.since_ms(now).min(SLEEP_MAX_MS));
        let myself = myself.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(sleep).await;
            // A stopped shard needs no tick.
            myself.send_message(TimersMessage::Tick).ok();
        });
        self.armed = Some((
            now.plus_ms(u64::try_from(sleep.as_millis()).unwrap_or(SLEEP_MAX_MS)),
            task.abort_handle(),
        ));
    }
}
