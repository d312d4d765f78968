//! Names of keys and forms of what stands in them.
//!
//! Everything of a shard shares the hash tag `{prefix:s<shard>}` and so one slot; names are one letter, ids raw bytes.
//! Instants are 8 bytes whose order is that of the instants, so that a sorted set of `instant, id` without scores is an index.

use troupe_core::{ExecutionId, LogPosition, Seq, ShardId, Timestamp};
use troupe_ports::{Archive, StoreError, Wait};

/// Bytes before an archive's content.
pub(super) const ARCHIVE_HEAD: usize = 32;

/// Keys of one shard.
pub(super) struct ShardKeys {
    tag: String,
    pub shard: u16,
    pub slot: u16,
    /// Hash: `i` identity of the store, `e` epoch, `o` name of the owner, `u` end of its lease in ms, `t` trimmed up to,
    /// `c` checkpointed up to, `f` the newest format that the shard may hold something of, if that was ever said,
    /// `b` records that a checkpoint holds and the log has lost, until lists show them, `n` number of what is kept outside the log.
    pub owner: Vec<u8>,
    /// List of commit id (16 bytes) and record; the first has the position after the trimmed ones.
    pub log: Vec<u8>,
    /// Hash: sink to position.
    pub cursors: Vec<u8>,
    /// Entries of spooled chunks, see [`spool_entry`].
    pub spool_index: Vec<u8>,
    /// Hash: entry to chunk.
    pub spool: Vec<u8>,
    /// Hash: id to last seq, wait and due instant.
    pub live: Vec<u8>,
    /// Due instant and id of those that wait for one.
    pub timers: Vec<u8>,
    /// Ids of those with unfinished work.
    pub running: Vec<u8>,
    /// Expiry and id of archives.
    pub expiry: Vec<u8>,
    /// Hash: id to last seq and expiry.
    pub tombstones: Vec<u8>,
    /// Expiry and id of tombstones.
    pub tombstone_expiry: Vec<u8>,
    /// Hash: key to ordinal.
    pub heads: Vec<u8>,
    /// Hash: id to reason.
    pub quarantine: Vec<u8>,
    /// Instant of the first blob and id of roots that nobody confirmed.
    pub unconfirmed: Vec<u8>,
    /// Hash: ticket to the key of a semaphore that it may hold; nothing to the latest epoch that wrote or read here.
    pub tickets: Vec<u8>,
    /// Ids of what is in the inbox, by arrival.
    pub inbox_order: Vec<u8>,
    /// Hash: id to bytes; `t` bytes together, `n` the latest arrival.
    pub inbox: Vec<u8>,
}

/// What a key of an execution holds.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// List: segments, each after its last seq.
    Segments = b'g' as isize,
    /// String: seq and bytes of the last snapshot.
    Snapshot = b'n' as isize,
    /// String: last seq, expiry, milliseconds and expiry of the tombstone, bytes.
    Archive = b'a' as isize,
    /// Hash: content hash to content; `t` bytes together, `s` instant of the first.
    Blobs = b'b' as isize,
}

impl ShardKeys {
    fn new(prefix: &str, shard: u16) -> Self {
        let tag = format!("{{{prefix}:s{shard}}}");
        let key = |letter: char| format!("{tag}{letter}").into_bytes();
        Self {
            shard,
            slot: slot(&tag),
            owner: key('o'),
            log: key('l'),
            cursors: key('k'),
            spool_index: key('w'),
            spool: key('p'),
            live: key('v'),
            timers: key('t'),
            running: key('r'),
            expiry: key('e'),
            tombstones: key('x'),
            tombstone_expiry: key('y'),
            heads: key('h'),
            quarantine: key('q'),
            unconfirmed: key('u'),
            tickets: key('i'),
            inbox_order: key('j'),
            inbox: key('m'),
            tag,
        }
    }

    /// The key of a part of an execution.
    pub(super) fn part(&self, part: Part, id: ExecutionId) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.tag.len() + 17);
        key.extend_from_slice(self.tag.as_bytes());
        key.push(part as u8);
        key.extend_from_slice(&id.0);
        key
    }
}

/// Keys of the deployment that are no shard's.
pub(super) struct CacheKeys {
    pub slot: u16,
    /// Hash: key to expiry and output.
    pub outputs: Vec<u8>,
    /// Keys by when they were last used.
    pub uses: Vec<u8>,
    /// Expiry and key.
    pub expiry: Vec<u8>,
    /// Bytes of all outputs.
    pub bytes: Vec<u8>,
}

/// Keys of a semaphore: the tag is made of the slot of its own key, so that they spread and are of one slot each.
pub(super) struct SemaphoreKeys {
    pub slot: u16,
    /// Tickets by when their hold ends; see `lua/acquire_ticket.lua`.
    pub held: Vec<u8>,
    /// Tickets that wait, in order.
    pub line: Vec<u8>,
    /// Tickets that wait, by until when they have to ask again.
    pub asked: Vec<u8>,
    /// Hash: ticket that waits to its limit.
    pub limits: Vec<u8>,
    /// Hash: ticket to the first epoch that may hold the key with it.
    pub barred: Vec<u8>,
    /// Barred tickets by until when that is remembered.
    pub remembered: Vec<u8>,
}

