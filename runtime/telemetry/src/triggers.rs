//! Handles that count the messages of event triggers.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::catalogue as name;

/// How a message of an event trigger ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageEnd {
    /// It started an execution, or repeated what had started one.
    Started,
    /// The filter left out everything that it carries.
    Filtered,
    /// It can start nothing and was set aside.
    Rejected,
    /// It could not be settled, or was given back: it comes again.
    Again,
}

/// Handles that count the messages of event triggers.
#[derive(Debug)]
pub struct TriggerMetrics {
    started: Counter,
    filtered: Counter,
    rejected: Counter,
    again: Counter,
    handling: Gauge,
    waiting: Gauge,
    seconds: Histogram,
}

impl TriggerMetrics {
    /// Handles on the recorder installed now.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "what it is made on is installed elsewhere")]
    pub fn new() -> Self {
        let metrics = Self {
            started: counter!(name::TRIGGER_MESSAGES, "outcome" => "started"),
            filtered: counter!(name::TRIGGER_MESSAGES, "outcome" => "filtered"),
            rejected: counter!(name::TRIGGER_MESSAGES, "outcome" => "rejected"),
            again: counter!(name::TRIGGER_MESSAGES, "outcome" => "again"),
            handling: gauge!(name::TRIGGER_MESSAGES_IN_HAND, "state" => "handling"),
            waiting: gauge!(name::TRIGGER_MESSAGES_IN_HAND, "state" => "waiting"),
            seconds: histogram!(name::TRIGGER_MESSAGE_SECONDS),
        };
        metrics.handling.set(0.0);
        metrics.waiting.set(0.0);
        metrics
    }

    /// A message was taken. Dropping the answer without an end gives the message back.
    #[must_use]
    pub fn taken(self: &Arc<Self>) -> MessageInHand {
        self.handling.increment(1.0);
        MessageInHand {
            metrics: Arc::clone(self),
            taken: Instant::now(),
            waits: false,
            end: MessageEnd::Again,
        }
    }
}

/// A message that was taken and is not settled.
#[derive(Debug)]
pub struct MessageInHand {
    metrics: Arc<TriggerMetrics>,
    taken: Instant,
    waits: bool,
    end: MessageEnd,
}

impl MessageInHand {
    /// Whether it waits until starts are taken again, or is being handled.
    pub fn waits(&mut self, waits: bool) {
        if self.waits != waits {
            self.gauge().decrement(1.0);
            self.waits = waits;
            self.gauge().increment(1.0);
        }
    }

    /// It is settled.
    pub fn ended(mut self, end: MessageEnd) {
        self.end = end;
    }

    fn gauge(&self) -> &Gauge {
        if self.waits {
            &self.metrics.waiting
        } else {
            &self.metrics.handling
        }
    }
}

impl Drop for MessageInHand {
    fn drop(&mut self) {
        self.gauge().decrement(1.0);
        let counter = match self.end {
            MessageEnd::Started => &self.metrics.started,
            MessageEnd::Filtered => &self.metrics.filtered,
            MessageEnd::Rejected => &self.metrics.rejected,
            MessageEnd::Again => &self.metrics.again,
        };
        counter.increment(1);
        self.metrics.seconds.record(self.taken.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::recorder;

    #[test]
    fn messages_are_counted_by_their_end_and_while_they_are_in_hand() {
        let recorder = recorder().expect("the catalogue's buckets are not empty");
        let handle = recorder.handle();
        let in_hand = metrics::with_local_recorder(&recorder, || {
            let metrics = Arc::new(TriggerMetrics::new());
            metrics.taken().ended(MessageEnd::Started);
            metrics.taken().ended(MessageEnd::Filtered);
            metrics.taken().ended(MessageEnd::Started);
            let mut waited = metrics.taken();
            waited.waits(true);
            waited.waits(false);
            waited.ended(MessageEnd::Rejected);
            drop(metrics.taken());
            let mut waits = metrics.taken();
            waits.waits(true);
            waits.waits(true);
            [waits, metrics.taken()]
        });
        let text = handle.render();
        for line in [
            r#"troupe_trigger_messages_total{outcome="started"} 2"#,
            r#"troupe_trigger_messages_total{outcome="filtered"} 1"#,
            r#"troupe_trigger_messages_total{outcome="rejected"} 1"#,
            r#"troupe_trigger_messages_total{outcome="again"} 1"#,
            r#"troupe_trigger_messages_in_hand{state="waiting"} 1"#,
            r#"troupe_trigger_messages_in_hand{state="handling"} 1"#,
            "troupe_trigger_message_seconds_count 5",
        ] {
            assert!(
                text.lines().any(|candidate| candidate == line),
                "{line} is not in\n{text}"
            );
        }
        drop(in_hand);
        let text = handle.render();
        assert!(
            text.contains(r#"troupe_trigger_messages_in_hand{state="waiting"} 0"#),
            "{text}"
        );
    }
}
