//! Clients that load an engine: they start, read, call, pause, resume and cancel, and record what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use troupe_core::ExecutionId;

use super::calls::{answer_waits, one_of_the_family};
use super::child::random;
use super::door::{Answer, Ask, Door, Open, Refusal, Seen, Verb};
use super::record::Record;
use super::workload;

/// One start in so many has a business key.
const KEYED_ONE_IN: u64 = 8;
/// Business keys a workflow: few, so that starts meet.
const BUSINESS_KEYS: u64 = 2;
/// One start in so many is of a workflow with children or calls: each of them starts several executions more.
const FAMILIES_ONE_IN: u64 = 8;
/// One start in so many is of a workflow with large values: what goes through the pipes of a test is not what it is about.
const LARGE_ONE_IN: u64 = 24;
/// One start in so many is of a workflow with limits, where members count together: what waits must not outgrow what runs.
const LIMITED_ONE_IN: u64 = 6;
/// One start in so many is of the workflow that the operator of the process has, where there are members.
const RULED_ONE_IN: u64 = 4;
/// Pause of those who only look, after all that they look at.
const LOOKER_PAUSE: Duration = Duration::from_millis(100);
/// How long a client waits for the end of what it may retry, in milliseconds.
const ENDS_WITHIN_MS: u64 = 200;
/// Why a workflow that was stopped starts nothing.
const STOPPED: &str = "STOPPED";
/// One retry in so many lets what failed count as skipped.
const SKIPPED_ONE_IN: u64 = 4;

/// Looks at these executions where they are served here, again and again, and starts nothing.
pub(crate) async fn looker(door: Door, ids: Vec<ExecutionId>) {
    let client = random();
    loop {
        for id in &ids {
            match door.ask_here(&Ask::Look { id: *id }).await {
                Ok(Answer::Seen(seen)) => read(client, *id, &seen),
                Ok(Answer::NotHere) => {}
                other => trouble(&format!("look at {id}"), other),
            }
        }
        tokio::time::sleep(LOOKER_PAUSE).await;
    }
}

/// A key that was asked for before gives the execution that it gave then.
pub(crate) async fn ask_again(door: Door, keys: Vec<String>) {
    for key in keys {
        start(&door, key).await;
    }
}

/// Starts executions one after the other, and interferes with some.
pub(crate) async fn client(door: Door, incarnation: u32, next: Arc<AtomicU64>) {
    let client = random();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let workflow = &any_workflow(&door, incarnation);
        if random().is_multiple_of(KEYED_ONE_IN) {
            let key = format!("key-{}", random() % BUSINESS_KEYS);
            let any_open = match random() % 3 {
                0 => Open::Fail,
                1 => Open::Use,
                _ => Open::Terminate,
            };
            let only_after_failures = random().is_multiple_of(4);
            if let Some(id) = start_keyed(&door, workflow, &key, any_open, only_after_failures).await {
                // Asked at once it is most likely open still: it is found again, or gives way to the next one.
                let on_open = [Open::Use, Open::Terminate][usize::from(random().is_multiple_of(3))];
                start_keyed(&door, workflow, &key, on_open, false).await;
                read_some(&door, client, id).await;
            }
            continue;
        }
        let Some(id) = start(&door, format!("{workflow}/{incarnation}-{number}")).await else {
            continue;
        };
        match random() % 9 {
            // One that stays paused, since its client is gone, keeps others out; one that is wanted again waits for nobody.
            0 | 1 | 6 if workload::is_limited(workflow) => {}
            0 | 1 => pause_and_resume(&door, one_of_the_family(&door, id).await).await,
            2 => command(&door, Verb::Cancel, one_of_the_family(&door, id).await).await,
            3..=5 => read_some(&door, client, id).await,
            6 => {
                command(&door, Verb::Cancel, id).await;
                retry(&door, id).await;
            }
            _ => {}
        }
        if workload::always_fails(workflow) {
            retry(&door, id).await;
        }
        answer_waits(&door, id).await;
    }
}

fn any_workflow(door: &Door, incarnation: u32) -> String {
    if door.is_shared() && random().is_multiple_of(RULED_ONE_IN) {
        return workload::ruled_by(incarnation);
    }
    let mut workflows = if door.is_shared() && random().is_multiple_of(LIMITED_ONE_IN) {
        workload::limited()
    } else if random().is_multiple_of(LARGE_ONE_IN) {
        workload::large()
    } else if random().is_multiple_of(FAMILIES_ONE_IN) {
        workload::families()
    } else {
        workload::definitions()
    };
    let place = random() % workflows.len() as u64;
    workflows.swap_remove(usize::try_from(place).unwrap_or(0)).id
}

