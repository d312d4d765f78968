//! A mass restart: many executions wait when their engine is killed, and half of them are due in one and the same second soon after.

use std::time::{Duration, Instant};

use anyhow::bail;
use troupe_core::Timestamp;
use troupe_core::execution::{Entry, Status, Verb};
use troupe_core::plan::Plan;
use troupe_ports::{Clock, SystemClock};

use super::deployment::Deployment;
use super::engine::Order;
use super::schedule::Struck;
use super::trial::Judged;
use crate::crash::Violation;
use crate::crash::checkers::{Evidence, due_of};

/// Starts that are asked for at the same time: commits hold as many as there are.
const AT_ONCE: u64 = 256;
/// How long nobody may be answered, or go on, while many should: how long all of them take is the machine's.
const NEXT_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_FOR_SLEEPERS_EVERY: Duration = Duration::from_millis(250);
/// Starts from which the pace of the rest is taken: one in so many, but neither very few nor very many.
const PACED_ONE_IN: u64 = 4;
const PACED: (u64, u64) = (50, 2_000);
/// From the end of the starts, as it is expected, until the first of them is due, in milliseconds: the kill, and what was not expected.
const MARGIN_MS: u64 = 4_000;
/// The second in which half of them are due, in milliseconds.
const SECOND_MS: u64 = 1_000;
/// Over how many milliseconds at least the other half is spread.
const SPREAD_MS_MIN: u64 = 5_000;
/// Of ten executions so many must wait when the engine is killed, and of ten of the half so many be due in the one second.
const TENTHS_MIN: usize = 9;
/// How late the last may be, in milliseconds, beside so many times what their starts took: a start is one commit, to go on is some.
const LATE_MS: u64 = 60_000;
const LATE_STARTS: u32 = 4;

/// What is asked of a mass restart, and when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MassRestart {
    /// Executions that were started for it.
    scale: u64,
    /// How long that took.
    starts_took: Duration,
    /// The beginning of the second in which half of them are due.
    second: Timestamp,
    /// When the first and the last of the others are.
    later: (Timestamp, Timestamp),
    killed_at: Timestamp,
}

