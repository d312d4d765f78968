//! Servers that tests start, and name spaces of their own on shared ones.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, clippy::unwrap_used)]

pub mod redis;

use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{next}-{now:x}", std::process::id())
}