/// Starts the workflow that the key begins with.
async fn start(door: &Door, key: String) -> Option<ExecutionId> {
    match start_or_not(door, key.clone()).await {
        Ok(id) => Some(id),
        Err(why) => {
            if why.code != STOPPED {
                trouble(&format!("start {key}"), Err(why));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            None
        }
    }
}

/// As [`start`]; the caller says what a refusal means.
pub(crate) async fn start_or_not(door: &Door, key: String) -> Result<ExecutionId, Refusal> {
    let workflow = key.split('/').next().unwrap_or_default().to_owned();
    Record::StartAsked { key: key.clone() }.emit();
    let ask = Ask::Start {
        workflow,
        key: key.clone(),
    };
    match door.ask(&ask).await? {
        Answer::Started { id, existing } => {
            Record::StartAcked { key, id, existing }.emit();
            Ok(id)
        }
        other => Err(not_an_answer(&other)),
    }
}

/// Starts a workflow under a business key. Others may be given the same execution, so nobody interferes with it.
async fn start_keyed(
    door: &Door,
    workflow: &str,
    key: &str,
    on_open: Open,
    only_after_failures: bool,
) -> Option<ExecutionId> {
    let ask = Ask::StartKeyed {
        workflow: workflow.to_owned(),
        key: key.to_owned(),
        on_open,
        only_after_failures,
    };
    match door.ask(&ask).await {
        Ok(Answer::Started { id, existing }) => {
            let key = format!("{workflow}/{key}");
            Record::KeyedAcked { key, id, existing }.emit();
            Some(id)
        }
        Err(why) if ["KEY_CONFLICT", STOPPED].contains(&why.code.as_str()) => None,
        other => {
            trouble(&format!("start under {key}"), other);
            None
        }
    }
}

async fn pause_and_resume(door: &Door, id: ExecutionId) {
    tokio::time::sleep(Duration::from_millis(random() % 20)).await;
    command(door, Verb::Pause, id).await;
    tokio::time::sleep(Duration::from_millis(random() % 80)).await;
    command(door, Verb::Resume, id).await;
}

/// Commands an execution; that it has ended is no trouble.
async fn command(door: &Door, verb: Verb, id: ExecutionId) {
    let name = verb.name();
    if matches!(verb, Verb::Resume) {
        Record::ResumeAsked { id }.emit();
    }
    let command = named(name);
    let ask = Ask::Do {
        verb,
        id,
        command: command.clone(),
    };
    match door.ask(&ask).await {
        Ok(Answer::Done { draining, unchanged }) => acknowledged(name, id, command, draining, unchanged),
        Err(why) if why.code == "EXECUTION_ENDED" => {}
        other => trouble(&format!("{name} {id}"), other),
    }
}

/// Lets an execution that was canceled or has failed go on; that it completed, or that nothing was cut off, is no trouble.
async fn retry(door: &Door, id: ExecutionId) {
    let within_ms = ENDS_WITHIN_MS;
    match door.ask(&Ask::Ends { id, within_ms }).await {
        Ok(Answer::Ended { has: true }) => {}
        Ok(Answer::Ended { has: false }) => return,
        other => return trouble(&format!("wait for the end of {id}"), other),
    }
    let skips = random().is_multiple_of(SKIPPED_ONE_IN);
    let command = named("retry");
    Record::ReopenAsked { id }.emit();
    let ask = Ask::Do {
        verb: Verb::Retry { skips },
        id,
        command: command.clone(),
    };
    match door.ask(&ask).await {
        Ok(Answer::Done { draining, unchanged }) => acknowledged("retry", id, command, draining, unchanged),
        Err(why) if ["NOT_REOPENABLE", "NOTHING_TO_RETRY"].contains(&why.code.as_str()) => {}
        other => trouble(&format!("retry {id}"), other),
    }
}

/// What another try would not mend, or an answer to another question.
pub(super) fn trouble(doing: &str, came: Result<Answer, Refusal>) {
    let why = came.map_or_else(|why| why, |answer| not_an_answer(&answer));
    if !why.passes {
        let what = format!("{doing}: {}", why.what);
        Record::Trouble { what }.emit();
    }
}

fn not_an_answer(answer: &Answer) -> Refusal {
    Refusal {
        code: "INTERNAL".to_owned(),
        passes: false,
        what: format!("it was answered with {answer:?}"),
    }
}

/// An id that no other command has.
pub(super) fn named(verb: &str) -> String {
    format!("{verb}-{:016x}", random())
}

pub(super) fn acknowledged(verb: &str, id: ExecutionId, command: String, draining: u32, unchanged: bool) {
    Record::CommandAcked {
        verb: verb.to_owned(),
        id,
        command,
        draining,
        unchanged,
    }
    .emit();
}

async fn read_some(door: &Door, client: u64, id: ExecutionId) {
    for _ in 0..6 {
        match door.ask(&Ask::Look { id }).await {
            Ok(Answer::Seen(seen)) => read(client, id, &seen),
            other => trouble(&format!("read {id}"), other),
        }
        tokio::time::sleep(Duration::from_millis(random() % 4)).await;
    }
}

fn read(client: u64, id: ExecutionId, seen: &Seen) {
    Record::Read {
        client,
        id,
        seq: seen.seq,
        fingerprint: seen.fingerprint,
    }
    .emit();
}
