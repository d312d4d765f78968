//! What clients ask of an engine: of the one in their process, and where another member has the shard, of that one. As the
//! gateway does it: here first, then where the shard is, with the id under which it is applied once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use troupe_actors::{
    Command, CommandOutcome, EngineError, EngineHandle, KeyPolicy, OnClosed, OnOpen, ReopenRequest, StartRequest,
    Whereabouts,
};
use troupe_core::execution::{Decision, Remedy};
use troupe_core::{CommandId, ExecutionId, Json, ShardId};

use super::calls::open_children;
use super::rulings;
use super::workload::{self, waits};

/// Pause before the owner of a shard is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How often what a member has not answered is checked against what is known of its shard.
const OWNER_CHECKED: Duration = Duration::from_millis(250);
/// Connections that are kept to one member.
const KEPT_MAX: usize = 16;
/// How long attempts may take to stop once their execution is canceled.
const GRACE_MS: u64 = 20;

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum Ask {
    /// A start under a request key.
    Start {
        /// The workflow.
        workflow: String,
        /// The request key.
        key: String,
    },
    /// A start under a business key.
    StartKeyed {
        /// The workflow.
        workflow: String,
        /// The business key.
        key: String,
        /// What an open execution of the key means.
        on_open: Open,
        /// Whether one that completed keeps the next one from starting.
        only_after_failures: bool,
    },
    /// How an execution stands.
    Look {
        /// The execution.
        id: ExecutionId,
    },
    /// Whether it has ended, or does soon.
    Ends {
        /// The execution.
        id: ExecutionId,
        /// How long that may take, in milliseconds.
        within_ms: u64,
    },
    /// The controls of the shards that the member has which is asked.
    Controls,
    /// A control that its shards are to have.
    Learn {
        /// The control, as members tell each other.
        request: Vec<u8>,
    },
    /// A command to an execution.
    Do {
        /// What.
        verb: Verb,
        /// The execution.
        id: ExecutionId,
        /// The id under which it is applied once.
        command: String,
    },
}

/// What an open execution of the same business key means.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Open {
    /// The start is refused.
    Fail,
    /// It is the answer.
    Use,
    /// It gives way.
    Terminate,
}

/// A command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "camelCase")]
pub(crate) enum Verb {
    /// Nothing starts any more.
    Pause,
    /// It goes on.
    Resume,
    /// It ends.
    Cancel,
    /// What failed runs again, or counts as skipped.
    Retry {
        /// Whether it counts as skipped.
        skips: bool,
    },
    /// A call to a node that waits for one.
    Call {
        /// The node.
        node: String,
        /// The call.
        call: String,
    },
    /// The decision of an operator about such a node.
    Complete {
        /// The node.
        node: String,
        /// What it gives.
        output: String,
    },
}

impl Verb {
    /// Its name in the evidence.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Retry { .. } => "retry",
            Self::Call { .. } => "call",
            Self::Complete { .. } => "complete",
        }
    }
}

/// What comes of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub(crate) enum Answer {
    /// It was started.
    Started {
        /// The execution.
        id: ExecutionId,
        /// Whether it was there before.
        existing: bool,
    },
    /// How it stands.
    Seen(Seen),
    /// Whether it has ended.
    Ended {
        /// Whether it has.
        has: bool,
    },
    /// A command is durable.
    Done {
        /// Attempts that still ran.
        draining: u32,
        /// Whether there was nothing to do.
        unchanged: bool,
    },
    /// The controls of some shards.
    Controls {
        /// As members tell each other.
        sets: Vec<u8>,
    },
    /// A control is durable and in force.
    Learned(Learned),
    /// It was answered as if nothing was to happen.
    Nothing,
    /// It was not carried out.
    Refused(Refusal),
    /// The member that was asked does not serve the shard: nothing happened.
    NotHere,
}

/// An execution, as far as clients look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Seq of the entry that is shown.
    pub(crate) seq: u64,
    /// Fingerprint of the state.
    pub(crate) fingerprint: u64,
    /// Its workflow.
    pub(crate) workflow: String,
    /// Whether it has ended.
    pub(crate) has_ended: bool,
    /// Nodes that wait for a call, or will.
    pub(crate) waits: Vec<String>,
    /// Children that it waits for.
    pub(crate) children: Vec<ExecutionId>,
}

/// Where a control is in force now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Learned {
    /// The shards.
    pub(crate) shards: Vec<u16>,
    /// Shards that nobody can serve.
    pub(crate) halted: Vec<u16>,
    /// Attempts in its scope that still run.
    pub(crate) draining: u32,
}

