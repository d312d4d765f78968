//! Clients start and command executions through whichever replica they like, while replicas are killed, leave, or do not reach each
//! other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::clients::{Client, ENTRIES, FLOW, GATE, RULED, Story, Tally, Told, workflows};
use super::{LOOK_EVERY, Played, Replicas, rulings};
use crate::chaos::plan::Trial;
use crate::chaos::schedule;
use crate::crash::Violation;
use crate::world::random::Random;

/// How long clients go on before anything is broken, between two faults, and after everything is healed.
const CALM: Duration = Duration::from_millis(1_000);
/// How much longer before that, where the machine is too busy for answers, and how many it takes.
const WARM_UP_MAX: Duration = Duration::from_secs(15);
const WARM_MIN: u64 = 10;
/// How often something is broken.
const ROUNDS: usize = 2;
/// How long lists may lag.
const LISTED_WITHIN: Duration = Duration::from_secs(30);
/// Stories, and answers by a replica that is not to have the shard, below which a trial proves nothing.
const STORIES_MIN: usize = 8;
const AWAY_MIN: u64 = 20;

/// An execution as it is in the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) workflow: String,
    pub(super) n: Option<u64>,
    pub(super) status: String,
    pub(super) output: Value,
    /// The commands in its history, as often as they are there.
    pub(super) commands: Vec<String>,
    pub(super) entries: usize,
    /// The attempts of its nodes.
    pub(super) starts: Vec<rulings::Began>,
}

pub(super) fn play(on: &mut Replicas<'_>, trial: &Trial, random: &mut Random) -> anyhow::Result<Played> {
    let workflows = workflows();
    on.start(&workflows.iter().collect::<Vec<_>>())?;
    let tally = Arc::new(Tally::default());
    let mut client = |number| Client {
        number,
        doors: Arc::clone(&on.doors),
        tally: Arc::clone(&tally),
        random: Random::new(random.next()),
    };
    let operator = client(u64::from(trial.clients));
    let ruling = std::thread::spawn(move || rulings::play(operator));
    let clients: Vec<Client> = (0..u64::from(trial.clients)).map(client).collect();
    let play = |client: Client| std::thread::spawn(move || client.play());
    let playing: Vec<_> = clients.into_iter().map(play).collect();
    let answers = |tally: &Tally| tally.answers.load(Ordering::Relaxed);
    let begun = Instant::now();
    while begun.elapsed() < CALM || answers(&tally) < WARM_MIN && begun.elapsed() < WARM_UP_MAX {
        std::thread::sleep(LOOK_EVERY);
    }
    let before = answers(&tally);
    let struck = torment(on, trial, random);
    // From now on everybody is to be answered.
    tally.healed.get_or_init(Instant::now);
    let during = answers(&tally) - before;
    std::thread::sleep(CALM);
    tally.stops.store(true, Ordering::Relaxed);
    let mut told = Told::default();
    for client in playing {
        let one = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        told.stories.extend(one.stories);
        told.violations.extend(one.violations);
    }
    let mut ruled = ruling.join().map_err(|_| anyhow::anyhow!("the operator panicked"))?;
    told.stories.append(&mut ruled.stories);
    struck?;
    let found = gather(on, told.stories.len())?;
    let rulings = ruled.judged(on, &found)?;
    on.finish()?;
    on.forget(&[])?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    on.notes.push(format!(
        "{}; {} stories with {} commands; {} answered requests were asked of a replica that is not to have the shard, {} were \
         asked again, {} commands were queued and not given again",
        rulings.note,
        told.stories.len(),
        told.stories.iter().map(|story| story.commands.len()).sum::<usize>(),
        count(&tally.away),
        count(&tally.unanswered),
        count(&tally.queued)
    ));
    let mut too_little = rulings.too_little;
    if before < WARM_MIN {
        too_little.push(format!("{before} answers before the faults"));
    }
    if told.stories.len() < STORIES_MIN {
        too_little.push(format!("{} stories", told.stories.len()));
    }
    if count(&tally.away) < AWAY_MIN {
        too_little.push(format!(
            "{} answers by a replica that is not to have the shard",
            count(&tally.away)
        ));
    }
    let mut violations = told.violations;
    violations.extend(rulings.violations);
    violations.extend(judge(&told.stories, &found));
    Ok(Played {
        answers: [before, during, answers(&tally) - before - during],
        executions: found.len(),
        entries: found.iter().map(|found| found.entries).sum(),
        messages: 0,
        rulings: rulings.rulings,
        violations,
        too_little,
    })
}

/// Breaks things and heals them; a fault that comes alone comes again.
fn torment(on: &mut Replicas<'_>, trial: &Trial, random: &mut Random) -> anyhow::Result<()> {
    let rounds = if trial.strikes.len() == 1 { ROUNDS } else { 1 };
    for _ in 0..rounds {
        schedule::strike(on, trial, random)?;
        on.until_shared()?;
        std::thread::sleep(CALM);
    }
    Ok(())
}

