//! What the metrics of members tell, added up.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;
use troupe_telemetry::catalogue;

use super::exposition::{Reading, readings};

/// Up to here floating point counts in ones, and the sum over all members is still a number.
const COUNT_MAX: f64 = 9_007_199_254_740_992.0;

/// What one member tells, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// What holds now.
    pub(super) now: Gauges,
    /// What was counted since it started.
    pub(super) counts: Counts<u64>,
}

/// What holds now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gauges {
    /// Executions that have not ended, by state.
    pub(super) executions: BTreeMap<String, u64>,
    /// Attempts that run.
    pub(super) attempts_running: u64,
    /// Attempts that have not started, by what they wait for.
    pub(super) attempts_waiting: BTreeMap<String, u64>,
    /// Records that the event bus has not confirmed.
    pub(super) outbox_pending: u64,
    /// Their bytes.
    pub(super) outbox_bytes: u64,
    /// The age of the oldest of them.
    pub(super) outbox_lag_ms: u64,
}

/// What only grows, as a number or as a number each second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts<N> {
    /// Executions that started.
    pub(super) executions_started: N,
    /// Executions that ended, by status.
    pub(super) executions_ended: BTreeMap<String, N>,
    /// Attempts that ended, by outcome.
    pub(super) attempts_ended: BTreeMap<String, N>,
    /// Attempts that another one follows.
    pub(super) retries: N,
    /// Timers that fired.
    pub(super) timers_fired: N,
    /// How late those were, together, in microseconds.
    pub(super) timers_late_us: N,
}

impl Figures {
    /// Reads the text of `/metrics`; none where it is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut figures = Self::default();
        readings(text)?.iter().for_each(|reading| figures.take(reading));
        Some(figures)
    }

    fn take(&mut self, reading: &Reading<'_>) {
        let (now, counts) = (&mut self.now, &mut self.counts);
        let number = whole(reading.value);
        match reading.name {
            catalogue::EXECUTIONS_ACTIVE => by(&mut now.executions, reading.label("state"), number),
            catalogue::ATTEMPTS_RUNNING => now.attempts_running += number,
            catalogue::ATTEMPTS_WAITING => by(&mut now.attempts_waiting, reading.label("for"), number),
            catalogue::OUTBOX_PENDING => now.outbox_pending += number,
            catalogue::OUTBOX_BYTES => now.outbox_bytes += number,
            catalogue::OUTBOX_LAG => now.outbox_lag_ms = whole(reading.value * 1_000.0),
            catalogue::EXECUTIONS_STARTED => counts.executions_started += number,
            catalogue::EXECUTIONS_FINISHED => by(&mut counts.executions_ended, reading.label("status"), number),
            catalogue::NODE_ATTEMPTS => by(&mut counts.attempts_ended, reading.label("outcome"), number),
            catalogue::RETRIES => counts.retries += number,
            other => match other.strip_prefix(catalogue::TIMER_LAG) {
                Some("_count") => counts.timers_fired += number,
                Some("_sum") => counts.timers_late_us += whole(reading.value * 1_000_000.0),
                _ => {}
            },
        }
    }

    /// Adds what another member tells.
    pub(super) fn add(&mut self, other: &Self) {
        let (now, more) = (&mut self.now, &other.now);
        add(&mut now.executions, &more.executions);
        now.attempts_running += more.attempts_running;
        add(&mut now.attempts_waiting, &more.attempts_waiting);
        now.outbox_pending += more.outbox_pending;
        now.outbox_bytes += more.outbox_bytes;
        now.outbox_lag_ms = now.outbox_lag_ms.max(more.outbox_lag_ms);
        self.counts.add(&other.counts);
    }
}

impl<N: Copy + Default + AddAssign> Counts<N> {
    /// Adds what another member counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.executions_started += other.executions_started;
        add(&mut self.executions_ended, &other.executions_ended);
        add(&mut self.attempts_ended, &other.attempts_ended);
        self.retries += other.retries;
        self.timers_fired += other.timers_fired;
        self.timers_late_us += other.timers_late_us;
    }
}

impl Counts<u64> {
    /// What was counted each second since it stood at `before`; none where it began anew in between.
    pub(super) fn per_second(&self, before: &Self, seconds: f64) -> Option<Counts<f64>> {
        let rate = |now: u64, before: u64| Some(now.checked_sub(before)? as f64 / seconds);
        let rates = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let rated = now.iter().map(|(label, now)| {
                let before = before.get(label).copied().unwrap_or_default();
                Some((label.clone(), rate(*now, before)?))
            });
            rated.collect::<Option<BTreeMap<String, f64>>>()
        };
        Some(Counts {
            executions_started: rate(self.executions_started, before.executions_started)?,
            executions_ended: rates(&self.executions_ended, &before.executions_ended)?,
            attempts_ended: rates(&self.attempts_ended, &before.attempts_ended)?,
            retries: rate(self.retries, before.retries)?,
            timers_fired: rate(self.timers_fired, before.timers_fired)?,
            timers_late_us: rate(self.timers_late_us, before.timers_late_us)?,
        })
    }
}

