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
    /// Without one an unanswered start cannot be repeated.
    keyed: bool,
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
            match self.random.below(8) {
                0 | 1 => {
                    plan.push_back((self.random.below(30), Act::Pause));
                    plan.push_back((self.random.below(80), Act::Resume));
                }
                2 => plan.push_back((self.random.below(40), Act::Cancel)),
                3..=5 => plan.extend((0..6).map(|_| (self.random.below(15), Act::Read)).collect::<Vec<_>>()),
                _ => {}
            }
            let keyed = !self.random.once_in(5);
            if keyed && self.random.once_in(2) {
                plan.push_back((self.random.below(400), Act::Start));
            }
            let key = format!("{workflow}/{number}");
            self.clients.push(Client {
                workflow,
                key,
                keyed,
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
                self.record(Record::StartAsked { key });
                let client = &self.clients[number];
                self.workflows.insert(id, client.workflow.clone());
                let (fresh, started) = (!client.keyed, Box::new(started(client, id)));
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
        if client.keyed {
            return Some(ExecutionId::derived(
                SHARDS,
                KeySpace::Request,
                &client.workflow,
                &client.key,
                0,
            ));
        }
        let shard = ShardId(u16::try_from(self.random.below(u64::from(SHARDS))).unwrap_or(0));
        Some(ExecutionId::fresh(shard, self.now, self.random.next()))
    }

    /// A process that believes to own a shard, by its lease; a frozen one takes messages too.
    fn server(&mut self, shard: ShardId) -> Option<ProcessNo> {
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
                self.record(Record::StartAcked { key, id, existing });
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
                self.record(Record::Read { id, seq, fingerprint });
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
        if !client.keyed && client.id.is_none() {
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

fn started(client: &Client, id: ExecutionId) -> Started {
    Started {
        id,
        workflow: client.workflow.as_str().into(),
        version: 1,
        input: Json::from_trusted("{\"n\":1}").into(),
        variables: Vec::new(),
        metadata: None,
        trigger: None,
        execution_key: None,
        request_key: client.keyed.then(|| client.key.clone()),
        priority: None,
        key_ordinal: None,
    }
}