/// Everything that there is in the end.
fn gather(on: &mut Replicas<'_>, stories: usize) -> anyhow::Result<Vec<Found>> {
    let begun = Instant::now();
    let ids = loop {
        let mut ids = on.listed(FLOW)?;
        ids.extend(on.listed(GATE)?);
        ids.extend(on.listed(RULED)?);
        if ids.len() >= stories || begun.elapsed() > LISTED_WITHIN {
            break ids;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    ids.into_iter().map(|id| one(on, id)).collect()
}

fn one(on: &Replicas<'_>, id: String) -> anyhow::Result<Found> {
    let shown = on.read(&format!("/api/v1/executions/{id}"))?;
    let history = on.read(&format!("/api/v1/executions/{id}/history?limit={ENTRIES}"))?;
    let entries = history["items"].as_array().context("a history has no items")?;
    let commands = entries.iter().filter_map(|entry| entry["command"].as_str());
    Ok(Found {
        id,
        workflow: shown["workflowId"].as_str().unwrap_or_default().to_owned(),
        n: shown["input"]["n"].as_u64(),
        status: shown["status"].as_str().unwrap_or_default().to_owned(),
        output: shown["output"].clone(),
        commands: commands.map(str::to_owned).collect(),
        entries: entries.len(),
        starts: rulings::starts(&shown)?,
    })
}

fn judge(stories: &[Story], found: &[Found]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |invariant, what| violations.push(Violation { invariant, what });
    let mut of_story: BTreeMap<u64, Vec<&Found>> = BTreeMap::new();
    for one in found {
        match one.n {
            Some(n) => of_story.entry(n).or_default().push(one),
            None => broken("C1", format!("nobody started {}", one.id)),
        }
    }
    for (n, all) in &of_story {
        if all.len() > 1 {
            let ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
            broken(
                "C1",
                format!("what was started once, as {n}, is there {} times: {ids:?}", all.len()),
            );
        }
    }
    for story in stories {
        let all = of_story.get(&story.n).map(Vec::as_slice).unwrap_or_default();
        let Some(own) = all.iter().find(|one| one.id == story.id) else {
            broken(
                "C1",
                format!("{}, whose start was acknowledged, is not there", story.id),
            );
            continue;
        };
        if own.status != story.ends {
            broken("C12", format!("{} is {}, not {}", story.id, own.status, story.ends));
        }
        if story.ends == "completed" && own.output["n"] != story.n {
            broken("C6", format!("{} gave {} for {}", story.id, own.output, story.n));
        }
        for command in &story.commands {
            match own.commands.iter().filter(|known| *known == command).count() {
                0 => broken(
                    "C1",
                    format!("{command} was acknowledged and is not in the history of {}", story.id),
                ),
                1 => {}
                times => broken("C2", format!("{command} was applied {times} times to {}", story.id)),
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> (Vec<Story>, Vec<Found>) {
        let story = |n: u64, ends, commands: &[&str]| Story {
            n,
            id: format!("id-{n}"),
            commands: commands.iter().map(ToString::to_string).collect(),
            ends,
        };
        let found = |story: &Story| Found {
            id: story.id.clone(),
            workflow: FLOW.to_owned(),
            n: Some(story.n),
            status: story.ends.to_owned(),
            output: json!({"n": story.n}),
            commands: story.commands.clone(),
            entries: 5,
            starts: Vec::new(),
        };
        let stories = vec![
            story(1, "completed", &["pause-1", "resume-1"]),
            story(2, "canceled", &["cancel-2"]),
        ];
        let all = stories.iter().map(found).collect();
        (stories, all)
    }

    #[test]
    fn what_is_wrong_is_found_and_nothing_else() {
        let broken = |spoil: &dyn Fn(&mut Vec<Found>)| {
            let (stories, mut found) = sound();
            spoil(&mut found);
            let violations = judge(&stories, &found);
            assert!(violations.len() <= 1, "{violations:?}");
            violations.first().map(|found| found.invariant)
        };
        assert_eq!(broken(&|_| {}), None);
        assert_eq!(broken(&|found| drop(found.pop())), Some("C1"));
        let twice = |found: &mut Vec<Found>| {
            let again = Found {
                id: "other".to_owned(),
                ..found[1].clone()
            };
            found.push(again);
        };
        assert_eq!(broken(&twice), Some("C1"));
        assert_eq!(broken(&|found| found.push(Found::default())), Some("C1"));
        assert_eq!(broken(&|found| found[0].status = "running".to_owned()), Some("C12"));
        assert_eq!(broken(&|found| found[0].output = Value::Null), Some("C6"));
        assert_eq!(broken(&|found| drop(found[0].commands.pop())), Some("C1"));
        assert_eq!(
            broken(&|found| found[0].commands.push("pause-1".to_owned())),
            Some("C2")
        );
    }
}
