//! Removing a store with everything in it.

use std::collections::BTreeMap;

use redis::Value;

use super::error::RedisOpenError;
use super::link::Link;
use super::{decode, layout};

/// Names of keys that a server looks through at a time.
const STEP_KEYS: usize = 500;

/// Removes every key under a prefix from every server that has slots; how many there were.
pub(super) async fn erase(link: &Link, prefix: &str) -> Result<u64, RedisOpenError> {
    let (meta, meta_slot) = layout::meta(prefix);
    let pattern = format!("{}*", layout::beginning(prefix));
    let mut erased = 0;
    for server in link.servers().await? {
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP_KEYS);
            let mut answer = decode::list(server.send(&scan).await?)?.into_iter();
            let mut next = || answer.next().unwrap_or(Value::Nil);
            cursor = decode::bytes(next())?;
            let mut found: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
            for key in decode::list(next())? {
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
            if cursor == b"0" {
                break;
            }
        }
    }
    // Last: of a store that is half gone it says that there was one, so that nobody takes what is left for a new one.
    erased += unlink(link, meta_slot, &[meta]).await?;
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
