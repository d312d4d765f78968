//! What came of a run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::changes::Change;
use super::fault::Fault;
use super::trial::Outcome;

/// How many of the trials that took longest are named where a run took too long.
const LONGEST: usize = 3;

/// The outcomes of a run, and the command that repeats it.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
    /// Trials that the harness itself could not play.
    broken: Vec<(String, String)>,
    /// How long the run took.
    took: Duration,
    /// How long it may take, where somebody waits for it.
    at_most: Option<Duration>,
}

impl Report {
    /// Takes what came of a trial in.
    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Takes in that a trial could not be played.
    pub fn add_broken(&mut self, name: &str, why: String) {
        self.broken.push((name.to_owned(), why));
    }

    /// The run is over. One that may take so long at most, and took longer, is named as too long: that is no failure, since machines
    /// differ.
    pub fn end(&mut self, took: Duration, at_most: Option<Duration>) {
        (self.took, self.at_most) = (took, at_most);
    }

    /// What whoever runs it should know although it is no failure.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let too_long = self.at_most.filter(|at_most| self.took > *at_most);
        too_long.into_iter().map(|at_most| self.too_long(at_most)).collect()
    }

    fn too_long(&self, at_most: Duration) -> String {
        let mut longest: Vec<&Outcome> = self.outcomes.iter().collect();
        longest.sort_by_key(|outcome| std::cmp::Reverse(outcome.took));
        let longest = longest.into_iter().take(LONGEST);
        let longest: Vec<String> = longest
            .map(|outcome| format!("{} ({:.0} s)", outcome.trial.name, outcome.took.as_secs_f64()))
            .collect();
        format!(
            "too long: it took {:.0} s and is to take {:.0} s at most; have nothing else run on the machine, and play it with \
             --lanes 2. If it still takes so long, it has to play less (`plan::smoke`): longest were {}",
            self.took.as_secs_f64(),
            at_most.as_secs_f64(),
            longest.join(", "),
        )
    }

    /// How many trials there were.
    #[must_use]
    pub fn trials(&self) -> usize {
        self.outcomes.len() + self.broken.len()
    }

    /// Whether every trial passed, and there was one.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        !self.outcomes.is_empty() && self.broken.is_empty() && self.outcomes.iter().all(Outcome::is_pass)
    }

    /// One line on a trial, and what was wrong with it.
    #[must_use]
    pub fn line(outcome: &Outcome) -> String {
        let [before, during, after] = outcome.answers;
        let verdict = if !outcome.violations.is_empty() {
            "FAILED"
        } else if !outcome.too_little.is_empty() {
            "TOO LITTLE"
        } else {
            "ok"
        };
        let mut text = format!(
            "{verdict:10} {:44} {:9} {:>5.1} s  answers {before:>5} / {during:>5} / {after:>5}  executions {:>5}  events {:>6}",
            outcome.trial.name,
            outcome.trial.setup.name(),
            outcome.took.as_secs_f64(),
            outcome.executions,
            outcome.events,
        );
        if outcome.fenced > 0 {
            write!(
                text,
                "  fenced {} ({} shards lost)",
                outcome.fenced, outcome.shards_lost
            )
            .ok();
        }
        if outcome.gave_up > 0 {
            write!(text, "  restarted {}", outcome.gave_up).ok();
        }
        for change in &outcome.changes {
            let (what, shards, longest) = (change.what, change.shards, change.longest.as_secs_f64());
            write!(text, "  {what}: {shards} shards, {longest:.2} s without an answer").ok();
        }
        if outcome.slots > 0 {
            write!(text, "  attempts under limits {}", outcome.slots).ok();
        }
        if outcome.rulings > 0 {
            write!(text, "  controls {}", outcome.rulings).ok();
        }
        for (what, times) in &outcome.counted {
            write!(text, "  {what}: {times}").ok();
        }
        for note in &outcome.notes {
            write!(text, "\n             {note}").ok();
        }
        for why in &outcome.too_little {
            write!(text, "\n             too little: {why}").ok();
        }
        let mut kinds: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for violation in &outcome.violations {
            kinds.entry(violation.invariant).or_insert((0, &violation.what)).0 += 1;
        }
        for (invariant, (times, first)) in kinds {
            write!(text, "\n             {invariant} broken {times} times, first: {first}").ok();
        }
        text
    }

    /// How often each fault began and struck in each state, and how that went.
    fn rows(&self) -> BTreeMap<(String, &'static str), Row> {
        let mut rows: BTreeMap<(String, &str), Row> = BTreeMap::new();
        for outcome in &self.outcomes {
            // One that begins several times in a trial is one of its faults all the same.
            let mut faults: BTreeMap<String, (Fault, u64)> = BTreeMap::new();
            for strike in &outcome.trial.strikes {
                let (_, begun) = faults.entry(strike.fault.name()).or_insert((strike.fault, 0));
                *begun += 1;
            }
            for (name, (fault, begun)) in faults {
                let hits = fault.hits(begun, &outcome.counted);
                let row = rows.entry((name, outcome.trial.state.name())).or_default();
                row.add(outcome, begun, hits);
            }
        }
        rows
    }

    /// How often each fault met each state, and how that went.
    #[must_use]
    pub fn table(&self) -> String {
        let rows = self.rows();
        let mut text = format!(
            "{:60} {:>29}\n{:36} {:11} {:>5} {:>5} {:>9} {:>9} {:>9}  verdict\n",
            "", "operations in trials with it", "fault", "state", "begun", "hit", "before", "during", "after"
        );
        for ((fault, state), row) in &rows {
            let [before, during, after] = row.answers;
            let verdict = if row.failed == 0 {
                "ok".to_owned()
            } else {
                format!("{} FAILED", row.failed)
            };
            writeln!(
                text,
                "{fault:36} {state:11} {:>5} {:>5} {before:>9} {during:>9} {after:>9}  {verdict}",
                row.begun, row.hits
            )
            .ok();
        }
        let sum = |of: &dyn Fn(&Outcome) -> u64| self.outcomes.iter().map(of).sum::<u64>();
        let failed = self.outcomes.iter().filter(|outcome| !outcome.is_pass()).count();
        writeln!(
            text,
            "\n{} trials, {} failed, {} could not be played; {} faults begun, {} hit, {} answers, {} executions, {} entries, \
             {} events, {} owners fenced, {} shards lost to other owners",
            self.trials(),
            failed,
            self.broken.len(),
            rows.values().map(|row| row.begun).sum::<u64>(),
            rows.values().map(|row| row.hits).sum::<u64>(),
            sum(&|outcome| outcome.answers.iter().sum()),
            sum(&|outcome| outcome.executions as u64),
            sum(&|outcome| outcome.entries as u64),
            sum(&|outcome| outcome.events as u64),
            sum(&|outcome| u64::from(outcome.fenced)),
            sum(&|outcome| outcome.shards_lost),
        )
        .ok();
        for (name, why) in &self.broken {
            writeln!(text, "could not be played: {name}: {why}").ok();
        }
        text
    }

    /// Everything, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let trials = self.outcomes.iter().map(|outcome| {
            let strikes = outcome.trial.strikes.iter().map(|strike| {
                json!({
                    "fault": strike.fault.name(),
                    "afterMs": millis(strike.after),
                    "holdsMs": millis(strike.holds),
                })
            });
            let violations = outcome
                .violations
                .iter()
                .map(|found| json!({"invariant": found.invariant, "what": found.what}));
            json!({
                "name": outcome.trial.name,
                "seed": outcome.trial.seed,
                "setup": outcome.trial.setup.name(),
                "state": outcome.trial.state.name(),
                "strikes": strikes.collect::<Vec<_>>(),
                "answers": outcome.answers,
                "executions": outcome.executions,
                "entries": outcome.entries,
                "events": outcome.events,
                "fenced": outcome.fenced,
                "shardsLost": outcome.shards_lost,
                "restarted": outcome.gave_up,
                "changes": outcome.changes.iter().map(change_of).collect::<Vec<_>>(),
                "controls": outcome.rulings,
                "counted": outcome.counted,
                "violations": violations.collect::<Vec<_>>(),
                "tooLittle": outcome.too_little,
                "notes": outcome.notes,
                "tookMs": millis(outcome.took),
                "pass": outcome.is_pass(),
            })
        });
        let broken = self.broken.iter().map(|(name, why)| json!({"name": name, "why": why}));
        let rows = self.rows();
        let table = rows.iter().map(|((fault, state), row)| row.json(fault, state));
        json!({
            "pass": self.is_pass(),
            "trials": trials.collect::<Vec<_>>(),
            "table": table.collect::<Vec<_>>(),
            "broken": broken.collect::<Vec<_>>(),
            "warnings": self.warnings(),
            "tookMs": millis(self.took),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn change_of(change: &Change) -> Value {
    json!({
        "what": change.what,
        "member": change.process,
        "shards": change.shards,
        "longestMs": millis(change.longest),
    })
}

/// A fault in a state.
#[derive(Default)]
struct Row {
    /// How often it began.
    begun: u64,
    /// How often it struck: one that waits for a moment does when that comes.
    hits: u64,
    /// Answers of all trials with it, before, during and after all of their faults.
    answers: [u64; 3],
    /// Trials with it that failed.
    failed: usize,
}

impl Row {
    fn add(&mut self, outcome: &Outcome, begun: u64, hits: u64) {
        self.begun += begun;
        self.hits += hits;
        self.failed += usize::from(!outcome.is_pass());
        for (sum, answers) in self.answers.iter_mut().zip(outcome.answers) {
            *sum += answers;
        }
    }

    fn json(&self, fault: &str, state: &str) -> Value {
        json!({
            "fault": fault,
            "state": state,
            "begun": self.begun,
            "hit": self.hits,
            "operationsInTrialsWithIt": self.answers,
            "trialsFailed": self.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::changes::How;
    use crate::chaos::plan::{Sizes, State, Strike, single};
    use crate::crash::Violation;
    use crate::crash::switches::{Act, Moment, came};

    fn outcome() -> Outcome {
        let trial = single(Fault::EngineKill, State::Load, Duration::ZERO, 1, Sizes::SMOKE);
        Outcome {
            trial,
            answers: [10, 2, 30],
            executions: 12,
            entries: 100,
            events: 200,
            fenced: 0,
            shards_lost: 0,
            gave_up: 0,
            changes: Vec::new(),
            slots: 0,
            rulings: 0,
            counted: BTreeMap::new(),
            violations: Vec::new(),
            too_little: Vec::new(),
            notes: Vec::new(),
            took: Duration::from_secs(5),
        }
    }

    fn passes(change: impl FnOnce(&mut Outcome)) -> bool {
        let mut report = Report::default();
        report.add(outcome());
        let mut changed = outcome();
        change(&mut changed);
        report.add(changed);
        assert_eq!(report.json()["pass"], report.is_pass());
        report.is_pass()
    }

    #[test]
    fn a_broken_promise_and_too_little_are_no_pass_and_neither_is_nothing() {
        assert!(passes(|_| {}));
        assert!(!passes(|outcome| outcome
            .too_little
            .push("no event was heard".to_owned())));
        let (invariant, what) = ("C1", "it is gone".to_owned());
        assert!(!passes(|outcome| outcome
            .violations
            .push(Violation { invariant, what })));
        let mut broken = Report::default();
        broken.add(outcome());
        broken.add_broken("another", "it does not start".to_owned());
        assert!(!broken.is_pass());
        assert!(!Report::default().is_pass());
    }

    #[test]
    fn a_line_says_how_long_nobody_answered_for_the_shards_of_a_member() {
        let mut killed = Change::now("killed", How::Lost, 2);
        (killed.shards, killed.longest) = (3, Duration::from_millis(2_340));
        let outcome = Outcome {
            changes: vec![killed],
            ..outcome()
        };
        let line = Report::line(&outcome);
        assert!(line.contains("killed: 3 shards, 2.34 s without an answer"), "{line}");
        let mut report = Report::default();
        report.add(outcome);
        let change = &report.json()["trials"][0]["changes"][0];
        assert_eq!((&change["longestMs"], &change["member"]), (&json!(2_340), &json!(2)));
    }

    #[test]
    fn the_table_counts_what_was_hit_in_which_state() {
        let mut report = Report::default();
        report.add(outcome());
        report.add(outcome());
        let table = report.table();
        assert_eq!(
            cells(&table, "engine-kill "),
            ["engine-kill", "load", "2", "2", "20", "4", "60", "ok"]
        );
    }

    fn cells<'a>(table: &'a str, start: &str) -> Vec<&'a str> {
        let row = table.lines().find(|line| line.starts_with(start)).unwrap_or("");
        row.split_whitespace().collect()
    }

    /// A trial in which these began at once.
    fn struck(faults: &[Fault]) -> Outcome {
        let mut outcome = outcome();
        let one = outcome.trial.strikes[0];
        outcome.trial.strikes = faults.iter().map(|fault| Strike { fault: *fault, ..one }).collect();
        outcome
    }

    #[test]
    fn a_pair_whose_moment_never_came_has_begun_and_has_not_hit() {
        let waits = Fault::EngineKillAt(Moment::Trimming);
        let mut report = Report::default();
        report.add(struck(&[Fault::RedisKill, waits]));
        let table = report.table();
        let row = cells(&table, "engine-kill-at-trimming");
        assert_eq!(
            row,
            ["engine-kill-at-trimming", "load", "1", "0", "10", "2", "30", "ok"]
        );
        assert_eq!(cells(&table, "redis-kill")[2..4], ["1", "1"]);
        assert!(table.contains("2 faults begun, 1 hit"), "{table}");
        let rows = &report.json()["table"];
        assert_eq!((&rows[0]["begun"], &rows[0]["hit"]), (&json!(1), &json!(0)));
        assert_eq!(rows[1]["operationsInTrialsWithIt"], json!([10, 2, 30]));
    }

    #[test]
    fn what_strikes_at_a_moment_is_counted_by_its_own_moments_and_its_trial_once() {
        let [waits, other] = [Moment::Renewing, Moment::Checkpointing].map(Fault::ActorPanic);
        let mut outcome = struck(&[waits, waits, other]);
        outcome.counted = BTreeMap::from([(came(Act::Panic, Moment::Renewing), 1)]);
        let mut report = Report::default();
        report.add(outcome);
        let table = report.table();
        assert_eq!(cells(&table, "actor-panic-renewing")[2..7], ["2", "1", "10", "2", "30"]);
        assert_eq!(cells(&table, "actor-panic-checkpointing")[2..4], ["1", "0"]);
    }

    #[test]
    fn a_run_that_took_too_long_is_named_and_passes_all_the_same() {
        let mut report = Report::default();
        report.add(outcome());
        let limit = Duration::from_secs(600);
        for (seconds, at_most, times) in [(600, Some(limit), 0), (601, None, 0), (601, Some(limit), 1)] {
            report.end(Duration::from_secs(seconds), at_most);
            assert_eq!(report.warnings().len(), times, "{:?}", report.warnings());
        }
        let warning = report.warnings().concat();
        assert!(
            warning.contains("601 s") && warning.contains("engine-kill load (5 s)"),
            "{warning}"
        );
        assert!(report.is_pass());
        assert_eq!(report.json()["warnings"][0], json!(warning));
    }
}
