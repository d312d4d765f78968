//! Servers that tests start, and name spaces of their own on shared ones.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, clippy::unwrap_used)]

mod ports;
pub mod redis;

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use ports::free_port;

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{next}-{now:x}", std::process::id())
}
