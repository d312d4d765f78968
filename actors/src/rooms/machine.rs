//! Which executions of a workflow may run, where only so many of a key may at once. No I/O, no clock.
//!
//! Where this engine counts alone, [`Rooms::admit`] lets in. Where members count together, one execution of a key at a time knocks at
//! the store ([`Rooms::begin_knocking`], [`Rooms::next_to_knock`]), and [`Rooms::enter`] lets in whom the store lets in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use troupe_core::{ExecutionId, ShardId, Timestamp};

/// What executions share that count under one limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoomKey {
    /// Their workflow.
    pub workflow: Box<str>,
    /// What `settings.concurrency.key` gave, as JSON text.
    pub key: Box<str>,
}

/// An execution that would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Which.
    pub id: ExecutionId,
    /// The more urgent goes first.
    pub priority: u8,
    /// When it was started: of equal priority the older goes first.
    pub started_at: Timestamp,
    /// How many may run when it begins, itself included.
    pub limit: usize,
}

/// Place in the line.
type Place = (Reverse<u8>, Timestamp, u64);

/// Who runs and who waits, by key.
#[derive(Debug, Default)]
pub struct Rooms {
    rooms: HashMap<RoomKey, Room>,
    of: HashMap<ExecutionId, RoomKey>,
    arrivals: u64,
    knockings: u64,
}

#[derive(Debug, Default)]
struct Room {
    inside: HashSet<ExecutionId>,
    line: BTreeMap<Place, (ExecutionId, usize)>,
    knocking: Option<Knocking>,
}

/// Whoever asks the store for the executions of a key, one after the other. There is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knocking(u64);

/// What came of letting an execution in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It begins.
    Now,
    /// It was inside.
    Before,
    /// It waits no longer: what it has must be given back.
    Gone,
}

impl Room {
    /// Who would be let in next, if this engine were alone.
    fn first(&self) -> Option<Asking> {
        let first = asking(self.line.first_key_value()?);
        (self.inside.len() < first.limit).then_some(first)
    }
}

fn asking((place, (id, limit)): (&Place, &(ExecutionId, usize))) -> Asking {
    let (Reverse(priority), started_at, _) = *place;
    Asking {
        id: *id,
        priority,
        started_at,
        limit: *limit,
    }
}

impl Rooms {
    /// An execution runs already: its engine was replaced.
    pub fn runs(&mut self, key: RoomKey, id: ExecutionId) {
        self.leave(id);
        self.rooms.entry(key.clone()).or_default().inside.insert(id);
        self.of.insert(id, key);
    }

    /// An execution would run. One that asks again keeps what it has.
    pub fn ask(&mut self, key: RoomKey, asking: Asking) {
        if self.of.contains_key(&asking.id) {
            return;
        }
        self.arrivals += 1;
        let place = (Reverse(asking.priority), asking.started_at, self.arrivals);
        let room = self.rooms.entry(key.clone()).or_default();
        room.line.insert(place, (asking.id, asking.limit));
        self.of.insert(asking.id, key);
    }

    /// Whether an execution was let in.
    #[must_use]
    pub fn is_inside(&self, id: ExecutionId) -> bool {
        let room = self.of.get(&id).and_then(|key| self.rooms.get(key));
        room.is_some_and(|room| room.inside.contains(&id))
    }

    /// Whether an execution waits, or was let in.
    #[must_use]
    pub fn is_known(&self, id: ExecutionId) -> bool {
        self.of.contains_key(&id)
    }

    /// An execution has ended, or is no longer this engine's.
    pub fn leave(&mut self, id: ExecutionId) -> Option<RoomKey> {
        let key = self.of.remove(&id)?;
        if let Some(room) = self.rooms.get_mut(&key) {
            if !room.inside.remove(&id) {
                room.line.retain(|_, (waits, _)| *waits != id);
            }
            if room.inside.is_empty() && room.line.is_empty() {
                self.rooms.remove(&key);
            }
        }
        Some(key)
    }

    /// Lets in who may begin now, of one key.
    pub fn admit(&mut self, key: &RoomKey) -> Vec<ExecutionId> {
        let mut admitted = Vec::new();
        let Some(room) = self.rooms.get_mut(key) else {
            return admitted;
        };
        while let Some(first) = room.first() {
            room.line.pop_first();
            room.inside.insert(first.id);
            admitted.push(first.id);
        }
        admitted
    }

