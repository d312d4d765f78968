//! Work that goes on beside a shard's actors, and whose panic nobody may overlook.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use ractor::ActorRef;
use tokio::task::AbortHandle;

use crate::shard::ShardMessage;

/// A task that ends with whoever holds this, even if that is killed.
#[derive(Debug)]
pub(crate) struct ShardTask(AbortHandle);

impl ShardTask {
    /// Runs on the caller's runtime.
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::of(tokio::spawn(work).abort_handle())
    }

    /// A task that runs already.
    pub(crate) fn of(running: AbortHandle) -> Self {
        Self(running)
    }
}

impl Drop for ShardTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does a shard's work. If it panics the shard fails, and is opened anew.
pub(crate) async fn supervised(what: &'static str, shard: ActorRef<ShardMessage>, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        let why = format!("{what} panicked: {}", text_of(&*panic));
        if shard.send_message(ShardMessage::Panicked(why.clone())).is_err() {
            tracing::error!(why, "a task panicked after its shard was gone");
        }
    }
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
