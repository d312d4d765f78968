//! Which timers can fire next: all the times that may be left of each, as a difference bound matrix.
//!
//! Only the real order of timers is explored: of two delays that begin together the shorter one ends first, while an
//! attempt may take any time. Source: Dill, *Timing assumptions and verification of finite-state concurrent systems*, 1989.

use troupe_core::execution::Deadline;

/// No bound.
const NONE: i64 = i64::MAX;

/// The timers that run, and what is known of the milliseconds left of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    timers: Vec<Deadline>,
    /// `bounds[i][j]` is the most by which what is left of `i` exceeds what is left of `j`, row by row. Place 0 stands for a
    /// timer that has nothing left.
    bounds: Vec<i64>,
}

/// How long a timer runs from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many milliseconds.
    Exactly(i64),
    /// Data decides.
    Unknown,
}

impl Zone {
    /// Without timers.
    pub(crate) fn new() -> Self {
        Self {
            timers: Vec::new(),
            bounds: vec![0],
        }
    }

    pub(crate) fn timers(&self) -> &[Deadline] {
        &self.timers
    }

    pub(crate) fn bounds(&self) -> &[i64] {
        &self.bounds
    }

    /// The zone at the moment this timer fires, without it; none where another timer always fires before.
    pub(crate) fn fired(&self, timer: Deadline) -> Option<Self> {
        let place = self.place(timer)?;
        let mut zone = self.clone();
        zone.limit(place, 0, 0);
        zone.limit(0, place, 0);
        zone.close();
        if zone.is_empty() {
            return None;
        }
        zone.remove(place);
        Some(zone)
    }

    /// Keeps these timers only.
    pub(crate) fn retain(&mut self, keeps: impl Fn(Deadline) -> bool) {
        for place in (1..=self.timers.len()).rev() {
            if !keeps(self.timers[place - 1]) {
                self.remove(place);
            }
        }
    }

    /// Starts a timer now.
    pub(crate) fn start(&mut self, timer: Deadline, length: Length) {
        self.retain(|known| known != timer);
        let place = self.timers.partition_point(|known| *known < timer) + 1;
        let old = self.size();
        let new = old + 1;
        let mut bounds = vec![NONE; new * new];
        let moved = |at: usize| if at >= place { at + 1 } else { at };
        for row in 0..old {
            for column in 0..old {
                bounds[moved(row) * new + moved(column)] = self.bounds[row * old + column];
            }
        }
        bounds[place * new + place] = 0;
        self.bounds = bounds;
        self.timers.insert(place - 1, timer);
        match length {
            Length::Exactly(ms) => {
                self.limit(place, 0, ms);
                self.limit(0, place, -ms);
            }
            Length::Unknown => self.limit(0, place, 0),
        }
        self.close();
    }

    /// Lets any time pass that no timer ends.
    pub(crate) fn pass(&mut self) {
        let size = self.size();
        for place in 1..size {
            self.bounds[place] = 0;
        }
        self.close();
    }

    fn size(&self) -> usize {
        self.timers.len() + 1
    }

    fn place(&self, timer: Deadline) -> Option<usize> {
        self.timers.iter().position(|known| *known == timer).map(|at| at + 1)
    }

    fn limit(&mut self, row: usize, column: usize, most: i64) {
        let at = row * self.size() + column;
        self.bounds[at] = self.bounds[at].min(most);
    }

    fn remove(&mut self, place: usize) {
        let size = self.size();
        let keeps = |at: &usize| at / size != place && at % size != place;
        self.bounds = (0..size * size).filter(keeps).map(|at| self.bounds[at]).collect();
        self.timers.remove(place - 1);
    }

    /// Floyd and Warshall: every bound that others imply.
    fn close(&mut self) {
        let size = self.size();
        for over in 0..size {
            for row in 0..size {
                let first = self.bounds[row * size + over];
                if first == NONE {
                    continue;
                }
                for column in 0..size {
                    let second = self.bounds[over * size + column];
                    if second != NONE {
                        let at = row * size + column;
                        self.bounds[at] = self.bounds[at].min(first.saturating_add(second));
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        let size = self.size();
        (0..size).any(|at| self.bounds[at * size + at] < 0)
    }
}

#[cfg(test)]
mod tests {
    use troupe_core::NodeIx;

    use super::*;

    fn timer(at: u32) -> Deadline {
        Deadline::Delay(NodeIx(at))
    }

    fn started(zone: &mut Zone, at: u32, ms: i64) {
        zone.start(timer(at), Length::Exactly(ms));
    }

    #[test]
    fn of_two_that_start_together_the_shorter_fires_first() {
        let mut zone = Zone::new();
        started(&mut zone, 1, 100);
        started(&mut zone, 0, 50);
        zone.pass();
        assert_eq!(zone.fired(timer(1)), None);
        let after = zone.fired(timer(0)).expect("the shorter one fires");
        assert!(after.fired(timer(1)).is_none(), "50 ms are left");
        let mut after = after;
        after.pass();
        assert!(after.fired(timer(1)).is_some());
    }

    #[test]
    fn one_that_starts_at_some_time_may_fire_before_or_after() {
        let mut zone = Zone::new();
        started(&mut zone, 0, 100);
        zone.pass();
        started(&mut zone, 1, 50);
        zone.pass();
        assert!(zone.fired(timer(0)).is_some() && zone.fired(timer(1)).is_some());
        let mut late = Zone::new();
        started(&mut late, 0, 100);
        late.pass();
        started(&mut late, 1, 101);
        late.pass();
        assert!(late.fired(timer(0)).is_some());
        assert_eq!(late.fired(timer(1)), None, "it starts no earlier and takes longer");
    }

    #[test]
    fn one_of_unknown_length_fires_whenever_it_likes() {
        let mut zone = Zone::new();
        zone.start(timer(0), Length::Unknown);
        started(&mut zone, 1, 10);
        zone.pass();
        assert!(zone.fired(timer(0)).is_some() && zone.fired(timer(1)).is_some());
        zone.retain(|one| one == timer(0));
        assert_eq!(zone.timers(), [timer(0)]);
        assert!(zone.fired(timer(0)).is_some());
    }
}
