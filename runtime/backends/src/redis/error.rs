//! Why a store cannot be opened, and what failures of a command mean.

use redis::{ErrorKind, RedisError, ServerErrorKind};
use troupe_ports::StoreError;

/// Why a store on Redis cannot be opened. The message says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisOpenError {
    /// The options make no sense.
    #[error("the Redis options are unusable: {0}")]
    Options(String),
    /// Nobody answers, or not in time; waiting may help.
    #[error("Redis cannot be reached: {0}")]
    Unreachable(String),
    /// The server wants another login.
    #[error("Redis refuses the login: {0}; check user and password of the URL")]
    Login(String),
    /// The server is too old.
    #[error("Redis {found} is too old: 7.0 or newer is needed")]
    TooOld {
        /// The server's version.
        found: String,
    },
    /// The server removes keys when memory is short.
    #[error(
        "maxmemory-policy is {found}: Redis would remove state when memory is short. Set `maxmemory-policy noeviction` in \
         redis.conf and by `CONFIG SET maxmemory-policy noeviction`; managed servers have it among their parameters"
    )]
    Evicts {
        /// The policy in force.
        found: String,
    },
    /// The server does not keep what it acknowledges, as the durability that was asked for needs it.
    #[error("Redis does not keep what it acknowledges as {asked} durability needs it: {why}")]
    NotDurable {
        /// The durability that was asked for.
        asked: &'static str,
        /// Which setting is wrong, and how to set it.
        why: String,
    },
    /// A newer release wrote the store.
    #[error("the store has format {found}, this release knows up to {known}: use the newer release that wrote it")]
    NewerFormat {
        /// Format of the store.
        found: u64,
        /// Newest format that is known here.
        known: u64,
    },
    /// What is stored makes no sense.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl RedisOpenError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Options(_) => "REDIS_OPTIONS",
            Self::Unreachable(_) => "REDIS_UNREACHABLE",
            Self::Login(_) => "REDIS_LOGIN",
            Self::TooOld { .. } => "REDIS_TOO_OLD",
            Self::Evicts { .. } => "REDIS_EVICTS",
            Self::NotDurable { .. } => "REDIS_NOT_DURABLE",
            Self::NewerFormat { .. } => "REDIS_NEWER_FORMAT",
            Self::Damaged(_) => "DAMAGED",
        }
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

impl From<RedisOpenError> for StoreError {
    fn from(error: RedisOpenError) -> Self {
        match error {
            RedisOpenError::Damaged(why) => Self::Damaged(why),
            error @ RedisOpenError::NewerFormat { .. } => Self::Damaged(error.to_string()),
            error => Self::Unavailable(format!("{} ({})", error, error.code())),
        }
    }
}

impl From<StoreError> for RedisOpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(why) => Self::Damaged(why),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum LinkError {
    /// It was not sent, or the server did not run it.
    NotRun(RedisError),
    /// It may have run.
    Unknown(RedisError),
    /// A server was reached that may not be used.
    Refused(RedisOpenError),
}

impl LinkError {
    /// An error that came as the answer, or instead of one.
    pub(super) fn of_answer(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => Self::NotRun(error),
            _ => Self::Unknown(error),
        }
    }

    pub(super) fn is(&self, kind: ServerErrorKind) -> bool {
        matches!(self, Self::NotRun(error) if error.kind() == ErrorKind::Server(kind))
    }

    /// Whether the connection is of no use any more.
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::NotRun(error) => matches!(
                error.kind(),
                // A master that became a replica, or one that lost its data and loads it again.
                ErrorKind::Server(
                    ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
                )
            ),
            Self::Refused(_) => false,
        }
    }
}

impl From<LinkError> for StoreError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::NotRun(error) if is_damage(&error) => {
                Self::Damaged(format!("Redis holds what does not fit: {error}"))
            }
            LinkError::NotRun(error) => Self::Unavailable(error.to_string()),
            LinkError::Unknown(error) => Self::Unavailable(format!("the outcome is unknown: {error}")),
            LinkError::Refused(refused) => refused.into(),
        }
    }
}

impl From<LinkError> for RedisOpenError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(refused) => refused,
            LinkError::NotRun(error) | LinkError::Unknown(error) => {
                let is_login = error.kind() == ErrorKind::AuthenticationFailed
                    || error
                        .code()
                        .is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM"));
                if is_login {
                    Self::Login(error.to_string())
                } else if error.kind() == ErrorKind::RESP3NotSupported {
                    let found = "5 or older".to_owned();
                    Self::TooOld { found }
                } else if is_damage(&error) {
                    Self::Damaged(error.to_string())
                } else {
                    Self::Unreachable(error.to_string())
                }
            }
        }
    }
}

/// What Redis calls a key that is of another type than a command wants.
const OF_ANOTHER_TYPE: &str = "WRONGTYPE";

/// What Redis says of a key that a script emptied while its slot left: it counts as moved, and comes again with the next try.
const ON_THE_MOVE: &str = "non local key";

/// A key of another type than ours, or a script that stumbled over what it found.
fn is_damage(error: &RedisError) -> bool {
    let is_of_script = |detail: &str| {
        let stumbled = detail.contains("user_script") || detail.contains(OF_ANOTHER_TYPE);
        stumbled && !detail.contains(ON_THE_MOVE)
    };
    match error.code() {
        Some(code) => code == OF_ANOTHER_TYPE || (code == "ERR" && error.detail().is_some_and(is_of_script)),
        None => false,
    }
}
