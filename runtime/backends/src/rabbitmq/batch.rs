//! Events that share a routing key travel as one message, unless it would overtake an event of the same execution.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use troupe_core::ExecutionId;

use super::calls::Part;
use super::key::{HASH_OF_NOTHING, bucket, hashed};
use super::message::{Message, Outgoing};
use super::options::RabbitBatch;

/// Bytes between two events of a message, and around all.
const COMMA: usize = 1;
const BRACKETS: usize = 2;

/// A message that still takes events.
struct OpenBatch {
    message: Message,
    /// Of its events. They are put together once it takes no more.
    bodies: Vec<Bytes>,
    /// How long the message is, with what stands between and around them.
    bytes: usize,
    /// Of the ids in it.
    hash: u64,
}

/// Packs the events of one turn; the messages come in the order in which they must be sent.
///
/// An event goes to the first message of its key that takes it and is not before the message with the last event of its
/// execution. What is sent in order arrives in order at every queue, so no message overtakes, and executions that do the same
/// share messages however long each goes on. Where events are shared out by execution, a message takes those of one bucket: all of
/// them go to the same queue.
pub(super) struct Packer {
    limits: RabbitBatch,
    shared_out: bool,
    batches: Vec<OpenBatch>,
    /// Places of the messages of each key and bucket, ascending.
    keys: HashMap<(Arc<str>, u8), Vec<usize>>,
    /// Where the last event of each lane is.
    lanes: HashMap<Option<ExecutionId>, usize>,
}

impl Packer {
    pub(super) fn new(limits: RabbitBatch, shared_out: bool) -> Self {
        Self {
            limits,
            shared_out,
            batches: Vec::new(),
            keys: HashMap::new(),
            lanes: HashMap::new(),
        }
    }

    /// Adds an event; those of one execution come in its order.
    pub(super) fn add(&mut self, event: Outgoing, part: Part) {
        // What goes to another exchange has an order of its own, and goes alone.
        if event.exchange.is_some() {
            self.batches.push(OpenBatch::new(event, part));
            return;
        }
        let (events_max, bytes_max) = (self.limits.events_max, self.limits.bytes_max);
        let earliest = self.lanes.get(&event.lane).copied().unwrap_or(0);
        let bucket = if self.shared_out { bucket(event.lane) } else { 0 };
        let group = (Arc::clone(&event.key), bucket);
        let of_key = self.keys.get(&group).map_or(&[][..], Vec::as_slice);
        let later = &of_key[of_key.partition_point(|place| *place < earliest)..];
        let takes = |place: &&usize| {
            let batch = &self.batches[**place];
            batch.message.parts.len() < events_max && batch.bytes + event.body.len() + COMMA <= bytes_max
        };
        let place = later.iter().find(takes).copied();
        let lane = event.lane;
        let place = match place {
            Some(place) => {
                let batch = &mut self.batches[place];
                batch.bytes += event.body.len() + COMMA;
                batch.bodies.push(event.body);
                batch.message.parts.push(part);
                batch.hash = with_id(batch.hash, &event.id);
                place
            }
            None => {
                let place = self.batches.len();
                self.keys.entry(group).or_default().push(place);
                self.batches.push(OpenBatch::new(event, part));
                place
            }
        };
        self.lanes.insert(lane, place);
    }

    /// All messages, in order.
    pub(super) fn finish(self) -> Vec<Message> {
        self.batches.into_iter().map(OpenBatch::close).collect()
    }
}

/// Ids have no zero bytes: they end with one.
fn with_id(hash: u64, id: &str) -> u64 {
    hashed(hashed(hash, id.as_bytes()), &[0])
}

impl OpenBatch {
    fn new(event: Outgoing, part: Part) -> Self {
        Self {
            bytes: event.body.len() + BRACKETS,
            bodies: vec![event.body.clone()],
            hash: with_id(HASH_OF_NOTHING, &event.id),
            message: Message::single(event, part),
        }
    }

