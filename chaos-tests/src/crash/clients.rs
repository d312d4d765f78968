//! Clients that load an engine: they start, read, call, pause, resume and cancel, and record what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use troupe_actors::{
    Command, CommandOutcome, EngineError, EngineHandle, KeyPolicy, OnClosed, OnOpen, ReopenOutcome, ReopenRequest,
    StartRequest,
};
use troupe_core::execution::Remedy;
use troupe_core::{CommandId, ExecutionId, Json};

use super::calls::{answer_waits, one_of_the_family};
use super::child::random;
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
/// How long a client waits for the end of what it may retry.
const ENDS_WITHIN: Duration = Duration::from_millis(200);
/// One retry in so many lets what failed count as skipped.
const SKIPPED_ONE_IN: u64 = 4;
/// Bytes that a start payload is padded with where large values are wanted.
const PADDING_BYTES: usize = 66_000;

/// A key that was asked for before gives the execution that it gave then.
pub(crate) async fn ask_again(engine: EngineHandle, keys: Vec<String>) {
    for key in keys {
        start(&engine, key).await;
    }
}

/// Starts executions one after the other, and interferes with some.
pub(crate) async fn client(engine: EngineHandle, incarnation: u32, next: Arc<AtomicU64>) {
    let client = random();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let workflow = &any_workflow();
        if random().is_multiple_of(KEYED_ONE_IN) {
            let key = format!("key-{}", random() % BUSINESS_KEYS);
            if let Some(id) = start_keyed(&engine, workflow, &key, any_policy()).await {
                // Asked at once it is most likely open still: it is found again, or gives way to the next one.
                let on_open = [OnOpen::UseExisting, OnOpen::TerminateExisting][usize::from(random().is_multiple_of(3))];
                start_keyed(
                    &engine,
                    workflow,
                    &key,
                    KeyPolicy {
                        on_open,
                        ..KeyPolicy::default()
                    },
                )
                .await;
                read_some(&engine, client, id).await;
            }
            continue;
        }
        let Some(id) = start(&engine, format!("{workflow}/{incarnation}-{number}")).await else {
            continue;
        };
        match random() % 9 {
            0 | 1 => pause_and_resume(&engine, one_of_the_family(&engine, id).await).await,
            2 => command(&engine, "cancel", one_of_the_family(&engine, id).await).await,
            3..=5 => read_some(&engine, client, id).await,
            6 => {
                command(&engine, "cancel", id).await;
                retry(&engine, id).await;
            }
            _ => {}
        }
        if workload::always_fails(workflow) {
            retry(&engine, id).await;
        }
        answer_waits(&engine, id).await;
    }
}

fn any_workflow() -> String {
    let mut workflows = if random().is_multiple_of(LARGE_ONE_IN) {
        workload::large()
    } else if random().is_multiple_of(FAMILIES_ONE_IN) {
        workload::families()
    } else {
        workload::definitions()
    };
    let place = random() % workflows.len() as u64;
    workflows.swap_remove(usize::try_from(place).unwrap_or(0)).id
}

/// What executions of a workflow are started with: the same whenever a start is repeated.
fn input_of(workflow: &str) -> Json {
    if workload::is_large(workflow) {
        let padding = ".".repeat(PADDING_BYTES);
        return Json::from_trusted(format!("{{\"n\":1,\"padding\":\"{padding}\"}}"));
    }
    Json::from_trusted("{\"n\":1}")
}

