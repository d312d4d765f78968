//! Clients of the product: each plays story after story, asks whichever replica it likes, and asks again under the same key until it
//! is answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use troupe_core::ExecutionId;

use super::doors::Doors;
use super::http::{Answer, Request};
use super::replica::knock;
use crate::crash::Violation;
use crate::world::random::Random;

/// A workflow that goes on by itself.
pub(super) const FLOW: &str = "flow";
/// One that waits for a word.
pub(super) const GATE: &str = "gate";
/// One that an operator pauses and stops, and that begins something again and again.
pub(super) const RULED: &str = "ruled";
/// Its nodes that do something, and the time before each of them.
const RULED_NODES: usize = 8;
const RULED_PAUSE_MS: u64 = 100;
/// The node of a gate that waits.
const CALL: &str = "call";

/// How long a replica may take to answer: it looks for an owner for three leases.
const ANSWERED_WITHIN: Duration = Duration::from_secs(12);
/// How long a client asks for the same thing, once everything is healed, before it gives up.
const GIVES_UP: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// More than one client plays: each of them has a number of its own.
pub(super) const STORIES: u64 = 100_000;
/// Entries of a history that are read at once: more than any has.
pub(super) const ENTRIES: usize = 200;

/// The workflows, as they are stored.
pub(super) fn workflows() -> [Value; 3] {
    let echo = |id: &str, data: Value| json!({"id": id, "type": "function", "data": data});
    [
        json!({
            "id": FLOW, "name": "Flow",
            "nodes": [
                echo("first", json!({"handlerId": "echo"})),
                {"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": 300}},
                echo("last", json!({"handlerId": "echo", "output": "({ n: trigger.n })"})),
            ],
            "edges": [{"source": "first", "target": "wait"}, {"source": "wait", "target": "last"}],
        }),
        json!({
            "id": GATE, "name": "Gate",
            "nodes": [
                echo("begin", json!({"handlerId": "echo"})),
                {"id": CALL, "type": "webhook", "data": {"method": "POST"}},
                echo("last", json!({"handlerId": "echo", "output": "({ n: trigger.n })"})),
            ],
            "edges": [{"source": "begin", "target": CALL}, {"source": CALL, "target": "last"}],
        }),
        ruled(),
    ]
}

fn ruled() -> Value {
    let (mut nodes, mut edges) = (Vec::new(), Vec::new());
    for place in 0..RULED_NODES {
        let (wait, act) = (format!("wait-{place}"), format!("act-{place}"));
        let delay = json!({"delayType": "fixed", "delayValue": RULED_PAUSE_MS});
        let data = json!({"handlerId": "echo", "output": "({ n: trigger.n })"});
        edges.push(json!({"source": wait, "target": act}));
        if place > 0 {
            edges.push(json!({"source": format!("act-{}", place - 1), "target": wait}));
        }
        nodes.push(json!({"id": wait, "type": "delay", "data": delay}));
        nodes.push(json!({"id": act, "type": "function", "data": data}));
    }
    json!({"id": RULED, "name": "Ruled", "nodes": nodes, "edges": edges})
}

/// What a client did with one execution, and what it was told.
#[derive(Clone, Debug)]
pub(super) struct Story {
    /// In the input of its execution, and of no other one.
    pub(super) n: u64,
    pub(super) id: String,
    /// Commands that were acknowledged, by their keys.
    pub(super) commands: Vec<String>,
    /// How it is to end.
    pub(super) ends: &'static str,
}

/// What all clients count.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) stops: AtomicBool,
    /// Since when everything is healed.
    pub(super) healed: OnceLock<Instant>,
    pub(super) answers: AtomicU64,
    /// Requests that were answered for an execution by a replica that is not to have it.
    pub(super) away: AtomicU64,
    /// Requests that had no answer, or one that says to come again.
    pub(super) unanswered: AtomicU64,
    /// Commands that were kept for whoever has the shard next, and not given again.
    pub(super) queued: AtomicU64,
}

impl Tally {
    /// Whether something that was begun then takes too long: what is broken is not held against anybody.
    fn is_too_long(&self, begun: Instant) -> bool {
        let healed = self.healed.get();
        healed.is_some_and(|healed| begun.max(*healed).elapsed() > GIVES_UP)
    }
}

/// What a client leaves behind.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) stories: Vec<Story>,
    pub(super) violations: Vec<Violation>,
}

/// One client.
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) doors: Arc<Doors>,
    pub(super) tally: Arc<Tally>,
    pub(super) random: Random,
}

/// Whom to ask.
#[derive(Clone, Copy)]
pub(super) enum At {
    Anyone,
    /// Somebody who is not to have this execution.
    Away(ExecutionId),
}

