//! Real `troupe serve` processes, three on the same servers, asked over HTTP only: what the gateway does under faults.
//!
//! [`poison`] has messages start executions, [`commands`] has clients start and command them. Both know what must come of it, and ask
//! the replicas themselves in the end.

mod clients;
mod commands;
mod doors;
mod faults;
mod http;
mod letters;
mod messages;
mod poison;
pub mod program;
mod replica;
mod rulings;

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use self::doors::{Door, Doors};
use self::http::Request;
use self::replica::{Replica, Setting};
use super::deployment::{Lines, READY_WITHIN};
use super::fault::Fault;
use super::lab::Lab;
use super::listener;
use super::plan::{SHARED, Trial};
use super::proxy::Proxy;
use super::schedule::{Open, Struck};
use super::servers::{Redis, Sync, until};
use super::trial::Outcome;
use crate::crash::Violation;
use crate::world::random::Random;

/// Replicas of a deployment.
const REPLICAS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Executions of a page of a list.
const PAGE: usize = 200;

/// What came of a trial, beside what befell the replicas.
#[derive(Debug, Default)]
struct Played {
    answers: [u64; 3],
    executions: usize,
    entries: usize,
    messages: usize,
    /// How often a workflow was held.
    rulings: usize,
    violations: Vec<Violation>,
    too_little: Vec<String>,
}

/// Plays a trial of replicas: messages load them where it is about those, else clients.
///
/// # Errors
/// When the harness itself fails: a server or a replica does not start before anything was broken.
pub(super) fn run(lab: &mut Lab, trial: &Trial) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut random = Random::new(trial.seed);
    let mut on = Replicas::open(lab, trial)?;
    let has_messages = trial.strikes.iter().any(|strike| strike.fault == Fault::PoisonMessages);
    let played = if has_messages {
        poison::play(&mut on, trial, &mut random)
    } else {
        commands::play(&mut on, trial, &mut random)
    };
    let played = played.with_context(|| on.last_logs())?;
    let mut violations = std::mem::take(&mut on.seen);
    violations.extend(played.violations);
    let shards_lost = on.all.iter().map(Replica::shards_lost).sum();
    let mut too_little = played.too_little;
    too_little.extend(on.open.lacks(trial));
    too_little.extend(unfenced(trial, shards_lost));
    Ok(Outcome {
        trial: on.open.played(trial),
        answers: played.answers,
        executions: played.executions,
        entries: played.entries,
        events: played.messages,
        fenced: on.fenced,
        shards_lost,
        gave_up: 0,
        slots: 0,
        rulings: played.rulings,
        changes: Vec::new(),
        counted: BTreeMap::new(),
        violations,
        too_little,
        notes: std::mem::take(&mut on.notes),
        took: begun.elapsed(),
    })
}

/// Why a trial in which nothing but replicas that stand still befell anybody proves too little, where none of them told its operator
/// that it was replaced.
fn unfenced(trial: &Trial, shards_lost: u64) -> Option<String> {
    let is_frozen_alone = matches!(&trial.strikes[..], [strike] if strike.fault == Fault::GatewayFreeze);
    let is_too_little = is_frozen_alone && shards_lost == 0;
    is_too_little.then(|| "no replica that stood still has counted a shard that it lost".to_owned())
}

/// A deployment of replicas under torment. Dropping it ends everything that is its own.
struct Replicas<'lab> {
    lab: &'lab mut Lab,
    setting: Setting,
    all: Vec<Replica>,
    doors: Arc<Doors>,
    notes: Vec<String>,
    /// What was seen to be broken while it happened.
    seen: Vec<Violation>,
    /// The faults that hold.
    open: Open,
    /// Faults that befell one of them, and which.
    hits: Vec<(Fault, usize)>,
    /// How often somebody, or somebody's connection to the broker, has ended or stood still with messages in hand.
    ends: usize,
    /// How often one that had stood still learned that others have its shards.
    fenced: u32,
    /// The lines of all of them to the servers.
    lines: Lines,
    redis: Redis,
}