/// Starts executions that wait, all of them before the engine is killed. First those that are due last: when they are there it is known
/// how long the others take, and the second in which those are due can be near.
pub(super) fn run(on: &mut Deployment<'_>, scale: u64) -> anyhow::Result<()> {
    // These are due already: nobody waits for them.
    let paced = (scale / PACED_ONE_IN).clamp(PACED.0, PACED.1);
    let took = start_all(on, paced, SystemClock.now(), 1)?;
    let all_take = ms(took) * scale / paced;
    let (at_once, spread) = (scale / 2, scale - scale / 2);
    // Twice as long as they are expected to take: they must not be due before the last of them is there.
    let first = SystemClock.now().plus_ms(all_take * 2 + MARGIN_MS);
    let spread_ms = all_take.max(SPREAD_MS_MIN);
    let begun = Instant::now();
    let took = start_all(on, spread, first, spread_ms)?;
    let second = next_second(SystemClock.now().plus_ms(ms(took) * 3 / 2 + MARGIN_MS));
    start_all(on, at_once, second, SECOND_MS)?;
    let starts_took = begun.elapsed();
    on.restarts.push(MassRestart {
        scale,
        starts_took,
        second,
        later: (first, first.plus_ms(spread_ms)),
        killed_at: SystemClock.now(),
    });
    on.kill()?;
    on.spawn()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn next_second(at: Timestamp) -> Timestamp {
    at.plus_ms(SECOND_MS - at.0.unsigned_abs() % SECOND_MS)
}

/// Starts so many and waits until each is acknowledged; how long that took. Where whoever was asked ends, the next one is.
fn start_all(on: &mut Deployment<'_>, count: u64, due: Timestamp, within_ms: u64) -> anyhow::Result<Duration> {
    let (begun, before) = (Instant::now(), on.acked_later());
    let (mut known, mut since, mut asked) = (0, begun, None);
    while known < count {
        let serving = on.serving.first().map(|process| process.number);
        if serving.is_some() && serving != asked {
            asked = serving;
            on.tell(&Order::Later {
                count: count - known,
                at_once: AT_ONCE,
                due,
                within_ms,
            })?;
        }
        if since.elapsed() > NEXT_WITHIN {
            bail!("of {count} starts {known} were acknowledged, and none for {NEXT_WITHIN:?}");
        }
        on.watch(LOOK_EVERY)?;
        let acked = (on.acked_later() - before) as u64;
        if acked > known {
            (known, since) = (acked, Instant::now());
        }
    }
    Ok(begun.elapsed())
}

/// Waits until everybody who waited for an instant has gone on, as long as somebody does.
pub(super) fn until_woken(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let Some(last) = on
        .restarts
        .iter()
        .map(|restart| restart.later.1.max(restart.second))
        .max()
    else {
        return Ok(());
    };
    let (mut asleep, mut since) = (on.asleep(), Instant::now());
    while asleep > 0 {
        if since.elapsed() > NEXT_WITHIN && SystemClock.now() > last {
            let what = format!("{asleep} executions that waited did not go on, and none for {NEXT_WITHIN:?}");
            on.seen.push(Violation { invariant: "C12", what });
            return Ok(());
        }
        on.watch(LOOK_FOR_SLEEPERS_EVERY)?;
        let now = on.asleep();
        // Those that are due later are not late yet.
        if now < asleep || SystemClock.now() <= last {
            (asleep, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// An execution of a mass restart, as its entries tell it.
#[derive(Clone, Copy, Debug)]
struct Sleeper {
    due: Timestamp,
    /// When it began to wait, and when it went on.
    began: Timestamp,
    fired: Option<Timestamp>,
    /// How often it has completed.
    completed: usize,
}

impl Sleeper {
    /// None: it never waited.
    fn of(plan: &Plan, entries: &[Entry], due: Timestamp) -> Option<Self> {
        let wait = plan.node_ix("wait")?;
        let says = |entry: &Entry, verb: Verb| {
            let mut changes = entry.transitions.iter();
            changes.any(|change| change.node_ix() == Some(wait) && change.verb() == Some(verb))
        };
        let at = |verb: Verb| entries.iter().find(|entry| says(entry, verb)).map(|entry| entry.at);
        let changes = entries.iter().flat_map(|entry| &entry.transitions);
        Some(Self {
            due,
            began: at(Verb::NodeWaiting)?,
            fired: at(Verb::NodeCompleted),
            completed: changes
                .filter(|change| change.verb() == Some(Verb::ExecutionCompleted))
                .count(),
        })
    }

    fn late_ms(&self) -> u64 {
        self.fired.map_or(0, |fired| fired.since_ms(self.due))
    }
}

impl MassRestart {
    fn is_of(&self, due: Timestamp) -> bool {
        self.is_in_second(due) || self.later.0 <= due && due < self.later.1
    }

    fn is_in_second(&self, due: Timestamp) -> bool {
        self.second <= due && due < self.second.plus_ms(SECOND_MS)
    }

    /// `is_alone`: nothing else has befallen the deployment, so that enough must have waited, and none be too late.
    pub(super) fn judge(&self, evidence: &Evidence, is_alone: bool) -> Judged {
        let mut violations = Vec::new();
        let mut sleepers = Vec::new();
        for (id, (state, plan, entries)) in &evidence.executions {
            let Some(due) = due_of(plan, entries, evidence).filter(|due| self.is_of(*due)) else {
                continue;
            };
            let Some(sleeper) = Sleeper::of(plan, entries, due) else {
                continue;
            };
            let is_over = matches!(state.status, Status::Completed { .. });
            if sleeper.completed != 1 || !is_over {
                let (status, times) = (state.status.name(), sleeper.completed);
                let what = format!("{id}: it waited for the restart, completed {times} times, and is {status}");
                violations.push(Violation { invariant: "C2", what });
            }
            sleepers.push(sleeper);
        }
        let judged = self.of(&sleepers, is_alone);
        violations.extend(judged.violations);
        Judged { violations, ..judged }
    }

    fn of(&self, sleepers: &[Sleeper], is_alone: bool) -> Judged {
        let scale = usize::try_from(self.scale).unwrap_or(usize::MAX);
        let waited = |one: &&Sleeper| {
            let still = one.due > self.killed_at && one.fired.is_none_or(|fired| fired > self.killed_at);
            one.began <= self.killed_at && still
        };
        let waited: Vec<&Sleeper> = sleepers.iter().filter(waited).collect();
        let in_second = waited.iter().filter(|one| self.is_in_second(one.due)).count();
        let late_ms = waited.iter().map(|one| one.late_ms()).max().unwrap_or(0);
        let soon_ms = self.second.since_ms(self.killed_at);
        let note = format!(
            "{} of {scale} executions waited when the engine was killed, {in_second} of them were due in one second, {:.1} s after that; \
             the last one went on {:.1} s late, their starts had taken {:.1} s",
            waited.len(),
            Duration::from_millis(soon_ms).as_secs_f64(),
            Duration::from_millis(late_ms).as_secs_f64(),
            self.starts_took.as_secs_f64(),
        );
        let (mut violations, mut too_little) = (Vec::new(), Vec::new());
        if is_alone {
            if waited.len() * 10 < scale * TENTHS_MIN {
                let waited = waited.len();
                too_little.push(format!(
                    "only {waited} of {scale} executions waited when the engine was killed"
                ));
            }
            if in_second * 10 < scale / 2 * TENTHS_MIN {
                let half = scale / 2;
                too_little.push(format!(
                    "only {in_second} of {half} executions were due in the one second"
                ));
            }
            let most_ms = LATE_MS + ms(self.starts_took * LATE_STARTS);
            if late_ms > most_ms {
                let what = format!("after the mass restart a timer fired {late_ms} ms late, more than {most_ms} ms");
                violations.push(Violation { invariant: "C8", what });
            }
        }
        Judged {
            note,
            violations,
            too_little,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTART: MassRestart = MassRestart {
        scale: 20,
        starts_took: Duration::from_secs(1),
        second: Timestamp(10_000),
        later: (Timestamp(20_000), Timestamp(25_000)),
        killed_at: Timestamp(7_000),
    };

    fn sleepers(in_second: i64, later: i64) -> Vec<Sleeper> {
        let one = |due| Sleeper {
            due: Timestamp(due),
            began: Timestamp(1_000),
            fired: Some(Timestamp(due + 40)),
            completed: 1,
        };
        let in_second = (0..in_second).map(|place| one(10_000 + place));
        in_second.chain((0..later).map(|place| one(20_000 + place))).collect()
    }

    fn is_enough(sleepers: &[Sleeper]) -> bool {
        let judged = RESTART.of(sleepers, true);
        assert!(judged.violations.is_empty(), "{judged:?}");
        assert_eq!(RESTART.of(sleepers, false).too_little, [""; 0]);
        judged.too_little.is_empty()
    }

    #[test]
    fn nine_in_ten_must_wait_at_the_kill_and_of_the_half_be_due_at_once() {
        assert!(is_enough(&sleepers(10, 10)));
        assert!(is_enough(&sleepers(9, 9)));
        assert!(!is_enough(&sleepers(9, 8)));
        assert!(!is_enough(&sleepers(8, 12)));
        let mut late = sleepers(10, 10);
        late.iter_mut().take(3).for_each(|one| one.began = Timestamp(7_001));
        assert!(!is_enough(&late), "they began to wait after the kill");
        let mut over = sleepers(10, 10);
        over.iter_mut()
            .take(3)
            .for_each(|one| one.fired = Some(Timestamp(6_999)));
        assert!(!is_enough(&over), "they went on before the kill");
    }

    #[test]
    fn a_note_tells_what_waited_and_how_late_the_last_one_went_on() {
        let mut all = sleepers(10, 10);
        all[3].fired = Some(Timestamp(all[3].due.0 + 64_000));
        let judged = RESTART.of(&all, true);
        assert!(judged.violations.is_empty(), "{judged:?}");
        let told = "20 of 20 executions waited when the engine was killed, 10 of them were due in one second, 3.0 s after that; \
                    the last one went on 64.0 s late";
        assert!(judged.note.starts_with(told), "{}", judged.note);
        all[3].fired = Some(Timestamp(all[3].due.0 + 64_001));
        let judged = RESTART.of(&all, true);
        assert!(judged.violations[0].what.contains("64001 ms late"), "{judged:?}");
        assert!(RESTART.of(&all, false).violations.is_empty());
    }

    #[test]
    fn the_second_is_one_of_the_clocks() {
        assert_eq!(next_second(Timestamp(1_790_000_000_001)), Timestamp(1_790_000_001_000));
        assert_eq!(next_second(Timestamp(1_790_000_000_999)), Timestamp(1_790_000_001_000));
        assert!(RESTART.is_of(Timestamp(10_999)) && !RESTART.is_of(Timestamp(11_000)));
        assert!(RESTART.is_of(Timestamp(24_999)) && !RESTART.is_of(Timestamp(25_000)));
    }
}