    /// Somebody is to ask the store for the executions of a key; none where nobody could be let in, or somebody does so already.
    pub fn begin_knocking(&mut self, key: &RoomKey) -> Option<Knocking> {
        let room = self.rooms.get_mut(key)?;
        if room.knocking.is_some() || room.first().is_none() {
            return None;
        }
        self.knockings += 1;
        let knocking = Knocking(self.knockings);
        room.knocking = Some(knocking);
        Some(knocking)
    }

    /// For whom to ask the store now: for `unsure`, of whom it is not known what the store answered, as long as it waits; or else for the
    /// first of the line. None ends the knocking.
    pub fn next_to_knock(&mut self, key: &RoomKey, knocking: Knocking, unsure: Option<ExecutionId>) -> Option<Asking> {
        let room = self.rooms.get_mut(key)?;
        if room.knocking != Some(knocking) {
            return None;
        }
        // The store may count it already: whoever asked before it would wait for it.
        let unsure = unsure.and_then(|unsure| room.line.iter().find(|(_, (id, _))| *id == unsure));
        let next = unsure.map(asking).or_else(|| room.first());
        if next.is_none() {
            room.knocking = None;
        }
        next
    }

    /// The store lets an execution in.
    pub fn enter(&mut self, key: &RoomKey, id: ExecutionId) -> Entered {
        let Some(room) = self.rooms.get_mut(key) else {
            return Entered::Gone;
        };
        if room.inside.contains(&id) {
            return Entered::Before;
        }
        let Some(place) = room
            .line
            .iter()
            .find(|(_, (waits, _))| *waits == id)
            .map(|(place, _)| *place)
        else {
            return Entered::Gone;
        };
        room.line.remove(&place);
        room.inside.insert(id);
        Entered::Now
    }

    /// Every key that somebody waits for.
    #[must_use]
    pub fn keys(&self) -> Vec<RoomKey> {
        let waited_for = self.rooms.iter().filter(|(_, room)| !room.line.is_empty());
        waited_for.map(|(key, _)| key.clone()).collect()
    }

