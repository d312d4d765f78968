//! Executions whose actors panic: those are built again, and set aside where that goes on, and nobody else notices (C13).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use troupe_actors::EngineHandle;
use troupe_core::ExecutionId;
use troupe_core::execution::Status;

use super::changes::Said;
use super::deployment::Deployment;
use super::engine::Order;
use super::schedule::Struck;
use super::trial::Judged;
use crate::crash::Violation;
use crate::crash::checkers::Evidence;
use crate::crash::record::{Record, now_ns};
use crate::crash::workload;

/// How long others are watched before anybody is poisoned.
const BEFORE: Duration = Duration::from_millis(1_500);
/// How often executions are started that are poisoned, how many at a time, and the pause after that: a panic follows the other for so long,
/// and they are no load to speak of.
const ROUNDS: u32 = 10;
const POISONED: u64 = 4;
const STUMBLING: u64 = 2;
const PAUSE: Duration = Duration::from_millis(250);
/// The latency of others may be so many times what it was before, and a little more for a machine that is busy now and then: half of them, and
/// nine in ten.
const LATENCY_TIMES: u32 = 2;
const HALF_ALLOWED: Duration = Duration::from_millis(100);
const MOST_ALLOWED: Duration = Duration::from_millis(500);
/// Others whose latency must be known, before and during that.
const OTHERS_MIN: usize = 8;

/// From when on others were watched, and executions poisoned, and until when; in nanoseconds. Nobody was watched where something else
/// befell them too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Poisoned {
    watched_ns: u64,
    from_ns: u64,
    until_ns: u64,
}

/// Executions are started whose actors panic, while clients go on. Where something else is to meet that, all of them at once.
pub(super) fn begin(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.tell_all(&Order::Poison { is_on: true })?;
    if !on.is_alone {
        start(on, u64::from(ROUNDS))?;
        on.poisoned = Some(Poisoned::default());
        return Ok(());
    }
    let watched_ns = now_ns();
    on.watch(BEFORE)?;
    let from_ns = now_ns();
    for _ in 0..ROUNDS {
        start(on, 1)?;
        on.watch(PAUSE)?;
    }
    on.poisoned = Some(Poisoned {
        watched_ns,
        from_ns,
        until_ns: now_ns(),
    });
    Ok(())
}

fn start(on: &mut Deployment<'_>, rounds: u64) -> anyhow::Result<()> {
    for (workflow, count) in [(workload::POISONED, POISONED), (workload::STUMBLING, STUMBLING)] {
        on.tell(&Order::Burst {
            workflow: workflow.to_owned(),
            count: count * rounds,
            at_once: 1,
        })?;
    }
    Ok(())
}

/// No actor panics any more. Who was set aside waits for an operator.
pub(super) fn end(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    on.tell_all(&Order::Poison { is_on: false })
}

/// How long others waited from asking for a start until its first node took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Latencies {
    before: Vec<Duration>,
    during: Vec<Duration>,
}

impl Poisoned {
    /// What others waited, of those who asked before and while executions were poisoned.
    pub(super) fn latencies(&self, said: &Said) -> Latencies {
        let mut latencies = Latencies::default();
        for (asked, took) in latencies_of_others(said) {
            if (self.watched_ns..self.from_ns).contains(&asked) {
                latencies.before.push(took);
            } else if (self.from_ns..self.until_ns).contains(&asked) {
                latencies.during.push(took);
            }
        }
        latencies.before.sort_unstable();
        latencies.during.sort_unstable();
        latencies
    }
}

