//! An operator who pauses and stops a workflow of its own in every shard, whoever has it, and lets it go on. As the gateway does it:
//! what is known everywhere is gathered first, then every member is told, until all shards have it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use troupe_actors::{Command, ControlRequest, ControlSets, EngineError, EngineHandle};
use troupe_core::CommandId;
use troupe_core::control::{Clocks, ControlKey, Scope, Setting};

use super::child::random;
use super::clients::{named, trouble};
use super::door::{Answer, Ask, Door, Refusal};
use super::record::Record;
use super::workload;

/// Longest time for which the workflow is held, and goes on, in milliseconds.
const HELD_MS: u64 = 600;
const FREE_MS: u64 = 600;
/// Pause before shards that nobody served are looked for again, and before a word is repeated.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long another member may take to answer before it counts as gone.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Pauses or stops its workflow, and lets it go on, again and again while it has something to do. A word is repeated under one id until
/// it is in force.
pub(crate) async fn operator(door: Door, incarnation: u32, mut is_busy: watch::Receiver<bool>) {
    let workflow = workload::ruled_by(incarnation);
    loop {
        tokio::time::sleep(Duration::from_millis(random() % FREE_MS)).await;
        if is_busy.wait_for(|is_busy| *is_busy).await.is_err() {
            return;
        }
        let scope = Scope::Workflow(workflow.as_str().into());
        let (key, setting) = match random() % 2 {
            0 => (ControlKey::Pause(scope), Setting::Paused { clocks: Clocks::Run }),
            _ => (ControlKey::Stop(scope), Setting::Stopped { cancel_running: false }),
        };
        let draining = say(&door, &key, Some(setting)).await;
        let workflow = workflow.clone();
        Record::Ruled {
            workflow: workflow.clone(),
            draining,
        }
        .emit();
        tokio::time::sleep(Duration::from_millis(random() % HELD_MS)).await;
        Record::FreeAsked { workflow }.emit();
        say(&door, &key, None).await;
    }
}

/// Says it until it is in force everywhere; how many attempts in its scope still ran then.
async fn say(door: &Door, key: &ControlKey, setting: Option<Setting>) -> u32 {
    let command = named("ruling");
    let mut told = BTreeSet::new();
    loop {
        match spread(door, key, setting, &command).await {
            Ok(draining) => return draining,
            Err(why) => {
                // What another try would not mend is told, once.
                if told.insert(why.code.clone()) {
                    trouble(&format!("{setting:?} for {key:?}"), Err(why));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Brings a control to all shards that are not halted.
async fn spread(door: &Door, key: &ControlKey, setting: Option<Setting>, command: &str) -> Result<u32, Refusal> {
    let engine = door.engine();
    let until = Instant::now() + door.looks_within();
    let known = gathered(door, until).await?;
    let command = Command {
        command: Some(CommandId::from(command)),
        ..Command::default()
    };
    let Some(request) = engine.planned_control(&known, key.clone(), setting, command)? else {
        return Ok(engine.draining(key));
    };
    let ask = Ask::Learn {
        request: request.encoded(),
    };
    let mut covered = BTreeSet::new();
    loop {
        let (mut draining, mut halted, mut is_whole) = (0, BTreeSet::new(), true);
        for told in door.ask_all(&ask, ANSWERS_WITHIN).await {
            match told {
                Some(Answer::Learned(learned)) => {
                    covered.extend(learned.shards);
                    halted.extend(learned.halted);
                    draining += learned.draining;
                }
                Some(Answer::Refused(why)) if !why.passes => return Err(why),
                _ => is_whole = false,
            }
        }
        let shards = usize::from(engine.status().shards);
        if is_whole && covered.union(&halted).count() >= shards {
            return Ok(draining);
        }
        again(engine, until, "a control is not in every shard").await?;
    }
}

/// The controls of every shard, once every member has told those of its own.
async fn gathered(door: &Door, until: Instant) -> Result<ControlSets, Refusal> {
    let engine = door.engine();
    loop {
        let mut known = ControlSets::default();
        let mut is_whole = true;
        for told in door.ask_all(&Ask::Controls, ANSWERS_WITHIN).await {
            match told {
                Some(Answer::Controls { sets }) => known.0.extend(ControlSets::decode(&sets)?.0),
                _ => is_whole = false,
            }
        }
        let status = engine.status();
        if is_whole && known.0.len() + status.halted.len() >= usize::from(status.shards) {
            return Ok(known);
        }
        again(engine, until, "the controls of some shards are not known").await?;
    }
}

async fn again(engine: &EngineHandle, until: Instant, what: &str) -> Result<(), Refusal> {
    if Instant::now() >= until {
        return Err(EngineError::Unavailable(what.to_owned()).into());
    }
    engine.look_again();
    tokio::time::sleep(LOOK_AGAIN).await;
    Ok(())
}

/// What the shards of this process make of a control.
pub(super) async fn learn(engine: &EngineHandle, request: &[u8]) -> Result<Answer, EngineError> {
    let learned = engine.learn_control(ControlRequest::decode_request(request)?).await?;
    let halted = engine.status().halted;
    Ok(Answer::Learned(super::door::Learned {
        shards: learned.shards.iter().map(|shard| shard.0).collect(),
        halted: halted.iter().map(|(shard, _)| shard.0).collect(),
        draining: learned.draining,
    }))
}

/// Lifts whatever operators who have ended left in force.
///
/// # Errors
/// When the engine serves no shard any more.
pub(crate) async fn lift_all(engine: &EngineHandle) -> Result<(), EngineError> {
    for control in engine.controls() {
        engine.control(control.key, None, Command::default()).await?;
    }
    Ok(())
}
