//! Removing a store with everything in it.

use std::collections::BTreeMap;

use super::error::RedisOpenError;
use super::link::Link;
use super::walk::Walk;
use super::{decode, layout};

/// Names of keys that a server looks through at a time.
const STEP_KEYS: usize = 500;
/// How often all servers are looked through, at most: whoever still uses the store must not keep this going for ever.
const LOOKS_MAX: usize = 16;

/// Removes every key under a prefix from every server that has slots; how many there were.
pub(super) async fn erase(link: &Link, prefix: &str) -> Result<u64, RedisOpenError> {
    let (meta, meta_slot) = layout::meta(prefix);
    let mut erased = 0;
    // What moves meanwhile, to a server that was looked through before, only the next look finds: the last one finds nothing.
    for _ in 0..LOOKS_MAX {
        match look(link, prefix, &meta).await? {
            0 => break,
            found => erased += found,
        }
    }
    // Last: of a store that is half gone it says that there was one, so that nobody takes what is left for a new one.
    erased += unlink(link, meta_slot, &[meta]).await?;
    Ok(erased)
}

/// Looks through every server, one after the other, and removes what there is but for `meta`; how many keys that were.
async fn look(link: &Link, prefix: &str, meta: &[u8]) -> Result<u64, RedisOpenError> {
    let pattern = format!("{}*", layout::beginning(prefix));
    let mut erased = 0;
    for server in link.servers().await? {
        let mut walk = Walk::default();
        while !walk.is_over() {
            let mut scan = redis::cmd("SCAN");
            scan.arg(walk.cursor())
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(STEP_KEYS);
            let mut found: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
            for key in walk.step(server.send(&scan).await?)? {
                let key = decode::bytes(key)?;
                if let Some(slot) = layout::slot_under(prefix, &key)
                    && key != meta
                {
                    found.entry(slot).or_default().push(key);
                }
            }
            for (slot, keys) in found {
                erased += unlink(link, slot, &keys).await?;
            }
        }
    }
    Ok(erased)
}

/// Removes keys of one slot; how many there were.
async fn unlink(link: &Link, slot: u16, keys: &[Vec<u8>]) -> Result<u64, RedisOpenError> {
    let mut command = redis::cmd("UNLINK");
    for key in keys {
        command.arg(key);
    }
    Ok(decode::number(link.send(slot, &command).await?)?)
}