/// When each start of the plain load was first asked for, and how long after that something took effect.
fn latencies_of_others(said: &Said) -> Vec<(u64, Duration)> {
    let plain: BTreeSet<String> = workload::definitions().into_iter().map(|one| one.id).collect();
    let mut asked: BTreeMap<&str, u64> = BTreeMap::new();
    let mut started: BTreeMap<ExecutionId, u64> = BTreeMap::new();
    let mut acted: BTreeMap<ExecutionId, u64> = BTreeMap::new();
    let records = || said.values().flatten();
    for (at_ns, record) in records() {
        match record {
            Record::StartAsked { key } if key.split('/').next().is_some_and(|one| plain.contains(one)) => {
                asked.entry(key.as_str()).or_insert(*at_ns);
            }
            Record::Effect { id, .. } => {
                let first = acted.entry(*id).or_insert(*at_ns);
                *first = (*first).min(*at_ns);
            }
            _ => {}
        }
    }
    for (_, record) in records() {
        if let Record::StartAcked {
            key,
            id,
            existing: false,
        } = record
            && let Some(asked) = asked.get(key.as_str())
        {
            started.insert(*id, *asked);
        }
    }
    let took = started.into_iter().filter_map(|(id, asked)| {
        let acted = acted.get(&id)?;
        Some((asked, Duration::from_nanos(acted.saturating_sub(asked))))
    });
    took.collect()
}

/// What so many in a hundred waited at most. Of none: nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

impl Latencies {
    /// C13: others wait hardly longer.
    pub(super) fn judge(&self) -> Judged {
        let of = |sorted: &[Duration]| (percentile(sorted, 50), percentile(sorted, 90));
        let ((half, most), (half_now, most_now)) = (of(&self.before), of(&self.during));
        let mut judged = Judged {
            note: format!(
                "while actors panicked others waited {half_now:.1?} (nine in ten at most {most_now:.1?}) for their first step, \
                 {half:.1?} ({most:.1?}) before that"
            ),
            ..Judged::default()
        };
        let (before, during) = (self.before.len(), self.during.len());
        if before.min(during) < OTHERS_MIN {
            let what = format!("the latency of {before} others is known before, and of {during} while actors panicked");
            judged.too_little.push(what);
            return judged;
        }
        let bounds = [
            ("half of the others", half, half_now, HALF_ALLOWED),
            ("nine in ten of the others", most, most_now, MOST_ALLOWED),
        ];
        for (who, before, now, allowed) in bounds {
            let bound = before * LATENCY_TIMES + allowed;
            if now > bound {
                let what = format!(
                    "while actors panicked {who} waited up to {now:.1?}, more than {bound:.1?}; {before:.1?} before that"
                );
                judged.violations.push(Violation { invariant: "C13", what });
            }
        }
        judged
    }
}

/// C13: whoever was set aside is so for a reason that the next engine knows.
pub(super) fn unexplained(engine: &EngineHandle, records: &[Record]) -> Vec<Violation> {
    let aside = records.iter().filter_map(|record| match record {
        Record::SetAside { id } => Some(*id),
        _ => None,
    });
    let aside: BTreeSet<ExecutionId> = aside.collect();
    let unexplained = aside
        .into_iter()
        .filter(|id| engine.quarantined(*id).is_none_or(|why| why.is_empty()));
    let violation = |id: ExecutionId| Violation {
        invariant: "C13",
        what: format!("{id} was set aside, and the next engine does not say why"),
    };
    unexplained.map(violation).collect()
}

