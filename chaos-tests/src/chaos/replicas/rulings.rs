//! C9 over replicas: an operator pauses, freezes and stops a workflow through whichever replica it likes, and lets it go on. From its
//! acknowledgement until it is asked to go on nothing of it begins, whichever replica has it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use serde_json::{Value, json};
use troupe_ports::{Clock, SystemClock};

use super::Replicas;
use super::clients::{At, Client, RULED, STORIES, Story};
use super::commands::Found;
use super::http::Request;
use crate::crash::Violation;

/// For how long the workflow is held, and goes on, in milliseconds.
const HELD_MS: (u64, u64) = (300, 700);
const FREE_MS: (u64, u64) = (200, 500);
/// Rulings, and executions that one of them has held up, below which a trial proves nothing about them.
const RULINGS_MIN: usize = 2;
const HELD_MIN: usize = 1;

/// What an operator says, what lifts it, and whether clocks stand.
const WORDS: [(&str, &str, bool); 3] = [
    ("pause", "resume", false),
    ("pause", "resume", true),
    ("stop", "release", false),
];

/// A time in which nothing may begin, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Ruling {
    verb: &'static str,
    acknowledged_ms: i64,
    lift_asked_ms: i64,
}

/// What an operator leaves behind.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    /// Executions that it had under way.
    pub(super) stories: Vec<Story>,
    rulings: Vec<Ruling>,
    broken: Vec<Violation>,
}

/// What came of it.
pub(super) struct Verdict {
    pub(super) note: String,
    pub(super) violations: Vec<Violation>,
    pub(super) too_little: Vec<String>,
}

/// Gives word after word until clients are to stop. Each is lifted.
pub(super) fn play(mut operator: Client) -> Ruled {
    let mut ruled = Ruled::default();
    while !operator.tally.stops.load(Ordering::Relaxed) {
        match rule(&mut operator, ruled.rulings.len()) {
            Ok((ruling, story)) => {
                ruled.rulings.push(ruling);
                ruled.stories.push(story);
            }
            Err(violation) => {
                ruled.broken.push(violation);
                break;
            }
        }
        pause(&mut operator, FREE_MS);
    }
    ruled
}

/// Holds the workflow while an execution of it is under way, and lets it go on.
fn rule(operator: &mut Client, number: usize) -> Result<(Ruling, Story), Violation> {
    let story = operator.under_way(operator.number * STORIES + number as u64)?;
    let (verb, lifts, freezes) = WORDS[operator.random.place(WORDS.len())];
    let body = if freezes {
        json!({"clocks": "freeze"})
    } else {
        json!({})
    };
    say(operator, verb, number, &body)?;
    let acknowledged_ms = SystemClock.now().0;
    pause(operator, HELD_MS);
    let lift_asked_ms = SystemClock.now().0;
    say(operator, lifts, number, &json!({}))?;
    let ruling = Ruling {
        verb,
        acknowledged_ms,
        lift_asked_ms,
    };
    Ok((ruling, story))
}

/// Says it until it is in force everywhere, under one key.
fn say(operator: &mut Client, verb: &str, number: usize, body: &Value) -> Result<(), Violation> {
    let word = Request::post(format!("/api/v1/workflows/{RULED}/{verb}"), body);
    let word = word.keyed(&format!("ruling-{number}-{verb}"));
    operator.asks(At::Anyone, &word).map(drop)
}

fn pause(operator: &mut Client, (low, high): (u64, u64)) {
    std::thread::sleep(Duration::from_millis(operator.random.between(low, high)));
}

/// When attempts of an execution began, by their nodes, in milliseconds.
pub(super) fn starts(shown: &Value) -> anyhow::Result<Vec<(String, i64)>> {
    let nodes = shown["nodeResults"].as_object().context("an execution has no nodes")?;
    let mut starts = Vec::new();
    for (node, result) in nodes {
        for attempt in result["attempts"].as_array().into_iter().flatten() {
            let at = attempt["startTime"].as_str().context("an attempt has no beginning")?;
            starts.push((node.clone(), DateTime::parse_from_rfc3339(at)?.timestamp_millis()));
        }
    }
    Ok(starts)
}

