//! Clients: each starts an execution, asks again until it is answered, and interferes with what it started.

use std::collections::VecDeque;

use troupe_actors::EngineError;
use troupe_actors::execution::machine::{CommandInput, NodeCommand, Reopen, Wanted};
use troupe_core::execution::{Decision, Event, Remedy, Started};
use troupe_core::{CommandId, ErrorInfo, ExecutionId, Json, KeySpace, ShardId};

use super::process::{ExecutionMessage, ProcessNo, Respond};
use super::scenario::{Act, ClientPlan, KeyKind};
use super::schedule::Timed;
use super::{SHARDS, World, workflows};
use crate::crash::Record;

/// How long a client waits for an answer.
const PATIENCE_MS: u64 = 120;
/// Grace that a cancel gives.
const GRACE_MS: u64 = 60;

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
    kind: KeyKind,
    trigger: Option<String>,
    id: Option<ExecutionId>,
    plan: VecDeque<(u64, Act)>,
    /// Number of the request that is not answered yet.
    waiting: Option<u64>,
    /// Acts done: what makes the ids of commands, the same for every repetition.
    done: u64,
}

impl Client {
    pub(super) fn new(plan: &ClientPlan) -> Self {
        Self {
            workflow: plan.workflow.clone(),
            key: plan.key.clone(),
            kind: plan.kind,
            trigger: plan.trigger.clone(),
            id: None,
            plan: plan.acts.iter().cloned().collect(),
            waiting: None,
            done: 0,
        }
    }
}

