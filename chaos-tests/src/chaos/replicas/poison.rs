//! Good and poisonous messages, while replicas are killed and their connections to the broker are cut.
//!
//! A dead letter is written before its message is acknowledged, so one that comes again in between is set aside once more: that may
//! be where a replica or its connection ends, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use troupe_telemetry::catalogue::{TRIGGER_MESSAGES, TRIGGER_MESSAGES_IN_HAND};

use super::http::Request;
use super::letters::{Letter, Post};
use super::messages::{self, Message, Poison};
use super::{Played, Replicas};
use crate::chaos::fault::{Fault, Target};
use crate::chaos::lab::Lab;
use crate::chaos::plan::Trial;
use crate::chaos::proxy::Proxy;
use crate::chaos::schedule::{self, Open, Struck};
use crate::chaos::servers::{Redis, until};
use crate::crash::Violation;
use crate::world::random::Random;

/// Good messages of a burst: some, or so many that every replica has as many in hand as it takes.
const BURST: u64 = 5;
const LARGE_BURST: u64 = 60;
/// Numbers that no order has; poisonous messages have them.
const NO_ORDER: u64 = 1_000_000;
/// How often something breaks.
const ROUNDS: u64 = 3;
/// How long a killed replica is away.
const AWAY: Duration = Duration::from_millis(500);
/// How often the connections to the broker are cut in a row, and the time between.
const CUTS: u32 = 3;
const CUT_EVERY: Duration = Duration::from_millis(250);
/// Until the first queue is bound.
const BOUND_WITHIN: Duration = Duration::from_secs(30);
/// How long everything that was published may take to be settled once everything is healed. Whoever waits pauses up to 10 s.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// The same where nothing was broken.
const CALM_WITHIN: Duration = Duration::from_secs(30);
/// How long the executions of the last messages may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// How long it is looked whether anything still goes round.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Messages that come again below which the faults have hit nobody.
const AGAIN_MIN: u64 = 1;

/// What was published, and what has come of it.
#[derive(Debug, Default)]
struct Evidence {
    /// Orders that are to start an execution.
    good: BTreeSet<u64>,
    poison: BTreeMap<String, Published>,
    /// Order and status of every execution.
    executions: Vec<(Option<u64>, String)>,
    letters: Vec<Letter>,
    /// Messages that are left in the queue when nobody has one in hand.
    left: u32,
    /// How often somebody, or somebody's connection, may have ended or stood still with messages in hand.
    ends: usize,
    /// Messages that were still being settled when nothing was published any more.
    restless: Option<String>,
}

/// A message that can start nothing.
#[derive(Clone, Debug)]
struct Published {
    kind: Poison,
    message: Message,
    /// Nothing was broken while it was settled.
    is_calm: bool,
}

pub(super) fn play(on: &mut Replicas<'_>, trial: &Trial, random: &mut Random) -> anyhow::Result<Played> {
    let exchange = format!("{}.orders", on.setting.prefix);
    let queue = format!(
        "{}.trigger.{}.{}",
        on.setting.prefix,
        messages::WORKFLOW,
        messages::TRIGGER
    );
    let dead = format!("{queue}.dead");
    on.start(&[&messages::workflow(&exchange)])?;
    let post = Post::open(&on.lab.runtime(), &on.lab.rabbitmq.url())?;
    let mut press = Press {
        post,
        exchange: exchange.clone(),
        queue: queue.clone(),
        next: 1,
        evidence: Evidence::default(),
        published: 0,
        is_calm: true,
    };
    press.evidence.good.insert(0);
    until("the queue of the trigger is bound", BOUND_WITHIN, || {
        Ok(press.post.reaches(&exchange, &messages::good(0, 0)))
    })?;
    press.burst(random, false)?;
    let early = settle(on, &press, (&queue, &dead), CALM_WITHIN)?;
    let before = press.published;
    press.is_calm = false;
    if trial.strikes.len() == 1 {
        torment(on, &mut press, random)?;
    } else {
        let mut under = Loaded {
            on,
            press: &mut press,
            random: Random::new(random.next()),
        };
        schedule::strike(&mut under, trial, random)?;
        press.dial(on)?;
    }
    let during = press.published - before;
    on.until_shared()?;
    let mut restless = settle(on, &press, (&queue, &dead), SETTLED_WITHIN)?;
    let again = metric(on, &format!("{TRIGGER_MESSAGES}{{outcome=\"again\"}}"))?;
    if restless.is_none() {
        press.is_calm = true;
        press.burst(random, false)?;
        restless = settle(on, &press, (&queue, &dead), CALM_WITHIN)?;
    }
    let mut evidence = press.evidence;
    evidence.ends = on.ends;
    evidence.restless = early.or(restless).or(moves(on)?);
    let begun = Instant::now();
    for id in on.listed(messages::WORKFLOW)? {
        let shown = once_ended(on, &id, begun)?;
        let status = shown["status"].as_str().unwrap_or_default().to_owned();
        evidence.executions.push((shown["input"]["n"].as_u64(), status));
    }
    // Whoever leaves gives back what it has in hand.
    on.finish()?;
    evidence.left = press.post.waiting(&queue)?.0;
    evidence.letters = press.post.letters(&dead)?;
    on.forget(&[(&exchange, &queue), (&exchange, &dead)])?;
    on.notes.push(format!(
        "{} orders, {} poisonous messages, {} dead letters; {again} messages were given back and came again",
        evidence.good.len(),
        evidence.poison.len(),
        evidence.letters.len()
    ));
    let mut too_little = Vec::new();
    // A server that is away may be all that is noticed.
    if trial.strikes.len() == 1 && again < AGAIN_MIN {
        too_little.push("no message came again: the faults hit nobody who had one in hand".to_owned());
    }
    Ok(Played {
        answers: [before, during, press.published - before - during],
        executions: evidence.executions.len(),
        entries: 0,
        messages: evidence.good.len() + evidence.letters.len(),
        rulings: 0,
        violations: judge(&evidence),
        too_little,
    })
}

