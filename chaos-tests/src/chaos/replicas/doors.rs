//! Where clients find the replicas. A replica that is down keeps its door: whoever knocks there goes to another one.

use std::sync::{PoisonError, RwLock};

use troupe_core::{ExecutionId, placement};

use crate::chaos::plan::SHARED;
use crate::world::random::Random;

/// The door of a replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Door {
    pub(super) port: u16,
    /// What the others call it; empty until it has served.
    pub(super) name: String,
}

/// The doors of all replicas, by their places.
#[derive(Debug, Default)]
pub(super) struct Doors(RwLock<Vec<Door>>);

impl Doors {
    pub(super) fn set(&self, doors: Vec<Door>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = doors;
    }

    /// Any of them.
    pub(super) fn any(&self, random: &mut Random) -> u16 {
        let doors = self.0.read().unwrap_or_else(PoisonError::into_inner);
        doors[random.place(doors.len())].port
    }

    /// One of a replica that is not to have the shard of this execution, as shards are placed when nobody comes or goes.
    pub(super) fn away_from(&self, id: ExecutionId, random: &mut Random) -> u16 {
        let doors = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<&str> = doors.iter().map(|door| door.name.as_str()).collect();
        let placed = placement::place(SHARED, &names);
        let owner = placed.get(usize::from(id.shard().0)).copied();
        let others: Vec<u16> = doors
            .iter()
            .enumerate()
            .filter(|(place, _)| Some(*place) != owner)
            .map(|(_, door)| door.port)
            .collect();
        others[random.place(others.len())]
    }
}