impl<'lab> Replicas<'lab> {
    /// Starts their Redis and the lines to the servers. No replica runs yet.
    fn open(lab: &'lab mut Lab, trial: &Trial) -> anyhow::Result<Self> {
        let (number, folder) = lab.next_trial()?;
        let program = program::existing(&lab.troupe)?;
        let runtime = lab.runtime();
        let redis = Redis::start(&folder.join("redis"), Sync::Always)?;
        let lines = Lines {
            redis: Some(Proxy::start(&runtime, redis.port())?),
            postgres: Proxy::start(&runtime, lab.postgres.port())?,
            rabbitmq: Proxy::start(&runtime, lab.rabbitmq.port())?,
        };
        let all = (0..REPLICAS).map(|place| Replica::new(place, &lines, &runtime));
        Ok(Self {
            all: all.collect::<anyhow::Result<_>>()?,
            setting: Setting {
                program,
                folder,
                prefix: format!("chaos_{number}"),
                planted: trial.planted,
            },
            lab,
            doors: Arc::default(),
            notes: Vec::new(),
            seen: Vec::new(),
            open: Open::default(),
            hits: Vec::new(),
            ends: 0,
            fenced: 0,
            lines,
            redis,
        })
    }

    /// Starts all of them with these workflows. The first one stores them, the others find them when they start.
    fn start(&mut self, workflows: &[&Value]) -> anyhow::Result<()> {
        self.all[0].run(&self.setting)?;
        self.until_ready(0)?;
        for workflow in workflows {
            let stored = self.all[0].ask(&Request::post("/api/v1/workflows", workflow))?;
            if stored.status != 201 {
                bail!("a workflow is not stored: {stored:?}");
            }
        }
        for replica in &mut self.all[1..] {
            replica.run(&self.setting)?;
        }
        self.until_shared()
    }

