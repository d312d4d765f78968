//! The nodes' work: every attempt that begins is recorded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use troupe_core::{ErrorInfo, Json};
use troupe_ports::{Executed, NodeExecutor, Task};

use super::child::random;
use super::record::Record;

/// Counts the attempts of this process that count under a limit.
static SLOTS_USED: AtomicU64 = AtomicU64::new(0);

/// An attempt that counts under a limit, until it ends or is dropped.
struct InSlot(u64);

impl InSlot {
    /// None where nothing bounds it.
    fn of(task: &Task) -> Option<Self> {
        let limit = task.node().concurrency.as_ref()?;
        let number = SLOTS_USED.fetch_add(1, Ordering::Relaxed);
        Record::SlotUsed {
            number,
            id: task.execution,
            key: limit.key.clone().unwrap_or_default(),
            limit: limit.limit,
        }
        .emit();
        Some(Self(number))
    }
}

impl Drop for InSlot {
    fn drop(&mut self) {
        Record::SlotLeft { number: self.0 }.emit();
    }
}

/// Does the nodes' work: records that it took effect, then sleeps, fails or completes as the node's data say.
///
/// Every output is unlike any other, so that a repeated attempt cannot pass for the first one.
#[derive(Debug, Default)]
pub struct EffectSink {
    /// Whether effects are recorded; the final incarnation only finishes what is open.
    pub silent: bool,
}

impl NodeExecutor for EffectSink {
    fn execute(&self, task: Task, _: CancellationToken) -> BoxFuture<'static, Executed> {
        let mut in_slot = None;
        if !self.silent {
            in_slot = InSlot::of(&task);
            let input = task.input.shown().as_str().to_owned();
            let token = [
                task.token.run.0,
                task.token.visit.0,
                task.token.attempt.0,
                task.token.nonce,
            ];
            Record::Effect {
                id: task.execution,
                node: task.node().key.to_string(),
                token,
                input,
            }
            .emit();
        }
        Box::pin(async move {
            let _in_slot = in_slot;
            let number = |name: &str| {
                task.node()
                    .data
                    .get(name)
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0)
            };
            if number("sleepMs") > 0 {
                tokio::time::sleep(Duration::from_millis(number("sleepMs"))).await;
            }
            if u64::from(task.token.attempt.0) <= number("failFirst") {
                return Executed::failed(ErrorInfo::new("FLAKY", "fails at first"), true);
            }
            let padding = usize::try_from(number("outputBytes")).unwrap_or(0);
            Executed::completed(Json::from_trusted(format!(
                "\"{:016x}{}\"",
                random(),
                ".".repeat(padding)
            )))
        })
    }
}
