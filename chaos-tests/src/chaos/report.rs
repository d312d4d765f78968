//! What came of a run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::changes::Change;
use super::trial::Outcome;

/// The outcomes of a run, and the command that repeats it.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
    /// Trials that the harness itself could not play.
    broken: Vec<(String, String)>,
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
            write!(text, "  fenced {} ({} commits)", outcome.fenced, outcome.fenced_commits).ok();
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

    /// How often each fault met each state, and how that went.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(String, &str), Row> = BTreeMap::new();
        for outcome in &self.outcomes {
            for strike in &outcome.trial.strikes {
                let place = (strike.fault.name(), outcome.trial.state.name());
                rows.entry(place).or_default().add(outcome);
            }
        }
        let mut text = format!(
            "{:36} {:11} {:>5} {:>9} {:>9} {:>9}  verdict\n",
            "fault", "state", "hits", "before", "during", "after"
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
                "{fault:36} {state:11} {:>5} {before:>9} {during:>9} {after:>9}  {verdict}",
                row.hits
            )
            .ok();
        }
        let sum = |of: &dyn Fn(&Outcome) -> u64| self.outcomes.iter().map(of).sum::<u64>();
        let failed = self.outcomes.iter().filter(|outcome| !outcome.is_pass()).count();
        writeln!(
            text,
            "\n{} trials, {} failed, {} could not be played; {} faults, {} answers, {} executions, {} entries, {} events, \
             {} owners fenced, {} commits refused",
            self.trials(),
            failed,
            self.broken.len(),
            sum(&|outcome| outcome.trial.strikes.len() as u64),
            sum(&|outcome| outcome.answers.iter().sum()),
            sum(&|outcome| outcome.executions as u64),
            sum(&|outcome| outcome.entries as u64),
            sum(&|outcome| outcome.events as u64),
            sum(&|outcome| u64::from(outcome.fenced)),
            sum(&|outcome| outcome.fenced_commits),
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
                    "afterMs": u64::try_from(strike.after.as_millis()).unwrap_or(u64::MAX),
                    "holdsMs": u64::try_from(strike.holds.as_millis()).unwrap_or(u64::MAX),
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
                "fencedCommits": outcome.fenced_commits,
                "restarted": outcome.gave_up,
                "changes": outcome.changes.iter().map(change_of).collect::<Vec<_>>(),
                "controls": outcome.rulings,
                "counted": outcome.counted,
                "violations": violations.collect::<Vec<_>>(),
                "tooLittle": outcome.too_little,
                "notes": outcome.notes,
                "tookMs": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
                "pass": outcome.is_pass(),
            })
        });
        let broken = self.broken.iter().map(|(name, why)| json!({"name": name, "why": why}));
        json!({"pass": self.is_pass(), "trials": trials.collect::<Vec<_>>(), "broken": broken.collect::<Vec<_>>()})
    }
}

fn change_of(change: &Change) -> Value {
    json!({
        "what": change.what,
        "member": change.process,
        "shards": change.shards,
        "longestMs": u64::try_from(change.longest.as_millis()).unwrap_or(u64::MAX),
    })
}

#[derive(Default)]
struct Row {
    hits: usize,
    answers: [u64; 3],
    failed: usize,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        self.hits += 1;
        self.failed += usize::from(!outcome.is_pass());
        for (sum, answers) in self.answers.iter_mut().zip(outcome.answers) {
            *sum += answers;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chaos::changes::How;
    use crate::chaos::fault::Fault;
    use crate::chaos::plan::{Sizes, State, single};
    use crate::crash::Violation;

    fn outcome() -> Outcome {
        let trial = single(Fault::EngineKill, State::Load, Duration::ZERO, 1, Sizes::SMOKE);
        Outcome {
            trial,
            answers: [10, 2, 30],
            executions: 12,
            entries: 100,
            events: 200,
            fenced: 0,
            fenced_commits: 0,
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
        let row = table.lines().find(|line| line.starts_with("engine-kill")).unwrap_or("");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells, ["engine-kill", "load", "2", "20", "4", "60", "ok"]);
    }
}
