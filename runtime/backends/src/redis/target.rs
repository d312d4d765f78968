//! The URL of a deployment's Redis: one server, the master that Sentinel names, or a cluster.

use std::fs;
use std::path::Path;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, TlsCertificates,
};

use super::error::RedisOpenError;
use super::options::RedisTls;

const REDIS_PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `host:port`, with brackets round an IPv6 address or not.
    pub(super) fn parse(text: &str, port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, digits)) if !host.contains(':') || host.ends_with(']') => (host, digits.parse().ok()?),
            // The bare IPv6 address and the port of a `MOVED`.
            Some((host, digits)) if !text.ends_with(']') => (host, digits.parse().ok()?),
            _ => (text, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// User and password; none of both means no login.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// Where the server is to be found.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    Server(Address),
    Sentinels {
        sentinels: Vec<Address>,
        master: String,
        login: Login,
    },
    Cluster(Vec<Address>),
}

/// What the URL says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub place: Place,
    pub encrypted: bool,
    pub login: Login,
    pub database: i64,
}

fn unusable(why: impl Into<String>) -> RedisOpenError {
    RedisOpenError::Options(why.into())
}

fn decoded(text: &str) -> Result<String, RedisOpenError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(unusable("a % of the URL is not followed by two hexadecimal digits"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
    }
    String::from_utf8(bytes).map_err(|_| unusable("the URL has bytes that are no UTF-8"))
}

fn login(text: &str) -> Result<Login, RedisOpenError> {
    let (user, password) = text
        .split_once(':')
        .map_or((text, None), |(user, word)| (user, Some(word)));
    Ok(Login {
        user: (!user.is_empty()).then(|| decoded(user)).transpose()?,
        password: password.map(decoded).transpose()?,
    })
}

fn addresses(text: &str, port: u16) -> Result<Vec<Address>, RedisOpenError> {
    let wrong = || unusable("the URL has a server that is no host or host:port");
    let each = text.split(',').map(|host| Address::parse(host, port).ok_or_else(wrong));
    each.collect()
}

fn database(text: &str) -> Result<i64, RedisOpenError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| unusable("the path of the URL is no number of a database"))
}

