//! Clients: each starts an execution, asks again until it is answered, and interferes with what it started.

use std::collections::VecDeque;

use troupe_actors::EngineError;
use troupe_actors::execution::machine::CommandInput;
use troupe_core::execution::{Event, Started};
use troupe_core::{CommandId, ExecutionId, Json, KeySpace, ShardId};

use super::process::{ExecutionMessage, ProcessNo, Respond};
use super::schedule::Timed;
use super::{FAULTS_MS, SHARDS, World};
use crate::crash::Record;

/// Clients of a busy world.
const CLIENTS: usize = 36;
/// Clients of a quiet world: a shard may have nothing to write for a while.
const FEW_CLIENTS: usize = 5;
/// Business keys a workflow: one, so that clients meet.
const BUSINESS_KEYS: u64 = 1;
/// How long a client waits for an answer.
const PATIENCE_MS: u64 = 120;
/// Grace that a cancel gives.
const GRACE_MS: u64 = 20;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Start,
    Read,
    Pause,
    Resume,
    Cancel,
}

/// What a client's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    None,
    Request,
    /// Other clients have the same one: it gives the execution that is open, or the next one.
    Business,
}

/// What a client is answered.
#[derive(Debug)]
pub(super) enum Answer {
    Started { id: ExecutionId, existing: bool },
    Commanded { draining: u32, unchanged: bool },
    View { seq: u64, fingerprint: u64 },
    Refused(EngineError),
}

/// A client with what it still wants to do.
#[derive(Debug)]
pub(super) struct Client {
    workflow: String,
    key: String,
    /// What the key is: without any an unanswered start cannot be repeated.
    kind: KeyKind,
    id: Option<ExecutionId>,
    plan: VecDeque<(u64, Act)>,
    /// Number of the request that is not answered yet.
    waiting: Option<u64>,
    /// Id of the command, the same for every repetition.
    command: String,
}

impl World {
    pub(super) fn plan_clients(&mut self) {
        let workflows = super::parts::definitions();
        let clients = if self.random.once_in(4) { FEW_CLIENTS } else { CLIENTS };
        for number in 0..clients {
            let workflow = workflows[self.random.place(workflows.len())].id.clone();
            let mut plan = VecDeque::from([(0, Act::Start)]);
            let kind = match self.random.below(10) {
                0 | 1 => KeyKind::None,
                2 | 3 => KeyKind::Business,
                _ => KeyKind::Request,
            };
            match self.random.below(8) {
                // Others may be given the same execution, so nobody interferes with it.
                _ if kind == KeyKind::Business => {
                    plan.extend((0..3).map(|_| (self.random.below(60), Act::Read)).collect::<Vec<_>>());
                    plan.push_back((self.random.below(200), Act::Start));
                }
                0 | 1 => {
                    plan.push_back((self.random.below(30), Act::Pause));
                    plan.push_back((self.random.below(80), Act::Resume));
                }
                2 => plan.push_back((self.random.below(40), Act::Cancel)),
                3..=5 => plan.extend((0..6).map(|_| (self.random.below(15), Act::Read)).collect::<Vec<_>>()),
                _ => {}
            }
            if kind == KeyKind::Request && self.random.once_in(2) {
                plan.push_back((self.random.below(400), Act::Start));
            }
            let key = if kind == KeyKind::Business {
                format!("{workflow}/key-{}", self.random.below(BUSINESS_KEYS))
            } else {
                format!("{workflow}/{number}")
            };
            self.clients.push(Client {
                workflow,
                key,
                kind,
                id: None,
                plan,
                waiting: None,
                command: String::new(),
            });
            let begins_ms = self.random.below(FAULTS_MS * 4 / 5);
            self.after(begins_ms, Timed::Client(number));
        }
    }