/// Kills a replica, cuts everybody's connections to the broker, kills another one, each time with messages in every hand.
fn torment(on: &mut Replicas<'_>, press: &mut Press, random: &mut Random) -> anyhow::Result<()> {
    for round in 0..ROUNDS {
        press.burst(random, true)?;
        if round == 1 {
            for _ in 0..CUTS {
                on.all.iter().for_each(|replica| replica.lines.rabbitmq.cut());
                on.ends += 1;
                press.burst(random, false)?;
                std::thread::sleep(CUT_EVERY);
            }
        } else {
            on.kill(random.place(on.all.len()), AWAY)?;
        }
        press.burst(random, false)?;
    }
    Ok(())
}

/// Replicas with messages in every hand, whatever begins and ends.
struct Loaded<'a, 'lab> {
    on: &'a mut Replicas<'lab>,
    press: &'a mut Press,
    random: Random,
}

impl Loaded<'_, '_> {
    /// Publishes, where the broker takes anything.
    fn load(&mut self, begins: Option<Fault>, is_large: bool) -> anyhow::Result<()> {
        if self.on.open.has(keeps_broker_away) || begins.is_some_and(keeps_broker_away) {
            return Ok(());
        }
        self.press.dial(self.on)?;
        self.press.burst(&mut self.random, is_large)
    }
}

/// Whether nothing can be published meanwhile.
fn keeps_broker_away(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::RabbitKill | Fault::RabbitStall | Fault::RabbitMemoryAlarm | Fault::RabbitDiskAlarm
    )
}

impl Struck for Loaded<'_, '_> {
    fn begin(&mut self, fault: Fault, random: &mut Random, scale: u64) -> anyhow::Result<()> {
        self.load(None, true)?;
        self.on.begin(fault, random, scale)?;
        self.load(Some(fault), false)
    }

    fn end(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.on.end(fault)?;
        self.load(None, false)
    }

    fn supervise(&mut self) -> anyhow::Result<()> {
        self.on.supervise()
    }

    fn open(&mut self) -> &mut Open {
        self.on.open()
    }

    fn note(&mut self, what: String) {
        self.on.note(what);
    }

    fn lab(&mut self) -> &mut Lab {
        self.on.lab()
    }

    fn master(&mut self) -> anyhow::Result<&mut Redis> {
        self.on.master()
    }

    fn with_line(&self, one: Option<u32>, target: Target, act: &dyn Fn(&Proxy)) -> anyhow::Result<()> {
        self.on.with_line(one, target, act)
    }
}

/// Publishes, and knows what it has published.
struct Press {
    post: Post,
    exchange: String,
    queue: String,
    /// The next order.
    next: u64,
    evidence: Evidence,
    published: u64,
    is_calm: bool,
}

