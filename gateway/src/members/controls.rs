//! Controls of every member's shards: a command is acknowledged once it is in force in all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::future::join_all;
use tokio::time::Instant;
use troupe_actors::{Command, ControlOutcome, ControlRequest, ControlSets};
use troupe_core::ShardId;
use troupe_core::control::{ControlKey, Setting};

use super::{Members, Signed, others};
use crate::app::App;
use crate::body;
use crate::dto::{ControlDto, LearnedDto};
use crate::error::ApiError;

/// Where members tell each other of controls.
const PATH: &str = "/api/v1/members/controls";
/// Where everybody is told of those in force.
const LIST: &str = "/api/v1/controls";
/// Pause before shards that nobody served are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Sets or lifts a control in every shard of the deployment.
///
/// # Errors
/// As [`troupe_actors::EngineHandle::control`]; `UNAVAILABLE` when a member does not answer, or a shard has no owner for too
/// long: the control may be in force in some.
pub(crate) async fn control(
    app: &App,
    key: ControlKey,
    setting: Option<Setting>,
    command: Command,
) -> Result<ControlOutcome, ApiError> {
    let Some(members) = &app.members else {
        return match (&key, setting) {
            (ControlKey::Breaker(target), None) => Ok(app.engine.reset_breaker(target, command).await?),
            _ => Ok(app.engine.control(key, setting, command).await?),
        };
    };
    let until = Instant::now() + members.within;
    let all = app.engine.status().shards;
    let mut known = gathered(app, members, until).await?;
    // Nobody knows how it stands in a shard that nobody serves.
    while known.0.len() + app.engine.status().halted.len() < usize::from(all) && Instant::now() < until {
        app.engine.look_again();
        tokio::time::sleep(LOOK_AGAIN).await;
        known = gathered(app, members, until).await?;
    }
    let Some(request) = app.engine.planned_control(&known, key.clone(), setting, command)? else {
        let in_force = setting.is_some();
        let draining = app.engine.draining(&key);
        return Ok(ControlOutcome {
            unchanged: true,
            in_force,
            shards: u16::try_from(known.0.len()).unwrap_or(u16::MAX),
            shards_all: all,
            draining,
        });
    };
    let mut covered = BTreeSet::new();
    let mut changed = false;
    loop {
        let mut told = vec![here(app, request.clone()).await];
        told.extend(join_all(others(app).map(|address| there(app, members, address, &request))).await);
        let mut failed = None;
        let (mut halted, mut draining) = (BTreeSet::new(), 0);
        for one in told {
            match one {
                Ok(learned) => {
                    covered.extend(learned.shards);
                    halted.extend(learned.halted);
                    changed |= learned.changed;
                    draining += learned.draining;
                }
                Err(error) => failed = Some(error),
            }
        }
        if failed.is_none() && covered.union(&halted).count() >= usize::from(all) {
            // One that changed nothing may have come after a later one.
            let stands = if changed {
                setting
            } else {
                gathered(app, members, until).await?.setting(&key)
            };
            return Ok(ControlOutcome {
                unchanged: !changed,
                in_force: stands.is_some(),
                shards: u16::try_from(covered.len()).unwrap_or(u16::MAX),
                shards_all: all,
                draining,
            });
        }
        if Instant::now() >= until {
            let why = failed.map_or_else(String::new, |error| format!(": {}", error.detail()));
            let detail = format!("the control is in {} of {all} shards{why}", covered.len());
            return Err(ApiError::new("UNAVAILABLE", detail).with_hint("repeat the command"));
        }
        app.engine.look_again();
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Every control in force at any member, in the order of its key.
///
/// # Errors
/// `UNAVAILABLE` when a member does not answer.
pub(crate) async fn list(app: &App, here_only: bool) -> Result<Vec<ControlDto>, ApiError> {
    let mut all: Vec<ControlDto> = app.engine.controls().iter().map(ControlDto::from).collect();
    let Some(members) = app.members.as_ref().filter(|_| !here_only) else {
        return Ok(all);
    };
    for theirs in members.pages::<ControlDto>(app, LIST).await? {
        match all.iter_mut().find(|own| own.is_of_the_same(&theirs)) {
            // Of one that was given later somebody has not heard yet.
            Some(own) if own.since < theirs.since => *own = theirs,
            Some(own) if own.since == theirs.since => {
                own.shards += theirs.shards;
                own.draining += theirs.draining;
            }
            Some(_) => {}
            None => all.push(theirs),
        }
    }
    Ok(all)
}

/// Tells the shards here, now and then, what those of other members know later.
pub(crate) async fn keep_equal(app: App, every: Duration) {
    let Some(members) = &app.members else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = app.closing.cancelled() => return,
        }
        for address in others(&app).collect::<Vec<_>>() {
            match sets_of(&app, members, &address).await {
                Ok(sets) => app.engine.learn_from(&sets).await,
                Err(error) => tracing::debug!(address, error = error.detail(), "a member's controls are not known"),
            }
        }
    }
}