impl Client {
    /// Plays stories until clients are to stop; one that has begun is played to its end.
    pub(super) fn play(mut self) -> Told {
        let mut told = Told::default();
        let mut place = 0;
        while !self.tally.stops.load(Ordering::Relaxed) {
            let n = self.number * STORIES + place;
            let story = match place % 5 {
                0 => self.waited(n),
                1 => self.paused(n),
                2 => self.canceled(n),
                3 => self.ruled(n),
                _ => self.by_business_key(n),
            };
            match story {
                Ok(story) => told.stories.push(story),
                Err(violation) => told.violations.push(violation),
            }
            place += 1;
        }
        told
    }

    /// It waits for the output, and asks a second time under the same key.
    fn waited(&mut self, n: u64) -> Result<Story, Violation> {
        let mut start = start(FLOW, n, json!({})).keyed(&format!("start-{n}"));
        start.prefer = Some("wait=8");
        let first = self.asks(At::Anyone, &start)?;
        let mut story = story(n, &first, "completed")?;
        let id = execution(&story)?;
        self.is_started_once(id, &start, &format!("start-{n}"))?;
        // The wait may have ended before the execution, which does not take as long when nothing is broken.
        self.until(id, "completed")?;
        story.ends = "completed";
        Ok(story)
    }

    /// An execution of the workflow that is ruled, which has begun to do something and has more to do.
    pub(super) fn under_way(&mut self, n: u64) -> Result<Story, Violation> {
        let first = self.asks(At::Anyone, &start(RULED, n, json!({})).keyed(&format!("start-{n}")))?;
        let story = story(n, &first, "completed")?;
        let id = execution(&story)?;
        let begun = format!("/api/v1/executions/{id}/nodes/act-0");
        self.until_shown(&begun, At::Away(id), "completed")?;
        Ok(story)
    }

    /// It goes on as its operator lets it.
    fn ruled(&mut self, n: u64) -> Result<Story, Violation> {
        let first = self.asks(At::Anyone, &start(RULED, n, json!({})).keyed(&format!("start-{n}")))?;
        let story = story(n, &first, "completed")?;
        self.until(execution(&story)?, "completed")?;
        Ok(story)
    }

    /// It is paused, seen to be, resumed, and given its word.
    fn paused(&mut self, n: u64) -> Result<Story, Violation> {
        let first = self.asks(At::Anyone, &start(GATE, n, json!({})).keyed(&format!("start-{n}")))?;
        let mut story = story(n, &first, "completed")?;
        let id = execution(&story)?;
        self.until_waiting(id)?;
        self.commands(&mut story, "pause", &json!({"reason": "a test"}))?;
        let shown = self.asks(At::Away(id), &Request::get(format!("/api/v1/executions/{id}")))?;
        if shown.body["paused"] != true {
            return Err(broken(
                "C11",
                format!("{id} is not paused although its pause was acknowledged"),
            ));
        }
        self.commands(&mut story, "resume", &json!({}))?;
        self.commands(&mut story, &format!("nodes/{CALL}/complete"), &json!({"output": n}))?;
        self.until(id, "completed")?;
        Ok(story)
    }

    /// The same start again, asked of another replica, is the execution that there is.
    fn is_started_once(&mut self, id: ExecutionId, start: &Request, what: &str) -> Result<(), Violation> {
        let again = self.asks(At::Away(id), start)?;
        if again.text("id") == id.to_string() {
            return Ok(());
        }
        Err(broken("C1", format!("{what} is {id} and {}", again.text("id"))))
    }

    fn canceled(&mut self, n: u64) -> Result<Story, Violation> {
        let first = self.asks(At::Anyone, &start(GATE, n, json!({})).keyed(&format!("start-{n}")))?;
        let mut story = story(n, &first, "canceled")?;
        self.commands(&mut story, "cancel", &json!({"reason": "a test"}))?;
        self.until(execution(&story)?, "canceled")?;
        Ok(story)
    }

    /// It is started twice under a business key while it is open.
    fn by_business_key(&mut self, n: u64) -> Result<Story, Violation> {
        let policy =
            json!({"executionKey": format!("order-{n}"), "keyPolicy": {"onOpen": "useExisting", "onClosed": "reject"}});
        let start = start(GATE, n, policy);
        let first = self.asks(At::Anyone, &start)?;
        let mut story = story(n, &first, "completed")?;
        let id = execution(&story)?;
        self.is_started_once(id, &start, &format!("order-{n}"))?;
        self.until_waiting(id)?;
        self.commands(&mut story, &format!("nodes/{CALL}/complete"), &json!({"output": n}))?;
        self.until(id, "completed")?;
        Ok(story)
    }

