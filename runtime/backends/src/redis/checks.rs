//! What a server must be before it is trusted with state; asked of each new connection, so that also the server that
//! takes over after a failover is asked.

use std::collections::BTreeSet;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, Value};

use super::decode;
use super::error::{LinkError, RedisOpenError};
use super::node::Settings;
use super::options::RedisDurability;
use super::target::Address;

/// Oldest major version that has what the scripts use.
const MAJOR_MIN: u64 = 7;

/// Checks one server.
///
/// # Errors
///
/// [`LinkError::Refused`] with what to change; the others when it does not answer.
pub(super) async fn server(
    connection: &mut impl ConnectionLike,
    address: &Address,
    settings: &Settings,
) -> Result<(), LinkError> {
    let info = text(connection, redis::cmd("INFO").arg("server")).await?;
    let version = field(&info, "redis_version").unwrap_or("unknown").to_owned();
    let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    if major.is_none_or(|major| major < MAJOR_MIN) {
        return Err(LinkError::Refused(RedisOpenError::TooOld { found: version }));
    }
    let memory = text(connection, redis::cmd("INFO").arg("memory")).await?;
    match field(&memory, "maxmemory_policy") {
        Some("noeviction") => {}
        Some(found) => {
            let found = found.to_owned();
            return Err(LinkError::Refused(RedisOpenError::Evicts { found }));
        }
        None => tracing::warn!("this Redis does not tell its maxmemory-policy; it must be noeviction"),
    }
    if settings.durability == RedisDurability::Volatile {
        return Ok(());
    }
    let persistence = text(connection, redis::cmd("INFO").arg("persistence")).await?;
    let file = field(&persistence, "aof_enabled").map(|enabled| enabled == "1");
    let found = configured(connection).await?;
    keeps_what_it_acknowledges(settings.durability, settings.settings_vouched, file, found.as_ref()).map_err(
        |why| {
            LinkError::Refused(RedisOpenError::NotDurable {
                asked: name(settings.durability),
                why,
            })
        },
    )?;
    let replication = text(connection, redis::cmd("INFO").arg("replication")).await?;
    let has_replicas = field(&replication, "connected_slaves").is_some_and(|count| count != "0");
    let is_alone = has_replicas && found.is_some_and(|found| found.replicas_to_write == "0");
    if tells_now(&mut settings.unreplicated.lock(), address, is_alone) {
        tracing::warn!(
            %address,
            "this Redis has replicas and acknowledges without them: a failover may lose what was acknowledged. Set \
             `min-replicas-to-write 1` and `min-replicas-max-lag` so that a master that is cut off stops"
        );
    }
    Ok(())
}

/// Whether what is wrong with a server is to be told: once, and again only where it was right in between.
fn tells_now(told: &mut BTreeSet<Address>, address: &Address, is_wrong: bool) -> bool {
    if !is_wrong {
        told.remove(address);
        return false;
    }
    told.insert(address.clone())
}

fn name(durability: RedisDurability) -> &'static str {
    match durability {
        RedisDurability::Strict => "strict",
        RedisDurability::Relaxed => "relaxed",
        RedisDurability::Volatile => "volatile",
    }
}

/// What `CONFIG GET` tells.
struct Configured {
    appendfsync: String,
    /// `yes` leaves out syncs while the file is rewritten; none: it does not tell.
    pauses_for_rewrite: Option<String>,
    replicas_to_write: String,
}

/// Whether the settings give what was asked for; if not, what to set. None: the server does not tell. `vouched`: an operator has looked up what
/// is asked by `CONFIG GET`. Nobody vouches for there being a file.
fn keeps_what_it_acknowledges(
    asked: RedisDurability,
    vouched: bool,
    file: Option<bool>,
    found: Option<&Configured>,
) -> Result<(), String> {
    let is_strict = asked == RedisDurability::Strict;
    match file {
        Some(true) => {}
        None if vouched && !is_strict => {}
        Some(false) => {
            return Err(
                "appendonly is no. Set `appendonly yes` in redis.conf and by `CONFIG SET appendonly yes`; for a \
                 demonstration that may lose everything ask for volatile durability"
                    .to_owned(),
            );
        }
        None => {
            return Err(
                "this Redis does not tell whether it has an append-only file (`aof_enabled` of `INFO persistence`), for which \
                 nobody can vouch. Ask for relaxed durability with `store.settings_vouched = true`, or for volatile durability"
                    .to_owned(),
            );
        }
    }
    let Some(found) = found else {
        if !is_strict {
            tracing::warn!("this Redis forbids CONFIG GET: whether appendfsync is everysec or always is not known");
        } else if !vouched {
            return Err(
                "this Redis forbids CONFIG GET, so appendfsync cannot be checked. Make sure that it is always, and \
                 no-appendfsync-on-rewrite no, and vouch for it (`store.settings_vouched = true`), or ask for relaxed \
                 durability"
                    .to_owned(),
            );
        }
        return Ok(());
    };
    match (&found.appendfsync[..], is_strict) {
        ("always", _) | ("everysec", false) => {}
        (other, true) => {
            return Err(format!(
                "appendfsync is {other}, and a crash would lose what was acknowledged. Set `appendfsync always` in \
                 redis.conf and by `CONFIG SET appendfsync always`, or ask for relaxed durability, which may lose about a \
                 second"
            ));
        }
        (other, false) => {
            return Err(format!(
                "appendfsync is {other}, which leaves the moment of a sync to the system. Set `appendfsync everysec` or \
                 `always`"
            ));
        }
    }
    match (found.pauses_for_rewrite.as_deref(), is_strict) {
        (Some("yes"), true) => Err(
            "no-appendfsync-on-rewrite is yes: nothing is synced while the file is rewritten. Set \
             `no-appendfsync-on-rewrite no` in redis.conf and by `CONFIG SET no-appendfsync-on-rewrite no`"
                .to_owned(),
        ),
        (Some("yes"), false) => {
            tracing::warn!("no-appendfsync-on-rewrite is yes: a crash during a rewrite may lose half a minute");
            Ok(())
        }
        (None, true) if !vouched => Err(
            "this Redis does not tell no-appendfsync-on-rewrite. Make sure that it is no, and vouch for it \
             (`store.settings_vouched = true`), or ask for relaxed durability"
                .to_owned(),
        ),
        (None | Some(_), _) => Ok(()),
    }
}

