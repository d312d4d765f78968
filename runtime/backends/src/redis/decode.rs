//! Answers of the server and bytes of the store, as what the port speaks of.

use bytes::Bytes;
use redis::Value;
use troupe_core::{Epoch, ExecutionId, Json, LogPosition, Seq, ShardId, StateFormat, Timestamp};
use troupe_ports::{Archive, CommitId, ExecutionBase, InboxId, InboxItem, LogRecord, StoreError, Wait};

use super::layout::ARCHIVE_HEAD;

pub(super) fn damaged(why: impl Into<String>) -> StoreError {
    StoreError::Damaged(why.into())
}

fn unexpected(value: &Value) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay | Value::VerbatimString { .. } => "text",
        Value::Array(_) | Value::Set(_) => "a list",
        Value::Map(_) => "a map",
        _ => "something else",
    };
    damaged(format!("Redis answered with {kind} where something else belongs"))
}

/// A shard whose owner record is gone: every script says so, none makes a new one.
pub(super) fn gone(shard: ShardId) -> StoreError {
    damaged(format!(
        "shard {shard} is not in Redis any more: it was emptied, replaced or restored from before the store was created"
    ))
}

/// What a script answered: itself, or, as a list of one text, why what is stored does not reach what it goes on from.
pub(super) fn not_behind(shard: ShardId, value: Value) -> Result<Value, StoreError> {
    let Value::Array(mut why) = value else {
        return Ok(value);
    };
    match why.pop().map(bytes) {
        Some(Ok(why)) => Err(StoreError::WentBack(format!(
            "shard {shard}: {}",
            String::from_utf8_lossy(&why)
        ))),
        Some(Err(error)) => Err(error),
        None => Err(damaged(format!("shard {shard}: a refusal without a reason"))),
    }
}

/// What a fenced script answered: itself, or why it did nothing.
pub(super) fn fenced(value: Value, shard: ShardId, ours: Epoch) -> Result<Value, StoreError> {
    match value {
        Value::Nil => Err(gone(shard)),
        Value::BulkString(owner) => {
            let owner = Epoch(decimal(&owner)?);
            if owner < ours {
                // Epochs only grow.
                let why = format!("shard {shard}: it is under epoch {owner}, and was under {ours}");
                return Err(StoreError::WentBack(why));
            }
            Err(StoreError::Fenced { shard, owner, ours })
        }
        Value::SimpleString(why) => Err(damaged(format!("shard {shard}: {why}"))),
        value => Ok(value),
    }
}

pub(super) fn number(value: Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| damaged(format!("{number} where a count belongs"))),
        Value::BulkString(text) => decimal(&text),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn numbers<const N: usize>(value: Value) -> Result<[u64; N], StoreError> {
    let parts = list(value)?.into_iter().map(number).collect::<Result<Vec<_>, _>>()?;
    <[u64; N]>::try_from(parts).map_err(|parts| damaged(format!("{} numbers instead of {N}", parts.len())))
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, StoreError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| damaged("Redis holds something else where a number belongs"))
}

pub(super) fn format(number: u64) -> Result<StateFormat, StoreError> {
    let number = u8::try_from(number).map_err(|_| damaged(format!("{number} where a format belongs")))?;
    Ok(StateFormat(number))
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(parts) | Value::Set(parts) => Ok(parts),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn bytes(value: Value) -> Result<Vec<u8>, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => Err(unexpected(&other)),
    }
}

/// Bytes, or nothing.
pub(super) fn bytes_if_any(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        value => bytes(value).map(Some),
    }
}

/// Field and value of a hash.
type Pair = (Vec<u8>, Vec<u8>);

/// Pairs of a hash, by RESP3 or RESP2.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, StoreError> {
    match value {
        Value::Map(pairs) => pairs
            .into_iter()
            .map(|(key, value)| Ok((bytes(key)?, bytes(value)?)))
            .collect(),
        value => {
            let mut parts = list(value)?.into_iter();
            let mut pairs = Vec::new();
            while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                pairs.push((bytes(key)?, bytes(value)?));
            }
            Ok(pairs)
        }
    }
}

pub(super) fn json(bytes: Vec<u8>, what: &str) -> Result<Json, StoreError> {
    String::from_utf8(bytes)
        .map(Json::from_trusted)
        .map_err(|_| damaged(format!("{what} is no text")))
}

