//! Where a command keeps its state.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use troupe_config::Sources;

/// What `--state` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StatePlace {
    /// The embedded store's directory.
    Directory(PathBuf),
    /// The URL of a server.
    Server(String),
}

impl FromStr for StatePlace {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.contains("://") {
            Self::Server(text.to_owned())
        } else {
            Self::Directory(text.into())
        })
    }
}

impl StatePlace {
    /// Sources in which it wins.
    pub(super) fn set(&self, sources: Sources) -> Sources {
        match self {
            Self::Directory(directory) => sources.with_option("--state", "state_dir", directory.display().to_string()),
            Self::Server(url) => sources.with_option("--state", "store.state", url.as_str()),
        }
    }
}
