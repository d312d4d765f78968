//! Which member serves which shard.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ShardId;

/// The member of each shard, by its place in `members`; empty where there is no member. Everyone who sees the same members, in
/// whatever order, places alike. No member gets more than its share, rounded up; when one comes or goes, little more than its own share
/// moves.
///
/// Source: rendezvous hashing (Thaler and Ravishankar, 1998) with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016): the
/// pairs of shard and member are gone through by falling weight, and a pair counts if its shard is free and its member has room.
#[must_use]
pub fn place(shards: u16, members: &[&str]) -> Vec<usize> {
    if members.is_empty() {
        return Vec::new();
    }
    let most = usize::from(shards).div_ceil(members.len());
    let weight = |shard: u16, member: &str| xxh3_64_with_seed(member.as_bytes(), u64::from(shard));
    let mut pairs: Vec<(u64, u16, usize)> = (0..shards)
        .flat_map(|shard| {
            members
                .iter()
                .enumerate()
                .map(move |(place, member)| (weight(shard, member), shard, place))
        })
        .collect();
    // Names decide between equal weights, not places: the order of members must not matter.
    pairs.sort_unstable_by(|a, b| (b.0, b.1, members[b.2]).cmp(&(a.0, a.1, members[a.2])));
    let mut placed = vec![usize::MAX; usize::from(shards)];
    let mut loads = vec![0; members.len()];
    for (_, shard, member) in pairs {
        let place = &mut placed[usize::from(shard)];
        if *place == usize::MAX && loads[member] < most {
            *place = member;
            loads[member] += 1;
        }
    }
    placed
}

/// The shards of one member.
#[must_use]
pub fn shards_of(shards: u16, members: &[&str], member: &str) -> Vec<ShardId> {
    let placed = place(shards, members);
    let shards = (0..shards).zip(placed);
    let own = shards.filter(|(_, place)| members.get(*place) == Some(&member));
    own.map(|(shard, _)| ShardId(shard)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHARDS: u16 = 32;

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("engine-{number}-{:x}", number * 7_919))
            .collect()
    }

    fn owners(members: &[String]) -> Vec<String> {
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let placed = place(SHARDS, &members);
        placed.into_iter().map(|place| members[place].to_owned()).collect()
    }

    #[test]
    fn everybody_places_alike_and_nobody_has_too_much() {
        for count in 1..40 {
            let mut members = names(count);
            let placed = owners(&members);
            members.reverse();
            assert_eq!(owners(&members), placed);
            let most = usize::from(SHARDS).div_ceil(count);
            for member in &members {
                assert!(placed.iter().filter(|owner| *owner == member).count() <= most);
            }
        }
        assert!(place(SHARDS, &[]).is_empty());
    }

    #[test]
    fn little_moves_when_a_member_goes() {
        let mut moved = 0;
        for count in 2..10 {
            let all = names(count);
            let before = owners(&all);
            for gone in 0..count {
                let mut rest = all.clone();
                let gone = rest.remove(gone);
                let after = owners(&rest);
                assert!(!after.contains(&gone));
                let stayed = before.iter().zip(&after).filter(|(a, b)| a == b).count();
                let own = before.iter().filter(|owner| **owner == gone).count();
                moved += usize::from(SHARDS) - stayed - own;
            }
        }
        // 44 departures of some 32 shards each: the bound on loads moves a few others along.
        assert!(moved < 44 * 5, "{moved} shards moved that nobody had left");
    }

    #[test]
    fn every_shard_is_somebodys() {
        let members = names(3);
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let all: BTreeSet<ShardId> = members
            .iter()
            .flat_map(|member| shards_of(SHARDS, &members, member))
            .collect();
        assert_eq!(all.len(), usize::from(SHARDS));
        assert!(shards_of(SHARDS, &members, "stranger").is_empty());
    }
}