impl Ruled {
    /// Judges what executions did meanwhile, once everybody has stopped.
    pub(super) fn judged(self, on: &Replicas<'_>, found: &[Found]) -> anyhow::Result<Verdict> {
        let ruled: Vec<&Found> = found.iter().filter(|one| one.workflow == RULED).collect();
        let mut violations = self.broken;
        let left = on.read("/api/v1/controls")?["items"].clone();
        if left.as_array().is_none_or(|left| !left.is_empty()) {
            let what = format!("every control was lifted, and in force is {left}");
            violations.push(Violation { invariant: "C1", what });
        }
        let (began, held) = judge(&self.rulings, &ruled);
        violations.extend(began);
        let mut too_little = Vec::new();
        if self.rulings.len() < RULINGS_MIN || held < HELD_MIN {
            let count = self.rulings.len();
            too_little.push(format!("{count} rulings held {held} executions up"));
        }
        let attempts: usize = ruled.iter().map(|one| one.starts.len()).sum();
        let note = format!(
            "{} rulings held {held} of {} executions with {attempts} attempts up",
            self.rulings.len(),
            ruled.len()
        );
        Ok(Verdict {
            note,
            violations,
            too_little,
        })
    }
}

/// What began although it was held; and how many executions were held up.
fn judge(rulings: &[Ruling], ruled: &[&Found]) -> (Vec<Violation>, usize) {
    let mut violations = Vec::new();
    let mut held = 0;
    for one in ruled {
        for (node, at) in &one.starts {
            let within = |ruling: &&Ruling| (ruling.acknowledged_ms + 1..ruling.lift_asked_ms).contains(at);
            if let Some(ruling) = rulings.iter().find(within) {
                let what = format!(
                    "{}: {node} began {} ms after a {} was acknowledged, {} ms before it was to be lifted",
                    one.id,
                    at - ruling.acknowledged_ms,
                    ruling.verb,
                    ruling.lift_asked_ms - at
                );
                violations.push(Violation { invariant: "C9", what });
            }
        }
        let spans = |ruling: &Ruling| {
            let before = one.starts.iter().any(|(_, at)| *at <= ruling.acknowledged_ms);
            before && one.starts.iter().any(|(_, at)| *at >= ruling.lift_asked_ms)
        };
        held += usize::from(rulings.iter().any(spans));
    }
    (violations, held)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RULING: Ruling = Ruling {
        verb: "pause",
        acknowledged_ms: 100,
        lift_asked_ms: 200,
    };

    fn found(starts: &[i64]) -> Found {
        Found {
            starts: starts.iter().map(|at| ("act".to_owned(), *at)).collect(),
            ..Found::default()
        }
    }

    #[test]
    fn what_begins_between_the_acknowledgement_and_the_lift_is_found() {
        let lawful = found(&[50, 100, 200, 260]);
        let (broken, held) = judge(&[RULING], &[&lawful, &found(&[300])]);
        assert_eq!((broken.len(), held), (0, 1));
        for at in [101, 199] {
            let (broken, _) = judge(&[RULING], &[&found(&[50, at])]);
            assert!(broken.len() == 1 && broken[0].invariant == "C9", "{broken:?}");
        }
    }

    #[test]
    fn beginnings_are_read_as_replicas_show_them() {
        let shown = json!({"nodeResults": {
            "wait": {"attempts": []},
            "act": {"attempts": [{"startTime": "2026-09-21T14:13:20.123Z"}]},
        }});
        assert_eq!(starts(&shown).unwrap(), [("act".to_owned(), 1_790_000_000_123)]);
        assert!(starts(&json!({"nodeResults": {"act": {"attempts": [{}]}}})).is_err());
    }
}
