//! Newtypes of every identifier. Strings end at the boundary; inside, indices and fixed-size ids travel.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }
    };
}

number! {
    /// A shard of the log; fixed in number when a store is first created.
    ShardId(u16)
}
number! {
    /// Dense index of a node in a [`crate::plan::Plan`]: its place in the definition's array.
    NodeIx(u32)
}
number! {
    /// Dense index of an edge in a [`crate::plan::Plan`]: its place in the definition's array.
    EdgeIx(u32)
}
number! {
    /// Dense index of a loop in a [`crate::plan::Plan`].
    LoopIx(u32)
}
number! {
    /// Position of an entry in its execution's history, from 1 without gaps. 0 is "before the first".
    Seq(u64)
}
number! {
    /// Ownership generation of a shard; only grows.
    Epoch(u64)
}
number! {
    /// Position of a record in a shard's log, from 1 without gaps.
    LogPosition(u64)
}
number! {
    /// Run of an execution, from 1; a reopening is a new run.
    Run(u32)
}
number! {
    /// Visit of a node inside a run, from 1; loops make more than one.
    Visit(u32)
}
number! {
    /// Attempt of a node's visit, from 1.
    Attempt(u32)
}
number! {
    /// Milliseconds since the Unix epoch.
    Timestamp(i64)
}

impl Timestamp {
    /// The instant `ms` milliseconds later, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl Seq {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Run {
    /// The next run.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl LogPosition {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl NodeIx {
    /// The index as an array index.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl EdgeIx {
    /// The index as an array index.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl LoopIx {
    /// The index as an array index.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// Identifier of an execution: 16 bits of shard, then 112 bits that are either time and randomness or a key's hash.
///
/// Written as 32 lower-case hexadecimal digits. The shard is part of the id, so no index maps one to the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ExecutionId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl ExecutionId {
    /// A time-ordered id in `shard`: 48 bits of `at`, then 64 bits of `random`.
    #[must_use]
    pub fn fresh(shard: ShardId, at: Timestamp, random: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&shard.0.to_be_bytes());
        bytes[2..8].copy_from_slice(&at.0.to_be_bytes()[2..]);
        bytes[8..].copy_from_slice(&random.to_be_bytes());
        Self(bytes)
    }

    /// The id that `workflow` and `key` always give: `space` keeps request keys and business keys apart.
    ///
    /// Source: XXH3-128 of the length-prefixed parts; the shard is the hash modulo `shards`.
    #[must_use]
    pub fn derived(shards: u16, space: KeySpace, workflow: &str, key: &str, ordinal: u64) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(space as u64);
        hasher.update(&(workflow.len() as u64).to_be_bytes());
        hasher.update(workflow.as_bytes());
        hasher.update(&(key.len() as u64).to_be_bytes());
        hasher.update(key.as_bytes());
        let shard = u16::try_from(hasher.digest() % u64::from(shards.max(1))).unwrap_or(0);
        hasher.update(&ordinal.to_be_bytes());
        let mut bytes = hasher.digest128().to_be_bytes();
        bytes[..2].copy_from_slice(&shard.to_be_bytes());
        Self(bytes)
    }

    /// The id that a child execution of `parent` always has: `name` tells the groups of its children apart, `index` the children of
    /// one group. It begins like the parent's, so both are in one shard and lost and found together, and what begins together
    /// is near in every table; the children of a group are neighbours, in order.
    ///
    /// Source: the parent's first 48 bits, then 80 bits of XXH3-128 of the parent's id and the name, plus the index.
    #[must_use]
    pub fn of_child(parent: Self, name: &str, index: u32) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(CHILD_SEED);
        hasher.update(&parent.0);
        hasher.update(name.as_bytes());
        let mut bytes = hasher.digest128().wrapping_add(u128::from(index)).to_be_bytes();
        bytes[..6].copy_from_slice(&parent.0[..6]);
        Self(bytes)
    }

    /// Names the controls of a shard in its log: no execution has this id.
    #[must_use]
    pub fn controls(shard: ShardId) -> Self {
        let mut bytes = [0xff; 16];
        bytes[..2].copy_from_slice(&shard.0.to_be_bytes());
        Self(bytes)
    }

    /// Whether it names the controls of a shard, and no execution.
    #[must_use]
    pub fn is_controls(self) -> bool {
        self.0[2..] == [0xff; 14]
    }

    /// The shard that owns this execution.
    #[must_use]
    pub fn shard(self) -> ShardId {
        ShardId(u16::from_be_bytes([self.0[0], self.0[1]]))
    }
}