    fn close(mut self) -> Message {
        let events = self.message.parts.len();
        if events > 1 {
            // The hash first: a long id is cut.
            self.message.id = format!("{:016x}.{events}.{}", self.hash, self.message.first.id);
            let mut text = Vec::with_capacity(self.bytes);
            text.push(b'[');
            for body in &self.bodies {
                if text.len() > 1 {
                    text.push(b',');
                }
                text.extend_from_slice(body);
            }
            text.push(b']');
            self.message.body = text.into();
        }
        self.message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use troupe_core::{ExecutionId, Timestamp};

    use super::*;

    const LIMITS: RabbitBatch = RabbitBatch {
        events_max: 4,
        bytes_max: 60,
        in_flight_max: 1,
    };

    fn event(lane: u8, key: u8, size: usize) -> Outgoing {
        Outgoing {
            exchange: None,
            trace_parent: None,
            key: format!("key{key}").into(),
            id: format!("{lane}:{size}"),
            kind: String::new(),
            at: Timestamp(0),
            lane: (lane > 0).then_some(ExecutionId([lane; 16])),
            headers: Arc::default(),
            body: Bytes::from(format!("\"{}\"", "x".repeat(size))),
        }
    }

    fn packed(events: &[(u8, u8, usize)]) -> Vec<Message> {
        packed_for(false, events)
    }

    fn packed_for(shared_out: bool, events: &[(u8, u8, usize)]) -> Vec<Message> {
        let mut packer = Packer::new(LIMITS, shared_out);
        for (place, (lane, key, size)) in events.iter().enumerate() {
            packer.add(event(*lane, *key, *size), Part { call: 1, place });
        }
        packer.finish()
    }

    fn places(messages: &[Message]) -> Vec<Vec<usize>> {
        let of = |message: &Message| message.parts.iter().map(|part| part.place).collect();
        messages.iter().map(of).collect()
    }

    #[test]
    fn events_of_a_key_travel_together_and_a_single_one_as_itself() {
        let messages = packed(&[(1, 1, 1), (2, 1, 2), (3, 2, 3)]);
        assert_eq!(places(&messages), [vec![0, 1], vec![2]]);
        assert_eq!(messages[0].body, Bytes::from_static(b"[\"x\",\"xx\"]"));
        assert_eq!(messages[1].body, Bytes::from_static(b"\"xxx\""));
    }

    #[test]
    fn the_id_of_a_message_tells_which_events_it_carries() {
        let ids = |events: &[(u8, u8, usize)]| {
            let messages = packed(events);
            messages.into_iter().map(|message| message.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[(1, 1, 1)]), ["1:1"], "a single one has its own");
        let both = ids(&[(1, 1, 1), (2, 1, 2)]);
        assert_eq!(both, ids(&[(1, 1, 1), (2, 1, 2)]));
        for other in [
            &[(1, 1, 1)][..],
            &[(1, 1, 1), (3, 1, 2)],
            &[(1, 1, 1), (2, 1, 2), (3, 1, 3)],
        ] {
            assert_ne!(both, ids(other));
        }
        assert!(both[0].ends_with(".2.1:1"), "{both:?}");
    }

    #[test]
    fn a_message_does_not_overtake_an_event_of_the_same_execution() {
        // Lane 1 goes on with key 2 and comes back to key 1: not to the first message of key 1, which is sent before.
        let messages = packed(&[(1, 1, 1), (2, 2, 1), (1, 2, 1), (3, 1, 1), (1, 1, 1)]);
        assert_eq!(places(&messages), [vec![0, 3], vec![1, 2], vec![4]]);
    }

    #[test]
    fn executions_that_do_the_same_share_messages_however_long() {
        let steps = (0..6).flat_map(|step| (1..=4).map(move |lane| (lane, step % 2, 1)));
        let in_step: Vec<_> = steps.collect();
        assert_eq!(packed(&in_step).len(), 6);
        // One execution after the other, as when each was quick.
        let in_turn: Vec<_> = (1..=4)
            .flat_map(|lane| (0..6).map(move |step| (lane, step % 2, 1)))
            .collect();
        assert_eq!(packed(&in_turn).len(), 6);
    }

    #[test]
    fn executions_of_different_buckets_share_no_message_where_events_are_shared_out() {
        let of = |lane: u8| bucket(Some(ExecutionId([lane; 16])));
        let other = (2..=255).find(|lane| of(*lane) != of(1)).unwrap_or(0);
        let same = (2..=255).find(|lane| of(*lane) == of(1)).unwrap_or(0);
        let events = [(1, 1, 1), (other, 1, 1), (same, 1, 1)];
        assert_eq!(places(&packed_for(true, &events)), [vec![0, 2], vec![1]]);
        assert_eq!(places(&packed(&events)), [vec![0, 1, 2]]);
    }

    #[test]
    fn batches_are_bounded() {
        let counted: Vec<_> = (0..9).map(|lane| (lane + 1, 1, 1)).collect();
        assert_eq!(places(&packed(&counted)), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8]]);
        assert_eq!(
            places(&packed(&[(1, 1, 40), (1, 1, 10), (1, 1, 10)])),
            [vec![0, 1], vec![2]]
        );
        assert_eq!(
            places(&packed(&[(1, 1, 500), (1, 1, 1)])),
            [vec![0], vec![1]],
            "what is too large goes alone"
        );
    }

    proptest! {
        #[test]
        fn order_is_kept_and_nothing_is_lost(
            events in proptest::collection::vec((0..5_u8, 0..4_u8, 0..30_usize), 0..60),
            shared_out: bool,
        ) {
            let messages = packed_for(shared_out, &events);
            let sent: Vec<usize> = places(&messages).concat();
            let mut all = sent.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..events.len()).collect::<Vec<_>>());
            for lane in 0..5 {
                let of: Vec<_> = sent.iter().filter(|place| events[**place].0 == lane).collect();
                prop_assert!(of.is_sorted(), "lane {}: {:?}", lane, of);
            }
            for message in &messages {
                prop_assert!(message.parts.len() <= LIMITS.events_max);
                prop_assert!(message.parts.len() == 1 || message.body.len() <= LIMITS.bytes_max);
                for part in &message.parts {
                    let packed = event(events[part.place].0, events[part.place].1, 0);
                    prop_assert_eq!(packed.key, message.first.key.clone());
                    prop_assert!(!shared_out || bucket(packed.lane) == bucket(message.first.lane));
                }
            }
        }
    }
}