/// Keys of the members of a deployment.
pub(super) struct MemberKeys {
    pub slot: u16,
    /// Hash: name to member.
    pub members: Vec<u8>,
    /// Names by when their time is over.
    pub expiries: Vec<u8>,
    /// Hash: name to secret.
    pub secrets: Vec<u8>,
}

/// All keys of a deployment.
pub(super) struct Layout {
    prefix: String,
    pub shards: Vec<ShardKeys>,
    pub members: MemberKeys,
    pub cache: CacheKeys,
}

impl Layout {
    pub(super) fn new(prefix: &str, shards: u16) -> Self {
        let cache = format!("{{{prefix}:cache}}");
        let members = format!("{{{prefix}:members}}");
        let key = |letter: char| format!("{cache}{letter}").into_bytes();
        Self {
            prefix: prefix.to_owned(),
            members: MemberKeys {
                slot: slot(&members),
                members: format!("{members}m").into_bytes(),
                expiries: format!("{members}e").into_bytes(),
                secrets: format!("{members}s").into_bytes(),
            },
            shards: (0..shards).map(|shard| ShardKeys::new(prefix, shard)).collect(),
            cache: CacheKeys {
                slot: slot(&cache),
                outputs: key('o'),
                uses: key('u'),
                expiry: key('e'),
                bytes: key('t'),
            },
        }
    }

    /// The keys of a semaphore.
    pub(super) fn semaphore(&self, key: &[u8]) -> SemaphoreKeys {
        let tag = format!("{{{}:q{}}}", self.prefix, crc(key) % SLOTS);
        let name = |letter: u8| [tag.as_bytes(), &[letter], key].concat();
        SemaphoreKeys {
            slot: slot(&tag),
            held: name(b'h'),
            line: name(b'l'),
            asked: name(b'a'),
            limits: name(b'm'),
            barred: name(b'b'),
            remembered: name(b'r'),
        }
    }

    /// The keys of a shard.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] when there is no such shard.
    pub(super) fn shard(&self, shard: ShardId) -> Result<&ShardKeys, StoreError> {
        self.shards
            .get(usize::from(shard.0))
            .ok_or_else(|| StoreError::Damaged(format!("shard {shard} of a store with {}", self.shards.len())))
    }
}

/// The key of what was fixed when the store was created, and its slot.
pub(super) fn meta(prefix: &str) -> (Vec<u8>, u16) {
    let tag = format!("{{{prefix}:meta}}");
    let slot = slot(&tag);
    (tag.into_bytes(), slot)
}

/// How the names of all keys under a prefix begin. Those under other prefixes may begin so too: see [`slot_under`].
pub(super) fn beginning(prefix: &str) -> String {
    format!("{{{prefix}:")
}

/// The slot of a key if it is one under this very prefix.
pub(super) fn slot_under(prefix: &str, key: &[u8]) -> Option<u16> {
    let end = key.iter().position(|byte| *byte == b'}')?;
    let content = std::str::from_utf8(key.get(1..end)?).ok()?;
    // A prefix may have colons, what follows it has none.
    let (of, _) = content.rsplit_once(':')?;
    (key.starts_with(b"{") && of == prefix).then(|| slot(content))
}

/// Number of slots of a Redis Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key that is one hash tag in braces.
///
/// Source: Redis Cluster specification, CRC-16/XMODEM of what stands between the braces.
fn slot(tag: &str) -> u16 {
    let content = tag.trim_start_matches('{').trim_end_matches('}');
    crc(content.as_bytes()) % SLOTS
}

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

/// What stands for a chunk of a sink's spool: the sink, a zero byte and the last position in twenty digits, so that entries of a
/// sink are neighbours in their order.
pub(super) fn spool_entry(sink: &str, up_to: LogPosition) -> Vec<u8> {
    format!("{sink}\0{:020}", up_to.0).into_bytes()
}

/// Bounds of a sink's entries: at or below each of them, and above.
pub(super) fn spool_bounds(sink: &str) -> (Vec<u8>, Vec<u8>) {
    (format!("{sink}\0").into_bytes(), format!("{sink}\0~").into_bytes())
}

/// The position that an entry names.
pub(super) fn spool_position(entry: &[u8]) -> Option<LogPosition> {
    let digits = std::str::from_utf8(entry.last_chunk::<20>()?).ok()?;
    digits.parse().ok().map(LogPosition)
}

