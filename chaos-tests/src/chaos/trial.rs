//! Plays one trial: load, faults, healing, liveness, judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use troupe_core::Timestamp;
use troupe_ports::{Clock, SystemClock};

use super::changes::Change;
use super::deployment::{Deployment, LEASE, Setup};
use super::engine::{self, Order, Role};
use super::fault::{Expects, Fault, Target, engine_limit, taken_within};
use super::heard::Answers;
use super::lab::Lab;
use super::listener;
use super::plan::{State, Strike, Trial};
use super::schedule::{self, Struck};
use super::servers::RedisCluster;
use super::{poisoned, replicas, restart};
use crate::crash::checkers::{Evidence, Violation, check, check_despite_loss};
use crate::crash::effects::EffectSink;
use crate::crash::heal::{self, Hears};
use crate::crash::record::Record;
use crate::crash::rulings::lift_all;
use crate::crash::switches::{Switches, WRONG_CLOCK};
use crate::crash::workload;
use crate::world::random::Random;

/// How long clients load a deployment before anything is broken.
const WARM_UP: Duration = Duration::from_millis(700);
/// How much longer, where the machine is too busy for answers.
const WARM_UP_MAX: Duration = Duration::from_secs(10);
/// How long they load it after everything is healed.
const AFTERWARDS: Duration = Duration::from_millis(700);
/// Timers that are due when a fault comes, and how long before that they are set.
const TIMERS: u64 = 150;
const TIMERS_SET_BEFORE: Duration = Duration::from_millis(1_300);
/// How long a deployment may take to answer again once everything is healed: engines that start, leases that expire.
const LIVES_WITHIN: Duration = Duration::from_secs(60);
/// How long a shard of which a task panicked may take to be opened anew once clients have answers again: its lease, and the rest for a
/// busy machine.
const OPENED_ANEW_WITHIN: Duration = Duration::from_secs(30);
/// Answers after healing that show that it lives.
const ANSWERS_MIN: u64 = 20;
/// Lease of the engine that judges: nobody torments it, and on a busy machine it has much to end and to publish.
const JUDGES_LEASE: Duration = Duration::from_secs(10);
/// How long everything that is open may take to end after that.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
/// How long the rest of the events may take to be heard, each after the one before.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(60);
/// The same where a fault is planted: some lose events for good, and whoever hunts them waits for no more.
const PUBLISHED_WITHIN_IF_PLANTED: Duration = Duration::from_secs(20);
/// How late a timer may be that was due while something was broken: so long, and a lease, after clients have answers again. The rest is
/// for a busy machine.
const LATE_AFTER_HEALING: Duration = Duration::from_secs(30);
/// How long members may take to end what waits for limits, once nobody starts anything.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long an engine may take to say that its store went back, once everything is healed, and how often it is looked.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What it logs then, and what a next owner logs that finds less than lists show: others may have given their logs back what those lacked.
const WENT_BACK: &str = "went back";
const LISTS_SHOW_MORE: &str = "lists show what its log held";
/// Answers before the first fault below which a trial proves nothing.
const WARM_MIN: u64 = 10;
/// Executions below which it proves nothing.
const EXECUTIONS_MIN: usize = 10;
/// How often a workflow is held in every shard, below which it proves nothing about that.
const RULINGS_MIN: usize = 2;
/// Attempts that count under limits of all members, below which it proves nothing about those.
const SLOTS_MIN: usize = 3;

/// What came of a trial.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The trial, but for faults that those before ruled out.
    pub trial: Trial,
    /// Answers before, during and after the faults.
    pub answers: [u64; 3],
    /// Executions that were judged.
    pub executions: usize,
    /// Their entries.
    pub entries: usize,
    /// Events that were heard.
    pub events: usize,
    /// Owners that learned that they were replaced.
    pub fenced: u32,
    /// Shards that owners lost to others, as engines counted them: once a loss, whether a commit or a renewal was refused.
    pub shards_lost: u64,
    /// Engine processes that ended by themselves and were replaced.
    pub gave_up: u32,
    /// What befell members.
    pub changes: Vec<Change>,
    /// Attempts that counted under a limit of all members.
    pub slots: usize,
    /// How often a workflow was held in every shard.
    pub rulings: usize,
    /// What was counted.
    pub counted: BTreeMap<String, u64>,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Why the trial proves too little, if it does.
    pub too_little: Vec<String>,
    /// What else was noticed.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Whether every promise held, and enough happened for that to mean something.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.violations.is_empty() && self.too_little.is_empty()
    }
}

