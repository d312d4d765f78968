//! The in-process bus, register of members and semaphores against their suites.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use troupe_backends::{
    EventFilter, InProcessBus, InProcessMembers, InProcessSemaphores, Subscription, SystemSubscription,
};
use troupe_ports::conformance::Fixture;
use troupe_ports::conformance::bus::{BusFixture, Heard, Listener};
use troupe_ports::{EventBus, Membership, Semaphores};

struct Local(InProcessBus);

#[async_trait]
impl BusFixture for Local {
    async fn open(&self) -> Arc<dyn EventBus> {
        Arc::new(self.0.clone())
    }

    async fn listen(&self) -> Box<dyn Listener> {
        Box::new(Both(self.0.subscribe(EventFilter::All), self.0.subscribe_system()))
    }
}

struct Both(Subscription, SystemSubscription);

#[async_trait]
impl Listener for Both {
    async fn next(&mut self) -> Vec<Heard> {
        tokio::select! {
            events = self.0.next() => events.unwrap().iter().map(Heard::of_lifecycle).collect(),
            event = self.1.next() => vec![Heard::of_system(&event.unwrap())],
        }
    }
}

troupe_ports::event_bus_conformance!(Local(InProcessBus::new()));

struct Register(Arc<InProcessMembers>);

#[async_trait]
impl Fixture<dyn Membership> for Register {
    async fn open(&self) -> Arc<dyn Membership> {
        self.0.clone()
    }
}

troupe_ports::membership_conformance!(Register(Arc::default()));

struct Counted(Arc<InProcessSemaphores>);

#[async_trait]
impl Fixture<dyn Semaphores> for Counted {
    async fn open(&self) -> Arc<dyn Semaphores> {
        self.0.clone()
    }
}

troupe_ports::semaphores_conformance!(Counted(Arc::default()));
