//! Members of a deployment, and what they tell each other.

use serde::{Deserialize, Serialize};

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
    /// Whether it is the one that answers.
    pub own: bool,
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
