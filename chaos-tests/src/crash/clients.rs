//! Clients that load an engine: they start, read, pause, resume and cancel, and record what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use troupe_actors::{Command, EngineError, EngineHandle, KeyPolicy, OnClosed, OnOpen, StartRequest};
use troupe_core::{CommandId, ExecutionId, Json};

use super::child::random;
use super::record::Record;
use super::workload;

/// One start in so many has a business key.
const KEYED_ONE_IN: u64 = 10;
/// Business keys a workflow: few, so that starts meet.
const BUSINESS_KEYS: u64 = 2;

/// A key that was asked for before gives the execution that it gave then.
pub(super) async fn ask_again(engine: EngineHandle, keys: Vec<String>) {
    for key in keys {
        start(&engine, key).await;
    }
}

/// Starts executions one after the other, and interferes with some.
pub(super) async fn client(engine: EngineHandle, incarnation: u32, next: Arc<AtomicU64>) {
    let client = random();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let workflows = workload::definitions();
        let workflow = &workflows[usize::try_from(random() % workflows.len() as u64).unwrap_or(0)].id;
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
        match random() % 8 {
            0 | 1 => pause_and_resume(&engine, id).await,
            2 => command(&engine, "cancel", id).await,
            3..=5 => read_some(&engine, client, id).await,
            _ => {}
        }
    }
}

/// Starts the workflow that the key begins with.
async fn start(engine: &EngineHandle, key: String) -> Option<ExecutionId> {
    let workflow = key.split('/').next().unwrap_or_default().to_owned();
    let mut request = StartRequest::new(workflow, Json::from_trusted("{\"n\":1}"));
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
    let mut request = StartRequest::new(workflow, Json::from_trusted("{\"n\":1}"));
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
    let name = format!("{verb}-{:016x}", random());
    let given = Command {
        command: Some(CommandId::from(name.as_str())),
        grace_ms: Some(20),
        ..Command::default()
    };
    let answer = match verb {
        "pause" => engine.pause(id, given).await,
        "cancel" => engine.cancel(id, given).await,
        _ => {
            Record::ResumeAsked { id }.emit();
            engine.resume(id, given).await
        }
    };
    match answer {
        Ok(outcome) => {
            let (draining, unchanged) = (outcome.draining, outcome.unchanged);
            Record::CommandAcked {
                verb: verb.to_owned(),
                id,
                command: name,
                draining,
                unchanged,
            }
            .emit();
        }
        Err(EngineError::Ended(_)) => {}
        Err(error) if error.retry_after_ms().is_some() => {}
        Err(error) => Record::Trouble {
            what: format!("{verb} {id}: {error}"),
        }
        .emit(),
    }
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