    /// Waits until everybody who is well serves and has its share, and says where everybody is.
    fn until_shared(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            // Another fault may keep them from their shards until it is healed.
            self.watch(LOOK_EVERY)?;
            let well = self.all.iter_mut().filter(|replica| !replica.is_hit);
            let shards: Vec<Option<u64>> = well.map(Replica::shards).collect();
            let most = u64::from(SHARED).div_ceil(shards.len().max(1) as u64);
            let all: u64 = shards.iter().flatten().sum();
            if all == u64::from(SHARED) && shards.iter().all(|shards| shards.is_some_and(|own| own <= most)) {
                break;
            }
            if begun.elapsed() > READY_WITHIN {
                bail!("replicas do not share the shards within {READY_WITHIN:?}: {shards:?}");
            }
        }
        let mut well = self.all.iter_mut().filter(|replica| !replica.is_hit);
        well.try_for_each(Replica::ask_its_name)?;
        let doors = self.all.iter().map(|replica| Door {
            port: replica.port,
            name: replica.name.clone(),
        });
        self.doors.set(doors.collect());
        Ok(())
    }

    fn until_ready(&mut self, place: usize) -> anyhow::Result<()> {
        let replica = &mut self.all[place];
        until("a replica serves", READY_WITHIN, || {
            if let Some(status) = replica.ended()? {
                bail!("a replica ended before it served: {status}");
            }
            Ok(replica.shards().is_some())
        })
    }

    /// Starts whoever has ended by itself anew, as a supervisor of processes does.
    fn supervise(&mut self) -> anyhow::Result<()> {
        for place in 0..self.all.len() {
            if !self.all[place].is_hit && self.has_ended(place)? {
                self.all[place].run(&self.setting)?;
            }
        }
        Ok(())
    }

    /// Whether one has ended by itself, and takes that down. One that starts may give up, since a server is slow; one that has served
    /// has no reason to.
    fn has_ended(&mut self, place: usize) -> anyhow::Result<bool> {
        let ended = self.all[place].ended()?;
        if let Some(status) = ended {
            self.ended_by_itself(place, status);
        }
        Ok(ended.is_some())
    }

    fn ended_by_itself(&mut self, place: usize, status: ExitStatus) {
        let what = format!("replica {place} ended by itself, {status}: {}", self.last_line(place));
        if self.all[place].has_served {
            self.broken("C12", what);
        } else {
            self.notes.push(what);
        }
    }

    /// Kills one, and starts it again after a while. It did not end of that if it had ended before.
    fn kill(&mut self, place: usize, for_so_long: Duration) -> anyhow::Result<()> {
        self.ends += 1;
        self.has_ended(place)?;
        self.all[place].ask_fenced();
        self.all[place].kill()?;
        std::thread::sleep(for_so_long);
        self.all[place].run(&self.setting)
    }

    /// Has all of them leave; nobody serves any more. Whoever has ended before that had no reason to.
    fn finish(&mut self) -> anyhow::Result<()> {
        // Those that leave are not started anew.
        self.all.iter_mut().for_each(|replica| {
            replica.ask_fenced();
            replica.is_hit = true;
        });
        let mut leaving = Vec::new();
        for place in 0..self.all.len() {
            match self.all[place].tell_to_leave()? {
                Some(status) => self.ended_by_itself(place, status),
                None => leaving.push(place),
            }
        }
        leaving.into_iter().try_for_each(|place| self.until_left(place))
    }

    fn broken(&mut self, invariant: &'static str, what: String) {
        self.seen.push(Violation { invariant, what });
    }

    /// The ids of all executions of a workflow.
    fn listed(&self, workflow: &str) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/v1/executions?workflow={workflow}&limit={PAGE}{cursor}");
            let page = self.read(&path)?;
            let items = page["items"].as_array().context("a list has no items")?;
            ids.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(ids),
            }
        }
    }

    /// What the first replica answers to a read, once everything is healed.
    fn read(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.all[0].ask(&Request::get(path))?;
        if !answer.is_success() {
            bail!("{path} answers {answer:?}");
        }
        Ok(answer.body)
    }

    /// Takes what they have at the broker away: these exchanges and queues, and their events.
    fn forget(&self, bound: &[(&str, &str)]) -> anyhow::Result<()> {
        let url = self.lab.rabbitmq.url();
        self.lab.runtime().block_on(async {
            listener::delete(&url, &format!("{}.events", self.setting.prefix), None).await?;
            for (exchange, queue) in bound {
                listener::delete(&url, exchange, Some(queue)).await?;
            }
            anyhow::Ok(())
        })
    }

    fn log(&self, place: usize) -> String {
        let runs = (0..).map(|run| self.setting.folder.join(format!("replica-{place}-{run}.log")));
        let last = runs.take_while(|log| log.exists()).last();
        last.and_then(|log| std::fs::read_to_string(log).ok())
            .unwrap_or_default()
    }

    fn last_line(&self, place: usize) -> String {
        let log = self.log(place);
        let line = log.lines().rev().find(|line| !line.trim().is_empty());
        line.unwrap_or_default().to_owned()
    }

    fn last_logs(&self) -> String {
        let last = (0..self.all.len()).map(|place| format!("replica {place}: {}", self.last_line(place)));
        last.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Sizes, State, Strike, single};
    use super::*;

    #[test]
    fn one_that_stands_still_alone_must_tell_that_it_was_replaced() {
        let trial = |fault| single(fault, State::Load, Duration::ZERO, 1, Sizes::SMOKE);
        let frozen = trial(Fault::GatewayFreeze);
        assert!(unfenced(&frozen, 0).is_some() && unfenced(&frozen, 1).is_none());
        assert_eq!(unfenced(&trial(Fault::GatewayKill), 0), None);
        // Who may take shards is away: nobody need be replaced.
        let mut pair = frozen;
        pair.strikes.push(Strike {
            fault: Fault::PostgresStop,
            ..pair.strikes[0]
        });
        assert_eq!(unfenced(&pair, 0), None);
    }
}