impl Press {
    /// Dials a broker that has come back.
    fn dial(&mut self, on: &Replicas<'_>) -> anyhow::Result<()> {
        let (runtime, url) = (on.lab.runtime(), on.lab.rabbitmq.url());
        until("the broker takes messages", BOUND_WITHIN, || {
            if self.post.waiting(&self.queue).is_ok() {
                return Ok(true);
            }
            if let Ok(post) = Post::open(&runtime, &url) {
                self.post = post;
            }
            Ok(false)
        })
    }

    /// Good messages, some of them twice, and between them some of each kind of the others.
    fn burst(&mut self, random: &mut Random, is_large: bool) -> anyhow::Result<()> {
        let count = if is_large { LARGE_BURST } else { BURST };
        let mut all: Vec<Message> = Vec::new();
        for n in self.next..self.next + count {
            self.evidence.good.insert(n);
            all.push(messages::good(n, 0));
            if random.once_in(4) {
                all.push(messages::good(n, 1));
            }
        }
        let times = if is_large { 3 } else { 1 };
        let numbers = (0..times).map(|time| NO_ORDER + self.next * 10 + time);
        for (n, kind) in numbers.flat_map(|n| Poison::ALL.map(|kind| (n, kind))) {
            let message = kind.message(n);
            let published = Published {
                kind,
                message: message.clone(),
                is_calm: self.is_calm,
            };
            self.evidence.poison.insert(message.id.clone(), published);
            all.insert(random.place(all.len()), message);
        }
        all.insert(random.place(all.len()), messages::filtered(self.next));
        self.next += count;
        self.published += all.len() as u64;
        self.post.publish(&self.exchange, &all)
    }
}