impl World {
    pub(super) fn clients_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.plan.is_empty())
    }

    /// A client asks for what is next on its plan.
    pub(super) fn client_acts(&mut self, number: usize) {
        let Some((_, act)) = self.clients[number].plan.front().cloned() else {
            return;
        };
        let request = self.number();
        let client = &mut self.clients[number];
        client.waiting = Some(request);
        let key = client.key.clone();
        let id = if act.starts() {
            self.id_to_start(number)
        } else {
            self.clients[number].id
        };
        let Some(id) = id else {
            return self.clients[number].plan.clear();
        };
        let reply = Respond::Client(number, request);
        let message = if act.starts() {
            let client = &self.clients[number];
            if client.kind == KeyKind::Business {
                self.after(PATIENCE_MS, Timed::GiveUp(number, request));
                return self.start_under_key(number, request, id.shard());
            }
            let (fresh, started) = (client.kind == KeyKind::None, Box::new(client.started(id, None)));
            self.workflows.insert(id, client.workflow.clone());
            self.record(Record::StartAsked { key });
            ExecutionMessage::Start { started, fresh, reply }
        } else if let Some(wanted) = wanted(&act, number) {
            if act == Act::Resume {
                self.record(Record::ResumeAsked { id });
            } else if act.reopens() {
                self.record(Record::ReopenAsked { id });
            }
            let command = Some(CommandId::from(self.command_id(number, &act).as_str()));
            let input = CommandInput {
                wanted,
                principal: None,
                command,
            };
            ExecutionMessage::Command(Box::new(input), reply)
        } else if let Act::Rerun(..) = act {
            ExecutionMessage::Read(Respond::Rerun(number, request))
        } else {
            ExecutionMessage::Read(reply)
        };
        self.after(PATIENCE_MS, Timed::GiveUp(number, request));
        match self.server(id.shard()) {
            Some(process) if let Some(error) = self.stopped_start(process, number, &act) => self.refuse(reply, error),
            Some(process) => self.deliver(process, id, message),
            None => self.refuse(reply, EngineError::Unavailable("nobody serves the shard".into())),
        }
    }

    fn stopped_start(&mut self, process: ProcessNo, number: usize, act: &Act) -> Option<EngineError> {
        let workflow = act.starts().then(|| self.clients[number].workflow.clone())?;
        self.refused_by_stop(process, &workflow)
    }

    fn command_id(&self, number: usize, act: &Act) -> String {
        format!("{}-{number}-{}", act.name(), self.clients[number].done)
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
                .is_some_and(|serving| now < serving.lease_until && !serving.closing)
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
        let Some((_, act)) = client.plan.front().cloned() else {
            return;
        };
        let key = client.key.clone();
        match (answer, client.id) {
            (Answer::Started { id, existing }, Some(of)) if matches!(act, Act::Rerun(..)) => {
                let key = rerun_key(of, client.done);
                self.record(Record::StartAcked { key, id, existing });
                self.count("reruns");
            }
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
                let (verb, command) = (act.name().to_owned(), self.command_id(number, &act));
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
                self.count(act.name());
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
            // The execution that was to end has ended by itself: the next look finds that.
            (Answer::Refused(EngineError::Ended(_)), _) if act.starts() => return self.try_again(number),
            (Answer::Refused(EngineError::Ended(_)), _) => self.count("ended before"),
            (Answer::Refused(EngineError::Refused(_)), _) if !act.starts() => self.count("refused commands"),
            (Answer::Refused(EngineError::NotFound(id)), _) => {
                // It was acknowledged, so it must be there, unless its time was over.
                self.forgotten.push((id, self.now));
                self.count("not found any more");
            }
            (
                Answer::Refused(
                    EngineError::Unavailable(_)
                    | EngineError::Fenced
                    | EngineError::Quarantined { .. }
                    | EngineError::Stopped { .. },
                ),
                _,
            ) => {
                return self.try_again(number);
            }
            (Answer::Refused(error), _) => return self.trouble(format!("{act:?}: {error}")),
        }
        let client = &mut self.clients[number];
        client.plan.pop_front();
        client.done += 1;
        if let Some((pause_ms, _)) = client.plan.front() {
            let pause_ms = *pause_ms;
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

/// What a command of a client wants; a start and a read are no commands.
fn wanted(act: &Act, number: usize) -> Option<Wanted> {
    let json = |text: String| Json::from_trusted(text).into();
    let of_node = |node: &String, command: NodeCommand| Wanted::OfNode(node.clone(), command);
    Some(match act {
        Act::Start | Act::Supersede | Act::Read | Act::Rerun(..) => return None,
        Act::Pause => Wanted::Event(Event::Paused),
        Act::Freeze => Wanted::Event(Event::Frozen),
        Act::Resume => Wanted::Event(Event::Resumed),
        Act::Cancel => Wanted::Event(Event::CancelRequested {
            reason: None,
            grace_ms: GRACE_MS,
            at_once: false,
        }),
        Act::Signal(node) => {
            let call = format!(r#"{{"body":{{"from":{number}}},"headers":{{}},"query":{{}},"method":"POST"}}"#);
            of_node(node, NodeCommand::Signal(json(call)))
        }
        Act::Heartbeat(node) => of_node(node, NodeCommand::Heartbeat),
        Act::Complete(node) => {
            let output = json(format!(r#"{{"by":{number}}}"#));
            of_node(node, NodeCommand::Decide(Decision::Complete(output)))
        }
        Act::Fail(node) => {
            let error = ErrorInfo::new("DECLINED", "an operator says so");
            of_node(node, NodeCommand::Decide(Decision::Fail(error)))
        }
        Act::Skip(node) => of_node(node, NodeCommand::Decide(Decision::Skip(None))),
        Act::Retry(nodes) => reopen(nodes.clone(), Remedy::Retry),
        Act::SkipFailed(node, with_output) => {
            let output = with_output.then(|| json(format!(r#"{{"ok":true,"by":{number}}}"#)));
            reopen(vec![node.clone()], Remedy::Skip(output))
        }
        Act::SetVariables => Wanted::Event(Event::VariablesSet(vec![("set".into(), json(number.to_string()))])),
    })
}

fn reopen(nodes: Vec<String>, remedy: Remedy) -> Wanted {
    Wanted::Reopen(Reopen {
        nodes,
        remedy,
        reason: None,
        controls: None,
    })
}

/// The request key of a rerun of an execution.
pub(super) fn rerun_key(of: ExecutionId, number: u64) -> String {
    format!("rerun/{of}/{number}")
}

impl Client {
    /// What it asks for now, and how many things it has asked for before.
    pub(super) fn asks(&self) -> Option<(&Act, u64)> {
        self.plan.front().map(|(_, act)| (act, self.done))
    }

    /// The run of its business key with this ordinal.
    pub(super) fn run(&self, ordinal: u64) -> ExecutionId {
        ExecutionId::derived(SHARDS, KeySpace::Business, &self.workflow, self.business_key(), ordinal)
    }

    /// Whether what it asks for ends the open execution of its key.
    pub(super) fn supersedes(&self) -> bool {
        matches!(self.plan.front(), Some((_, Act::Supersede)))
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
            input: Json::from_trusted(workflows::INPUT).into(),
            variables: Vec::new(),
            metadata: None,
            trigger: self.trigger.clone(),
            execution_key: ordinal.map(|_| self.business_key().to_owned()),
            request_key: (self.kind == KeyKind::Request).then(|| self.key.clone()),
            priority: None,
            key_ordinal: ordinal,
            parent: None,
            rerun: None,
            controls: None,
            handles_failure_of: None,
            trace_parent: None,
        }
    }
}