/// What became of those whose actors panicked, once an operator has let those go on that were set aside; `is_alone`: nothing else has
/// befallen the deployment, so that both must have happened.
pub(super) fn judge(evidence: &Evidence, is_alone: bool) -> Judged {
    let (mut restarts, mut restarted, mut aside) = (0, BTreeSet::new(), BTreeSet::new());
    for record in &evidence.records {
        match record {
            Record::Restarted { id, .. } => {
                restarts += 1;
                restarted.insert(*id);
            }
            Record::SetAside { id } => _ = aside.insert(*id),
            _ => {}
        }
    }
    let went_on: BTreeSet<ExecutionId> = restarted.difference(&aside).copied().collect();
    let mut judged = Judged {
        note: format!(
            "{} executions were set aside with a reason, {} went on by themselves; actors were built again {restarts} times",
            aside.len(),
            went_on.len(),
        ),
        ..Judged::default()
    };
    for id in restarted.union(&aside) {
        let status = evidence.executions.get(id).map(|(state, ..)| &state.status);
        if !matches!(status, Some(Status::Completed { .. })) {
            let status = status.map_or("gone", Status::name);
            let what = format!("{id}, whose actor had panicked, is {status} once it may go on");
            judged.violations.push(Violation { invariant: "C13", what });
        }
    }
    if is_alone && aside.is_empty() {
        judged.too_little.push("no execution was set aside".to_owned());
    }
    if is_alone && went_on.is_empty() {
        judged
            .too_little
            .push("no execution went on whose actor had panicked".to_owned());
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::{ShardId, Timestamp};

    fn id(number: u64) -> ExecutionId {
        ExecutionId::fresh(ShardId(0), Timestamp(0), number)
    }

    fn asked(number: u64, workflow: &str) -> Record {
        Record::StartAsked {
            key: format!("{workflow}/0-{number}"),
        }
    }

    fn acked(number: u64, workflow: &str) -> Record {
        Record::StartAcked {
            key: format!("{workflow}/0-{number}"),
            id: id(number),
            existing: false,
        }
    }

    fn effect(number: u64) -> Record {
        Record::Effect {
            id: id(number),
            node: "a".to_owned(),
            token: [0; 4],
            input: "null".to_owned(),
        }
    }

    const TIMES: Poisoned = Poisoned {
        watched_ns: 100,
        from_ns: 200,
        until_ns: 300,
    };

    #[test]
    fn the_latency_of_others_is_from_the_request_to_the_first_effect_wherever_that_is() {
        let said = Said::from([
            (
                0,
                vec![
                    (50, asked(0, "chain")),
                    (60, acked(0, "chain")),
                    (70, effect(0)),
                    (110, asked(1, "chain")),
                    (120, acked(1, "chain")),
                    (150, effect(1)),
                    (155, effect(1)),
                    (210, asked(2, "fan")),
                    (215, asked(3, workload::POISONED)),
                    (216, acked(3, workload::POISONED)),
                    (217, effect(3)),
                    (220, acked(2, "fan")),
                    (230, asked(4, "chain")),
                    (310, asked(5, "chain")),
                    (311, acked(5, "chain")),
                    (312, effect(5)),
                ],
            ),
            (1, vec![(260, effect(2))]),
        ]);
        let latencies = TIMES.latencies(&said);
        assert_eq!(latencies.before, [Duration::from_nanos(40)]);
        assert_eq!(latencies.during, [Duration::from_nanos(50)]);
    }

    fn all(ms: u64) -> Vec<Duration> {
        vec![Duration::from_millis(ms); 20]
    }

    #[test]
    fn others_may_wait_twice_as_long_and_a_little_more() {
        let judged = |before: Vec<Duration>, during: Vec<Duration>| Latencies { before, during }.judge();
        assert!(judged(all(30), all(160)).violations.is_empty());
        let slow = judged(all(30), all(161));
        assert!(
            slow.violations.len() == 1 && slow.violations[0].what.contains("half of"),
            "{slow:?}"
        );
        let mut some = all(30);
        some[17..].fill(Duration::from_millis(561));
        assert!(judged(all(30), some).violations[0].what.contains("nine in ten"));
        let few = judged(all(30), all(30)[..7].to_vec());
        assert_eq!((few.violations, few.too_little.len()), (Vec::new(), 1));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<Duration> = (1..=10).map(Duration::from_secs).collect();
        assert_eq!(percentile(&values, 50), Duration::from_secs(5));
        assert_eq!(percentile(&values, 90), Duration::from_secs(9));
        assert_eq!(percentile(&[], 90), Duration::ZERO);
    }

    #[test]
    fn who_was_poisoned_must_be_there_and_both_ways_must_have_come() {
        let records = vec![
            Record::Restarted {
                id: id(1),
                epoch: 1,
                at: Timestamp(1),
            },
            Record::SetAside { id: id(2) },
        ];
        let evidence = Evidence {
            records,
            ..Evidence::default()
        };
        let judged = judge(&evidence, true);
        assert_eq!((judged.violations.len(), judged.too_little.len()), (2, 0), "{judged:?}");
        let nothing = judge(&Evidence::default(), true);
        assert_eq!((nothing.violations.len(), nothing.too_little.len()), (0, 2));
        assert_eq!(judge(&Evidence::default(), false).too_little, [""; 0]);
    }
}
