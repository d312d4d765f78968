//! What an engine process tells the observer, a line each. A line is one `write` and outlives the process.

use std::io::Write;

use serde::{Deserialize, Serialize};
use troupe_core::ExecutionId;

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
    /// A command was acknowledged.
    CommandAcked {
        /// `pause`, `resume` or `cancel`.
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
    /// A read was answered.
    Read {
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
    /// Something failed that should not have.
    Trouble {
        /// What.
        what: String,
    },
}

impl Record {
    /// Writes the record as one line.
    ///
    /// # Panics
    /// When the observer is gone: there is nobody left to tell.
    pub fn emit(&self) {
        let mut line = serde_json::to_vec(self).expect("records are plain data");
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&line)
            .and_then(|()| out.flush())
            .expect("the observer reads until the process ends");
    }
}
