//! What members tell each other of their shards' controls.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use troupe_core::ShardId;
use troupe_core::control::{ControlKey, ControlSet, Setting};

use super::machine::ControlRequest;
use super::order::{behind, standing};
use crate::error::EngineError;

/// The controls of some shards.
#[derive(Clone, Debug, Default)]
pub struct ControlSets(pub Vec<(ShardId, Arc<ControlSet>)>);

#[derive(Encode, Decode)]
struct OfShard {
    #[n(0)]
    shard: u16,
    #[n(1)]
    set: ControlSet,
}

impl ControlSets {
    /// The sets alone.
    #[must_use]
    pub fn sets(&self) -> Vec<Arc<ControlSet>> {
        self.0.iter().map(|(_, set)| Arc::clone(set)).collect()
    }

    /// What a control is set to by the latest command on it in these shards.
    #[must_use]
    pub fn setting(&self, key: &ControlKey) -> Option<Setting> {
        standing(&self.sets(), key)
    }

    /// What these shards are to be told because one of them, or one of `others`, knows it later.
    #[must_use]
    pub fn behind(&self, others: &Self) -> Vec<(ShardId, ControlRequest)> {
        let all: Vec<_> = self.0.iter().chain(&others.0).map(|(_, set)| Arc::clone(set)).collect();
        let told = behind(&all).into_iter();
        told.filter_map(|(place, request)| Some((self.0.get(place)?.0, request)))
            .collect()
    }

    /// As bytes for another member.
    ///
    /// # Panics
    /// Never: writing to a vector cannot fail.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let of_shard = |(shard, set): &(ShardId, Arc<ControlSet>)| OfShard {
            shard: shard.0,
            set: (**set).clone(),
        };
        let all: Vec<OfShard> = self.0.iter().map(of_shard).collect();
        minicbor::to_vec(all).expect("a vector takes everything")
    }

    /// From another member.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when that one speaks of something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let all: Vec<OfShard> = minicbor::decode(bytes).map_err(unreadable)?;
        let of_shard = |OfShard { shard, set }| (ShardId(shard), Arc::new(set));
        Ok(Self(all.into_iter().map(of_shard).collect()))
    }
}

fn unreadable(error: impl std::fmt::Display) -> EngineError {
    EngineError::Unavailable(format!("what a member tells of its controls cannot be read: {error}"))
}

impl ControlRequest {
    /// As bytes for another member.
    ///
    /// # Panics
    /// Never: writing to a vector cannot fail.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("a vector takes everything")
    }

    /// From another member.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when that one speaks of something else.
    pub fn decode_request(bytes: &[u8]) -> Result<Self, EngineError> {
        minicbor::decode(bytes).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::Timestamp;
    use troupe_core::control::{Clocks, Scope};

    use crate::controls::{ControlsMachine, Origin};

    fn request(at: i64) -> ControlRequest {
        ControlRequest {
            at: Timestamp(at),
            key: ControlKey::Pause(Scope::Workflow("orders".into())),
            setting: Some(Setting::Paused { clocks: Clocks::Freeze }),
            command: format!("command {at}").into(),
            principal: Some("somebody".into()),
            reason: Some("why".into()),
        }
    }

    fn told(requests: &[i64]) -> Arc<ControlSet> {
        let mut machine = ControlsMachine::default();
        for at in requests {
            machine.decide(request(*at), Origin::Command);
        }
        Arc::new(machine.set().clone())
    }

    #[test]
    fn a_shard_is_told_what_another_member_knows_later() {
        let own = ControlSets(vec![(ShardId(3), told(&[1])), (ShardId(5), told(&[]))]);
        let others = ControlSets::decode(&ControlSets(vec![(ShardId(0), told(&[1, 2]))]).encoded()).unwrap();
        assert_eq!(others.0[0].1, told(&[1, 2]));
        let news = own.behind(&others);
        assert_eq!(news, [(ShardId(3), request(2)), (ShardId(5), request(2))]);
        let known = ControlRequest::decode_request(&news[0].1.encoded()).unwrap();
        assert_eq!(known, request(2));
        // The other way round there is nothing new.
        assert!(others.behind(&own).is_empty());
        assert!(ControlSets::decode(b"?").is_err());
    }
}