/// The value of a line of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

async fn answer(connection: &mut impl ConnectionLike, command: &redis::Cmd) -> Result<Value, RedisError> {
    connection
        .req_packed_command(command)
        .await
        .and_then(Value::extract_error)
}

async fn text(connection: &mut impl ConnectionLike, command: &redis::Cmd) -> Result<String, LinkError> {
    match answer(connection, command).await.map_err(LinkError::of_answer)? {
        Value::VerbatimString { text, .. } => Ok(text),
        Value::BulkString(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        _ => Ok(String::new()),
    }
}

/// The settings; none where the server does not tell.
async fn configured(connection: &mut impl ConnectionLike) -> Result<Option<Configured>, LinkError> {
    let mut command = redis::cmd("CONFIG");
    command
        .arg("GET")
        .arg("appendfsync")
        .arg("no-appendfsync-on-rewrite")
        .arg("min-replicas-to-write");
    let pairs = match answer(connection, &command).await {
        Ok(value) => decode::pairs(value).unwrap_or_default(),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => return Ok(None),
        Err(error) => return Err(LinkError::Unknown(error)),
    };
    let value = |name: &str| {
        let found = pairs.iter().find(|(key, _)| key == name.as_bytes());
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    Ok(value("appendfsync").map(|appendfsync| Configured {
        appendfsync,
        pauses_for_rewrite: value("no-appendfsync-on-rewrite"),
        replicas_to_write: value("min-replicas-to-write").unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::options::RedisDurability::{self, Relaxed, Strict};
    use super::super::target::Address;
    use super::{Configured, field, keeps_what_it_acknowledges, tells_now};

    /// Whether the durability is there, by whether there is a file and by `appendfsync` and `no-appendfsync-on-rewrite`, as far as that is told.
    fn keeps(asked: RedisDurability, vouched: bool, file: Option<bool>, told: Option<(&str, Option<&str>)>) -> bool {
        let told = told.map(|(appendfsync, pauses)| Configured {
            appendfsync: appendfsync.to_owned(),
            pauses_for_rewrite: pauses.map(str::to_owned),
            replicas_to_write: String::new(),
        });
        keeps_what_it_acknowledges(asked, vouched, file, told.as_ref()).is_ok()
    }

    #[test]
    fn strict_durability_wants_a_word_for_each_setting_that_is_not_told() {
        let file = Some(true);
        for (told, unvouched, vouched) in [
            (Some(("always", Some("no"))), true, true),
            (Some(("always", None)), false, true),
            (None, false, true),
            // What is told counts, whoever vouches.
            (Some(("always", Some("yes"))), false, false),
            (Some(("everysec", Some("no"))), false, false),
            (Some(("everysec", None)), false, false),
        ] {
            let strict = [false, true].map(|word| keeps(Strict, word, file, told));
            assert_eq!(strict, [unvouched, vouched], "{told:?}");
            assert!(keeps(Relaxed, false, file, told), "{told:?}");
        }
    }

    #[test]
    fn nobody_vouches_for_a_file_of_a_strict_server() {
        let right = Some(("always", Some("no")));
        for told in [right, None] {
            for vouched in [false, true] {
                assert!(!keeps(Strict, vouched, None, told), "{told:?}");
                assert!(!keeps(Strict, vouched, Some(false), told), "{told:?}");
                assert!(!keeps(Relaxed, vouched, Some(false), told), "{told:?}");
                assert_eq!(keeps(Relaxed, vouched, None, told), vouched, "{told:?}");
            }
        }
    }

    #[test]
    fn a_server_is_told_of_once_until_it_is_right() {
        let server = |port| Address {
            host: "redis".to_owned(),
            port,
        };
        let mut told = BTreeSet::new();
        let said = [(1, true), (1, true), (2, true), (1, false), (1, true), (2, true)]
            .map(|(port, is_wrong)| tells_now(&mut told, &server(port), is_wrong));
        assert_eq!(said, [true, false, true, false, true, false]);
    }

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(field(info, "maxmemory_policy"), Some("noeviction"));
        assert_eq!(field(info, "maxmemory"), Some("0"));
        assert_eq!(field(info, "policy"), None);
    }
}
