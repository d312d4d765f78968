//! The egress guard: decides which addresses a definition may make the engine talk to.
//!
//! Addresses that are not public are refused unless the operator lists them. What is checked is the address that is
//! connected to: IP literals before the request, names in the resolver of the connector itself, on every hop.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// Which targets beyond the public ones may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    entries: Vec<Entry>,
    listed_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Host {
        host: String,
        port: Option<u16>,
    },
    Network {
        address: IpAddr,
        bits: u8,
        port: Option<u16>,
    },
}

/// An entry of the allow-list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no `host`, `host:port`, address or CIDR range")]
pub struct EgressEntryError(pub String);

impl EgressPolicy {
    /// Public targets and those listed: `host`, `host:port`, an address, or a CIDR range, each with or without `:port`.
    ///
    /// # Errors
    /// [`EgressEntryError`] at the first entry that cannot be read.
    pub fn allowing<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, EgressEntryError> {
        let entries = entries.into_iter().map(Entry::parse).collect::<Result<_, _>>()?;
        Ok(Self {
            entries,
            listed_only: false,
        })
    }

    /// The same list, with public targets refused as well unless they are listed.
    #[must_use]
    pub fn listed_only(mut self) -> Self {
        self.listed_only = true;
        self
    }

    /// Whether an address may be connected to. `port` is unknown (none) while a name is resolved: entries that
    /// name a port do not count then.
    #[must_use]
    pub fn allows_address(&self, address: IpAddr, port: Option<u16>) -> bool {
        let listed = self.entries.iter().any(|entry| match entry {
            Entry::Network {
                address: network,
                bits,
                port: only,
            } => contains(*network, *bits, canonical(address)) && (only.is_none() || *only == port),
            Entry::Host { .. } => false,
        });
        listed || (!self.listed_only && is_public(address))
    }

    /// Whether a name is listed, whatever it resolves to.
    fn lists_host(&self, name: &str, port: u16) -> bool {
        let name = name.trim_end_matches('.');
        self.entries.iter().any(|entry| match entry {
            Entry::Host { host, port: only } => host.eq_ignore_ascii_case(name) && only.is_none_or(|only| only == port),
            Entry::Network { .. } => false,
        })
    }

    /// How a target may be reached.
    ///
    /// # Errors
    /// [`EgressDenied`] when it may not.
    pub(crate) fn check(&self, url: &Url) -> Result<Reach, EgressDenied> {
        let denied = || EgressDenied(url.host_str().unwrap_or_default().to_owned());
        if !matches!(url.scheme(), "http" | "https") {
            return Err(denied());
        }
        let port = url.port_or_known_default().ok_or_else(denied)?;
        // The URL parser has already read every notation of an IPv4 address there is.
        let address = match url.host().ok_or_else(denied)? {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(name) if self.lists_host(name, port) => return Ok(Reach::Listed),
            Host::Domain(_) => return Ok(Reach::Guarded),
        };
        if self.allows_address(address, Some(port)) {
            Ok(Reach::Listed)
        } else {
            Err(denied())
        }
    }
}

/// How the connector treats a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Checked already.
    Listed,
    /// Every address that its name resolves to is checked.
    Guarded,
}

/// The guard refuses a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the egress guard refuses `{0}`: its address is not public and not on the allow-list")]
pub(crate) struct EgressDenied(pub(crate) String);

impl Entry {
    fn parse(text: &str) -> Result<Self, EgressEntryError> {
        let wrong = || EgressEntryError(text.to_owned());
        let trimmed = text.trim();
        if let Some((address, rest)) = trimmed.split_once('/') {
            let address: IpAddr = address.trim_matches(['[', ']']).parse().map_err(|_| wrong())?;
            let (bits, port) = match rest.split_once(':') {
                Some((bits, port)) => (bits, Some(port.parse::<u16>().map_err(|_| wrong())?)),
                None => (rest, None),
            };
            let bits: u8 = bits.parse().map_err(|_| wrong())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= most {
                Ok(Self::Network { address, bits, port })
            } else {
                Err(wrong())
            };
        }
        let single = |address: IpAddr, port| {
            let address = canonical(address);
            Self::Network {
                address,
                bits: if address.is_ipv4() { 32 } else { 128 },
                port,
            }
        };
        if let Ok(address) = trimmed.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(single(address, None));
        }
        if let Ok(address) = trimmed.parse::<SocketAddr>() {
            return Ok(single(address.ip(), Some(address.port())));
        }
        let (host, port) = match trimmed.split_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| wrong())?)),
            None => (trimmed, None),
        };
        let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(part) {
            return Err(wrong());
        }
        Ok(Self::Host {
            host: host.trim_end_matches('.').to_owned(),
            port,
        })
    }
}