/// What one part of the evidence came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// For whoever reads the report.
    pub(super) note: String,
    pub(super) violations: Vec<Violation>,
    pub(super) too_little: Vec<String>,
}

impl Outcome {
    fn take(&mut self, judged: Judged) {
        self.notes.push(judged.note);
        self.violations.extend(judged.violations);
        self.too_little.extend(judged.too_little);
    }
}

/// Plays a trial.
///
/// # Errors
/// When the harness itself fails: a server does not start, an engine does not come up before anything was broken.
pub fn run(lab: &mut Lab, trial: &Trial) -> anyhow::Result<Outcome> {
    if trial.setup == Setup::Replicas {
        return replicas::run(lab, trial);
    }
    let begun = Instant::now();
    let executions_max = if trial.strikes.iter().any(|strike| strike.fault == Fault::Overload) {
        engine_limit()
    } else {
        20_000
    };
    let on = Deployment::open(lab, trial, executions_max);
    let mut on = on.context("the deployment does not open")?;
    let mut random = Random::new(trial.seed);
    on.begin(trial.clients)?;
    let broken_at = reach(&mut on, trial)?;
    let before = on.answers();
    let struck = schedule::strike(&mut on, trial, &mut random);
    let struck = struck.and_then(|()| restart::until_woken(&mut on));
    let during = on.answers();
    let mut seen = std::mem::take(&mut on.seen);
    if let Err(error) = struck {
        seen.push(violation("C12", format!("{error:#}")));
    }
    let mut lives = false;
    if trial.expects() == Expects::Everything || on.redis.as_ref().is_some_and(|redis| redis.replica.is_none()) {
        lives = answers_again(&mut on, trial, during)?;
        if !lives {
            let log = on.last_log();
            seen.push(violation(
                "C12",
                format!("no answers within {LIVES_WITHIN:?} after healing; {log}"),
            ));
        }
    }
    let panics = |strike: &Strike| matches!(strike.fault, Fault::ActorPanic(_));
    if lives && (on.cluster.is_some() || trial.strikes.iter().any(panics)) {
        // One master, or one shard, may be gone while the others answer.
        on.shards_answer(&BTreeSet::new())?;
    }
    if lives {
        seen.extend(panicked_are_opened_anew(&mut on)?);
        seen.extend(operators_are_heard(&mut on)?);
    }
    let healed_at = SystemClock.now().plus_ms(1_000);
    if lives {
        on.watch(AFTERWARDS)?;
    }
    if trial.expects() == Expects::ToldLoss {
        until_told(&mut on, trial)?;
    }
    let after = on.answers();
    let stopped_at = SystemClock.now();
    if lives {
        if trial.expects() == Expects::Everything {
            on.sees_tickets()?;
        }
        on.load(0)?;
        on.gives_everything_back(GIVEN_BACK_WITHIN)?;
        seen.append(&mut on.seen);
    }
    let jumps_ms = jumps_ms(trial);
    on.stop()?;
    let poisoned = on.poisoned.filter(|_| on.is_alone);
    let latencies = poisoned.map(|poisoned| poisoned.latencies(&on.said));
    let mut evidence = Evidence {
        // What a clock jumps over is late, or seems so.
        outages: vec![(earlier(broken_at, jumps_ms), healed_at.plus_ms(jumps_ms))],
        clocks_jump: jumps_ms > 0,
        clocks_differ: trial
            .strikes
            .iter()
            .any(|strike| matches!(strike.fault, Fault::MemberClock(_))),
        late_in_outages_ms: late_in_outages_ms(trial),
        late_after_outages_ms: Some(u64::try_from((LEASE + LATE_AFTER_HEALING).as_millis()).unwrap_or(u64::MAX)),
        seen,
        ..Evidence::default()
    };
    evidence.controls.by_entries = true;
    evidence.records = on.take_records()?;
    let broken = on.judge_slots(trial);
    evidence.seen.extend(broken);
    let mut outcome = Outcome {
        trial: on.open.played(trial),
        answers: [before.all, during.all - before.all, after.all - during.all],
        executions: 0,
        entries: 0,
        events: 0,
        fenced: on.fenced,
        shards_lost: on.shards_lost,
        gave_up: on.gave_up,
        changes: std::mem::take(&mut on.changes),
        slots: on.slots.len(),
        rulings: evidence
            .records
            .iter()
            .filter(|record| matches!(record, Record::Ruled { .. }))
            .count(),
        counted: counted(&evidence.records),
        violations: Vec::new(),
        too_little: Vec::new(),
        notes: Vec::new(),
        took: Duration::ZERO,
    };
    match trial.expects() {
        Expects::Everything => judge(&mut on, stopped_at, &mut evidence, &mut outcome)?,
        Expects::ToldLoss => {
            outcome.violations.extend(check_despite_loss(&evidence));
            was_told(&on, trial, &mut outcome);
        }
    }
    if let Some(latencies) = latencies {
        outcome.take(latencies.judge());
    }
    takes_over_in_time(trial, &mut outcome);
    floors(&mut on, trial, after, &mut outcome)?;
    outcome.notes.append(&mut on.notes);
    on.forget_events()?;
    outcome.took = begun.elapsed();
    Ok(outcome)
}

