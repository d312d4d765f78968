//! Freezes engine processes under load, lets others take their shards, and thaws them: they must be fenced.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use troupe_core::Timestamp;
use troupe_ports::{Clock, SystemClock};

use super::child::{End, Fault, Orders, Setting, random};
use super::driver::{Outcome, asked_before};
use super::heal::heal;
use super::incarnation::Incarnation;
use super::record::Record;

/// How long a thawed owner may take to learn of its successor: a renewal and what a loaded machine adds.
const FENCED_WITHIN: Duration = Duration::from_secs(15);
/// Freezes after which an owner that is always caught in a transaction is a finding.
const FREEZES_MAX: u32 = 1_000;
/// Successors that may fail to open the files of a frozen owner.
const REPLACES_MAX: u32 = 3;

/// How to torment.
#[derive(Clone, Debug)]
pub struct Takeovers {
    /// How many owners are frozen, replaced and thawed.
    pub rounds: u32,
    /// Shards of the store.
    pub shards: u16,
    /// Shortest and longest time that an owner serves before it is frozen, in milliseconds.
    pub life_ms: (u64, u64),
    /// Clients an owner.
    pub clients: u32,
    /// Fault to plant.
    pub fault: Option<Fault>,
}

impl Takeovers {
    /// Runs the campaign with the engine program at `program`.
    ///
    /// # Errors
    /// When an engine does not start, does not heal, or never hears that it was replaced.
    pub async fn run(&self, program: &Path) -> anyhow::Result<Outcome> {
        let directory = tempfile::tempdir().context("no temporary folder")?;
        let mut outcome = Outcome::default();
        let setting = |end| Setting {
            directory: directory.path().to_owned(),
            shards: self.shards,
            end,
            fault: self.fault,
        };
        let orders = |incarnation: u32, records: &[Record]| Orders {
            setting: setting(End::TakenOver),
            incarnation,
            asked_before: asked_before(records),
            clients: self.clients,
            parked: None,
        };
        let mut owner = Incarnation::spawn(program, &orders(0, &[]))?;
        owner.ready()?;
        for round in 1..=self.rounds {
            let (low, high) = self.life_ms;
            std::thread::sleep(Duration::from_millis(low + random() % (high - low).max(1)));
            let frozen_at = SystemClock.now();
            let orders = orders(round, owner.so_far());
            let (successor, taken_at) = replace(&owner, program, &orders)
                .with_context(|| format!("the successor of owner {round} does not get its shards"))?;
            outcome.evidence.outages.push((frozen_at, taken_at.plus_ms(1_000)));
            std::thread::sleep(Duration::from_millis(random() % 200));
            owner.thaw()?;
            let lost = |record: &Record| matches!(record, Record::Fenced { shards_served: 0, .. });
            if owner.hears(FENCED_WITHIN, lost)? {
                outcome.fenced_owners += 1;
            } else if self.fault.is_none() {
                bail!("owner {round} still believes in its shards {FENCED_WITHIN:?} after its successor took them");
            }
            let records = owner.kill()?;
            outcome.kills += 1;
            outcome.shards_lost += records.iter().rev().find_map(shards_lost).unwrap_or(0);
            outcome.evidence.records.extend(records);
            owner = successor;
        }
        let killed_at = SystemClock.now();
        outcome.evidence.records.extend(owner.kill()?);
        outcome.kills += 1;
        heal(&setting(End::Shutdown), Some(killed_at), &mut outcome.evidence).await?;
        Ok(outcome)
    }
}

fn shards_lost(record: &Record) -> Option<u64> {
    match record {
        Record::Fenced { shards_lost, .. } => Some(*shards_lost),
        _ => None,
    }
}

/// Freezes an owner and lets a successor take its shards.
fn replace(owner: &Incarnation, program: &Path, orders: &Orders) -> anyhow::Result<(Incarnation, Timestamp)> {
    let mut tries = 0;
    loop {
        freeze(owner)?;
        let mut successor = Incarnation::spawn(program, orders)?;
        match successor.ready() {
            Ok(taken_at) => return Ok((successor, taken_at)),
            // It may have been frozen on its way into a transaction.
            Err(_) if tries < REPLACES_MAX => owner.thaw()?,
            Err(error) => return Err(error),
        }
        tries += 1;
    }
}

/// Freezes an owner between two transactions: within one it keeps its successor from the files, which is no fencing.
fn freeze(owner: &Incarnation) -> anyhow::Result<()> {
    for _ in 0..FREEZES_MAX {
        owner.freeze()?;
        if !owner.holds_a_file() {
            return Ok(());
        }
        owner.thaw()?;
        std::thread::sleep(Duration::from_micros(random() % 3_000));
    }
    bail!("the owner was in a transaction each of {FREEZES_MAX} times");
}
