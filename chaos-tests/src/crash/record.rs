//! What an engine process tells the observer, a line each. A line is one `write` and outlives the process.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use troupe_core::lifecycle::LifecycleEvent;
use troupe_core::{ExecutionId, Timestamp};

/// One observation, in the order in which it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Record {
    /// The engine serves.
    Ready,
    /// A start is about to be asked for.
    StartAsked {
        /// Request key.
        key: String,
    },
    /// A start was acknowledged.
    StartAcked {
        /// Request key.
        key: String,
        /// The execution.
        id: ExecutionId,
        /// Whether it was there before.
        existing: bool,
    },
    /// An attempt began to take effect.
    Effect {
        /// The execution.
        id: ExecutionId,
        /// The node.
        node: String,
        /// Run, visit, attempt and nonce of its token.
        token: [u32; 4],
        /// Its input.
        input: String,
    },
    /// An attempt that counts under a limit began to take effect.
    SlotUsed {
        /// Tells those of one process apart.
        number: u64,
        /// The execution.
        id: ExecutionId,
        /// Its key, as the node's data write it.
        key: String,
        /// How many may at once.
        limit: u32,
    },
    /// It has ended, however that came.
    SlotLeft {
        /// Which.
        number: u64,
    },
    /// A command was acknowledged.
    CommandAcked {
        /// `pause`, `resume`, `cancel`, `retry`, or what was done to a node: `call`, `complete`.
        verb: String,
        /// The execution.
        id: ExecutionId,
        /// The command's id.
        command: String,
        /// Attempts that still ran.
        draining: u32,
        /// Whether there was nothing to do.
        unchanged: bool,
    },
    /// A resume is about to be asked for: attempts may start from here on.
    ResumeAsked {
        /// The execution.
        id: ExecutionId,
    },
    /// Failed nodes are about to be asked to run again: an execution that has ended may go on from here on.
    ReopenAsked {
        /// The execution.
        id: ExecutionId,
    },
    /// A read was answered.
    Read {
        /// Who read: one client's reads are recorded in the order in which they were answered.
        client: u64,
        /// The execution.
        id: ExecutionId,
        /// Seq of the entry it shows.
        seq: u64,
        /// Fingerprint of the state it shows.
        fingerprint: u64,
    },
    /// A report was repeated; `applied` when the engine took it a second time.
    Repeated {
        /// The execution.
        id: ExecutionId,
        /// Whether the engine took it.
        applied: bool,
    },
    /// Events were published, in this order. Published means recorded here: whether that was confirmed is another matter.
    Published {
        /// What was published.
        events: Vec<Sighting>,
    },
    /// A shard is about to be asked for under an epoch that was issued. Whoever dies, or hears no answer, may have it all the same.
    AcquireAsked {
        /// The shard.
        shard: u16,
        /// The epoch.
        epoch: u64,
    },
    /// The store refused a shard that was asked for: nobody has it under this epoch.
    AcquireRefused {
        /// The shard.
        shard: u16,
        /// The epoch.
        epoch: u64,
    },
    /// A shard was taken.
    Acquired {
        /// The shard.
        shard: u16,
        /// The epoch under which it is served now.
        epoch: u64,
        /// Where the next record goes.
        next: u64,
    },
    /// The store acknowledged a record.
    Appended {
        /// The shard.
        shard: u16,
        /// The epoch under which it was appended.
        epoch: u64,
        /// Where it stands.
        position: u64,
        /// Which of the owner's commits it is.
        commit: u64,
    },
    /// The store refused a record because the shard has another owner.
    Refused {
        /// The shard.
        shard: u16,
        /// The epoch under which it was to be appended.
        epoch: u64,
    },
    /// The engine noticed that shards were taken from it.
    Fenced {
        /// Shards lost to other owners so far, as the engine counts them: each loss once, however it was learned of.
        shards_lost: u64,
        /// Shards that it still serves.
        shards_served: u16,
    },
    /// A start under a business key was acknowledged.
    KeyedAcked {
        /// The business key.
        key: String,
        /// The execution.
        id: ExecutionId,
        /// Whether it was there before.
        existing: bool,
    },
    /// A workflow was paused or stopped in every shard, and that was acknowledged.
    Ruled {
        /// The workflow.
        workflow: String,
        /// Attempts of it that still ran.
        draining: u32,
    },
    /// Somebody is about to ask that it go on: attempts may start from here on.
    FreeAsked {
        /// The workflow.
        workflow: String,
    },
    /// An execution's actor failed and was built again.
    Restarted {
        /// The execution.
        id: ExecutionId,
        /// The epoch under which that was done.
        epoch: u64,
        /// When.
        at: Timestamp,
    },
    /// A task of a shard panics, as it was told: somebody must open the shard anew.
    Panicked {
        /// The shard.
        shard: u16,
    },
    /// An execution was set aside until an operator resumes it.
    SetAside {
        /// The execution.
        id: ExecutionId,
    },
    /// So many things happened that nobody checks one by one; reports count them.
    Counted {
        /// What.
        what: String,
        /// How many.
        times: u64,
    },
    /// Something failed that should not have.
    Trouble {
        /// What.
        what: String,
    },
}

/// A published event, as far as checkers tell events apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sighting {
    /// The execution.
    pub id: ExecutionId,
    /// Seq of the entry it was derived from.
    pub seq: u64,
    /// Its place among the events of that entry.
    pub part: u32,
    /// Hash of everything it says.
    pub print: u64,
}

impl Sighting {
    /// What is remembered of an event.
    #[must_use]
    pub fn of(event: &LifecycleEvent) -> Self {
        // FNV-1a: the same in every process, which the standard hasher does not promise.
        let print = format!("{event:?}")
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
            });
        Self {
            id: event.execution,
            seq: event.seq.0,
            part: event.part,
            print,
        }
    }
}

impl Record {
    /// Writes the record as one line, after the instant at which it was made.
    ///
    /// # Panics
    /// When the observer is gone: there is nobody left to tell.
    pub fn emit(&self) {
        let body = serde_json::to_vec(self).expect("records are plain data");
        let mut out = std::io::stdout().lock();
        // Under the lock: the order of the lines is that of their instants.
        let mut line = format!("{} ", now_ns()).into_bytes();
        line.extend_from_slice(&body);
        line.push(b'\n');
        out.write_all(&line)
            .and_then(|()| out.flush())
            .expect("the observer reads until the process ends");
    }

    /// The record of a line, and its instant; none of a line that was cut short by a kill.
    pub(crate) fn parse(line: &str) -> Option<(u64, Self)> {
        let (at_ns, body) = line.split_once(' ')?;
        Some((at_ns.parse().ok()?, serde_json::from_str(body).ok()?))
    }
}

/// Nanoseconds since 1970 by the clock that all processes of this machine share: what causes something in another process comes
/// before it.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
