//! Contents that were kept or read lately, bounded in bytes.

use std::collections::HashMap;

use troupe_core::{BlobRef, ExecutionId, Json, ShardId};

type Key = (ExecutionId, BlobRef);

/// The least recently used contents go first. They are large, so there are few of them.
#[derive(Debug)]
pub(super) struct ContentCache {
    bytes_max: usize,
    bytes: usize,
    uses: u64,
    held: HashMap<Key, (Json, u64)>,
}

impl ContentCache {
    /// An empty cache that holds at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            uses: 0,
            held: HashMap::new(),
        }
    }

    pub(super) fn get(&mut self, root: ExecutionId, blob: &BlobRef) -> Option<Json> {
        self.uses += 1;
        let (content, used) = self.held.get_mut(&(root, *blob))?;
        *used = self.uses;
        Some(content.clone())
    }

    pub(super) fn insert(&mut self, root: ExecutionId, blob: BlobRef, content: Json) {
        let bytes = content.bytes();
        if bytes > self.bytes_max {
            return;
        }
        self.uses += 1;
        if self.held.insert((root, blob), (content, self.uses)).is_none() {
            self.bytes += bytes;
        }
        while self.bytes > self.bytes_max {
            let oldest = self.held.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                return;
            };
            self.remove(&oldest);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Forgets everything of a root.
    pub(super) fn forget(&mut self, root: ExecutionId) {
        let gone: Vec<Key> = self.held.keys().filter(|(of, _)| *of == root).copied().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Everything of a shard, by root.
    pub(super) fn of(&self, shard: ShardId) -> Vec<(ExecutionId, BlobRef, Json)> {
        let held = self.held.iter().filter(|((root, _), _)| root.shard() == shard);
        held.map(|((root, blob), (content, _))| (*root, *blob, content.clone()))
            .collect()
    }

    /// Forgets everything of a shard.
    pub(super) fn forget_shard(&mut self, shard: ShardId) {
        for (root, _, _) in self.of(shard) {
            self.forget(root);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some((content, _)) = self.held.remove(key) {
            self.bytes -= content.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u8) -> (BlobRef, Json) {
        let content = Json::of(&"x".repeat(98).into());
        (
            BlobRef {
                hash: [n; 32],
                bytes: 100,
            },
            content,
        )
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = ContentCache::new(250);
        let root = ExecutionId([1; 16]);
        for n in 0..2 {
            let (blob, content) = blob(n);
            cache.insert(root, blob, content.clone());
            cache.insert(root, blob, content);
        }
        assert!(cache.get(root, &blob(0).0).is_some());
        cache.insert(root, blob(2).0, blob(2).1);
        let found = [0, 1, 2].map(|n| cache.get(root, &blob(n).0).is_some());
        assert_eq!(found, [true, false, true]);
        assert_eq!(cache.bytes, 200);
    }

    #[test]
    fn a_root_is_forgotten_alone_and_what_is_too_large_is_not_held() {
        let mut cache = ContentCache::new(250);
        let (one, two) = (ExecutionId([1; 16]), ExecutionId([2; 16]));
        let (blob, content) = blob(7);
        cache.insert(one, blob, content.clone());
        cache.insert(two, blob, content);
        cache.insert(one, BlobRef { bytes: 300, ..blob }, Json::of(&"x".repeat(298).into()));
        cache.forget(one);
        assert_eq!(cache.bytes, 100);
        assert!(cache.get(one, &blob).is_none() && cache.get(two, &blob).is_some());
    }
}