/// Why something was not carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The stable code.
    pub(crate) code: String,
    /// Whether another try makes sense.
    pub(crate) passes: bool,
    /// For people.
    pub(crate) what: String,
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self {
            code: error.code().to_owned(),
            passes: error.retry_after_ms().is_some(),
            what: error.to_string(),
        }
    }
}

/// Where clients ask. Clones share it.
#[derive(Clone)]
pub(crate) struct Door {
    engine: EngineHandle,
    others: Option<Arc<Others>>,
}

/// How the other members are reached.
struct Others {
    /// How long the owner of a shard is looked for.
    within: Duration,
    kept: Mutex<HashMap<String, Vec<BufReader<TcpStream>>>>,
}

impl Door {
    /// To an engine that has every shard.
    pub(crate) fn alone(engine: EngineHandle) -> Self {
        Self { engine, others: None }
    }

    /// To one of several members. What is another's is looked for `within`.
    pub(crate) fn of_member(engine: EngineHandle, within: Duration) -> Self {
        let kept = Mutex::default();
        let others = Some(Arc::new(Others { within, kept }));
        Self { engine, others }
    }

    /// Whether other members serve, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.others.is_some()
    }

    /// Asks, wherever the shard is.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer, Refusal> {
        match self.find(ask, false).await {
            Answer::Refused(why) => Err(why),
            answer => Ok(answer),
        }
    }

    /// The engine of this process.
    pub(crate) fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// How long the owner of a shard is looked for.
    pub(crate) fn looks_within(&self) -> Duration {
        self.others.as_ref().map_or(Duration::ZERO, |others| others.within)
    }

    /// Asks here and every other member that there is; none is the answer of one that gives none `within`.
    pub(crate) async fn ask_all(&self, ask: &Ask, within: Duration) -> Vec<Option<Answer>> {
        let own = here(&self.engine, ask).await;
        let mut answers = vec![Some(own.unwrap_or_else(|error| Answer::Refused(error.into())))];
        let Some(others) = &self.others else { return answers };
        let members = self.engine.members().into_iter();
        let theirs = members.filter(|member| member.name != self.engine.name());
        let asked = theirs.map(async |member| {
            let answer = tokio::time::timeout(within, others.ask(&member.address, ask)).await;
            answer.ok()?.ok()
        });
        answers.extend(join_all(asked).await);
        answers
    }

    /// Asks only here: what is not served here is [`Answer::NotHere`].
    pub(crate) async fn ask_here(&self, ask: &Ask) -> Result<Answer, Refusal> {
        match self.find(ask, true).await {
            Answer::Refused(why) => Err(why),
            answer => Ok(answer),
        }
    }

    /// Answers the other members until the process ends.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().answer(stream))),
                // Too many open files: the next one may be luckier.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn answer(self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let answer = self.find(&serde_json::from_str(&line)?, true).await;
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            stream.write_all(&text).await?;
            line.clear();
        }
        Ok(())
    }

    /// `is_passed_on`: whoever asks looks for the owner itself.
    async fn find(&self, ask: &Ask, is_passed_on: bool) -> Answer {
        let until = Instant::now() + self.others.as_ref().map_or(Duration::ZERO, |others| others.within);
        loop {
            let error = match here(&self.engine, ask).await {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            let Some(others) = &self.others else {
                return Answer::Refused(error.into());
            };
            match error {
                EngineError::Elsewhere(_) if is_passed_on => return Answer::NotHere,
                EngineError::Elsewhere(shard) => {
                    if let Whereabouts::At(address) = self.engine.whereabouts(shard)
                        && let Some(answer) = self.ask_there(others, ask, &address, shard).await
                    {
                        return answer;
                    }
                    self.engine.look_again();
                }
                // The shard went while it was asked: under its id a command is applied once.
                EngineError::Fenced if ask.is_repeatable() => {}
                _ => return Answer::Refused(error.into()),
            }
            if Instant::now() >= until {
                return Answer::Refused(error.into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What the member at `address` says; none where it has not the shard either. Where it does not answer nobody knows what happened:
    /// what can be repeated is.
    async fn ask_there(&self, others: &Others, ask: &Ask, address: &str, shard: ShardId) -> Option<Answer> {
        let moved = async {
            loop {
                tokio::time::sleep(OWNER_CHECKED).await;
                let now = self.engine.whereabouts(shard);
                if !matches!(now, Whereabouts::At(now) if now == address) {
                    return;
                }
            }
        };
        let answer = tokio::select! {
            answer = others.ask(address, ask) => answer,
            // A frozen owner answers nobody.
            () = moved => Err(anyhow::anyhow!("the shard went")),
        };
        match answer {
            Ok(Answer::NotHere) => None,
            Ok(answer) => Some(answer),
            Err(_) if ask.is_repeatable() => None,
            Err(error) => {
                let what = format!("{address} does not answer: {error}");
                Some(Answer::Refused(EngineError::Unavailable(what).into()))
            }
        }
    }
}

impl Others {
    async fn ask(&self, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
        let kept = self.kept().get_mut(address).and_then(Vec::pop);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let mut text = serde_json::to_vec(ask)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let answer = serde_json::from_str(&line).context("half an answer")?;
        let mut all = self.kept();
        let kept = all.entry(address.to_owned()).or_default();
        if kept.len() < KEPT_MAX {
            kept.push(stream);
        }
        Ok(answer)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<BufReader<TcpStream>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ask {
    /// Whether it may be asked twice: a business key says nothing of who asked.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Look { .. }
            | Self::Ends { .. }
            | Self::Controls
            | Self::Learn { .. }
            | Self::Do { .. } => true,
            Self::StartKeyed { .. } => false,
        }
    }
}

/// Asks the engine of this process.
async fn here(engine: &EngineHandle, ask: &Ask) -> Result<Answer, EngineError> {
    match ask {
        Ask::Start { workflow, key } => {
            let mut request = StartRequest::new(workflow.as_str(), workload::input_of_key(workflow, key));
            request.request_key = Some(key.clone());
            started(engine, request).await
        }
        Ask::StartKeyed {
            workflow,
            key,
            on_open,
            only_after_failures,
        } => {
            let mut request = StartRequest::new(workflow.as_str(), workload::input_of(workflow));
            request.execution_key = Some(key.clone());
            request.key_policy = KeyPolicy {
                on_open: match on_open {
                    Open::Fail => OnOpen::Fail,
                    Open::Use => OnOpen::UseExisting,
                    Open::Terminate => OnOpen::TerminateExisting,
                },
                on_closed: if *only_after_failures {
                    OnClosed::AllowFailedOnly
                } else {
                    OnClosed::Allow
                },
            };
            started(engine, request).await
        }
        Ask::Look { id } => {
            let view = engine.get(*id).await?;
            let has_ended = view.state.status.is_terminal();
            Ok(Answer::Seen(Seen {
                seq: view.state.seq.0,
                fingerprint: view.state.fingerprint(),
                workflow: view.state.workflow.as_str().to_owned(),
                has_ended,
                waits: waits(&view.plan).map(str::to_owned).collect(),
                children: open_children(&view),
            }))
        }
        Ask::Ends { id, within_ms } => {
            let ended = engine.wait_until_ended(*id, Duration::from_millis(*within_ms)).await?;
            Ok(Answer::Ended { has: ended.is_some() })
        }
        Ask::Controls => Ok(Answer::Controls {
            sets: engine.control_sets().encoded(),
        }),
        Ask::Learn { request } => rulings::learn(engine, request).await,
        Ask::Do { verb, id, command } => {
            let command = Command {
                command: Some(CommandId::from(command.as_str())),
                grace_ms: Some(GRACE_MS),
                ..Command::default()
            };
            commanded(engine, verb, *id, command).await
        }
    }
}

async fn started(engine: &EngineHandle, request: StartRequest) -> Result<Answer, EngineError> {
    let outcome = engine.start(request).await?;
    let (id, existing) = (outcome.id, outcome.existing);
    Ok(Answer::Started { id, existing })
}

async fn commanded(
    engine: &EngineHandle,
    verb: &Verb,
    id: ExecutionId,
    command: Command,
) -> Result<Answer, EngineError> {
    let outcome = match verb {
        Verb::Pause => engine.pause(id, command).await?,
        Verb::Resume => engine.resume(id, command).await?,
        Verb::Cancel => engine.cancel(id, command).await?,
        Verb::Retry { skips } => {
            let request = ReopenRequest {
                nodes: Vec::new(),
                remedy: if *skips { Remedy::Skip(None) } else { Remedy::Retry },
                dry_run: false,
            };
            match engine.reopen(id, request, command).await?.command {
                Some(outcome) => outcome,
                None => return Ok(Answer::Nothing),
            }
        }
        Verb::Call { node, call } => {
            let call = Json::from_trusted(call.as_str());
            engine.signal(id, node, call, command).await?
        }
        Verb::Complete { node, output } => {
            let output = Json::from_trusted(output.as_str());
            engine
                .decide(id, node, Decision::Complete(output.into()), command)
                .await?
        }
    };
    let CommandOutcome {
        draining, unchanged, ..
    } = outcome;
    Ok(Answer::Done { draining, unchanged })
}