/// How late a timer may be whose member is gone; none where more is broken than that: then as long as that takes, and
/// [`LATE_AFTER_HEALING`].
fn late_in_outages_ms(trial: &Trial) -> Option<u64> {
    let only_members = trial.strikes.iter().all(|strike| {
        strike.fault.target() == Target::Member
            && !matches!(strike.fault, Fault::MemberLine(..) | Fault::MemberKillWithoutPostgres)
    });
    let most = LEASE + taken_within();
    only_members.then(|| u64::try_from(most.as_millis()).unwrap_or(u64::MAX))
}

/// The shards of a member that is gone are answered for again when its leases have expired, and those that are handed over sooner.
fn takes_over_in_time(trial: &Trial, outcome: &mut Outcome) {
    if trial.strikes.len() != 1 {
        return;
    }
    for change in &outcome.changes {
        let most = LEASE + taken_within();
        if change.longest > most {
            let what = format!(
                "member {} was {}: nobody answered for one of its {} shards for {:?}, longer than {most:?}",
                change.process, change.what, change.shards, change.longest
            );
            outcome.violations.push(violation("C12", what));
        }
    }
}

/// By how much clocks jump at most.
fn jumps_ms(trial: &Trial) -> u64 {
    let jumps = trial.strikes.iter().filter_map(|strike| match strike.fault {
        Fault::ClockStep(by_ms) | Fault::MemberClock(by_ms) => Some(by_ms.unsigned_abs()),
        _ => None,
    });
    jumps.max().unwrap_or(0)
}

fn earlier(at: Timestamp, by_ms: u64) -> Timestamp {
    Timestamp(at.0.saturating_sub(i64::try_from(by_ms).unwrap_or(i64::MAX)))
}

fn violation(invariant: &'static str, what: String) -> Violation {
    Violation { invariant, what }
}

/// Whether enough goes on for a fault to meet something: with several members, limits that they count together, too.
fn is_warm(on: &mut Deployment<'_>) -> bool {
    let (attempts, members) = on.under_limits();
    let are_limits_met = on.members.is_none() || (attempts >= SLOTS_MIN && members > 1);
    on.answers().all >= WARM_MIN && are_limits_met
}

/// Brings a deployment that serves into the trial's state. From when on it may be broken.
fn reach(on: &mut Deployment<'_>, trial: &Trial) -> anyhow::Result<Timestamp> {
    on.watch(WARM_UP)?;
    let begun = Instant::now();
    while !is_warm(on) && begun.elapsed() < WARM_UP_MAX {
        on.watch(WARM_UP / 10)?;
    }
    match trial.state {
        State::Load => {}
        State::Idle => {
            on.load(0)?;
            on.watch(WARM_UP)?;
        }
        State::TimersDue => {
            on.tell(&Order::Burst {
                workflow: workload::LATE.to_owned(),
                count: TIMERS,
                at_once: 16,
            })?;
            on.watch(TIMERS_SET_BEFORE)?;
        }
        State::Recovery => {
            let killed_at = SystemClock.now();
            on.kill()?;
            on.spawn()?;
            // It dials, waits for the lease, reads the log: faults come anywhere in that.
            on.watch(LEASE / 2)?;
            return Ok(killed_at);
        }
    }
    Ok(SystemClock.now())
}

/// Whether clients have answers again.
fn answers_again(on: &mut Deployment<'_>, trial: &Trial, before: Answers) -> anyhow::Result<bool> {
    on.load(trial.clients)?;
    let begun = Instant::now();
    loop {
        if on.answers().all >= before.all + ANSWERS_MIN {
            return Ok(true);
        }
        if begun.elapsed() > LIVES_WITHIN {
            return Ok(false);
        }
        on.watch(Duration::from_millis(50))?;
    }
}