/// An instant as bytes of the same order.
pub(super) fn instant(at: Timestamp) -> [u8; 8] {
    (at.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The bound of an index by instant that takes in everything at or before `at`.
pub(super) fn up_to(at: Timestamp) -> Vec<u8> {
    [&b"["[..], &instant(at), &[0xff; 16]].concat()
}

/// The last seq and the wait of a live execution.
pub(super) fn live(last: Seq, wait: Wait) -> Vec<u8> {
    let (kind, due) = match wait {
        Wait::Running => (b'0', Timestamp(0)),
        Wait::Until(due) => (b'1', due),
        Wait::Message => (b'2', Timestamp(0)),
    };
    let mut bytes = Vec::with_capacity(17);
    bytes.extend_from_slice(&last.0.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&instant(due));
    bytes
}

/// What stands before the content of an archive.
pub(super) fn archive_head(archive: &Archive) -> [u8; ARCHIVE_HEAD] {
    let mut head = [0; ARCHIVE_HEAD];
    head[..8].copy_from_slice(&archive.last.0.to_be_bytes());
    head[8..16].copy_from_slice(&instant(archive.expires_at));
    head[16..24].copy_from_slice(&archive.tombstone_ms.to_be_bytes());
    head[24..].copy_from_slice(&instant(archive.expires_at.plus_ms(archive.tombstone_ms)));
    head
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // Both values are printed by `CLUSTER KEYSLOT`.
        assert_eq!(slot("{123456789}"), 12_739);
        assert_eq!(slot("{user1000}"), 3_443);
    }

    #[test]
    fn bytes_of_instants_are_in_their_order() {
        let instants = [i64::MIN, -1, 0, 1, 1 << 40, i64::MAX].map(|at| instant(Timestamp(at)));
        assert!(instants.is_sorted());
    }

    #[test]
    fn entries_of_a_spool_are_in_order_within_its_bounds() {
        let entry = |position| spool_entry("events", LogPosition(position));
        let (from, to) = spool_bounds("events");
        let sorted = [from, entry(0), entry(9), entry(10), entry(u64::MAX), to];
        assert!(sorted.is_sorted(), "{sorted:?}");
        assert_eq!(spool_position(&entry(10)), Some(LogPosition(10)));
        assert_eq!(spool_position(b"events"), None);
    }

    #[test]
    fn keys_of_a_shard_share_its_tag() {
        let layout = Layout::new("troupe", 13);
        let keys = layout.shard(ShardId(12)).unwrap();
        let id = ExecutionId::fresh(ShardId(12), Timestamp(1), 2);
        for key in [
            &keys.owner,
            &keys.log,
            &keys.unconfirmed,
            &keys.inbox,
            &keys.part(Part::Blobs, id),
        ] {
            assert!(key.starts_with(b"{troupe:s12}"));
        }
        assert!(layout.shard(ShardId(13)).is_err());
    }

    #[test]
    fn every_key_is_known_by_its_prefix_and_by_no_other() {
        for prefix in ["a", "a:", "a:b", "a:s0", "a/b"] {
            let layout = Layout::new(prefix, 2);
            let shard = layout.shard(ShardId(1)).unwrap();
            let semaphore = layout.semaphore(b"{a:s0}:}");
            let of_an_execution = shard.part(Part::Archive, ExecutionId([b'}'; 16]));
            for (key, slot) in [
                (&meta(prefix).0, meta(prefix).1),
                (&layout.cache.outputs, layout.cache.slot),
                (&layout.members.members, layout.members.slot),
                (&shard.log, shard.slot),
                (&of_an_execution, shard.slot),
                (&semaphore.held, semaphore.slot),
            ] {
                assert!(key.starts_with(beginning(prefix).as_bytes()), "{prefix}");
                assert_eq!(slot_under(prefix, key), Some(slot), "{prefix}");
                for other in ["", "a", "a:", "a:b", "a:s0", "a/b", "a:b:s1"] {
                    assert_eq!(
                        slot_under(other, key).is_some(),
                        other == prefix,
                        "{other} for {prefix}"
                    );
                }
            }
        }
        for foreign in [
            &b""[..],
            b"}",
            b"{",
            b"{}",
            b"a:s0",
            b"{a",
            b"{a}",
            b"xa:s0}",
            b"{a:\xff}",
        ] {
            assert_eq!(slot_under("a", foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn keys_of_a_semaphore_share_a_slot_whatever_its_key_is() {
        let layout = Layout::new("troupe", 1);
        for key in [&b"{"[..], b"}{a}", b"\0\xff", b""] {
            let keys = layout.semaphore(key);
            for name in [
                &keys.held,
                &keys.line,
                &keys.asked,
                &keys.limits,
                &keys.barred,
                &keys.remembered,
            ] {
                let end = name.iter().position(|byte| *byte == b'}').unwrap();
                let tag = std::str::from_utf8(&name[..=end]).unwrap();
                assert_eq!(slot(tag), keys.slot, "of {tag}");
                assert!(name.ends_with(key));
            }
        }
    }
}
