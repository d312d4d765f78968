//! What is going to happen in a world, drawn from a seed before it begins: so that it can be printed, cut down and kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;
use troupe_core::definition::{NodeKind, WorkflowDefinition};

use super::FAULTS_MS;
use super::breakers::Unwell;
use super::operators::OperatorPlan;
use super::process::LEASE_MS;
use super::random::Random;
use super::{breakers, drawn, operators, workflows};

/// Of so many worlds in a row, the first two have drawn workflows. Coprime with how many are played for each that is played twice.
const DRAWN_OF: u64 = 5;
/// Without its end it would wait for an hour.
const NEEDS_ITS_END: &str = "early-end";
/// Clients of a world, at most.
const CLIENTS_MAX: u64 = 7;
/// Clients of a busy world: many want the same few permits, batches and actors.
const BUSY_CLIENTS: u64 = 36;

/// Everything of a world but how long each call takes, what fate each attempt has and who goes first; that is drawn from
/// `seed` while the world runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Whether processes and store are apart.
    pub remote: bool,
    /// Whether outputs are so large that snapshots become due.
    pub large: bool,
    /// How long ended executions are kept, in milliseconds; none: as long as the world lasts.
    #[serde(default)]
    pub retention_ms: Option<u64>,
    /// Workflows beside the constant ones, in the language of the reference interpreter.
    pub definitions: Vec<JsonValue>,
    /// Who asks for what.
    pub clients: Vec<ClientPlan>,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// Who pauses and stops what.
    #[serde(default)]
    pub operators: Vec<OperatorPlan>,
    /// Which handlers fail, and when.
    #[serde(default)]
    pub unwell: Vec<Unwell>,
    /// When the bus goes away, and for how long, in milliseconds.
    #[serde(default)]
    pub bus_away: Vec<(u64, u64)>,
}

/// A client: it asks for one thing after the other, each until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientPlan {
    /// The workflow that it starts.
    pub workflow: String,
    /// What its key is.
    pub kind: KeyKind,
    /// The key.
    pub key: String,
    /// The trigger that it names, if it names one.
    #[serde(default)]
    pub trigger: Option<String>,
    /// When it begins, in milliseconds.
    pub begins_ms: u64,
    /// What it does, and how many milliseconds after the answer before.
    pub acts: Vec<(u64, Act)>,
}

/// What a client's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyKind {
    /// Without any an unanswered start cannot be repeated.
    None,
    /// Its own.
    Request,
    /// Other clients have the same one: it gives the execution that is open, or the next one.
    Business,
}

/// Something that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// Start.
    Start,
    /// Start under a business key whose open execution ends at once.
    Supersede,
    /// Read.
    Read,
    /// Pause.
    Pause,
    /// Pause, and clocks stand.
    Freeze,
    /// Resume.
    Resume,
    /// Cancel.
    Cancel,
    /// Call a node.
    Signal(String),
    /// Say that whoever works on what a node waits for is alive.
    Heartbeat(String),
    /// Complete a waiting node.
    Complete(String),
    /// Fail a waiting node.
    Fail(String),
    /// Skip a node.
    Skip(String),
    /// Set a variable.
    SetVariables,
    /// Let failed nodes run again, also after the end; none: every one whose failure nothing handled.
    Retry(Vec<String>),
    /// Let a failed node count as skipped after all, with an output or without.
    SkipFailed(String, bool),
    /// Run the workflow again from a node, with what it has given so far and perhaps another input.
    Rerun(String, bool),
}

impl Act {
    /// Whether it asks for an execution.
    #[must_use]
    pub fn starts(&self) -> bool {
        matches!(self, Self::Start | Self::Supersede)
    }

    /// Whether it lets an execution that has ended go on.
    #[must_use]
    pub fn reopens(&self) -> bool {
        matches!(self, Self::Retry(_) | Self::SkipFailed(..))
    }

    /// Its name, which is also that of the metric of how often it happened.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Supersede => "supersede",
            Self::Read => "read",
            Self::Pause => "pause",
            Self::Freeze => "freeze",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Signal(_) => "signal",
            Self::Heartbeat(_) => "heartbeat",
            Self::Complete(_) => "complete",
            Self::Fail(_) => "fail",
            Self::Skip(_) => "skip",
            Self::SetVariables => "set",
            Self::Retry(_) => "retry",
            Self::SkipFailed(..) => "skip failed",
            Self::Rerun(..) => "rerun",
        }
    }
}