    /// A shard is no longer this engine's. Whoever serves it next hears of its executions.
    pub fn forget_shard(&mut self, shard: ShardId) {
        let gone: Vec<ExecutionId> = self.of.keys().filter(|id| id.shard() == shard).copied().collect();
        for id in gone {
            self.leave(id);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.rooms.values().map(|room| room.line.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str) -> RoomKey {
        RoomKey {
            workflow: "w".into(),
            key: key.into(),
        }
    }

    fn id(number: u64) -> ExecutionId {
        ExecutionId::fresh(ShardId((number / 100) as u16), Timestamp(1), number)
    }

    fn asking(number: u64, priority: u8, started_at: i64, limit: usize) -> Asking {
        Asking {
            id: id(number),
            priority,
            started_at: Timestamp(started_at),
            limit,
        }
    }

    #[test]
    fn so_many_run_and_the_next_begins_when_one_ends() {
        let mut rooms = Rooms::default();
        for number in 0..5 {
            rooms.ask(key("a"), asking(number, 5, number as i64, 2));
        }
        assert_eq!(rooms.admit(&key("a")), [id(0), id(1)]);
        assert_eq!(rooms.admit(&key("a")), []);
        assert_eq!(
            (rooms.waiting(), rooms.is_inside(id(1)), rooms.is_inside(id(2))),
            (3, true, false)
        );
        rooms.leave(id(1));
        assert_eq!(rooms.admit(&key("a")), [id(2)]);
        rooms.ask(key("b"), asking(9, 0, 9, 2));
        assert_eq!(rooms.admit(&key("b")), [id(9)], "another key has its own room");
    }

    #[test]
    fn the_more_urgent_goes_first_then_the_older_then_the_first_to_ask() {
        let mut rooms = Rooms::default();
        rooms.runs(key("a"), id(0));
        for (number, priority, started_at) in [(1, 5, 7), (2, 5, 3), (3, 9, 9), (4, 5, 3)] {
            rooms.ask(key("a"), asking(number, priority, started_at, 1));
        }
        let mut order = Vec::new();
        let mut last = id(0);
        for _ in 0..4 {
            rooms.leave(last);
            let admitted = rooms.admit(&key("a"));
            assert_eq!(admitted.len(), 1);
            last = admitted[0];
            order.push(last);
        }
        assert_eq!(order, [id(3), id(2), id(4), id(1)]);
    }

    #[test]
    fn who_gives_up_while_waiting_keeps_no_place_and_empty_rooms_are_forgotten() {
        let mut rooms = Rooms::default();
        rooms.ask(key("a"), asking(1, 5, 1, 1));
        rooms.ask(key("a"), asking(2, 5, 2, 1));
        rooms.ask(key("a"), asking(2, 5, 2, 1));
        assert_eq!(rooms.leave(id(1)), Some(key("a")));
        assert_eq!(rooms.admit(&key("a")), [id(2)]);
        rooms.ask(key("a"), asking(2, 5, 2, 1));
        assert_eq!(
            (rooms.waiting(), rooms.is_inside(id(2))),
            (0, true),
            "it keeps what it has"
        );
        rooms.leave(id(2));
        assert!(rooms.rooms.is_empty() && rooms.of.is_empty());
    }

    #[test]
    fn one_at_a_time_asks_for_a_key_the_first_of_the_line_first() {
        let mut rooms = Rooms::default();
        assert_eq!(rooms.begin_knocking(&key("a")), None, "nobody waits");
        rooms.ask(key("a"), asking(1, 5, 1, 1));
        rooms.ask(key("a"), asking(2, 5, 2, 1));
        let knocking = rooms.begin_knocking(&key("a")).expect("somebody waits");
        assert_eq!(rooms.begin_knocking(&key("a")), None, "one does already");
        assert_eq!(rooms.next_to_knock(&key("a"), knocking, None), Some(asking(1, 5, 1, 1)));
        // It was refused, and now another one is more urgent.
        rooms.ask(key("a"), asking(3, 9, 3, 1));
        assert_eq!(rooms.next_to_knock(&key("a"), knocking, None), Some(asking(3, 9, 3, 1)));
        // Of the first it is not known what the store answered.
        let unsure = Some(id(1));
        assert_eq!(
            rooms.next_to_knock(&key("a"), knocking, unsure),
            Some(asking(1, 5, 1, 1))
        );
        assert_eq!(rooms.enter(&key("a"), id(1)), Entered::Now);
        assert_eq!(rooms.enter(&key("a"), id(1)), Entered::Before);
        assert_eq!((rooms.is_inside(id(1)), rooms.waiting()), (true, 2));
        assert_eq!(
            rooms.next_to_knock(&key("a"), knocking, unsure),
            None,
            "it is full, whatever the store says"
        );
        assert_eq!(rooms.begin_knocking(&key("a")), None);
        rooms.leave(id(1));
        let next = rooms.begin_knocking(&key("a")).expect("there is room");
        assert_eq!(rooms.next_to_knock(&key("a"), knocking, None), None, "its time is over");
        assert_eq!(rooms.next_to_knock(&key("a"), next, unsure), Some(asking(3, 9, 3, 1)));
    }

    #[test]
    fn who_left_while_the_store_was_asked_is_not_let_in() {
        let mut rooms = Rooms::default();
        rooms.ask(key("a"), asking(1, 5, 1, 1));
        let knocking = rooms.begin_knocking(&key("a")).expect("somebody waits");
        rooms.leave(id(1));
        assert_eq!(rooms.enter(&key("a"), id(1)), Entered::Gone);
        // Its room went with it; what comes next is another one.
        rooms.ask(key("a"), asking(2, 5, 2, 2));
        assert_eq!(rooms.enter(&key("a"), id(1)), Entered::Gone);
        assert_eq!(rooms.next_to_knock(&key("a"), knocking, None), None);
        assert!(rooms.begin_knocking(&key("a")).is_some());
    }

    #[test]
    fn a_shard_that_is_lost_takes_its_executions_along() {
        let mut rooms = Rooms::default();
        rooms.runs(key("a"), id(101));
        rooms.ask(key("a"), asking(1, 5, 1, 1));
        assert_eq!(rooms.admit(&key("a")), []);
        rooms.forget_shard(ShardId(1));
        assert_eq!(rooms.admit(&key("a")), [id(1)]);
    }
}
