//! Ports for servers that tests start.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

/// Below those that systems give to whoever connects or asks for any port: nobody gets one of these by chance between the look and the
/// start of the server.
const FIRST: u16 = 28_000;
const COUNT: u16 = 4_000;

/// A port where nobody listens, and that no other test is given while this process lives.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    // Whoever looks at the same time begins elsewhere.
    let first = u16::try_from(RandomState::new().build_hasher().finish() % u64::from(COUNT)).unwrap();
    for place in 0..COUNT {
        let port = FIRST + (first + place) % COUNT;
        // A name that the kernel gives to one at a time, and takes back when the process ends, however that comes.
        let name = SocketAddr::from_abstract_name(format!("troupe-test-port-{port}")).unwrap();
        let Ok(held) = UnixDatagram::bind_addr(&name) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().unwrap().push(held);
            return port;
        }
    }
    panic!("no port is free");
}
