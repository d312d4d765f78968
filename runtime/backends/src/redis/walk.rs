//! Walks by cursor: what `SCAN` and `HSCAN` give step by step.
//!
//! A cursor is a place in the tables of the process that gave it. Another process has the same keys and fields in other places: whoever
//! goes on there passes over some of them. Another one answers once a slot has moved, a replica has taken over or a server was started
//! anew, and none of them does over the connection of the one before. So a walk begins again when an answer comes over another connection than the
//! cursor that it was asked for with. One that was merely dialled anew has it begin again, too: that costs time and nothing else.
//!
//! A slot that leaves and comes back between two answers changes nothing: a process places what it is given by the same hash each time, and
//! what is there at every step is found, whatever size the tables have.
//!
//! What has an order is read by that order, each step from behind the one before, and needs none of this.

use redis::Value;
use troupe_ports::StoreError;

use super::decode;
use super::node::Answer;

/// The cursor that begins a walk, and ends it.
const START: &[u8] = b"0";

/// One walk. What has been there all the time was given by some step when it is over; what was given before it began again is given twice.
#[derive(Default)]
pub(super) struct Walk {
    /// Where it goes on, and the connection that gave that; none: at the beginning, which is the same everywhere.
    at: Option<(Vec<u8>, u64)>,
    is_over: bool,
}

impl Walk {
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What the next step is asked for with.
    pub(super) fn cursor(&self) -> &[u8] {
        self.at.as_ref().map_or(START, |(cursor, _)| cursor)
    }

    /// Takes the answer of a step; what was found.
    pub(super) fn step(&mut self, answer: Answer) -> Result<Vec<Value>, StoreError> {
        let mut parts = decode::list(answer.value)?.into_iter();
        let mut next = || parts.next().unwrap_or(Value::Nil);
        let (cursor, found) = (decode::bytes(next())?, decode::list(next())?);
        let goes_on = self.at.as_ref().is_none_or(|(_, gave)| *gave == answer.connection);
        self.is_over = goes_on && cursor == START;
        self.at = (goes_on && cursor != START).then_some((cursor, answer.connection));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    const ENTRIES: usize = 10;
    const STEP: usize = 3;

    /// A server that has the same entries as any other, in places of its own.
    struct Server {
        connection: u64,
        factor: usize,
    }

    impl Server {
        fn answer(&self, cursor: &[u8]) -> Answer {
            let from: usize = std::str::from_utf8(cursor).unwrap().parse().unwrap();
            let to = (from + STEP).min(ENTRIES);
            let found = (from..to).map(|place| Value::Int((place * self.factor % ENTRIES) as i64));
            let next = if to == ENTRIES { 0 } else { to };
            let cursor = Value::BulkString(next.to_string().into_bytes());
            Answer {
                value: Value::Array(vec![cursor, Value::Array(found.collect())]),
                connection: self.connection,
            }
        }
    }

    /// What a walk finds, and in how many steps; which server answers a step is asked for.
    fn walk<'a>(answers: impl Fn(usize) -> &'a Server) -> (BTreeSet<i64>, usize) {
        let (mut walk, mut all, mut steps) = (Walk::default(), BTreeSet::new(), 0);
        while !walk.is_over() {
            let answer = answers(steps).answer(walk.cursor());
            for found in walk.step(answer).unwrap() {
                let Value::Int(entry) = found else { panic!("{found:?}") };
                all.insert(entry);
            }
            steps += 1;
            assert!(steps < 100, "it does not end");
        }
        (all, steps)
    }

    #[test]
    fn whoever_answers_meanwhile_everything_is_found() {
        let [here, there] = [(1, 1), (2, 7)].map(|(connection, factor)| Server { connection, factor });
        let everything: BTreeSet<_> = (0..ENTRIES as i64).collect();
        for answers in 0_u32..1 << 12 {
            let server = |step: usize| {
                let is_here = answers.checked_shr(step as u32).unwrap_or(0) & 1 == 0;
                if is_here { &here } else { &there }
            };
            assert_eq!(walk(server).0, everything, "{answers:b}");
        }
    }

    #[test]
    fn a_walk_begins_again_only_where_its_cursor_was_given_by_another() {
        let [here, there] = [(1, 1), (2, 7)].map(|(connection, factor)| Server { connection, factor });
        let steps = |there_from: usize| walk(|step| if step < there_from { &here } else { &there }).1;
        assert_eq!(steps(100), 4, "nobody else answers");
        assert_eq!(steps(0), 4, "nobody else has answered");
        // The step that finds out is lost.
        assert_eq!(steps(1), 6);
        assert_eq!(steps(3), 8);
    }

    #[test]
    fn an_answer_that_is_none_of_a_walk_is_damage() {
        let mut walk = Walk::default();
        let value = Value::Array(vec![Value::BulkString(b"0".to_vec())]);
        let step = walk.step(Answer { value, connection: 1 });
        assert!(matches!(step, Err(StoreError::Damaged(_))), "{step:?}");
        assert!(!walk.is_over());
    }
}
