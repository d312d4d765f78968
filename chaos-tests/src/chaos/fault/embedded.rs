//! Faults of the embedded store's disk.

use std::process::Command;

use anyhow::{Context, bail};

use crate::chaos::deployment::Deployment;

/// A limit below the size of any file of the store: whatever would lengthen one fails as on a full disk.
const FULL: &str = "4096:";

pub(super) fn fill(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    limit(on, FULL)
}

pub(super) fn free(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    limit(on, "unlimited:")
}

/// The soft limit of the size of files of the engine process.
fn limit(on: &Deployment<'_>, bytes: &str) -> anyhow::Result<()> {
    let process = on.owner_process().context("no engine runs")?;
    let set = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--fsize={bytes}")])
        .status()
        .context("prlimit is missing")?;
    if !set.success() {
        bail!("the size of files cannot be limited: {set}");
    }
    Ok(())
}
