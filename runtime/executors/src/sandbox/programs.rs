//! Numbers for programs: a child is told a program once, its calls name the number.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::protocol::ProgramKind;

/// Programs that are remembered; beyond it all are forgotten and numbered anew as they come.
const PROGRAMS_MAX: usize = 4_096;

/// A program with its number, which is never given twice.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) number: u64,
    pub(super) kind: ProgramKind,
    pub(super) workflow: Box<str>,
    pub(super) version: u32,
    pub(super) name: Box<str>,
    pub(super) source: Box<str>,
    /// Whether its last call held a process for long.
    ran_long: AtomicBool,
}

impl Program {
    /// Whether its last call held a process for long, as its next one will.
    pub(super) fn ran_long(&self) -> bool {
        self.ran_long.load(Ordering::Relaxed)
    }

    /// Remembers whether a call held a process for long.
    pub(super) fn set_ran_long(&self, long: bool) {
        self.ran_long.store(long, Ordering::Relaxed);
    }

    /// Names the context that it runs in: one a workflow version.
    pub(super) fn context(&self) -> String {
        format!("{}@{}", self.workflow, self.version)
    }
}

/// What a program is known by.
#[derive(Clone, Copy, Hash)]
pub(super) struct Key<'a> {
    pub(super) kind: ProgramKind,
    pub(super) workflow: &'a str,
    pub(super) version: u32,
    pub(super) name: &'a str,
    pub(super) source: &'a str,
}

impl Key<'_> {
    fn is(&self, program: &Program) -> bool {
        self.version == program.version
            && self.kind == program.kind
            && self.name == &*program.name
            && self.workflow == &*program.workflow
            && self.source == &*program.source
    }
}

#[derive(Default)]
struct Known {
    by_hash: HashMap<u64, Vec<Arc<Program>>>,
    count: usize,
    next: u64,
}

/// Every program that was called lately.
#[derive(Default)]
pub(super) struct Programs {
    hasher: RandomState,
    known: RwLock<Known>,
}

impl Programs {
    /// The program of that key.
    pub(super) fn get(&self, key: Key<'_>) -> Arc<Program> {
        let hash = self.hasher.hash_one(key);
        let find = |known: &Known| {
            known
                .by_hash
                .get(&hash)?
                .iter()
                .find(|program| key.is(program))
                .cloned()
        };
        if let Some(program) = find(&self.known.read()) {
            return program;
        }
        let mut known = self.known.write();
        if let Some(program) = find(&known) {
            return program;
        }
        if known.count >= PROGRAMS_MAX {
            known.by_hash.clear();
            known.count = 0;
        }
        known.next += 1;
        known.count += 1;
        let program = Arc::new(Program {
            number: known.next,
            kind: key.kind,
            workflow: key.workflow.into(),
            version: key.version,
            name: key.name.into(),
            source: key.source.into(),
            ran_long: AtomicBool::new(false),
        });
        known.by_hash.entry(hash).or_default().push(Arc::clone(&program));
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_a_program_even_after_forgetting() {
        let programs = Programs::default();
        let key = |source, version| Key {
            kind: ProgramKind::Function,
            workflow: "w",
            version,
            name: "f",
            source,
        };
        let first = programs.get(key("a", 1)).number;
        assert_eq!(programs.get(key("a", 1)).number, first);
        assert_ne!(programs.get(key("b", 1)).number, first);
        assert_ne!(programs.get(key("a", 2)).number, first);
        for version in 0..=u32::try_from(PROGRAMS_MAX).unwrap_or(0) {
            programs.get(key("c", version));
        }
        assert!(programs.get(key("a", 1)).number > first);
    }
}