/// Keeps the ids of children apart from those of keys.
const CHILD_SEED: u64 = 3;

/// What a derived execution id was derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum KeySpace {
    /// An `Idempotency-Key` or another cause that must give one execution for ever.
    Request = 1,
    /// An `executionKey`; the ordinal tells its runs apart.
    Business = 2,
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        out.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text is no execution id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an execution id has 32 hexadecimal digits")]
pub struct InvalidExecutionId;

impl FromStr for ExecutionId {
    type Err = InvalidExecutionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(InvalidExecutionId);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or(InvalidExecutionId);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| InvalidExecutionId)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ExecutionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ExecutionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, out)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                encoder: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(decoder: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Ok(Self(decoder.str()?.into()))
            }
        }
    };
}

name! {
    /// Identifier of a workflow, chosen by whoever defines it.
    WorkflowId
}
name! {
    /// A node's id as its definition writes it.
    NodeKey
}
name! {
    /// Who caused an entry: an API key's name, `system`, `local`.
    Principal
}
name! {
    /// Identifier of a command, for exactly-once application.
    CommandId
}

/// Names one attempt of one visit of one node in one run. A report with another token is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Token {
    /// Run of the execution.
    #[n(0)]
    pub run: Run,
    /// The node.
    #[n(1)]
    pub node: NodeIx,
    /// Visit of the node.
    #[n(2)]
    pub visit: Visit,
    /// Attempt of the visit.
    #[n(3)]
    pub attempt: Attempt,
    /// Tells repeated dispatches of the same attempt apart.
    #[n(4)]
    pub nonce: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn execution_ids_round_trip_and_carry_their_shard() {
        let id = ExecutionId::fresh(ShardId(7), Timestamp(1_790_000_000_123), 42);
        assert_eq!(id.shard(), ShardId(7));
        assert_eq!(id.to_string().parse::<ExecutionId>().unwrap(), id);
        assert!("xyz".parse::<ExecutionId>().is_err());
        assert!("é".repeat(16).parse::<ExecutionId>().is_err());
    }

    #[test]
    fn children_of_a_group_are_neighbours_in_their_parents_shard() {
        let parent = ExecutionId::fresh(ShardId(7), Timestamp(1_790_000_000_123), 42);
        let child = |name: &str, index: u32| ExecutionId::of_child(parent, name, index);
        assert_eq!(child("a", 0).shard(), ShardId(7));
        assert_eq!(child("a", 5), child("a", 5));
        let last = |id: ExecutionId| u64::from_be_bytes(id.0[8..].try_into().unwrap());
        assert_eq!(last(child("a", 7)).wrapping_sub(last(child("a", 3))), 4);
        let all = [
            child("a", 0),
            child("a", 1),
            child("b", 0),
            ExecutionId::of_child(child("a", 0), "a", 0),
            parent,
        ];
        for (place, id) in all.iter().enumerate() {
            assert!(!all[..place].contains(id), "{id}");
        }
    }

    #[test]
    fn keys_share_a_shard_whatever_their_ordinal() {
        let first = ExecutionId::derived(32, KeySpace::Business, "orders", "o-1", 0);
        let second = ExecutionId::derived(32, KeySpace::Business, "orders", "o-1", 1);
        assert_ne!(first, second);
        assert_eq!(first.shard(), second.shard());
        assert_ne!(first, ExecutionId::derived(32, KeySpace::Request, "orders", "o-1", 0));
        assert_ne!(
            ExecutionId::derived(32, KeySpace::Request, "ab", "c", 0),
            ExecutionId::derived(32, KeySpace::Request, "a", "bc", 0)
        );
    }
}
