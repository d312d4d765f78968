//! What was written to a file and not yet synced.

use std::collections::BTreeMap;

use super::tearing::Random;

/// Bytes that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Writes whose order is remembered: what comes later does not survive.
const ORDER_MAX: usize = 256;

/// Unsynced changes of one file, on top of what its disk holds.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// The disk's content from here on is gone, though not yet durably.
    cut: Option<u64>,
    /// Written ranges by their first byte; they do not overlap.
    extents: BTreeMap<u64, Vec<u8>>,
    /// The first writes in the order in which they were made, up to a change of length.
    order: Vec<(u64, Vec<u8>)>,
    /// Later writes do not belong to `order`.
    order_ends: bool,
}

impl Overlay {
    /// Bytes of the disk's file that are still part of it.
    pub(super) fn visible(&self, disk_len: u64) -> u64 {
        self.cut.map_or(disk_len, |cut| cut.min(disk_len))
    }

    /// Length of the file as its users see it.
    pub(super) fn len(&self, disk_len: u64) -> u64 {
        let written = self
            .extents
            .last_key_value()
            .map_or(0, |(at, bytes)| at + bytes.len() as u64);
        self.visible(disk_len).max(written)
    }

    /// Notes a write.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len() as u64;
        self.remove(at, end);
        self.extents.insert(at, bytes.to_vec());
        self.order_ends |= self.order.len() >= ORDER_MAX;
        if !self.order_ends {
            self.order.push((at, bytes.to_vec()));
        }
    }

    /// Notes a change of length.
    pub(super) fn truncate(&mut self, len: u64, disk_len: u64) {
        self.order_ends = true;
        if len < self.len(disk_len) {
            self.remove(len, u64::MAX);
            self.cut = Some(self.cut.map_or(len, |cut| cut.min(len)));
        }
        // Longer than before, or cut inside a hole: one byte at the end makes the length.
        if len > self.len(disk_len) {
            self.write(len - 1, &[0]);
        }
    }

    /// Lays what was written over `buffer`, which holds the disk's content from `at` on.
    pub(super) fn cover(&self, at: u64, buffer: &mut [u8]) {
        let end = at + buffer.len() as u64;
        let before = self.extents.range(..at).next_back();
        for (start, bytes) in before.into_iter().chain(self.extents.range(at..end)) {
            let (from, to) = ((*start).max(at), (start + bytes.len() as u64).min(end));
            if from < to {
                let source = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - at) as usize..(to - at) as usize].copy_from_slice(source);
            }
        }
    }

    /// What a disk has written of this when its power fails: some writes, oldest first, the last one up to a sector's edge.
    pub(super) fn survivors(&self, mut random: Random) -> Vec<(u64, &[u8])> {
        let place = |random: &mut Random, bound: usize| random.below(bound as u64) as usize;
        let whole = place(&mut random, self.order.len() + 1);
        let mut survivors: Vec<(u64, &[u8])> = self.order[..whole]
            .iter()
            .map(|(at, bytes)| (*at, &bytes[..]))
            .collect();
        if let Some((at, bytes)) = self.order.get(whole) {
            let first_edge = (at / SECTOR_BYTES + 1) * SECTOR_BYTES - at;
            let edges = (bytes.len() as u64).saturating_sub(first_edge).div_ceil(SECTOR_BYTES);
            if edges > 0 {
                let torn = first_edge + random.below(edges) * SECTOR_BYTES;
                survivors.push((*at, &bytes[..torn as usize]));
            }
        }
        survivors
    }

    /// Gives everything up, for the disk: first the length to cut to, then the writes in order of place.
    pub(super) fn drain(&mut self) -> (Option<u64>, BTreeMap<u64, Vec<u8>>) {
        self.order.clear();
        self.order_ends = false;
        (self.cut.take(), std::mem::take(&mut self.extents))
    }

    /// Takes back what the disk refused.
    pub(super) fn restore(&mut self, (cut, extents): (Option<u64>, BTreeMap<u64, Vec<u8>>)) {
        self.cut = cut;
        self.extents = extents;
        self.order_ends = true;
    }

    /// Removes the bytes `from..to` of what was written.
    fn remove(&mut self, from: u64, to: u64) {
        if let Some((start, bytes)) = self.extents.range_mut(..from).next_back() {
            let (start, end) = (*start, *start + bytes.len() as u64);
            if end > from {
                let tail = bytes.split_off((from - start) as usize);
                if end > to {
                    self.extents.insert(to, tail[(to - from) as usize..].to_vec());
                }
            }
        }
        while let Some((start, bytes)) = self.extents.range(from..to).next() {
            let (start, end) = (*start, start + bytes.len() as u64);
            let bytes = self.extents.remove(&start);
            if let Some(bytes) = bytes
                && end > to
            {
                self.extents.insert(to, bytes[(to - start) as usize..].to_vec());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Sync,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            6 => (0..60_u64, proptest::collection::vec(1..=255_u8, 1..30)).prop_map(|(at, bytes)| Change::Write(at, bytes)),
            2 => (0..90_u64).prop_map(Change::Truncate),
            1 => Just(Change::Sync),
        ]
    }

    fn write(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at as usize..end].copy_from_slice(bytes);
    }

    fn seen(overlay: &Overlay, disk: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; overlay.len(disk.len() as u64) as usize];
        let visible = overlay.visible(disk.len() as u64) as usize;
        buffer[..visible].copy_from_slice(&disk[..visible]);
        overlay.cover(0, &mut buffer);
        buffer
    }

    proptest! {
        /// What survives is what was written first, and ends at a sector's edge unless it ends with a write.
        #[test]
        fn survivors_are_a_torn_prefix(
            writes in proptest::collection::vec((0..9_000_u64, proptest::collection::vec(1..=255_u8, 1..2_500)), 1..8),
            seed in any::<u64>(),
        ) {
            let mut overlay = Overlay::default();
            for (at, bytes) in &writes {
                overlay.write(*at, bytes);
            }
            let survivors = overlay.survivors(Random(seed));
            prop_assert!(survivors.len() <= writes.len());
            for (place, (at, bytes)) in survivors.iter().enumerate() {
                let (written_at, written) = &writes[place];
                prop_assert_eq!(at, written_at);
                prop_assert_eq!(*bytes, &written[..bytes.len()]);
                let torn = bytes.len() < written.len();
                prop_assert!(!torn || place + 1 == survivors.len(), "only the last write is torn");
                prop_assert!(!torn || (at + bytes.len() as u64).is_multiple_of(SECTOR_BYTES), "torn within a sector");
                prop_assert!(!bytes.is_empty());
            }
        }

        /// Users always see a plain file, wherever a disk got to early by itself (`seed`), and a sync completes it.
        #[test]
        fn an_overlaid_file_looks_like_a_file(
            changes in proptest::collection::vec(change(), 1..40),
            seed in proptest::option::of(any::<u64>()),
        ) {
            let (mut plain, mut disk, mut overlay) = (Vec::new(), Vec::new(), Overlay::default());
            let mut early = seed.map(Random);
            for change in changes {
                match change {
                    Change::Write(at, bytes) => {
                        overlay.write(at, &bytes);
                        write(&mut plain, at, &bytes);
                    }
                    Change::Truncate(len) => {
                        overlay.truncate(len, disk.len() as u64);
                        plain.resize(len as usize, 0);
                    }
                    Change::Sync => {
                        let (cut, extents) = overlay.drain();
                        if let Some(cut) = cut {
                            disk.truncate(cut as usize);
                        }
                        for (at, bytes) in extents {
                            write(&mut disk, at, &bytes);
                        }
                        prop_assert_eq!(&disk, &plain);
                    }
                }
                if let Some(random) = &mut early
                    && random.below(3) == 0
                {
                    for (at, bytes) in overlay.survivors(Random(random.below(u64::MAX))) {
                        write(&mut disk, at, bytes);
                    }
                }
                prop_assert_eq!(&seen(&overlay, &disk), &plain);
                for at in [0, 7, 31] {
                    let mut part = vec![0; 9];
                    let visible = overlay.visible(disk.len() as u64) as usize;
                    for (place, byte) in part.iter_mut().enumerate() {
                        *byte = disk[..visible].get(at + place).copied().unwrap_or(0);
                    }
                    overlay.cover(at as u64, &mut part);
                    let expected: Vec<_> = (at..at + 9).map(|place| plain.get(place).copied().unwrap_or(0)).collect();
                    prop_assert_eq!(part, expected);
                }
            }
        }
    }
}
