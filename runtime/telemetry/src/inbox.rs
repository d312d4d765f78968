//! Handles that count commands in inboxes of shards.

use metrics::{Counter, Gauge, counter, gauge};

use crate::catalogue as name;

/// What became of a command on its way through an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxEnd {
    /// It was put there: nobody could be asked who has the shard.
    Kept,
    /// There was no room for it.
    Full,
    /// The owner applied it, or it was applied before.
    Applied,
    /// The owner refused it.
    Refused,
    /// The owner could do nothing with it and dropped it.
    SetAside,
}

/// Handles that count commands in inboxes.
#[derive(Debug)]
pub struct InboxMetrics {
    kept: Counter,
    full: Counter,
    applied: Counter,
    refused: Counter,
    set_aside: Counter,
    depth: Gauge,
}

impl InboxMetrics {
    /// Handles on the recorder installed now.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "what it is made on is installed elsewhere")]
    pub fn new() -> Self {
        let metrics = Self {
            kept: counter!(name::INBOX_COMMANDS, "outcome" => "kept"),
            full: counter!(name::INBOX_COMMANDS, "outcome" => "full"),
            applied: counter!(name::INBOX_COMMANDS, "outcome" => "applied"),
            refused: counter!(name::INBOX_COMMANDS, "outcome" => "refused"),
            set_aside: counter!(name::INBOX_COMMANDS, "outcome" => "set_aside"),
            depth: gauge!(name::INBOX_DEPTH),
        };
        metrics.depth.set(0.0);
        metrics
    }

    /// One more command came to this.
    pub fn ended(&self, end: InboxEnd) {
        let counter = match end {
            InboxEnd::Kept => &self.kept,
            InboxEnd::Full => &self.full,
            InboxEnd::Applied => &self.applied,
            InboxEnd::Refused => &self.refused,
            InboxEnd::SetAside => &self.set_aside,
        };
        counter.increment(1);
    }

    /// The inbox of one shard held `before` commands when it was told last, and holds `now`.
    pub fn depth(&self, before: usize, now: usize) {
        self.depth.increment(now as f64 - before as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::recorder;

    #[test]
    fn commands_are_counted_by_what_became_of_them_and_while_they_wait() {
        let recorder = recorder().expect("the catalogue's buckets are not empty");
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = InboxMetrics::new();
            for end in [InboxEnd::Kept, InboxEnd::Kept, InboxEnd::Applied, InboxEnd::SetAside] {
                metrics.ended(end);
            }
            metrics.depth(0, 5);
            metrics.depth(0, 2);
            metrics.depth(5, 1);
        });
        let text = handle.render();
        for line in [
            r#"troupe_inbox_commands_total{outcome="kept"} 2"#,
            r#"troupe_inbox_commands_total{outcome="applied"} 1"#,
            r#"troupe_inbox_commands_total{outcome="set_aside"} 1"#,
            r#"troupe_inbox_commands_total{outcome="refused"} 0"#,
            "troupe_inbox_depth 3",
        ] {
            assert!(
                text.lines().any(|candidate| candidate == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