/// C12: a shard whose checkpoints nobody writes any more, or whose lease nobody renews, is opened anew. It would answer all the same,
/// until its log outgrows everything or its lease runs out.
fn panicked_are_opened_anew(on: &mut Deployment<'_>) -> anyhow::Result<Option<Violation>> {
    let begun = Instant::now();
    loop {
        let left = on.not_opened_anew();
        if left.is_empty() {
            return Ok(None);
        }
        if begun.elapsed() > OPENED_ANEW_WITHIN {
            let what = format!(
                "shards {left:?}, of which a task panicked, were not opened anew within {OPENED_ANEW_WITHIN:?}"
            );
            return Ok(Some(violation("C12", what)));
        }
        on.watch(Duration::from_millis(50))?;
    }
}

/// C12: the operator of every member has its word in force in every shard again.
fn operators_are_heard(on: &mut Deployment<'_>) -> anyhow::Result<Option<Violation>> {
    if on.members.is_none() {
        return Ok(None);
    }
    let (known, begun) = (on.rulings(), Instant::now());
    loop {
        let mut unheard = on.rulings();
        unheard.retain(|member, times| *times <= known.get(member).copied().unwrap_or(0));
        if unheard.is_empty() {
            return Ok(None);
        }
        if begun.elapsed() > LIVES_WITHIN {
            let members: Vec<u32> = unheard.into_keys().collect();
            let what =
                format!("no control of members {members:?} came to all shards within {LIVES_WITHIN:?} of healing");
            return Ok(Some(violation("C12", what)));
        }
        on.watch(Duration::from_millis(50))?;
    }
}

/// Lets a healthy engine end everything that is open, and asks the checkers.
fn judge(
    on: &mut Deployment<'_>,
    stopped_at: Timestamp,
    evidence: &mut Evidence,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut orders = on.orders();
    // What judges has no planted fault, and has everything.
    orders.fault = None;
    orders.lease_ms = u64::try_from(JUDGES_LEASE.as_millis()).unwrap_or(u64::MAX);
    orders.role = Role::Sole;
    if let engine::State::Embedded { loses_unsynced, .. } = &mut orders.place.state {
        *loses_unsynced = false;
    }
    orders.clients = 0;
    let published = match on.planted {
        Some(_) => PUBLISHED_WITHIN_IF_PLANTED,
        None => PUBLISHED_WITHIN,
    };
    let listener = &on.listener;
    let healed = on.lab.runtime().block_on(async {
        let silent = EffectSink { silent: true };
        let switches = Arc::new(Switches::default());
        let opened = engine::open(&orders, silent, switches, false, String::new()).await?;
        evidence.outages.push((stopped_at, SystemClock.now().plus_ms(1_000)));
        let within = heal::Patience {
            healed: HEALED_WITHIN,
            published,
        };
        lift_all(&opened.engine).await?;
        let unexplained = poisoned::unexplained(&opened.engine, &evidence.records);
        evidence.seen.extend(unexplained);
        heal::complete(&opened.engine, &*opened.store, listener, within, evidence).await?;
        opened.engine.shutdown(Duration::from_secs(1)).await;
        anyhow::Ok(())
    });
    if let Err(error) = healed {
        evidence
            .seen
            .push(violation("C12", format!("it does not heal: {error:#}")));
    }
    let heard = listener.trouble().into_iter().map(|what| violation("C7", what));
    evidence.seen.extend(heard);
    listener::translate(evidence);
    on.gives_everything_back(LEASE * 2)?;
    evidence.seen.append(&mut on.seen);
    outcome.violations = check(evidence);
    for restart in &on.restarts {
        outcome.take(restart.judge(evidence, on.is_alone));
    }
    if on.poisoned.is_some() {
        outcome.take(poisoned::judge(evidence, on.is_alone));
    }
    outcome.executions = evidence.executions.len();
    outcome.entries = evidence.executions.values().map(|(_, _, entries)| entries.len()).sum();
    outcome.events = on.listener.seen().len();
    Ok(())
}

/// What must be logged where something is lost.
fn words_of_loss(trial: &Trial) -> &'static str {
    let owner_dies = |strike: &Strike| strike.fault == Fault::ClusterTakeoverWithoutOwner;
    if trial.strikes.iter().any(owner_dies) {
        LISTS_SHOW_MORE
    } else {
        WENT_BACK
    }
}

/// Waits until an engine has said that its store went back, while clients go on.
fn until_told(on: &mut Deployment<'_>, trial: &Trial) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !on.logged(words_of_loss(trial)) && begun.elapsed() < TOLD_WITHIN {
        on.watch(LOOK_EVERY)?;
    }
    Ok(())
}

