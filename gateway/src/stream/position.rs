//! Where a stream stands: what `id:` says and `Last-Event-ID` brings back.
//!
//! A stream of one execution stands at a sequence. A stream of several stands at one sequence each, so its ids name them all.

use std::collections::BTreeMap;
use std::fmt;

use troupe_core::{ExecutionId, Seq};

/// How far each execution of a stream was sent; 0 where nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position(BTreeMap<ExecutionId, Seq>);

impl Position {
    /// Before the first event.
    pub(super) fn start(executions: &[ExecutionId]) -> Self {
        Self(executions.iter().map(|id| (*id, Seq(0))).collect())
    }

    /// Moves to what an id says: a sequence where there is one execution, `ID:SEQ,…` where there are several, 0 for the
    /// start of all. Executions that the id does not name stay; those that this stream does not follow are passed over.
    /// None if the text is no such id.
    pub(super) fn moved_to(mut self, id: &str) -> Option<Self> {
        if let Ok(seq) = id.parse() {
            let several = self.0.len() > 1;
            self.0.values_mut().for_each(|sent| *sent = Seq(seq));
            return (seq == 0 || !several).then_some(self);
        }
        for part in id.split(',') {
            let (execution, seq) = part.split_once(':')?;
            let (execution, seq): (ExecutionId, u64) = (execution.parse().ok()?, seq.parse().ok()?);
            if let Some(sent) = self.0.get_mut(&execution) {
                *sent = Seq(seq);
            }
        }
        Some(self)
    }

    /// How far an execution was sent.
    pub(super) fn of(&self, execution: ExecutionId) -> Seq {
        self.0.get(&execution).copied().unwrap_or_default()
    }

    /// An execution was sent so far.
    pub(super) fn set(&mut self, execution: ExecutionId, seq: Seq) {
        self.0.insert(execution, seq);
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (1, Some(seq)) = (self.0.len(), self.0.values().next()) {
            return write!(out, "{seq}");
        }
        let sent = self.0.iter().filter(|(_, seq)| seq.0 > 0);
        for (place, (execution, seq)) in sent.enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(out, "{comma}{execution}:{seq}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: ExecutionId = ExecutionId([1; 16]);
    const TWO: ExecutionId = ExecutionId([2; 16]);

    #[test]
    fn a_position_comes_back_from_its_text() {
        for executions in [&[ONE][..], &[ONE, TWO]] {
            let mut position = Position::start(executions);
            position.set(ONE, Seq(7));
            let text = position.to_string();
            assert_eq!(Position::start(executions).moved_to(&text), Some(position), "{text}");
        }
        assert_eq!(Position::start(&[ONE]).moved_to("5").unwrap().to_string(), "5");
    }

    #[test]
    fn an_id_of_more_or_fewer_executions_moves_those_that_it_names() {
        let id = format!("{ONE}:3,{TWO}:9");
        let single = Position::start(&[TWO]).moved_to(&id).unwrap();
        assert_eq!((single.of(TWO), single.of(ONE)), (Seq(9), Seq(0)));
        let both = Position::start(&[ONE, TWO]);
        assert_eq!(both.clone().moved_to(&format!("{TWO}:9")).unwrap().of(ONE), Seq(0));
        assert_eq!(both.clone().moved_to("0"), Some(both.clone()));
        for wrong in ["", "7", "x", "x:7", &format!("{ONE}:"), &format!("{ONE}:1,")] {
            assert_eq!(both.clone().moved_to(wrong), None, "{wrong}");
        }
    }
}
