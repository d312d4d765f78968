//! Which program replicas run.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Names it, where nothing else does.
const VARIABLE: &str = "TROUPE";
const NAME: &str = "troupe";

/// The program that replicas are to run: the one that is `named`, or that `TROUPE` names, or the one beside `harness`.
#[must_use]
pub fn of_replicas(named: Option<&Path>, harness: &Path) -> PathBuf {
    let of_environment = || std::env::var_os(VARIABLE).map(PathBuf::from);
    let named = named.map(Path::to_owned).or_else(of_environment);
    named.unwrap_or_else(|| harness.with_file_name(NAME))
}

/// Where the program is, whatever folder it is started in.
///
/// # Errors
/// When there is none, with what to do.
pub fn existing(program: &Path) -> anyhow::Result<PathBuf> {
    if !program.is_file() {
        bail!(
            "the program of the replicas is missing: there is no {}\n  build it with `cargo build -p troupe`, or name another one \
             with --troupe PATH or {VARIABLE}=PATH",
            program.display()
        );
    }
    Ok(std::path::absolute(program)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_program_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let harness = folder.path().join("troupe-chaos");
        let missing = existing(&harness.with_file_name(NAME)).unwrap_err().to_string();
        assert!(
            missing.contains("cargo build -p troupe") && missing.contains("--troupe"),
            "{missing}"
        );
        let other = folder.path().join("other");
        std::fs::write(&other, "").unwrap();
        assert_eq!(existing(&of_replicas(Some(&other), &harness)).unwrap(), other);
    }
}
