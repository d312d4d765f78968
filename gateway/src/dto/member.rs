//! Members of a deployment, and what they tell each other.

use serde::{Deserialize, Serialize};
use troupe_core::FormatRange;

/// A process of the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberDto {
    /// Its name: no other process ever has it.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// `serving`, or `leaving` while it gives its shards up.
    pub status: String,
    /// The release that it runs.
    pub release: String,
    /// Shards that it holds.
    pub shards: u16,
    /// Formats of the state that it reads.
    #[serde(default)]
    pub reads: FormatsDto,
    /// The format that it writes: the newest one that every member reads.
    #[serde(default)]
    pub writes: u8,
    /// The newest format that its shards hold something of; none where it has no shards.
    #[serde(default)]
    pub holds: Option<u8>,
    /// Whether it is the one that answers.
    pub own: bool,
}

/// The formats of the state that a process reads: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FormatsDto {
    /// The oldest one.
    pub oldest: u8,
    /// The newest one.
    pub newest: u8,
}

impl From<FormatRange> for FormatsDto {
    fn from(range: FormatRange) -> Self {
        Self {
            oldest: range.oldest.0,
            newest: range.newest.0,
        }
    }
}

/// What a member made of a control, told to another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedDto {
    /// The shards in which it is in force.
    pub shards: Vec<u16>,
    /// Those that wait for an operator: they learn of it when they are served again.
    pub halted: Vec<u16>,
    /// Whether one of them learned something.
    pub changed: bool,
    /// Attempts in its scope that still run.
    pub draining: u32,
}
