//! What a server must be before it is trusted with state; asked of each new connection, so that also the server that
//! takes over after a failover is asked.

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, Value};

use super::decode;
use super::error::{LinkError, RedisOpenError};
use super::node::Settings;
use super::options::RedisDurability;

/// Oldest major version that has what the scripts use.
const MAJOR_MIN: u64 = 7;

/// Checks one server.
///
/// # Errors
///
/// [`LinkError::Refused`] with what to change; the others when it does not answer.
pub(super) async fn server(connection: &mut impl ConnectionLike, settings: &Settings) -> Result<(), LinkError> {
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
    let asked = match settings.durability {
        RedisDurability::Volatile => return Ok(()),
        RedisDurability::Relaxed => "relaxed",
        RedisDurability::Strict => "strict",
    };
    let persistence = text(connection, redis::cmd("INFO").arg("persistence")).await?;
    let refuse = |why: String| Err(LinkError::Refused(RedisOpenError::NotDurable { asked, why }));
    match field(&persistence, "aof_enabled") {
        Some("1") => {}
        Some(_) => {
            return refuse(
                "appendonly is no. Set `appendonly yes` in redis.conf and by `CONFIG SET appendonly yes`; for a \
                 demonstration that may lose everything ask for volatile durability"
                    .to_owned(),
            );
        }
        None if settings.settings_vouched => {}
        None => return refuse("this Redis does not tell whether it has an append-only file".to_owned()),
    }
    match appendfsync(connection).await? {
        Some(found) if found == "always" => Ok(()),
        Some(found) if found == "everysec" && settings.durability == RedisDurability::Relaxed => Ok(()),
        Some(found) if settings.durability == RedisDurability::Strict => refuse(format!(
            "appendfsync is {found}, and a crash would lose what was acknowledged. Set `appendfsync always` in redis.conf \
             and by `CONFIG SET appendfsync always`, or ask for relaxed durability, which may lose about a second"
        )),
        Some(found) => refuse(format!(
            "appendfsync is {found}, which leaves the moment of a sync to the system. Set `appendfsync everysec` or `always`"
        )),
        None if settings.settings_vouched => Ok(()),
        None if settings.durability == RedisDurability::Relaxed => {
            tracing::warn!("this Redis forbids CONFIG GET: whether appendfsync is everysec or always is not known");
            Ok(())
        }
        None => refuse(
            "this Redis forbids CONFIG GET, so appendfsync cannot be checked. Make sure that it is always and vouch for it \
             (`settings_vouched`), or ask for relaxed durability"
                .to_owned(),
        ),
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

/// The setting; none where the server does not tell.
async fn appendfsync(connection: &mut impl ConnectionLike) -> Result<Option<String>, LinkError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("appendfsync");
    match answer(connection, &command).await {
        Ok(value) => Ok(decode::pairs(value)
            .unwrap_or_default()
            .pop()
            .map(|(_, value)| String::from_utf8_lossy(&value).into_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Ok(None),
        Err(error) => Err(LinkError::Unknown(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(field(info, "maxmemory_policy"), Some("noeviction"));
        assert_eq!(field(info, "maxmemory"), Some("0"));
        assert_eq!(field(info, "policy"), None);
    }
}
