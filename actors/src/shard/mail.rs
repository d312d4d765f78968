//! Messages from one execution to another of the same shard.

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use troupe_core::ExecutionId;

use super::deliver;
use crate::context::ShardContext;
use crate::execution::ExecutionMessage;
use crate::task::supervised;

/// What is on its way to executions without an actor, in the order in which it was sent.
#[derive(Debug, Default)]
pub struct Mail(DashMap<ExecutionId, VecDeque<ExecutionMessage>>);

impl Mail {
    /// Takes the next message to an execution; without any the execution is forgotten.
    fn next(&self, id: ExecutionId) -> Option<ExecutionMessage> {
        let mut queue = self.0.get_mut(&id)?;
        if let Some(message) = queue.pop_front() {
            return Some(message);
        }
        drop(queue);
        // Somebody may have sent something in between.
        self.0.remove_if(&id, |_, queue| queue.is_empty());
        self.0.get_mut(&id)?.pop_front()
    }
}

/// Sends to a parent or child, behind what was sent to it before. What cannot be delivered is made good when the shard is
/// taken again.
pub fn send_to_relative(shard: &Arc<ShardContext>, id: ExecutionId, message: ExecutionMessage) {
    match shard.mail.0.entry(id) {
        Entry::Occupied(mut queue) => queue.get_mut().push_back(without_hold(message)),
        Entry::Vacant(vacant) => {
            let Err(message) = shard.engine.directory.route(id, message) else {
                return;
            };
            vacant.insert(VecDeque::from([without_hold(message)]));
            let shard = Arc::clone(shard);
            let supervisor = shard.supervisor.clone();
            let delivering = async move {
                while let Some(message) = shard.mail.next(id) {
                    deliver(&shard, id, message).await;
                }
            };
            tokio::spawn(supervised("telling a relative", supervisor, delivering));
        }
    }
}

/// What takes its time must not hold up a commit.
fn without_hold(mut message: ExecutionMessage) -> ExecutionMessage {
    if let ExecutionMessage::ChildReported(_, held) = &mut message {
        *held = None;
    }
    message
}
