//! Semaphores: holders and the line of a key in sorted sets of one slot, by the server's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use redis::Value;
use troupe_core::{Epoch, ShardId};
use troupe_ports::semaphores::{BARRED_FOR, LINE_PATIENCE, PRIORITY_MAX};
use troupe_ports::{Ask, Asked, Hold, Semaphores, StoreError};

use super::layout::SemaphoreKeys;
use super::script::{ACQUIRE_TICKET, Arg, BAR_TICKET, Call, NOTES, RELEASE_TICKET, RENEW_TICKETS, Script};
use super::{RedisStore, decode};

/// Bars that are over and go with each new one: more than come, so that they do not gather.
const BARS_FORGOTTEN: u64 = 16;
/// Further apart than any two instants in milliseconds, and exact as a double together with one.
const PRIORITY_STEP: u64 = 10_000_000_000_000;

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The arguments that say for how long: time, and epoch.
fn hold_args<'a>(hold: Hold) -> [Arg<'a>; 2] {
    match hold {
        Hold::For(ttl) => [Arg::Number(ms(ttl)), Arg::Bytes(b"")],
        Hold::Under(epoch) => [Arg::Bytes(b""), Arg::Number(epoch.0)],
    }
}

impl RedisStore {
    /// Runs a script over a semaphore.
    async fn semaphore(
        &self,
        of: &SemaphoreKeys,
        script: &'static Script,
        keys: Vec<&[u8]>,
        args: Vec<Arg<'_>>,
    ) -> Result<Value, StoreError> {
        Ok(self.limits.call(of.slot, &Call { script, keys, args }).await?)
    }

    /// Says something about the notes of a shard.
    async fn notes(&self, shard: ShardId, under: Epoch, of_note: &[&[u8]]) -> Result<Value, StoreError> {
        let keys = self.keys(shard)?;
        let mut args = vec![Arg::Number(under.0)];
        args.extend(of_note.iter().map(|of_note| Arg::Bytes(of_note)));
        let said = self.ask(keys, &NOTES, vec![&keys.tickets], args).await?;
        decode::fenced(said, shard, under)
    }

    /// Place in the line; 0: it holds the key.
    async fn ask_for(&self, key: &[u8], ticket: &[u8], of_ask: [Arg<'_>; 3], hold: Hold) -> Result<u64, StoreError> {
        let keys = self.layout.semaphore(key);
        let names = vec![&keys.held[..], &keys.line, &keys.asked, &keys.limits, &keys.barred];
        let mut args = vec![Arg::Bytes(ticket)];
        args.extend(of_ask);
        args.extend(hold_args(hold));
        args.push(Arg::Number(ms(LINE_PATIENCE)));
        decode::number(self.semaphore(&keys, &ACQUIRE_TICKET, names, args).await?)
    }
}

#[async_trait]
impl Semaphores for RedisStore {
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError> {
        let below = PRIORITY_MAX.saturating_sub(ask.priority);
        let since = ask.since.map_or(Arg::Bytes(b""), |since| {
            Arg::Number(since.0.max(0).cast_unsigned().min(PRIORITY_STEP - 1))
        });
        let of_ask = [
            Arg::Number(ask.limit),
            Arg::Number(u64::from(below) * PRIORITY_STEP),
            since,
        ];
        Ok(match self.ask_for(key, ask.ticket, of_ask, ask.hold).await? {
            0 => Asked::Granted,
            place => Asked::Refused { ahead: place - 1 },
        })
    }

    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError> {
        let without_limit = [Arg::Bytes(b""), Arg::Number(0), Arg::Bytes(b"")];
        self.ask_for(key, ticket, without_limit, hold).await?;
        Ok(())
    }

    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError> {
        let mut of_keys = BTreeMap::<&[u8], Vec<usize>>::new();
        for (place, (key, _)) in held.iter().enumerate() {
            of_keys.entry(key).or_default().push(place);
        }
        let calls = of_keys.into_iter().map(async |(key, places)| {
            let keys = self.layout.semaphore(key);
            let mut args = vec![Arg::Number(ms(ttl))];
            args.extend(places.iter().map(|place| Arg::Bytes(held[*place].1)));
            let renewed = self.semaphore(&keys, &RENEW_TICKETS, vec![&keys.held], args).await?;
            let renewed = decode::list(renewed)?.into_iter().map(decode::number);
            let renewed = renewed.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, StoreError>(places.into_iter().zip(renewed))
        });
        let mut all = vec![false; held.len()];
        for renewed in try_join_all(calls).await? {
            for (place, is_held) in renewed {
                all[place] = is_held == 1;
            }
        }
        Ok(all)
    }

    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError> {
        let keys = self.layout.semaphore(key);
        let names = vec![&keys.held[..], &keys.line, &keys.asked, &keys.limits];
        let under = under.map_or(Arg::Bytes(b""), |under| Arg::Number(under.0));
        let args = vec![Arg::Bytes(ticket), under];
        let released = self.semaphore(&keys, &RELEASE_TICKET, names, args).await?;
        Ok(decode::number(released)? == 1)
    }

    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError> {
        let keys = self.layout.semaphore(key);
        let args = vec![
            Arg::Bytes(ticket),
            Arg::Number(below.0),
            Arg::Number(ms(BARRED_FOR)),
            Arg::Number(BARS_FORGOTTEN),
        ];
        let names = vec![&keys.barred[..], &keys.remembered];
        self.semaphore(&keys, &BAR_TICKET, names, args).await?;
        Ok(())
    }

    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.notes(shard, under, &[ticket, key]).await.map(drop)
    }

    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError> {
        self.notes(shard, under, &[ticket]).await.map(drop)
    }

    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.notes(shard, under, &[]).await?;
        // Earlier owners are kept out by now. All at once: a cursor of pages means nothing to a server that takes over between two of them,
        // and a note that is missed holds its key for good.
        let keys = self.keys(shard)?;
        let mut command = redis::cmd("HGETALL");
        command.arg(&keys.tickets);
        let mut notes: BTreeMap<_, _> = decode::pairs(self.command(keys.slot, &command).await?)?
            .into_iter()
            .collect();
        // Under no ticket stands the epoch.
        notes.remove(&b""[..]);
        Ok(notes.into_iter().collect())
    }
}