/// A store that went back must be told of, never silently used.
fn was_told(on: &Deployment<'_>, trial: &Trial, outcome: &mut Outcome) {
    if on.logged(words_of_loss(trial)) {
        outcome
            .notes
            .push("the engine said that its store went back".to_owned());
    } else {
        let what = "the store lost what it had acknowledged, and no engine said so".to_owned();
        outcome.violations.push(violation("C1", what));
    }
}

/// A trial in which too little happened proves nothing.
fn floors(on: &mut Deployment<'_>, trial: &Trial, all: Answers, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut expect = |holds: bool, what: String| {
        if !holds {
            outcome.too_little.push(what);
        }
    };
    let [before, ..] = outcome.answers;
    expect(before >= WARM_MIN, format!("{before} answers before the faults"));
    if trial.expects() == Expects::Everything {
        let known = outcome.executions;
        expect(known >= EXECUTIONS_MIN, format!("{known} executions"));
        expect(outcome.events > 0, "no event was heard".to_owned());
    }
    if trial.expects() == Expects::Everything && on.members.is_some() {
        let members: BTreeSet<u32> = on.slots.iter().map(|one| one.process).collect();
        let slots = on.slots.len();
        expect(slots >= SLOTS_MIN, format!("{slots} attempts under a limit"));
        let seen = on.tickets;
        expect(
            seen.are_all(),
            format!("of tickets no look has found more than {seen:?}"),
        );
        let rulings = outcome.rulings;
        expect(rulings >= RULINGS_MIN, format!("{rulings} controls of all members"));
        let several = trial.strikes.len() > 1 || members.len() > 1;
        expect(several, format!("only members {members:?} had attempts under a limit"));
    }
    for change in outcome.changes.iter().filter(|_| trial.strikes.len() == 1) {
        let (number, what) = (change.process, change.what);
        expect(
            change.shards > 0,
            format!("no shard changed its owner when member {number} was {what}"),
        );
    }
    for strike in &trial.strikes {
        match strike.fault {
            Fault::EngineFreeze | Fault::EnginePartition if trial.strikes.len() == 1 => {
                expect(on.fenced > 0, "no owner was seen to be fenced".to_owned());
            }
            Fault::MemberFreeze | Fault::MemberPartition if trial.strikes.len() == 1 => {
                expect(on.fenced > 0, "no member was seen to be fenced".to_owned());
            }
            Fault::RedisFailover | Fault::ClusterTakeover if trial.strikes.len() == 1 => {
                let what = "no owner had to give its log back what that lacked";
                expect(on.logged(WENT_BACK), what.to_owned());
            }
            Fault::ClusterSlotsMove if trial.strikes.len() == 1 => {
                let told = on.cluster.as_ref().map(RedisCluster::redirections);
                let told = told.transpose()?.unwrap_or_default();
                expect(told.moved > 0, "nobody was told that a slot has moved".to_owned());
                // Where nobody loads it only leases are renewed meanwhile.
                let is_met = told.on_the_move > 0 || trial.state == State::Idle;
                expect(is_met, "nobody met a slot on the move".to_owned());
                on.notes.push(format!(
                    "{} commands met a slot on the move, {} one that had moved",
                    told.on_the_move, told.moved
                ));
            }
            Fault::ClockStep(_) | Fault::MemberClock(_) if trial.strikes.len() == 1 => {
                let looks = outcome.counted.get(WRONG_CLOCK).copied().unwrap_or(0);
                expect(looks > 0, "nobody looked at a clock that was wrong".to_owned());
            }
            // How many of them waited is judged where their entries are.
            Fault::MassRestart if trial.strikes.len() == 1 => {
                let what = "the engine was not killed while all waited that were to";
                expect(!on.restarts.is_empty(), what.to_owned());
            }
            Fault::Overload => expect(all.refused > 0, "no start was refused".to_owned()),
            Fault::EngineKillAt(_) | Fault::ActorPanic(_) | Fault::ExecutionPanic if trial.strikes.len() == 1 => {
                let hits = strike.fault.hits(1, &outcome.counted);
                expect(hits > 0, "the moment never came".to_owned());
            }
            _ => {}
        }
    }
    outcome.too_little.append(&mut on.too_little);
    outcome.too_little.extend(on.open.lacks(trial));
    Ok(())
}

fn counted(records: &[Record]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for record in records {
        if let Record::Counted { what, times } = record {
            *all.entry(what.clone()).or_default() += times;
        }
    }
    all
}