/// What no count can be is taken for the nearest one that can, and no number is none.
fn whole(value: f64) -> u64 {
    value.round().clamp(0.0, COUNT_MAX) as u64
}

fn by(counts: &mut BTreeMap<String, u64>, label: Option<&str>, number: u64) {
    if let Some(label) = label {
        *counts.entry(label.to_owned()).or_default() += number;
    }
}

fn add<N: Copy + Default + AddAssign>(counts: &mut BTreeMap<String, N>, more: &BTreeMap<String, N>) {
    for (label, number) in more {
        *counts.entry(label.clone()).or_default() += *number;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counted(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs
            .iter()
            .map(|(label, number)| ((*label).to_owned(), *number))
            .collect()
    }

    const TEXT: &str = r#"# TYPE troupe_executions_started_total counter
troupe_executions_started_total{workflow="a",trigger="api"} 4
troupe_executions_started_total{workflow="b",trigger="webhook"} 3
troupe_executions_finished_total{workflow="a",status="completed"} 2
troupe_executions_finished_total{workflow="b",status="completed"} 1
troupe_executions_finished_total{workflow="b",status="failed"} 1
troupe_executions_active{state="running"} 1
troupe_executions_active{state="waiting"} 2
troupe_node_attempts_total{workflow="a",node_type="http",outcome="timed_out"} 5
troupe_attempts_running 13
troupe_attempts_waiting{for="slot"} 6
troupe_retries_total 8
troupe_timer_lag_seconds_bucket{le="0.001"} 9
troupe_timer_lag_seconds_sum 0.0125
troupe_timer_lag_seconds_count 10
troupe_outbox_pending 11
troupe_outbox_bytes 12
troupe_outbox_lag_seconds 1.5
troupe_shards_owned 8
"#;

    #[test]
    fn metrics_are_added_up_over_their_labels() {
        let figures = Figures::read(TEXT).unwrap();
        let (now, counts) = (&figures.now, &figures.counts);
        assert_eq!(now.executions, counted(&[("running", 1), ("waiting", 2)]));
        assert_eq!(now.attempts_running, 13);
        assert_eq!(now.attempts_waiting, counted(&[("slot", 6)]));
        let outbox = (now.outbox_pending, now.outbox_bytes, now.outbox_lag_ms);
        assert_eq!(outbox, (11, 12, 1_500));
        assert_eq!(counts.executions_started, 7);
        assert_eq!(counts.executions_ended, counted(&[("completed", 3), ("failed", 1)]));
        assert_eq!(counts.attempts_ended, counted(&[("timed_out", 5)]));
        assert_eq!(
            (counts.retries, counts.timers_fired, counts.timers_late_us),
            (8, 10, 12_500)
        );
        assert_eq!(Figures::read("<html>no</html>"), None);
        assert_eq!([f64::NAN, -1.0, 1.6].map(whole), [0, 0, 2]);
        assert!(whole(f64::INFINITY) < u64::MAX / 1_000);

        let mut both = figures.clone();
        both.add(&figures);
        let doubled = Figures {
            now: Gauges {
                executions: counted(&[("running", 2), ("waiting", 4)]),
                attempts_running: 26,
                attempts_waiting: counted(&[("slot", 12)]),
                outbox_pending: 22,
                outbox_bytes: 24,
                // One is not older since there are two.
                outbox_lag_ms: 1_500,
            },
            counts: Counts {
                executions_started: 14,
                executions_ended: counted(&[("completed", 6), ("failed", 2)]),
                attempts_ended: counted(&[("timed_out", 10)]),
                retries: 16,
                timers_fired: 20,
                timers_late_us: 25_000,
            },
        };
        assert_eq!(both, doubled);
    }

    #[test]
    fn rates_are_differences_and_none_where_counting_began_anew() {
        let before = Figures::read(TEXT).unwrap().counts;
        let moves: [fn(&mut Counts<u64>); 6] = [
            |counts| counts.executions_started += 5,
            |counts| by(&mut counts.executions_ended, Some("completed"), 3),
            |counts| by(&mut counts.attempts_ended, Some("timed_out"), 4),
            |counts| counts.retries += 1,
            |counts| counts.timers_fired += 2,
            |counts| counts.timers_late_us += 700,
        ];
        let mut now = before.clone();
        for moves_on in moves {
            let mut moved = before.clone();
            moves_on(&mut moved);
            assert_eq!(before.per_second(&moved, 2.0), None, "{moved:?}");
            moves_on(&mut now);
        }
        by(&mut now.executions_ended, Some("canceled"), 1);
        let rated = |pairs: &[(&str, f64)]| {
            let rates = pairs.iter().map(|(label, rate)| ((*label).to_owned(), *rate));
            rates.collect::<BTreeMap<_, _>>()
        };
        let rates = Counts {
            executions_started: 2.5,
            executions_ended: rated(&[("canceled", 0.5), ("completed", 1.5), ("failed", 0.0)]),
            attempts_ended: rated(&[("timed_out", 2.0)]),
            retries: 0.5,
            timers_fired: 1.0,
            timers_late_us: 350.0,
        };
        assert_eq!(now.per_second(&before, 2.0), Some(rates));
    }
}