    /// Gives the story's execution a command through a replica that is not to have it.
    fn commands(&mut self, story: &mut Story, verb: &str, body: &Value) -> Result<(), Violation> {
        let id = execution(story)?;
        let key = format!("{}-{}", verb.replace('/', "."), story.n);
        let command = Request::post(format!("/api/v1/executions/{id}/{verb}"), body).keyed(&key);
        // Some do not ask what came of one that is queued, others do, under its key.
        let leaves_queued = self.random.once_in(2);
        if is_queued(&self.answer(At::Away(id), &command, leaves_queued)?) {
            self.until_applied(id, &key)?;
        }
        story.commands.push(key);
        Ok(())
    }

    /// What is queued is acknowledged: it is applied although nobody asks for it again.
    fn until_applied(&mut self, id: ExecutionId, key: &str) -> Result<(), Violation> {
        let begun = Instant::now();
        let history = Request::get(format!("/api/v1/executions/{id}/history?limit={ENTRIES}"));
        loop {
            let entries = self.asks(At::Away(id), &history)?;
            let mut entries = entries.body["items"].as_array().into_iter().flatten();
            if entries.any(|entry| entry["command"] == key) {
                return Ok(());
            }
            if self.tally.is_too_long(begun) {
                let what = format!("{key} was queued and is not in the history of {id} {GIVES_UP:?} after healing");
                return Err(broken("C1", what));
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn until_waiting(&mut self, id: ExecutionId) -> Result<(), Violation> {
        self.until_shown(
            &format!("/api/v1/executions/{id}/nodes/{CALL}"),
            At::Away(id),
            "running",
        )
    }

    pub(super) fn until(&mut self, id: ExecutionId, status: &str) -> Result<(), Violation> {
        self.until_shown(&format!("/api/v1/executions/{id}"), At::Away(id), status)
    }

    fn until_shown(&mut self, path: &str, at: At, status: &str) -> Result<(), Violation> {
        let begun = Instant::now();
        loop {
            let shown = self.asks(at, &Request::get(path))?;
            if shown.text("status") == status {
                return Ok(());
            }
            if self.tally.is_too_long(begun) {
                let what = format!(
                    "{path} is {} {GIVES_UP:?} after healing, not {status}",
                    shown.text("status")
                );
                return Err(broken("C12", what));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Asks until there is an answer that is one, each time somebody else.
    pub(super) fn asks(&mut self, at: At, request: &Request) -> Result<Answer, Violation> {
        self.answer(at, request, false)
    }

    /// `leaves_queued`: that a command is kept for whoever has the shard next is an answer, too.
    fn answer(&mut self, at: At, request: &Request, leaves_queued: bool) -> Result<Answer, Violation> {
        let begun = Instant::now();
        loop {
            let port = match at {
                At::Anyone => self.doors.any(&mut self.random),
                At::Away(id) => self.doors.away_from(id, &mut self.random),
            };
            let (method, path) = (request.method, &request.path);
            let why = match knock(port, request, ANSWERED_WITHIN) {
                Ok(answer) if answer.is_success() && !is_queued(&answer) => {
                    self.tally.answers.fetch_add(1, Ordering::Relaxed);
                    let away = u64::from(matches!(at, At::Away(_)));
                    self.tally.away.fetch_add(away, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) if is_queued(&answer) && leaves_queued => {
                    self.tally.queued.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) if matches!(answer.status, 429 | 503) || is_queued(&answer) => answer.body.to_string(),
                Ok(answer) => {
                    let key = request.key.as_deref().unwrap_or_default();
                    return Err(broken("C1", format!("{method} {path} {key} is answered {answer:?}")));
                }
                Err(error) => format!("{error:#}"),
            };
            self.tally.unanswered.fetch_add(1, Ordering::Relaxed);
            if self.tally.is_too_long(begun) {
                return Err(broken(
                    "C12",
                    format!("{method} {path} has no answer {GIVES_UP:?} after healing: {why}"),
                ));
            }
            std::thread::sleep(AGAIN);
        }
    }
}

fn is_queued(answer: &Answer) -> bool {
    answer.text("status") == "queued"
}

fn start(workflow: &str, n: u64, mut body: Value) -> Request {
    body["input"] = json!({"n": n});
    Request::post(format!("/api/v1/workflows/{workflow}/executions"), &body)
}

fn story(n: u64, answer: &Answer, ends: &'static str) -> Result<Story, Violation> {
    let id = answer.text("id").to_owned();
    let story = Story {
        n,
        id,
        commands: Vec::new(),
        ends,
    };
    execution(&story)?;
    Ok(story)
}

pub(super) fn execution(story: &Story) -> Result<ExecutionId, Violation> {
    let id = story.id.parse();
    id.map_err(|_| broken("C1", format!("a start is answered with the id {:?}", story.id)))
}

fn broken(invariant: &'static str, what: String) -> Violation {
    Violation { invariant, what }
}