/// The controls of every shard that somebody serves, once every member has answered.
async fn gathered(app: &App, members: &Members, until: Instant) -> Result<ControlSets, ApiError> {
    loop {
        let mut known = app.engine.control_sets();
        let told = join_all(others(app).map(async |address| sets_of(app, members, &address).await)).await;
        let told: Result<Vec<ControlSets>, ApiError> = told.into_iter().collect();
        match told {
            Ok(told) => {
                known.0.extend(told.into_iter().flat_map(|sets| sets.0));
                return Ok(known);
            }
            // One that has died is a member until its time is over.
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {
                app.engine.look_again();
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn sets_of(app: &App, members: &Members, address: &str) -> Result<ControlSets, ApiError> {
    let bytes = members.ask(app, Method::GET, address, PATH, Bytes::new()).await?;
    Ok(ControlSets::decode(&bytes)?)
}

async fn here(app: &App, request: ControlRequest) -> Result<LearnedDto, ApiError> {
    let learned = app.engine.learn_control(request).await?;
    let halted = app.engine.status().halted;
    Ok(LearnedDto {
        shards: learned.shards.iter().map(|shard| shard.0).collect(),
        halted: halted.iter().map(|(ShardId(shard), _)| *shard).collect(),
        changed: learned.changed,
        draining: learned.draining,
    })
}

async fn there(
    app: &App,
    members: &Members,
    address: String,
    request: &ControlRequest,
) -> Result<LearnedDto, ApiError> {
    let body = Bytes::from(request.encoded());
    let answer = members.ask(app, Method::POST, &address, PATH, body).await?;
    serde_json::from_slice(&answer).map_err(|error| {
        let detail = format!("the member at {address} answers something else: {error}");
        ApiError::new("UNAVAILABLE", detail)
    })
}

/// The controls of the shards here, for another member.
pub(crate) async fn tell(State(app): State<App>, signed: Option<Extension<Signed>>) -> Result<Response, ApiError> {
    only_members(signed.as_deref())?;
    Ok(app.engine.control_sets().encoded().into_response())
}

/// A control that another member spreads.
pub(crate) async fn learn(
    State(app): State<App>,
    signed: Option<Extension<Signed>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LearnedDto>, ApiError> {
    only_members(signed.as_deref())?;
    let bytes = body::read(&headers, body, app.settings.limits.body_bytes).await?;
    let request = ControlRequest::decode_request(&bytes)?;
    Ok(Json(here(&app, request).await?))
}

fn only_members(signed: Option<&Signed>) -> Result<(), ApiError> {
    let refused = || {
        ApiError::new(
            "MEMBER_SIGNATURE_INVALID",
            "only members of the deployment ask for this",
        )
    };
    signed.map(|_| ()).ok_or_else(refused)
}