impl Target {
    /// Reads a URL. What is told of one that does not serve repeats no part of it: any may be of a login.
    pub(super) fn parse(url: &str) -> Result<Self, RedisOpenError> {
        let unknown = || {
            unusable(
                "the URL begins with none of redis://, redis+sentinel:// and redis+cluster://, or these with rediss \
                 for TLS",
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A query may have one of its own once the login has ended.
        if path.contains('@') || (query.contains('@') && !hosts.contains('@')) {
            return Err(unusable(
                "the URL has an @ behind a / or a ?: in a user and a password these are written %2F and %3F, and an @ \
                 behind the host is %40",
            ));
        }
        let (user, hosts) = hosts.rsplit_once('@').unwrap_or(("", hosts));
        let (protocol, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let encrypted = match protocol {
            "redis" => false,
            "rediss" => true,
            _ => return Err(unknown()),
        };
        let mut sentinel_login = Login::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match (kind, pair.split_once('=')) {
                ("sentinel", Some(("sentinel_username", value))) => sentinel_login.user = Some(decoded(value)?),
                ("sentinel", Some(("sentinel_password", value))) => sentinel_login.password = Some(decoded(value)?),
                _ => {
                    return Err(unusable(
                        "the URL has a parameter that is not known here: only redis+sentinel:// has some, sentinel_username and \
                         sentinel_password",
                    ));
                }
            }
        }
        let (place, number) = match kind {
            "" => match addresses(hosts, REDIS_PORT)?.as_slice() {
                [server] => (Place::Server(server.clone()), path),
                _ => return Err(unusable("several hosts need redis+cluster:// or redis+sentinel://")),
            },
            "cluster" if path.trim_matches('/').is_empty() => (Place::Cluster(addresses(hosts, REDIS_PORT)?), ""),
            "cluster" => return Err(unusable("a Redis Cluster has only database 0")),
            "sentinel" => {
                let (master, number) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(unusable("the URL names no master: redis+sentinel://host:26379/master"));
                }
                let place = Place::Sentinels {
                    sentinels: addresses(hosts, SENTINEL_PORT)?,
                    master: decoded(master)?,
                    login: sentinel_login,
                };
                (place, number)
            }
            _ => return Err(unknown()),
        };
        Ok(Self {
            place,
            encrypted,
            login: login(user)?,
            database: database(number.trim_end_matches('/'))?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RedisOpenError> {
    fs::read(path).map_err(|error| unusable(format!("{} cannot be read: {error}", path.display())))
}

/// The certificates as the client wants them.
pub(super) fn certificates(tls: &RedisTls) -> Result<TlsCertificates, RedisOpenError> {
    let client_tls = match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(certificate)?,
            client_key: read(key)?,
        }),
        (None, None) => None,
        _ => {
            return Err(unusable(
                "a client certificate needs its key, and a key its certificate",
            ));
        }
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert: tls.ca_file.as_deref().map(read).transpose()?,
    })
}

/// A client of one server.
pub(super) fn client(
    address: &Address,
    login: &Login,
    database: i64,
    certificates: Option<&TlsCertificates>,
) -> Result<Client, RedisOpenError> {
    let mut settings = RedisConnectionInfo::default()
        .set_db(database)
        .set_protocol(ProtocolVersion::RESP3);
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &login.password {
        settings = settings.set_password(password);
    }
    let host = address.host.clone();
    let made = match certificates {
        Some(certificates) => ConnectionAddr::TcpTls {
            host,
            port: address.port,
            insecure: false,
            tls_params: None,
        }
        .into_connection_info()
        .and_then(|info| Client::build_with_tls(info.set_redis_settings(settings), certificates.clone())),
        None => ConnectionAddr::Tcp(host, address.port)
            .into_connection_info()
            .and_then(|info| Client::open(info.set_redis_settings(settings))),
    };
    made.map_err(|error| unusable(format!("{address}: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_does_not_serve_is_told_without_any_part_of_it() {
        for url in [
            "redis://:Left/Right@h:6379",
            "redis://:Left?Right@h:6379",
            "redis://u:1/Right@h",
            "redis://u:1?Right@h",
            "redis://u:Left@1/Right@h",
            "redis://u:Left@1?Right@h",
            "redis+sentinel://u:1/Right@h",
            "redis+cluster://u:1/Right@h",
            "redis://:Left",
            "redis://u:Left",
            "redis://h/Right",
            "redis+sentinel://h/master?Right=1",
            "redis+Left://h",
            "Left://Right@h",
            "Left",
        ] {
            let why = Target::parse(url).err().unwrap().to_string();
            assert!(!why.contains("Left") && !why.contains("Right"), "{url}: {why}");
        }
    }

    #[test]
    fn a_login_ends_at_the_last_at_sign_before_the_path() {
        let target = Target::parse("redis://us%2Fer:p%2F%3Fa@ss#@h:1/2").ok().unwrap();
        assert_eq!(target.login.user.as_deref(), Some("us/er"));
        assert_eq!(target.login.password.as_deref(), Some("p/?a@ss#"));
        assert_eq!(target.database, 2);
        let Place::Server(server) = target.place else {
            panic!("one server")
        };
        assert_eq!(server.to_string(), "h:1");

        let url = "redis+sentinel://:p@h,[::1]:2/master?sentinel_password=a@b%40";
        let Place::Sentinels {
            sentinels,
            master,
            login,
        } = Target::parse(url).ok().unwrap().place
        else {
            panic!("Sentinels")
        };
        let sentinels: Vec<String> = sentinels.iter().map(Address::to_string).collect();
        assert_eq!(sentinels, ["h:26379", "[::1]:2"]);
        assert_eq!((master.as_str(), login.password.as_deref()), ("master", Some("a@b@")));
    }
}