    pub(super) fn clients_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.plan.is_empty())
    }

    /// A client asks for what is next on its plan.
    pub(super) fn client_acts(&mut self, number: usize) {
        let Some((_, act)) = self.clients[number].plan.front().copied() else {
            return;
        };
        let request = self.number();
        let client = &mut self.clients[number];
        client.waiting = Some(request);
        let key = client.key.clone();
        let id = if act == Act::Start {
            self.id_to_start(number)
        } else {
            self.clients[number].id
        };
        let Some(id) = id else {
            return self.clients[number].plan.clear();
        };
        let reply = Respond::Client(number, request);
        let message = match act {
            Act::Start => {
                let client = &self.clients[number];
                if client.kind == KeyKind::Business {
                    self.after(PATIENCE_MS, Timed::GiveUp(number, request));
                    return self.start_under_key(number, request, id.shard());
                }
                let (fresh, started) = (client.kind == KeyKind::None, Box::new(client.started(id, None)));
                self.workflows.insert(id, client.workflow.clone());
                self.record(Record::StartAsked { key });
                ExecutionMessage::Start { started, fresh, reply }
            }
            Act::Read => ExecutionMessage::Read(reply),
            Act::Pause => self.command(number, "pause", Event::Paused, reply),
            Act::Resume => {
                self.record(Record::ResumeAsked { id });
                self.command(number, "resume", Event::Resumed, reply)
            }
            Act::Cancel => {
                let event = Event::CancelRequested {
                    reason: None,
                    grace_ms: GRACE_MS,
                    at_once: false,
                };
                self.command(number, "cancel", event, reply)
            }
        };
        self.after(PATIENCE_MS, Timed::GiveUp(number, request));
        match self.server(id.shard()) {
            Some(process) => self.deliver(process, id, message),
            None => self.refuse(reply, EngineError::Unavailable("nobody serves the shard".into())),
        }
    }

    fn command(&mut self, number: usize, verb: &str, event: Event, reply: Respond) -> ExecutionMessage {
        let client = &mut self.clients[number];
        client.command = format!("{verb}-{number}");
        let command = Some(CommandId::from(client.command.as_str()));
        ExecutionMessage::Command(
            Box::new(CommandInput {
                event,
                principal: None,
                command,
            }),
            reply,
        )
    }

    fn id_to_start(&mut self, number: usize) -> Option<ExecutionId> {
        let client = &self.clients[number];
        match client.kind {
            KeyKind::None => {}
            KeyKind::Request => {
                let space = KeySpace::Request;
                return Some(ExecutionId::derived(SHARDS, space, &client.workflow, &client.key, 0));
            }
            KeyKind::Business => return Some(client.run(0)),
        }
        let shard = ShardId(u16::try_from(self.random.below(u64::from(SHARDS))).unwrap_or(0));
        Some(ExecutionId::fresh(shard, self.now, self.random.next()))
    }

    /// A process that believes to own a shard, by its lease; a frozen one takes messages too.
    pub(super) fn server(&mut self, shard: ShardId) -> Option<ProcessNo> {
        let now = self.now;
        let serves = |process: &super::process::Process| {
            process
                .shards
                .get(&shard)
                .is_some_and(|serving| now < serving.lease_until)
        };
        let serving = self.processes.iter().filter(|(_, process)| serves(process));
        let numbers: Vec<ProcessNo> = serving.map(|(number, _)| *number).collect();
        (!numbers.is_empty()).then(|| numbers[self.random.place(numbers.len())])
    }

    /// An answer reaches a client, unless it no longer waits for it.
    pub(super) fn answer(&mut self, number: usize, request: u64, answer: Answer) {
        let client = &mut self.clients[number];
        if client.waiting != Some(request) {
            return self.count("answers that came too late");
        }
        client.waiting = None;
        let Some((_, act)) = client.plan.front().copied() else {
            return;
        };
        let (key, command) = (client.key.clone(), client.command.clone());
        match (answer, client.id) {
            (Answer::Started { id, existing }, _) => {
                client.id = Some(id);
                let record = if client.kind == KeyKind::Business {
                    Record::KeyedAcked { key, id, existing }
                } else {
                    Record::StartAcked { key, id, existing }
                };
                self.record(record);
                self.count(if existing { "found again" } else { "starts" });
            }
            (Answer::Commanded { draining, unchanged }, Some(id)) => {
                let verb = verb(act).to_owned();
                self.record(Record::CommandAcked {
                    verb,
                    id,
                    command,
                    draining,
                    unchanged,
                });
                self.count(if unchanged {
                    "commands without effect"
                } else {
                    "commands"
                });
            }
            (Answer::View { seq, fingerprint }, Some(id)) => {
                self.record(Record::Read {
                    client: number as u64,
                    id,
                    seq,
                    fingerprint,
                });
                self.count("reads");
            }
            (Answer::Commanded { .. } | Answer::View { .. }, None) => {
                return self.trouble(format!("client {number} is answered before it asked"));
            }
            (Answer::Refused(EngineError::Ended(_)), _) => self.count("ended before"),
            (Answer::Refused(EngineError::NotFound(id)), _) => {
                // It was acknowledged, so it must be there.
                return self.trouble(format!("{act:?} of {id}: not found"));
            }
            (
                Answer::Refused(EngineError::Unavailable(_) | EngineError::Fenced | EngineError::Quarantined { .. }),
                _,
            ) => {
                return self.try_again(number);
            }
            (Answer::Refused(error), _) => return self.trouble(format!("{act:?}: {error}")),
        }
        let client = &mut self.clients[number];
        client.plan.pop_front();
        if let Some((pause_ms, _)) = client.plan.front().copied() {
            self.after(pause_ms, Timed::Client(number));
        }
    }

    pub(super) fn client_gives_up(&mut self, number: usize, request: u64) {
        if self.clients[number].waiting == Some(request) {
            self.count("unanswered requests");
            self.try_again(number);
        }
    }

    /// Without a key a start cannot be repeated: whether it happened stays unknown.
    fn try_again(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.waiting = None;
        if client.kind == KeyKind::None && client.id.is_none() {
            return client.plan.clear();
        }
        let pause_ms = 5 + self.random.below(20);
        self.after(pause_ms, Timed::Client(number));
    }
}

fn verb(act: Act) -> &'static str {
    match act {
        Act::Start => "start",
        Act::Read => "read",
        Act::Pause => "pause",
        Act::Resume => "resume",
        Act::Cancel => "cancel",
    }
}

impl Client {
    /// The run of its business key with this ordinal.
    pub(super) fn run(&self, ordinal: u64) -> ExecutionId {
        ExecutionId::derived(SHARDS, KeySpace::Business, &self.workflow, self.business_key(), ordinal)
    }

    pub(super) fn workflow(&self) -> &str {
        &self.workflow
    }

    fn business_key(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// What it starts; `ordinal` is that of the run of its business key.
    pub(super) fn started(&self, id: ExecutionId, ordinal: Option<u64>) -> Started {
        Started {
            id,
            workflow: self.workflow.as_str().into(),
            version: 1,
            input: Json::from_trusted("{\"n\":1}").into(),
            variables: Vec::new(),
            metadata: None,
            trigger: None,
            execution_key: ordinal.map(|_| self.business_key().to_owned()),
            request_key: (self.kind == KeyKind::Request).then(|| self.key.clone()),
            priority: None,
            key_ordinal: ordinal,
        }
    }
}