/// An IPv4 address written as IPv6 is the IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether an address belongs to the public internet. Source: the IANA special-purpose registries.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const V4_SPECIAL: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !V4_SPECIAL
        .iter()
        .any(|(network, bits)| contains(IpAddr::V4(*network), *bits, IpAddr::V4(address)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let groups = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match groups {
        // IPv4-mapped, and the translated form of SIIT.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => is_public_v4(embedded(high, low)),
        // NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(embedded(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Teredo and other protocol assignments, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Global unicast; everything else is loopback, local, multicast, compatible or unassigned.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// Looks names up.
pub(crate) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver.
pub(crate) fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// A resolver that gives only addresses which may be connected to.
pub(crate) struct GuardedResolver {
    policy: Arc<EgressPolicy>,
    lookup: Lookup,
}

impl GuardedResolver {
    pub(crate) fn new(policy: Arc<EgressPolicy>, lookup: Lookup) -> Self {
        Self { policy, lookup }
    }
}

impl fmt::Debug for GuardedResolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("GuardedResolver")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, found) = (Arc::clone(&self.policy), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let mut found = found.await?;
            let any = !found.is_empty();
            found.retain(|address| policy.allows_address(*address, None));
            if any && found.is_empty() {
                return Err(EgressDenied(name.as_str().to_owned()).into());
            }
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn private_targets_are_refused_in_every_notation() {
        let policy = EgressPolicy::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://017700000001/",
            "http://0/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:0:127.0.0.1]/",
            "http://[64:ff9b::10.0.0.1]/",
            "http://[64:ff9b:1::10.0.0.1]/",
            "http://[2002:7f00:1::]/",
            "http://[2002:a00:1::1]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://[fec0::1]/",
            "http://[ff02::1]/",
            "http://[2001::1]/",
            "http://[2001:db8::1]/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://172.31.255.255/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://100.100.100.200/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://198.18.0.1/",
            "http://192.0.0.192/",
            "http://１２７.０.０.１/",
            "http://127。0。0。1/",
            "ftp://8.8.8.8/",
            "file:///etc/passwd",
        ] {
            assert!(policy.check(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        for url in [
            "http://8.8.8.8/",
            "https://[2606:4700::1111]/",
            "http://[64:ff9b::8.8.8.8]/",
            "http://172.32.0.1/",
            "http://100.128.0.1/",
        ] {
            assert_eq!(policy.check(&Url::parse(url).unwrap()), Ok(Reach::Listed), "{url}");
        }
        assert_eq!(
            policy.check(&Url::parse("https://example.com/").unwrap()),
            Ok(Reach::Guarded)
        );
    }

    #[test]
    fn the_allow_list_names_hosts_ports_and_ranges() {
        let policy = EgressPolicy::allowing([
            "127.0.0.1:8080",
            "10.0.0.0/8",
            "intra.example:443",
            "Plain.example",
            "::1",
            "[fd00::1]:80",
            "192.168.7.0/24:81",
        ])
        .unwrap();
        for (url, allowed) in [
            ("http://127.0.0.1:8080/", true),
            ("http://127.0.0.1:8081/", false),
            ("http://[::ffff:127.0.0.1]:8080/", true),
            ("http://10.9.8.7/", true),
            ("http://11.0.0.1/", true),
            ("http://192.168.0.1/", false),
            ("http://192.168.7.3:81/", true),
            ("http://192.168.7.3/", false),
            ("http://[::1]:9/", true),
            ("http://[fd00::1]/", true),
            ("http://[fd00::1]:81/", false),
        ] {
            assert_eq!(policy.check(&Url::parse(url).unwrap()).is_ok(), allowed, "{url}");
        }
        for (url, reach) in [
            ("https://intra.example/", Reach::Listed),
            ("http://intra.example/", Reach::Guarded),
            ("http://plain.example.:81/", Reach::Listed),
            ("http://not-plain.example/", Reach::Guarded),
        ] {
            assert_eq!(policy.check(&Url::parse(url).unwrap()), Ok(reach), "{url}");
        }
        assert!(
            policy
                .clone()
                .listed_only()
                .check(&Url::parse("http://8.8.8.8/").unwrap())
                .is_err()
        );
        assert!(
            !policy.allows_address("127.0.0.1".parse().unwrap(), None),
            "a port-bound entry says nothing about names"
        );
        for wrong in ["", "a b", "10.0.0.0/33", "x/8", "host:port", "http://x"] {
            assert!(EgressPolicy::allowing([wrong]).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn names_are_checked_by_what_they_resolve_to() {
        let lookup: Lookup = Arc::new(|name| {
            Box::pin(async move {
                Ok(match name.as_str() {
                    "mixed.example" => vec!["10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap()],
                    _ => vec!["169.254.169.254".parse().unwrap(), "::1".parse().unwrap()],
                })
            })
        });
        let resolver = GuardedResolver::new(Arc::new(EgressPolicy::default()), lookup);
        let found: Vec<_> = resolver
            .resolve("mixed.example".parse().unwrap())
            .await
            .unwrap()
            .collect();
        assert_eq!(found, ["8.8.8.8:0".parse().unwrap()]);
        let error = resolver.resolve("rebind.example".parse().unwrap()).await.err().unwrap();
        assert!(error.downcast_ref::<EgressDenied>().is_some());
    }
}
