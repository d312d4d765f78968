//! Business keys in motion: whether an execution of a key is being started, or an ended one reopened. One excludes the other,
//! because each first looks whether the other has happened.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use troupe_core::ExecutionId;

/// What is under way, by the key's derived id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Arc<DashMap<ExecutionId, Motion>>);

#[derive(Debug)]
enum Motion {
    /// So many starts look at the key.
    Starts(u32),
    /// An execution of it is being reopened.
    Reopens,
}

impl Keys {
    /// Claims a key for a start; none while an execution of it is being reopened. Starts settle among themselves who is first.
    pub(crate) fn start(&self, key: ExecutionId) -> Option<Claim> {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(Motion::Starts(1))),
            Entry::Occupied(mut known) => match known.get_mut() {
                Motion::Starts(count) => *count += 1,
                Motion::Reopens => return None,
            },
        }
        Some(Claim(self.clone(), key))
    }

    /// Claims a key for a reopening; none while anything else is under way.
    pub(crate) fn reopen(&self, key: ExecutionId) -> Option<Claim> {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(Motion::Reopens)),
            Entry::Occupied(_) => return None,
        }
        Some(Claim(self.clone(), key))
    }
}

/// A claim on a key; dropping it gives the key free.
#[derive(Debug)]
pub(crate) struct Claim(Keys, ExecutionId);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Entry::Occupied(mut known) = self.0.0.entry(self.1) {
            match known.get_mut() {
                Motion::Starts(count) if *count > 1 => *count -= 1,
                Motion::Starts(_) | Motion::Reopens => drop(known.remove()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_reopenings_of_a_key_exclude_each_other() {
        let (keys, key, other) = (Keys::default(), ExecutionId([1; 16]), ExecutionId([2; 16]));
        let (one, two) = (keys.start(key), keys.start(key));
        assert!(one.is_some() && two.is_some() && keys.reopen(key).is_none());
        drop(one);
        assert!(keys.reopen(key).is_none(), "another start is still under way");
        drop(two);
        let reopens = keys.reopen(key);
        assert!(reopens.is_some() && keys.start(key).is_none() && keys.reopen(key).is_none());
        assert!(keys.start(other).is_some());
        drop(reopens);
        assert!(keys.start(key).is_some());
        assert!(keys.0.is_empty(), "nothing is left behind");
    }
}