/// Takes the first `N` bytes.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], StoreError> {
    let (head, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or_else(|| damaged("a value in Redis is shorter than its form"))?;
    *bytes = rest;
    Ok(head)
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, StoreError> {
    take(bytes).map(|head| u64::from_be_bytes(*head))
}

fn take_instant(bytes: &mut &[u8]) -> Result<Timestamp, StoreError> {
    take_number(bytes).map(|number| Timestamp((number ^ (1 << 63)).cast_signed()))
}

pub(super) fn execution(bytes: &[u8]) -> Result<ExecutionId, StoreError> {
    <[u8; 16]>::try_from(bytes)
        .map(ExecutionId)
        .map_err(|_| damaged("an id in Redis has not 16 bytes"))
}

/// A member of an index by instant.
pub(super) fn member(value: Value) -> Result<(Timestamp, ExecutionId), StoreError> {
    let bytes = bytes(value)?;
    let mut rest = &bytes[..];
    let at = take_instant(&mut rest)?;
    Ok((at, execution(rest)?))
}

/// Which commit wrote a record: the first bytes of it.
pub(super) fn commit(mut record: &[u8]) -> Result<CommitId, StoreError> {
    take(&mut record).map(|id| CommitId(u128::from_be_bytes(*id)))
}

/// Answer of the script that reads the log: the position of the first record, then records.
pub(super) fn records(value: Value) -> Result<(LogPosition, Vec<LogRecord>), StoreError> {
    let mut parts = list(value)?.into_iter();
    let first = number(parts.next().unwrap_or(Value::Nil))?;
    let records = parts.zip(first..).map(|(record, position)| {
        let record = bytes(record)?;
        Ok(LogRecord {
            position: LogPosition(position),
            commit: commit(&record)?,
            bytes: Bytes::from(record).slice(16..),
        })
    });
    Ok((LogPosition(first), records.collect::<Result<_, StoreError>>()?))
}

/// Answer of the script that reads an inbox: arrival, id and bytes in turn.
pub(super) fn inbox(value: Value) -> Result<Vec<InboxItem>, StoreError> {
    let mut parts = list(value)?.into_iter();
    let mut items = Vec::new();
    while let (Some(arrival), Some(id), Some(content)) = (parts.next(), parts.next(), parts.next()) {
        let id = <[u8; 32]>::try_from(bytes(id)?).map_err(|_| damaged("an id in an inbox has not 32 bytes"))?;
        items.push(InboxItem {
            arrival: number(arrival)?,
            id: InboxId(id),
            bytes: bytes(content)?.into(),
        });
    }
    Ok(items)
}

fn segments(value: Value) -> Result<Vec<(Seq, Bytes)>, StoreError> {
    list(value)?
        .into_iter()
        .map(|segment| after_seq(bytes(segment)?))
        .collect()
}

/// A seq and what stands after it.
fn after_seq(stored: Vec<u8>) -> Result<(Seq, Bytes), StoreError> {
    let seq = Seq(take_number(&mut &stored[..])?);
    Ok((seq, Bytes::from(stored).slice(8..)))
}

/// Answer of the script that loads an execution.
pub(super) fn base(value: Value, id: ExecutionId) -> Result<Option<ExecutionBase>, StoreError> {
    let mut parts = match value {
        Value::Nil => return Ok(None),
        Value::BulkString(tombstone) => {
            let last = Seq(take_number(&mut &tombstone[..])?);
            return Ok(Some(ExecutionBase::Tombstone { last }));
        }
        value => list(value)?.into_iter(),
    };
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (head, second, third) = (bytes(next())?, next(), parts.next());
    Ok(Some(match third {
        Some(third) => ExecutionBase::Live {
            snapshot: bytes_if_any(second)?.map(after_seq).transpose()?,
            segments: segments(third)?,
            wait: wait(&head, id)?,
        },
        None => ExecutionBase::Ended(archive(head, id)?, segments(second)?),
    }))
}

fn wait(live: &[u8], id: ExecutionId) -> Result<Wait, StoreError> {
    let mut rest = live;
    take_number(&mut rest)?;
    let [kind] = *take(&mut rest)?;
    let due = take_instant(&mut rest)?;
    match kind {
        b'0' => Ok(Wait::Running),
        b'1' => Ok(Wait::Until(due)),
        b'2' => Ok(Wait::Message),
        other => Err(damaged(format!("execution {id} waits for {other}"))),
    }
}

fn archive(stored: Vec<u8>, id: ExecutionId) -> Result<Archive, StoreError> {
    let mut rest = &stored[..];
    let last = Seq(take_number(&mut rest)?);
    let expires_at = take_instant(&mut rest)?;
    let tombstone_ms = take_number(&mut rest)?;
    take_instant(&mut rest)?;
    Ok(Archive {
        id,
        last,
        bytes: Bytes::from(stored).slice(ARCHIVE_HEAD..),
        expires_at,
        tombstone_ms,
    })
}
