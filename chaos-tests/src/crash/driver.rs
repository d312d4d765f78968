//! Kills engine processes at random moments, lets the last one finish, and gathers the evidence.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use troupe_ports::{Clock, SystemClock};

use super::checkers::Evidence;
use super::child::{End, Fault, Orders, Setting, random};
use super::heal::heal;
use super::incarnation::Incarnation;
use super::record::Record;

/// How many executions an incarnation is asked for again.
const ASKED_AGAIN: usize = 40;

/// How to torment.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How many times to kill.
    pub kills: u32,
    /// Shortest and longest life of an incarnation after it became ready, in milliseconds.
    pub life_ms: (u64, u64),
    /// Clients an incarnation.
    pub clients: u32,
    /// Fault to plant.
    pub fault: Option<Fault>,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything recorded.
    pub evidence: Evidence,
    /// Kills carried out.
    pub kills: u32,
    /// Owners that were frozen, replaced, thawed and seen to be fenced.
    pub fenced_owners: u32,
    /// Shards that they lost to other owners, as their engines counted them.
    pub shards_lost: u64,
}

impl Campaign {
    /// Runs the campaign with the engine program at `program`.
    ///
    /// # Errors
    /// When an engine does not start, or does not heal.
    pub async fn run(&self, program: &Path) -> anyhow::Result<Outcome> {
        let directory = tempfile::tempdir().context("no temporary folder")?;
        let mut outcome = Outcome::default();
        let evidence = &mut outcome.evidence;
        let mut down_since = None;
        let setting = |end| Setting {
            directory: directory.path().to_owned(),
            shards: 4,
            end,
            fault: self.fault,
        };
        for incarnation in 0..self.kills {
            let end = if incarnation % 2 == 0 {
                End::PowerLoss
            } else {
                End::TornPowerLoss(random())
            };
            let orders = Orders {
                setting: setting(end),
                incarnation,
                asked_before: asked_before(&evidence.records),
                clients: self.clients,
                parked: None,
            };
            let mut engine = Incarnation::spawn(program, &orders)?;
            let ready_at = engine
                .ready()
                .with_context(|| format!("{end:?}, incarnation {incarnation}"))?;
            let (low, high) = self.life_ms;
            // The moment of death is what this test is about: it must not depend on anything that happens.
            std::thread::sleep(Duration::from_millis(low + random() % (high - low).max(1)));
            let killed_at = SystemClock.now();
            evidence.records.extend(engine.kill()?);
            outcome.kills += 1;
            if let Some(since) = down_since.replace(killed_at) {
                evidence.outages.push((since, ready_at.plus_ms(1_000)));
            }
        }
        heal(&setting(End::Shutdown), down_since, evidence).await?;
        Ok(outcome)
    }
}

/// Keys of the latest starts that were asked for.
pub(super) fn asked_before(records: &[Record]) -> Vec<String> {
    let keys = records.iter().rev().filter_map(|record| match record {
        Record::StartAsked { key } => Some(key.clone()),
        _ => None,
    });
    keys.take(ASKED_AGAIN).collect()
}
