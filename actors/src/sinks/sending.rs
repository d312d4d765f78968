//! What one call of the bus takes along, until the bus has confirmed all of it.

use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_core::{LogPosition, Timestamp};
use troupe_ports::{BusError, EventBus};

/// Records that the bus has not confirmed.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) position: LogPosition,
    /// When the last event of each record happened.
    pub(super) made: Vec<Timestamp>,
    /// Records that count as backlog, and their bytes.
    pub(super) offered: (usize, usize),
    pub(super) announcements: Unconfirmed<SystemEvent>,
    pub(super) events: Unconfirmed<LifecycleEvent>,
}

impl Sending {
    /// What fails is to be repeated; what is confirmed is noted.
    pub(super) async fn publish(&mut self, bus: &dyn EventBus) -> Result<(), String> {
        while let Some(call) = self.announcements.next_call() {
            let (count, answer) = (call.len(), bus.announce(call).await);
            self.announcements.answered(count, answer)?;
        }
        while let Some(call) = self.events.next_call() {
            let (count, answer) = (call.len(), bus.publish(call).await);
            self.events.answered(count, answer)?;
        }
        Ok(())
    }
}

/// Events in order, of which the first ones are confirmed.
///
/// After a failure the next one goes alone, and all others once it is confirmed: a bus that refuses one event may have taken those
/// behind it, and would take them again with every attempt.
#[derive(Debug)]
pub(super) struct Unconfirmed<T> {
    events: Vec<T>,
    confirmed: usize,
    /// The last call did.
    failed: bool,
}

impl<T> Unconfirmed<T> {
    pub(super) fn new(events: Vec<T>) -> Self {
        Self {
            events,
            confirmed: 0,
            failed: false,
        }
    }

    /// How many there are, confirmed or not.
    pub(super) fn count(&self) -> usize {
        self.events.len()
    }

    /// What the next call of the bus takes; none when everything is confirmed.
    fn next_call(&self) -> Option<&[T]> {
        let left = self.events.get(self.confirmed..)?;
        let first = left.get(..1)?;
        Some(if self.failed { first } else { left })
    }

    /// What the bus said to a call of so many.
    fn answered(&mut self, count: usize, answer: Result<(), BusError>) -> Result<(), String> {
        self.failed = answer.is_err();
        self.confirmed += match &answer {
            Ok(()) => count,
            Err(error) => error.confirmed(),
        };
        answer.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use async_trait::async_trait;
    use parking_lot::Mutex;
    use troupe_core::execution::Verb;
    use troupe_core::{CommandId, ExecutionId, Json, Seq, WorkflowId};

    use super::*;

    /// Refuses what nobody is bound for, and takes the rest of the call all the same, as RabbitMQ does.
    #[derive(Default)]
    struct Picky {
        unbound: Mutex<Vec<u64>>,
        taken: Mutex<Vec<u64>>,
        calls: Mutex<Vec<usize>>,
    }

    impl Picky {
        fn refusing(unbound: &[u64]) -> Self {
            let picky = Self::default();
            picky.unbound.lock().extend(unbound);
            picky
        }

        fn bind(&self, number: u64) {
            self.unbound.lock().retain(|unbound| *unbound != number);
        }

        fn times(&self, number: u64) -> usize {
            self.taken.lock().iter().filter(|taken| **taken == number).count()
        }

        fn take(&self, call: &[u64]) -> Result<(), BusError> {
            self.calls.lock().push(call.len());
            let unbound = self.unbound.lock();
            let routable = call.iter().filter(|number| !unbound.contains(number));
            self.taken.lock().extend(routable);
            match call.iter().position(|number| unbound.contains(number)) {
                None => Ok(()),
                Some(confirmed) => Err(BusError::Interrupted {
                    confirmed,
                    reason: "no queue is bound".to_owned(),
                }),
            }
        }
    }

    #[async_trait]
    impl EventBus for Picky {
        async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
            self.take(&events.iter().map(|event| event.seq.0).collect::<Vec<_>>())
        }

        async fn announce(&self, events: &[SystemEvent]) -> Result<(), BusError> {
            let numbers = events.iter().map(|event| event.command.as_str().parse().unwrap());
            self.take(&numbers.collect::<Vec<_>>())
        }
    }

    fn event(seq: u64) -> LifecycleEvent {
        LifecycleEvent {
            execution: ExecutionId([1; 16]),
            workflow: WorkflowId::from("orders"),
            seq: Seq(seq),
            part: 0,
            at: Timestamp(1),
            verb: Verb::ExecutionStarted,
            node: None,
            compensates: false,
            data: Json::null(),
            outward: None,
        }
    }

    fn announcement(number: u64) -> SystemEvent {
        SystemEvent {
            command: CommandId::from(number.to_string().as_str()),
            at: Timestamp(1),
            entity: "engine",
            verb: "paused",
            data: Json::object([]),
        }
    }

    fn sending(announcements: Vec<SystemEvent>, events: Vec<LifecycleEvent>) -> Sending {
        Sending {
            position: LogPosition(1),
            made: Vec::new(),
            offered: (0, 0),
            announcements: Unconfirmed::new(announcements),
            events: Unconfirmed::new(events),
        }
    }

    #[tokio::test]
    async fn what_is_behind_a_refused_event_waits_for_it() {
        let bus = Picky::refusing(&[3, 5]);
        let mut sending = sending(Vec::new(), (1..=6).map(event).collect());
        for _ in 0..10 {
            sending.publish(&bus).await.unwrap_err();
        }
        assert_eq!([1, 2, 3, 4, 5, 6].map(|seq| bus.times(seq)), [1, 1, 0, 1, 0, 1]);
        bus.bind(3);
        for _ in 0..10 {
            sending.publish(&bus).await.unwrap_err();
        }
        assert_eq!([1, 2, 3, 4, 5, 6].map(|seq| bus.times(seq)), [1, 1, 1, 2, 0, 2]);
        bus.bind(5);
        sending.publish(&bus).await.unwrap();
        assert_eq!([1, 2, 3, 4, 5, 6].map(|seq| bus.times(seq)), [1, 1, 1, 2, 1, 3]);
        assert_eq!(
            bus.calls.lock().last(),
            Some(&1),
            "one is left behind the last refused one"
        );
    }

    #[tokio::test]
    async fn all_goes_at_once_where_nothing_fails_and_again_after_what_failed() {
        let bus = Picky::refusing(&[1]);
        let mut sending = sending(Vec::new(), (1..=9).map(event).collect());
        sending.publish(&bus).await.unwrap_err();
        sending.publish(&bus).await.unwrap_err();
        bus.bind(1);
        sending.publish(&bus).await.unwrap();
        assert_eq!(*bus.calls.lock(), [9, 1, 1, 8]);
    }

    #[tokio::test]
    async fn announcements_go_first_and_wait_for_each_other() {
        let bus = Picky::refusing(&[101]);
        let mut sending = sending((101..=102).map(announcement).collect(), vec![event(1)]);
        for _ in 0..10 {
            sending.publish(&bus).await.unwrap_err();
        }
        assert_eq!([101, 102, 1].map(|number| bus.times(number)), [0, 1, 0]);
        bus.bind(101);
        sending.publish(&bus).await.unwrap();
        assert_eq!([101, 102, 1].map(|number| bus.times(number)), [1, 2, 1]);
        assert_eq!(sending.events.count(), 1);
    }
}