/// Waits until everything that was published has come to something; what has not, if that takes too long.
fn settle(
    on: &mut Replicas<'_>,
    press: &Press,
    (queue, dead): (&str, &str),
    within: Duration,
) -> anyhow::Result<Option<String>> {
    let begun = Instant::now();
    loop {
        on.supervise()?;
        let (waiting, _) = press.post.waiting(queue)?;
        let (letters, _) = press.post.waiting(dead)?;
        let started = on.listed(messages::WORKFLOW)?.len();
        let (poison, good) = (press.evidence.poison.len(), press.evidence.good.len());
        if waiting == 0 && letters as usize >= poison && started >= good && in_hand(on)? == 0 {
            return Ok(None);
        }
        if begun.elapsed() > within {
            let hands = in_hand(on)?;
            return Ok(Some(format!(
                "after {within:?} {waiting} messages wait and {hands} are in hand, with {letters} dead letters for {poison} \
                 poisonous messages and {started} executions for {good} orders"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether anything is still settled although nothing is published.
fn moves(on: &Replicas<'_>) -> anyhow::Result<Option<String>> {
    let before = metric(on, TRIGGER_MESSAGES)?;
    std::thread::sleep(QUIET);
    let after = metric(on, TRIGGER_MESSAGES)?;
    Ok((before != after).then(|| format!("{} messages were settled in {QUIET:?} of silence", after - before)))
}

/// An execution when it has ended, or as it is when all of them have had their time.
fn once_ended(on: &Replicas<'_>, id: &str, begun: Instant) -> anyhow::Result<Value> {
    loop {
        let shown = on.read(&format!("/api/v1/executions/{id}"))?;
        let is_open = matches!(shown["status"].as_str(), Some("pending" | "running"));
        if !is_open || begun.elapsed() > ENDED_WITHIN {
            return Ok(shown);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn in_hand(on: &Replicas<'_>) -> anyhow::Result<u64> {
    metric(on, TRIGGER_MESSAGES_IN_HAND)
}

/// The sum of a metric over all replicas and labels.
fn metric(on: &Replicas<'_>, name: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for replica in &on.all {
        let answer = replica.ask(&Request::get("/metrics"))?;
        let Value::String(text) = &answer.body else { continue };
        let lines = text.lines().filter(|line| line.starts_with(name));
        sum += lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}

fn judge(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut broken = |invariant, what| found.push(Violation { invariant, what });
    let mut started: BTreeMap<Option<u64>, usize> = BTreeMap::new();
    for (order, status) in &evidence.executions {
        *started.entry(*order).or_default() += 1;
        if status != "completed" {
            broken("C12", format!("the execution of order {order:?} is {status}"));
        }
    }
    for order in &evidence.good {
        match started.remove(&Some(*order)).unwrap_or_default() {
            0 => broken("C1", format!("order {order} started nothing")),
            1 => {}
            times => broken("C1", format!("order {order} started {times} executions")),
        }
    }
    for (order, times) in started {
        broken("C1", format!("{times} executions of {order:?}, which is no good order"));
    }
    let mut letters: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in &evidence.letters {
        letters.entry(&letter.id).or_default().push(letter);
    }
    for (id, published) in &evidence.poison {
        let own = letters.remove(id.as_str()).unwrap_or_default();
        let most = if published.is_calm { 1 } else { 1 + evidence.ends };
        if own.is_empty() {
            broken("C13", format!("{id} was not set aside"));
        } else if own.len() > most {
            broken("C13", format!("{id} was set aside {} times", own.len()));
        }
        for letter in own {
            if !published
                .kind
                .reasons()
                .iter()
                .any(|reason| letter.reason.starts_with(reason))
            {
                broken("C13", format!("{id} was set aside since {}", letter.reason));
            }
            if letter.body != published.message.body {
                broken("C13", format!("{id} was set aside with another body"));
            }
        }
    }
    for (id, own) in letters {
        broken("C13", format!("{id} was set aside since {}", own[0].reason));
    }
    if evidence.left > 0 {
        broken("C12", format!("{} messages are left in the queue", evidence.left));
    }
    if let Some(what) = &evidence.restless {
        broken("C12", what.clone());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(message: &Message, reason: &str) -> Letter {
        Letter {
            id: message.id.clone(),
            body: message.body.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Two orders, two poisonous messages, one of which came again when something was broken.
    fn sound() -> Evidence {
        let [torn, huge] = [Poison::Torn, Poison::Huge].map(|kind| Published {
            kind,
            message: kind.message(1),
            is_calm: kind == Poison::Huge,
        });
        Evidence {
            good: BTreeSet::from([1, 2]),
            ends: 5,
            executions: vec![(Some(1), "completed".to_owned()), (Some(2), "completed".to_owned())],
            letters: vec![
                letter(&torn.message, "INVALID_JSON: no"),
                letter(&torn.message, "INVALID_JSON: no"),
                letter(&huge.message, "PAYLOAD_TOO_LARGE: no"),
            ],
            poison: [torn, huge]
                .into_iter()
                .map(|published| (published.message.id.clone(), published))
                .collect(),
            ..Evidence::default()
        }
    }

    #[test]
    fn what_is_wrong_is_found_and_nothing_else() {
        let broken = |spoil: &dyn Fn(&mut Evidence)| {
            let mut evidence = sound();
            spoil(&mut evidence);
            let found = judge(&evidence);
            assert!(found.len() <= 1, "{found:?}");
            found.first().map(|found| found.invariant)
        };
        assert_eq!(broken(&|_| {}), None);
        assert_eq!(broken(&|evidence| drop(evidence.executions.pop())), Some("C1"));
        let twice = |evidence: &mut Evidence| evidence.executions.push((Some(2), "completed".to_owned()));
        assert_eq!(broken(&twice), Some("C1"));
        let of_poison = |evidence: &mut Evidence| evidence.executions.push((None, "completed".to_owned()));
        assert_eq!(broken(&of_poison), Some("C1"));
        assert_eq!(
            broken(&|evidence| evidence.executions[0].1 = "failed".to_owned()),
            Some("C12")
        );
        assert_eq!(broken(&|evidence| drop(evidence.letters.pop())), Some("C13"));
        let twice = |evidence: &mut Evidence| evidence.letters.push(evidence.letters[2].clone());
        assert_eq!(broken(&twice), Some("C13"));
        let often = |evidence: &mut Evidence| {
            let again = evidence.letters[0].clone();
            evidence.letters.extend(std::iter::repeat_n(again, evidence.ends));
        };
        assert_eq!(broken(&often), Some("C13"));
        assert_eq!(
            broken(&|evidence| evidence.letters[2].reason = "UNAVAILABLE".to_owned()),
            Some("C13")
        );
        assert_eq!(broken(&|evidence| evidence.letters[2].body.clear()), Some("C13"));
        let good = |evidence: &mut Evidence| evidence.letters.push(letter(&messages::good(1, 0), "INVALID_JSON"));
        assert_eq!(broken(&good), Some("C13"));
        assert_eq!(broken(&|evidence| evidence.left = 1), Some("C12"));
        assert_eq!(
            broken(&|evidence| evidence.restless = Some("it loops".to_owned())),
            Some("C12")
        );
    }
}
