//! Which shards this engine serves, where others serve some: it looks at the register of members and at who has which shard,
//! takes what is its own and gives up what is another's. The lease decides, whatever anybody sees.

pub mod machine;
mod watch;

pub use machine::{Look, PlacementMachine, Stand, Step};
pub(crate) use watch::{notice, watch};

use std::collections::BTreeMap;

use troupe_core::{ShardId, StateFormat};
use troupe_ports::Member;

/// Where a shard's executions can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// This engine serves it, or is about to.
    Here,
    /// The member at this address does.
    At(String),
    /// Nobody does, as far as is known.
    Nobody,
}

/// How far this engine has come with what is its own.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Its own shards that it does not serve yet.
    pub missing: Vec<ShardId>,
    /// It serves what is its own, and nothing else.
    pub settled: bool,
    /// Shards that it has.
    pub held: usize,
}

/// What this engine knows of the others.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Members, this one among them, in order of name; none before the first look.
    pub members: Vec<Member>,
    /// Who has which shard.
    pub holders: BTreeMap<ShardId, String>,
    /// What each shard holds something of.
    pub formats: BTreeMap<ShardId, StateFormat>,
}

impl Neighbours {
    pub(crate) fn whereabouts(&self, shard: ShardId, own_name: &str) -> Whereabouts {
        let Some(holder) = self.holders.get(&shard) else {
            return Whereabouts::Nobody;
        };
        if holder == own_name {
            return Whereabouts::Here;
        }
        let member = self.members.iter().find(|member| member.name == *holder);
        member.map_or(Whereabouts::Nobody, |member| Whereabouts::At(member.address.clone()))
    }
}
