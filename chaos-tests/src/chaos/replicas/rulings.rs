//! C9 over replicas: an operator pauses, freezes and stops a workflow through whichever replica it likes, and lets it go on. From its
//! acknowledgement until it is asked to go on nothing of it begins, whichever replica has it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use serde_json::{Value, json};
use troupe_ports::{Clock, SystemClock};

use super::Replicas;
use super::clients::{At, Client, RULED, STORIES, Story, execution};
use super::commands::Found;
use super::http::Request;
use crate::crash::Violation;
use crate::world::random::Random;

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
    /// Attempts that had been let through when it was acknowledged: the beginning of one may be stamped later.
    draining: usize,
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
    pub(super) rulings: usize,
    pub(super) note: String,
    pub(super) violations: Vec<Violation>,
    pub(super) too_little: Vec<String>,
}

/// Gives word after word until clients are to stop and there are enough. Each is lifted, and what it held up ends.
pub(super) fn play(mut operator: Client) -> Ruled {
    let mut ruled = Ruled::default();
    // How often its requests are asked again draws doors, and changes no word.
    let mut words = Random::new(operator.random.next());
    while !operator.tally.stops.load(Ordering::Relaxed) || ruled.rulings.len() < RULINGS_MIN {
        match rule(&mut operator, &mut words, ruled.rulings.len()) {
            Ok((ruling, story)) => {
                ruled.rulings.push(ruling);
                ruled.stories.push(story);
            }
            Err(violation) => {
                ruled.broken.push(violation);
                break;
            }
        }
        pause(&mut words, FREE_MS);
    }
    for story in &ruled.stories {
        let ended = execution(story).and_then(|id| operator.until(id, story.ends));
        ruled.broken.extend(ended.err());
    }
    ruled
}

/// Holds the workflow while an execution of it is under way, and lets it go on.
fn rule(operator: &mut Client, words: &mut Random, number: usize) -> Result<(Ruling, Story), Violation> {
    let story = operator.under_way(operator.number * STORIES + number as u64)?;
    let (verb, lifts, freezes) = WORDS[words.place(WORDS.len())];
    let body = if freezes {
        json!({"clocks": "freeze"})
    } else {
        json!({})
    };
    let draining = say(operator, verb, number, &body)?;
    let acknowledged_ms = SystemClock.now().0;
    pause(words, HELD_MS);
    let lift_asked_ms = SystemClock.now().0;
    say(operator, lifts, number, &json!({}))?;
    let ruling = Ruling {
        verb,
        draining,
        acknowledged_ms,
        lift_asked_ms,
    };
    Ok((ruling, story))
}

/// Says it until it is in force everywhere, under one key; how many attempts still ran then.
fn say(operator: &mut Client, verb: &str, number: usize, body: &Value) -> Result<usize, Violation> {
    let word = Request::post(format!("/api/v1/workflows/{RULED}/{verb}"), body);
    let word = word.keyed(&format!("ruling-{number}-{verb}"));
    let answer = operator.asks(At::Anyone, &word)?;
    let draining = answer.body["draining"].as_u64();
    let draining = draining.and_then(|attempts| usize::try_from(attempts).ok());
    draining.ok_or_else(|| {
        let what = format!("a {verb} does not say how many attempts still run: {answer:?}");
        Violation { invariant: "C9", what }
    })
}

fn pause(words: &mut Random, (low, high): (u64, u64)) {
    std::thread::sleep(Duration::from_millis(words.between(low, high)));
}

/// An attempt as a replica shows it.
#[derive(Clone, Debug)]
pub(super) struct Began {
    /// When, in milliseconds.
    at: i64,
    /// Of which node, and how it ended, for people.
    what: String,
}

/// When attempts of an execution began.
pub(super) fn starts(shown: &Value) -> anyhow::Result<Vec<Began>> {
    let nodes = shown["nodeResults"].as_object().context("an execution has no nodes")?;
    let mut starts = Vec::new();
    for (node, result) in nodes {
        for attempt in result["attempts"].as_array().into_iter().flatten() {
            let at = attempt["startTime"].as_str().context("an attempt has no beginning")?;
            starts.push(Began {
                at: DateTime::parse_from_rfc3339(at)?.timestamp_millis(),
                what: format!("{node} {attempt}"),
            });
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
            rulings: self.rulings.len(),
            note,
            violations,
            too_little,
        })
    }
}

/// What began although it was held; and how many executions were held up.
fn judge(rulings: &[Ruling], ruled: &[&Found]) -> (Vec<Violation>, usize) {
    let mut violations = Vec::new();
    for ruling in rulings {
        let held = ruling.acknowledged_ms + 1..ruling.lift_asked_ms;
        let mut began: Vec<(i64, &str, &str)> = Vec::new();
        for one in ruled {
            let within = one.starts.iter().filter(|start| held.contains(&start.at));
            began.extend(within.map(|start| (start.at, one.id.as_str(), start.what.as_str())));
        }
        began.sort_unstable();
        for (at, id, what) in began.into_iter().skip(ruling.draining) {
            let what = format!(
                "{id}: {what} began {} ms after a {} was acknowledged, {} ms before it was to be lifted, and is not one of the {} \
                 attempts that still ran",
                at - ruling.acknowledged_ms,
                ruling.verb,
                ruling.lift_asked_ms - at,
                ruling.draining
            );
            violations.push(Violation { invariant: "C9", what });
        }
    }
    let spans = |one: &Found, ruling: &Ruling| {
        let before = one.starts.iter().any(|start| start.at <= ruling.acknowledged_ms);
        before && one.starts.iter().any(|start| start.at >= ruling.lift_asked_ms)
    };
    let is_held = |one: &&&Found| rulings.iter().any(|ruling| spans(one, ruling));
    (violations, ruled.iter().filter(is_held).count())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RULING: Ruling = Ruling {
        verb: "pause",
        draining: 0,
        acknowledged_ms: 100,
        lift_asked_ms: 200,
    };

    fn began(at: i64) -> Began {
        let what = "act".to_owned();
        Began { at, what }
    }

    fn found(starts: &[i64]) -> Found {
        Found {
            starts: starts.iter().map(|at| began(*at)).collect(),
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
    fn only_what_begins_beyond_the_attempts_that_still_ran_is_found() {
        let ruling = Ruling { draining: 1, ..RULING };
        let [late, later] = [found(&[50, 101, 230]), found(&[50, 150])];
        assert!(judge(&[ruling], &[&later]).0.is_empty());
        let (broken, held) = judge(&[ruling], &[&later, &late]);
        assert_eq!((broken.len(), held), (1, 1));
        assert!(broken[0].what.contains("began 50 ms after"), "{broken:?}");
        // Each has attempts of its own.
        let next = Ruling {
            acknowledged_ms: 300,
            lift_asked_ms: 400,
            ..ruling
        };
        assert!(judge(&[ruling, next], &[&found(&[150, 350])]).0.is_empty());
    }

    #[test]
    fn beginnings_are_read_as_replicas_show_them() {
        let shown = json!({"nodeResults": {
            "wait": {"attempts": []},
            "act": {"attempts": [{"startTime": "2026-09-21T14:13:20.123Z"}]},
        }});
        let starts_of = starts(&shown).unwrap();
        assert_eq!(starts_of.len(), 1);
        assert_eq!(starts_of[0].at, 1_790_000_000_123);
        assert!(starts_of[0].what.starts_with("act {"), "{starts_of:?}");
        assert!(starts(&json!({"nodeResults": {"act": {"attempts": [{}]}}})).is_err());
    }
}
