//! Random definitions with everything that happens to their executions.

use proptest::prelude::*;
use serde_json::Value;

use super::aftermath::{compensate, report};
use super::choices::Choices;
use super::definitions::{calm, definition};

/// A definition and everything random that happens to its execution.
#[derive(Clone)]
pub struct Case {
    pub definition: Value,
    pub script: Vec<u16>,
    /// Whether little goes wrong, so that executions get far.
    pub is_calm: bool,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            definition,
            script,
            is_calm,
        } = self;
        write!(out, "definition: {definition}\nscript: {script:?}\ncalm: {is_calm}")
    }
}

/// Mostly small graphs, some of up to 40 nodes.
pub fn cases() -> impl Strategy<Value = Case> {
    // Not by `prop_flat_map`: what depends on a drawn number shrinks badly.
    let of_size = |nodes: usize| {
        (
            prop::collection::vec(prop::collection::vec(any::<u16>(), 32), 2..=nodes),
            prop::collection::vec(prop::collection::vec(any::<u16>(), 12), 1..=nodes * 2),
            prop_oneof![
                2 => Just(Vec::new()),
                3 => prop::collection::vec(prop::collection::vec(any::<u16>(), 28), 1..=4),
            ],
            prop::collection::vec(any::<u16>(), 8),
            prop::collection::vec(any::<u16>(), 0..=nodes * 20),
            prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<u16>(), 1..=nodes * 8)],
            any::<u16>(),
            any::<bool>(),
        )
    };
    prop_oneof![4 => of_size(6), 5 => of_size(12), 1 => of_size(40)].prop_map(
        |(nodes, edges, loops, settings, script, undoes, reports, is_calm)| {
            let mut definition = definition(&nodes, &edges, &loops, &settings);
            compensate(&mut definition, &mut Choices::new(&undoes));
            report(&mut definition, &mut Choices::new(&[reports]));
            if is_calm {
                calm(&mut definition);
            }
            Case {
                definition,
                script,
                is_calm,
            }
        },
    )
}