/// Starts the workflow that the key begins with.
async fn start(engine: &EngineHandle, key: String) -> Option<ExecutionId> {
    let workflow = key.split('/').next().unwrap_or_default().to_owned();
    let input = input_of(&workflow);
    let mut request = StartRequest::new(workflow, input);
    request.request_key = Some(key.clone());
    Record::StartAsked { key: key.clone() }.emit();
    match engine.start(request).await {
        Ok(outcome) => {
            Record::StartAcked {
                key,
                id: outcome.id,
                existing: outcome.existing,
            }
            .emit();
            Some(outcome.id)
        }
        Err(error) => {
            if error.retry_after_ms().is_none() {
                Record::Trouble {
                    what: format!("start {key}: {error}"),
                }
                .emit();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            None
        }
    }
}

fn any_policy() -> KeyPolicy {
    KeyPolicy {
        on_open: match random() % 3 {
            0 => OnOpen::Fail,
            1 => OnOpen::UseExisting,
            _ => OnOpen::TerminateExisting,
        },
        on_closed: if random().is_multiple_of(4) {
            OnClosed::AllowFailedOnly
        } else {
            OnClosed::Allow
        },
    }
}

/// Starts a workflow under a business key. Others may be given the same execution, so nobody interferes with it.
async fn start_keyed(engine: &EngineHandle, workflow: &str, key: &str, key_policy: KeyPolicy) -> Option<ExecutionId> {
    let mut request = StartRequest::new(workflow, input_of(workflow));
    request.execution_key = Some(key.to_owned());
    request.key_policy = key_policy;
    match engine.start(request).await {
        Ok(outcome) => {
            let (key, id, existing) = (format!("{workflow}/{key}"), outcome.id, outcome.existing);
            Record::KeyedAcked { key, id, existing }.emit();
            Some(id)
        }
        Err(EngineError::KeyConflict { .. }) => None,
        Err(error) => {
            if error.retry_after_ms().is_none() {
                let what = format!("start under {key}: {error}");
                Record::Trouble { what }.emit();
            }
            None
        }
    }
}

async fn pause_and_resume(engine: &EngineHandle, id: ExecutionId) {
    tokio::time::sleep(Duration::from_millis(random() % 20)).await;
    command(engine, "pause", id).await;
    tokio::time::sleep(Duration::from_millis(random() % 80)).await;
    command(engine, "resume", id).await;
}

/// Commands an execution; that it has ended is no trouble.
async fn command(engine: &EngineHandle, verb: &str, id: ExecutionId) {
    let (name, given) = named(verb);
    let answer = match verb {
        "pause" => engine.pause(id, given).await,
        "cancel" => engine.cancel(id, given).await,
        _ => {
            Record::ResumeAsked { id }.emit();
            engine.resume(id, given).await
        }
    };
    match answer {
        Ok(outcome) => acknowledged(verb, id, name, outcome),
        Err(EngineError::Ended(_)) => {}
        Err(error) if error.retry_after_ms().is_some() => {}
        Err(error) => Record::Trouble {
            what: format!("{verb} {id}: {error}"),
        }
        .emit(),
    }
}

/// Lets an execution that was canceled or has failed go on; that it completed, or that nothing was cut off, is no trouble.
async fn retry(engine: &EngineHandle, id: ExecutionId) {
    match engine.wait_until_ended(id, ENDS_WITHIN).await {
        Ok(Some(_)) => {}
        Ok(None) => return,
        Err(error) => return trouble(&format!("wait for the end of {id}"), &error),
    }
    let remedy = if random().is_multiple_of(SKIPPED_ONE_IN) {
        Remedy::Skip(None)
    } else {
        Remedy::Retry
    };
    let request = ReopenRequest {
        nodes: Vec::new(),
        remedy,
        dry_run: false,
    };
    let (name, given) = named("retry");
    Record::ReopenAsked { id }.emit();
    match engine.reopen(id, request, given).await {
        Ok(ReopenOutcome {
            command: Some(outcome), ..
        }) => acknowledged("retry", id, name, outcome),
        Ok(ReopenOutcome { command: None, .. }) => {
            let what = format!("retry {id}: it was answered as if nothing was to happen");
            Record::Trouble { what }.emit();
        }
        Err(EngineError::Refused(why)) if matches!(why.code.as_str(), "NOT_REOPENABLE" | "NOTHING_TO_RETRY") => {}
        Err(error) => trouble(&format!("retry {id}"), &error),
    }
}

/// What another try would not mend.
fn trouble(doing: &str, error: &EngineError) {
    if error.retry_after_ms().is_none() {
        let what = format!("{doing}: {error}");
        Record::Trouble { what }.emit();
    }
}

/// A command that no other one is named like.
pub(super) fn named(verb: &str) -> (String, Command) {
    let name = format!("{verb}-{:016x}", random());
    let command = Command {
        command: Some(CommandId::from(name.as_str())),
        grace_ms: Some(20),
        ..Command::default()
    };
    (name, command)
}

pub(super) fn acknowledged(verb: &str, id: ExecutionId, command: String, outcome: CommandOutcome) {
    let (draining, unchanged) = (outcome.draining, outcome.unchanged);
    Record::CommandAcked {
        verb: verb.to_owned(),
        id,
        command,
        draining,
        unchanged,
    }
    .emit();
}

async fn read_some(engine: &EngineHandle, client: u64, id: ExecutionId) {
    for _ in 0..6 {
        match engine.get(id).await {
            Ok(view) => {
                Record::Read {
                    client,
                    id,
                    seq: view.state.seq.0,
                    fingerprint: view.state.fingerprint(),
                }
                .emit();
            }
            Err(error) if error.retry_after_ms().is_some() => {}
            Err(error) => Record::Trouble {
                what: format!("read {id}: {error}"),
            }
            .emit(),
        }
        tokio::time::sleep(Duration::from_millis(random() % 4)).await;
    }
}
