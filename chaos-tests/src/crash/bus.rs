//! An event bus that remembers what it was given, and fails now and then, as buses do.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use troupe_core::lifecycle::{LifecycleEvent, SystemEvent};
use troupe_ports::{BusError, EventBus};

use super::child::random;
use super::heal::Hears;
use super::record::{Record, Sighting};

/// One publish in so many fails, with some of its events on the bus already or with none.
const FAILS_ONE_IN: u64 = 24;
/// Longest time that a publish takes, in milliseconds.
const TAKES_MAX_MS: u64 = 3;

/// Tells the observer of every event; see [`Record::Published`].
#[derive(Debug, Default)]
pub struct RecordingBus;

#[async_trait]
impl EventBus for RecordingBus {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        let fails = random().is_multiple_of(FAILS_ONE_IN);
        let heard = if fails {
            let heard = random() % (events.len() as u64 + 1);
            &events[..usize::try_from(heard).unwrap_or(events.len())]
        } else {
            events
        };
        tokio::time::sleep(Duration::from_millis(random() % (TAKES_MAX_MS + 1))).await;
        if !heard.is_empty() {
            let events = heard.iter().map(Sighting::of).collect();
            Record::Published { events }.emit();
        }
        if fails {
            return Err(BusError::Unavailable("it fails now and then".into()));
        }
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}

/// Keeps what it was given.
#[derive(Debug, Default)]
pub struct KeepingBus(Mutex<Vec<Sighting>>);

impl Hears for KeepingBus {
    fn seen(&self) -> Vec<Sighting> {
        self.arrived(0)
    }

    fn arrived(&self, after: usize) -> Vec<Sighting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[after..].to_vec()
    }
}

#[async_trait]
impl EventBus for KeepingBus {
    async fn publish(&self, events: &[LifecycleEvent]) -> Result<(), BusError> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(events.iter().map(Sighting::of));
        Ok(())
    }

    async fn announce(&self, _: &[SystemEvent]) -> Result<(), BusError> {
        Ok(())
    }
}