/// Something that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// What.
    pub kind: FaultKind,
    /// Whom of those who can be hit: counted round.
    pub victim: u64,
    /// For how long, in milliseconds.
    pub lasts_ms: u64,
}

/// What can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// A process ends at this instant, whatever it was doing.
    Crash,
    /// As a crash; of what was not synced, so many thousandths survive.
    PowerLoss(u16),
    /// A process stops on purpose.
    Stop,
    /// A process stands still.
    Freeze,
    /// Nobody reaches the store.
    Outage,
    /// One process does not reach the store.
    Partition,
    /// An execution's actor panics.
    Panic,
    /// An execution panics whenever it hears something, until the world heals.
    Poison,
}

impl FaultKind {
    /// All, as they are named.
    pub const NAMES: [&'static str; 8] = [
        "crash",
        "power loss",
        "freeze",
        "outage",
        "partition",
        "panic",
        "poison",
        "planned stop",
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[match self {
            Self::Crash => 0,
            Self::PowerLoss(_) => 1,
            Self::Freeze => 2,
            Self::Outage => 3,
            Self::Partition => 4,
            Self::Panic => 5,
            Self::Poison => 6,
            Self::Stop => 7,
        }]
    }
}

impl Scenario {
    /// The world of a seed, with the constant workflows and, in two of five, with workflows that are drawn too.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::with(seed, seed % DRAWN_OF < 2)
    }

    /// The world of a seed, with workflows that are drawn whatever the seed.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        Self::with(seed, true)
    }

    fn with(seed: u64, drawn: bool) -> Self {
        let mut random = Random::new(seed ^ 0xA5A5_0F0F_3C3C_9696);
        let remote = random.once_in(2);
        let large = random.once_in(6);
        // Large values go with the execution whose family keeps them; and nothing that is late is as late as that.
        let retention_ms = (!large && random.once_in(4)).then(|| random.between(1_000, 1_400));
        let definitions = if drawn {
            drawn::definitions(remote, &mut random)
        } else {
            Vec::new()
        };
        let mut workflows = workflows::KNOWN.clone();
        if !remote {
            workflows.extend(workflows::LIMITED.iter().cloned());
        }
        let own = definitions.iter().cloned();
        let own = own.map(|own| serde_json::from_value(own).expect("a drawn definition was read before"));
        // As likely as all the constant ones together.
        let own: Vec<Arc<WorkflowDefinition>> = own.map(Arc::new).collect();
        let times = workflows.len() / own.len().max(1);
        workflows.extend(own.iter().flat_map(|own| std::iter::repeat_n(own.clone(), times)));
        let count = if random.once_in(50) {
            BUSY_CLIENTS
        } else {
            random.between(2, CLIENTS_MAX)
        };
        let clients: Vec<ClientPlan> = (0..count)
            .map(|number| client(number, &workflows, &mut random))
            .collect();
        let faults = faults(remote, &mut random);
        let is_started = |workflow: &&WorkflowDefinition| clients.iter().any(|client| client.workflow == workflow.id);
        let started: Vec<&WorkflowDefinition> = workflows.iter().map(Arc::as_ref).filter(is_started).collect();
        let unwell = breakers::draw(&mut random);
        let operators = operators::draw(&started, &mut random);
        // In one of three worlds for so long that what waits leaves the log.
        let bus_away = if random.once_in(3) {
            vec![(random.below(FAULTS_MS / 2), random.between(50, FAULTS_MS))]
        } else {
            Vec::new()
        };
        Self {
            seed,
            remote,
            large,
            retention_ms,
            definitions,
            clients,
            faults,
            operators,
            unwell,
            bus_away,
        }
    }
}

