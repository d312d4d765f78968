//! Brings a control to every shard, and tells how far it came.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::oneshot;
use troupe_core::ErrorInfo;
use troupe_core::control::{ControlKey, ControlSet, Register, Setting};

use super::machine::{ControlRequest, Origin};
use super::order::{given_at, latest, standing};
use super::sets::ControlSets;
use crate::context::{EngineContext, ShardContext};
use crate::error::EngineError;
use crate::request::{Command, ControlOutcome, ControlView, Learned};
use crate::shard::ShardMessage;

type Served = Vec<Arc<ShardContext>>;

pub(super) fn served(engine: &EngineContext) -> Served {
    let slots = engine.shards.iter();
    slots.filter_map(|slot| slot.read().clone()).collect()
}

/// Sets or lifts a control in every shard that is served. `Ok` means durable and in force in all of them.
pub(crate) async fn control(
    engine: &Arc<EngineContext>,
    key: ControlKey,
    setting: Option<Setting>,
    command: Command,
) -> Result<ControlOutcome, EngineError> {
    let shards = served(engine);
    if shards.is_empty() {
        return Err(EngineError::Unavailable("no shard is served".into()));
    }
    let sets: Vec<Arc<ControlSet>> = shards.iter().map(|shard| shard.controls.set()).collect();
    let Some(request) = planned(engine, &sets, key.clone(), setting, command)? else {
        // Whoever has lost a shard knows no longer how the control stands there.
        let now = engine.now();
        if let Some(lost) = shards.iter().find(|shard| !shard.gate.is_open(now)) {
            let why = format!("the lease of shard {} has expired", lost.shard);
            return Err(EngineError::Unavailable(why));
        }
        return outcome(engine, &key, &sets, true);
    };
    let changed = learn(engine, request).await?.changed;
    let sets: Vec<Arc<ControlSet>> = shards.iter().map(|shard| shard.controls.set()).collect();
    outcome(engine, &key, &sets, !changed)
}

/// What every shard is to be told, by what `sets` know; none where the control stands so in all of them and the command has no id.
pub(crate) fn planned(
    engine: &EngineContext,
    sets: &[Arc<ControlSet>],
    key: ControlKey,
    setting: Option<Setting>,
    command: Command,
) -> Result<Option<ControlRequest>, EngineError> {
    if setting.is_some_and(|setting| !key.takes(setting)) {
        let why = "the control has no such setting";
        return Err(EngineError::Refused(Box::new(ErrorInfo::new("INVALID_REQUEST", why))));
    }
    let at = given_at(sets, &key, setting, command.command.as_ref(), engine.now());
    Ok(at.map(|at| ControlRequest {
        at,
        key,
        setting,
        command: command.command.unwrap_or_else(|| engine.command_id()),
        principal: command.principal,
        reason: command.reason,
    }))
}

/// Tells every shard that is served. `Ok` means durable and in force in all of them.
pub(crate) async fn learn(engine: &EngineContext, request: ControlRequest) -> Result<Learned, EngineError> {
    let shards = served(engine);
    let told = join_all(shards.iter().map(|shard| tell(shard, request.clone(), Origin::Command))).await;
    let mut changed = false;
    for one in told {
        changed |= one?;
    }
    Ok(Learned {
        shards: shards.iter().map(|shard| shard.shard).collect(),
        changed,
        draining: engine.plans.draining(&request.key),
    })
}

/// The controls of every shard that is served, as they are durable here.
pub(crate) fn sets(engine: &EngineContext) -> ControlSets {
    let now = engine.now();
    let shards = served(engine).into_iter().filter(|shard| shard.gate.is_open(now));
    ControlSets(shards.map(|shard| (shard.shard, shard.controls.set())).collect())
}

fn outcome(
    engine: &EngineContext,
    key: &ControlKey,
    sets: &[Arc<ControlSet>],
    unchanged: bool,
) -> Result<ControlOutcome, EngineError> {
    Ok(ControlOutcome {
        unchanged,
        in_force: standing(sets, key).is_some(),
        shards: u16::try_from(sets.len()).unwrap_or(u16::MAX),
        shards_all: engine.parts.state.shards(),
        draining: engine.plans.draining(key),
    })
}

/// Whether the shard learned something; a command's id alone is no news.
pub(super) async fn tell(shard: &ShardContext, request: ControlRequest, origin: Origin) -> Result<bool, EngineError> {
    let gone = || {
        let why = format!(
            "shard {} is gone: the control may be in some shards, repeat it",
            shard.shard
        );
        EngineError::Unavailable(why)
    };
    let (reply, answer) = oneshot::channel();
    let message = ShardMessage::Control(Box::new(request), origin, reply);
    shard.supervisor.send_message(message).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// Every control in force, with how many attempts it still lets end and in how many shards it is.
pub(crate) fn controls(engine: &EngineContext) -> Vec<ControlView> {
    let sets: Vec<Arc<ControlSet>> = served(engine).iter().map(|shard| shard.controls.set()).collect();
    let shards_all = engine.parts.state.shards();
    let of = |(key, register): (ControlKey, Register)| {
        let setting = register.setting?;
        let has = |set: &&Arc<ControlSet>| {
            let known = set.register(&key);
            known.is_some_and(|known| (known.at, &known.command) == (register.at, &register.command))
        };
        Some(ControlView {
            shards: u16::try_from(sets.iter().filter(has).count()).unwrap_or(u16::MAX),
            shards_all,
            draining: engine.plans.draining(&key),
            setting,
            at: register.at,
            principal: register.principal,
            reason: register.reason,
            command: register.command,
            key,
        })
    };
    latest(&sets).into_iter().filter_map(of).collect()
}

/// Completes what a crash left half spread: every shard that is served learns what another one knows later.
pub(crate) async fn reconcile(engine: &Arc<EngineContext>) {
    learn_from(engine, &ControlSets::default()).await;
}

/// Every shard that is served learns what another one, or one of `others`, knows later.
pub(crate) async fn learn_from(engine: &EngineContext, others: &ControlSets) {
    let shards = served(engine);
    let sets = shards.iter().map(|shard| (shard.shard, shard.controls.set()));
    for (number, request) in ControlSets(sets.collect()).behind(others) {
        let Some(shard) = shards.iter().find(|shard| shard.shard == number) else {
            continue;
        };
        let key = request.key.clone();
        match tell(shard, request, Origin::Copy).await {
            Ok(_) => tracing::warn!(shard = number.0, ?key, "a control that was not in every shard is now"),
            Err(error) => tracing::error!(shard = number.0, ?key, %error, "a control is not in every shard"),
        }
    }
}
