//! The scripts, and what is sent to run one.

use std::io::Write;
use std::sync::LazyLock;

use redis::{Cmd, RedisWrite, ToRedisArgs};

/// A script of the store, known to the server by its hash once it was sent.
pub(super) struct Script {
    code: &'static str,
    hash: String,
    pub(super) lane: Lane,
}

/// Which connection a script takes.
#[derive(Clone, Copy)]
pub(super) enum Lane {
    /// Those of appends, which live in the engine's own runtime: an execution waits for each of them.
    Append,
    /// That of what else somebody waits for: small, and never behind something large.
    Quick,
    /// That of limits over members: however many ask, leases are renewed.
    Limits,
    /// That of what may carry megabytes.
    Bulk,
    /// That of what nobody can take back: made anew for each, so that it leads to the master of now, and no other shard waits for that.
    Last,
}

macro_rules! scripts {
    ($($name:ident = $file:literal, $lane:ident;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!($file), Lane::$lane));)*
    };
}

scripts! {
    CREATE = "lua/create.lua", Quick;
    CREATE_SHARD = "lua/create_shard.lua", Quick;
    ACQUIRE = "lua/acquire.lua", Quick;
    HOLDER = "lua/holder.lua", Quick;
    ANNOUNCE = "lua/announce.lua", Quick;
    ACQUIRE_TICKET = "lua/acquire_ticket.lua", Limits;
    RENEW_TICKETS = "lua/renew_tickets.lua", Limits;
    RELEASE_TICKET = "lua/release_ticket.lua", Limits;
    BAR_TICKET = "lua/bar_ticket.lua", Limits;
    NOTES = "lua/notes.lua", Limits;
    RENEW = "lua/renew.lua", Quick;
    REACHES = "lua/reaches.lua", Quick;
    TAKE_BACK = "lua/take_back.lua", Quick;
    RELEASE = "lua/release.lua", Last;
    SET_FORMAT = "lua/set_format.lua", Quick;
    SETTLE_LOSS = "lua/settle_loss.lua", Quick;
    APPEND = "lua/append.lua", Append;
    READ = "lua/read.lua", Bulk;
    TRIM = "lua/trim.lua", Quick;
    SET_CURSOR = "lua/set_cursor.lua", Quick;
    KEEP_CURSORS = "lua/keep_cursors.lua", Quick;
    SPOOL = "lua/spool.lua", Bulk;
    SPOOLED = "lua/spooled.lua", Bulk;
    SPOOL_EXTENT = "lua/spool_extent.lua", Bulk;
    CHECKPOINT = "lua/checkpoint.lua", Bulk;
    LOAD = "lua/load.lua", Bulk;
    REWRITE = "lua/rewrite.lua", Bulk;
    REWRITE_SPOOL = "lua/rewrite_spool.lua", Bulk;
    HEAD = "lua/head.lua", Quick;
    LIVE_COUNTS = "lua/live_counts.lua", Quick;
    EXPIRE = "lua/expire.lua", Bulk;
    SET_QUARANTINE = "lua/set_quarantine.lua", Quick;
    PUT_BLOBS = "lua/put_blobs.lua", Bulk;
    SETTLE_BLOBS = "lua/settle_blobs.lua", Bulk;
    INBOX_PUSH = "lua/inbox_push.lua", Bulk;
    INBOX_READ = "lua/inbox_read.lua", Bulk;
    INBOX_REMOVE = "lua/inbox_remove.lua", Quick;
    CACHED_OUTPUT = "lua/cached_output.lua", Bulk;
    CACHE_OUTPUT = "lua/cache_output.lua", Bulk;
}

impl Script {
    fn new(code: &'static str, lane: Lane) -> Self {
        Self {
            code,
            lane,
            hash: redis::Script::new(code).get_hash().to_owned(),
        }
    }
}

/// An argument of a script, written into the command without a copy on the way.
pub(super) enum Arg<'a> {
    Bytes(&'a [u8]),
    /// One argument of two parts.
    Joined(&'a [u8], &'a [u8]),
    /// A number as decimal text.
    Number(u64),
    Signed(i64),
    Owned(Vec<u8>),
}

impl ToRedisArgs for Arg<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        match self {
            Self::Bytes(bytes) => out.write_arg(bytes),
            Self::Owned(bytes) => out.write_arg(bytes),
            Self::Number(number) => out.write_arg_fmt(number),
            Self::Signed(number) => out.write_arg_fmt(number),
            Self::Joined(head, tail) => {
                let mut argument = out.writer_for_next_arg();
                // The buffer is in memory, where a write cannot fail.
                argument.write_all(head).and_then(|()| argument.write_all(tail)).ok();
            }
        }
    }
}

/// A script with its keys, all of one slot, and its arguments.
pub(super) struct Call<'a> {
    pub script: &'static Script,
    pub keys: Vec<&'a [u8]>,
    pub args: Vec<Arg<'a>>,
}

impl Call<'_> {
    /// The command that runs a script which the server knows.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    /// The command that runs a script and makes it known.
    pub(super) fn by_code(&self) -> Cmd {
        self.command("EVAL", self.script.code)
    }

    fn command(&self, verb: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(self.keys.len());
        for key in &self.keys {
            command.arg(*key);
        }
        for arg in &self.args {
            command.arg(arg);
        }
        command
    }
}