fn client(number: u64, workflows: &[Arc<WorkflowDefinition>], random: &mut Random) -> ClientPlan {
    let workflow = &workflows[random.place(workflows.len())];
    let kind = match random.below(10) {
        0 => KeyKind::None,
        1 | 2 => KeyKind::Business,
        _ => KeyKind::Request,
    };
    let mut acts = vec![(0, Act::Start)];
    // Others may be given the same execution, so nobody interferes with it.
    if kind == KeyKind::Business {
        acts.extend((0..2).map(|_| (random.below(60), Act::Read)));
        let ends_open = random.once_in(3);
        acts.push((random.below(200), if ends_open { Act::Supersede } else { Act::Start }));
    } else {
        interfere(workflow, &mut acts, random);
    }
    if kind == KeyKind::Request && random.once_in(2) {
        acts.push((random.below(400), Act::Start));
    }
    let key = match kind {
        KeyKind::Business => format!("{}/key", workflow.id),
        KeyKind::None | KeyKind::Request => format!("{}/{number}", workflow.id),
    };
    let triggers = workflow
        .nodes
        .iter()
        .filter(|node| node.kind() == Some(NodeKind::Trigger));
    let triggers: Vec<&str> = triggers.map(|node| node.id.as_str()).collect();
    let names_one = !triggers.is_empty() && random.once_in(2);
    ClientPlan {
        workflow: workflow.id.clone(),
        kind,
        key,
        trigger: names_one.then(|| triggers[random.place(triggers.len())].to_owned()),
        begins_ms: random.below(FAULTS_MS * 4 / 5),
        acts,
    }
}

/// What a client does with its own execution.
fn interfere(workflow: &WorkflowDefinition, acts: &mut Vec<(u64, Act)>, random: &mut Random) {
    match random.below(8) {
        0 | 1 => {
            let first = if random.once_in(2) { Act::Freeze } else { Act::Pause };
            // Some change their mind on the clocks.
            if random.once_in(4) {
                let other = if first == Act::Pause { Act::Freeze } else { Act::Pause };
                acts.extend([(random.below(30), first), (random.below(30), other)]);
            } else {
                acts.push((random.below(30), first));
            }
            acts.push((random.below(80), Act::Resume));
        }
        2 | 3 => acts.push((random.below(60), Act::Cancel)),
        4 => acts.extend((0..4).map(|_| (random.below(15), Act::Read))),
        5 => acts.push((random.below(40), Act::SetVariables)),
        _ => {}
    }
    if workflow.id != NEEDS_ITS_END && random.once_in(6) {
        let node = workflow.nodes[random.place(workflow.nodes.len())].id.clone();
        acts.push((random.below(60), Act::Skip(node)));
    }
    if random.once_in(3) {
        reopen(workflow, acts, random);
    }
    for node in workflows::waiting_nodes(workflow) {
        for _ in 0..random.below(4) {
            let node = node.to_owned();
            let act = match random.below(8) {
                0 => Act::Complete(node),
                1 => Act::Fail(node),
                2 | 3 => Act::Heartbeat(node),
                _ => Act::Signal(node),
            };
            acts.push((random.below(120), act));
        }
    }
}

/// What has failed by then runs again, or counts as skipped.
fn reopen(workflow: &WorkflowDefinition, acts: &mut Vec<(u64, Act)>, random: &mut Random) {
    for _ in 0..=random.below(2) {
        let node = workflow.nodes[random.place(workflow.nodes.len())].id.clone();
        let act = match random.below(8) {
            0 | 1 | 3 | 4 if workflow.id == NEEDS_ITS_END => Act::Retry(Vec::new()),
            0 => Act::SkipFailed(node, false),
            1 => Act::SkipFailed(node, true),
            2 => Act::Retry(vec![node]),
            3 | 4 => Act::Rerun(node, random.once_in(2)),
            _ => Act::Retry(Vec::new()),
        };
        acts.push((random.between(20, 400), act));
    }
}

fn faults(remote: bool, random: &mut Random) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at_ms = random.between(10, 200);
    while at_ms < FAULTS_MS {
        let (kind, lasts_ms) = match random.below(12) {
            0..=3 => {
                let down_ms = random.between(2, if remote { LEASE_MS * 2 } else { 80 });
                let kind = if remote || random.once_in(2) {
                    FaultKind::Crash
                } else {
                    FaultKind::PowerLoss(u16::try_from(random.below(1_001)).unwrap_or(0))
                };
                (kind, down_ms)
            }
            4 | 5 => (FaultKind::Freeze, random.between(10, LEASE_MS * 5 / 2)),
            6 => (FaultKind::Outage, random.between(5, 150)),
            7 if remote => (FaultKind::Partition, random.between(10, LEASE_MS * 5 / 2)),
            8 if random.once_in(3) => (FaultKind::Poison, 0),
            9 => (FaultKind::Stop, random.between(2, 80)),
            _ => (FaultKind::Panic, 0),
        };
        faults.push(Fault {
            at_ms,
            kind,
            victim: random.below(1 << 16),
            lasts_ms,
        });
        at_ms += random.between(15, 450);
    }
    faults
}
