//! Stores on servers that are removed again: those under a prefix that was made up for them.

use std::pin::Pin;

use troupe_backends::{PostgresOptions, PostgresStore, RedisOptions, RedisStore};
use troupe_config::Settings;

use super::stores::{postgres_options, random_digits, redis_options};
use crate::error::ApiError;

/// A prefix of names on servers that nobody has had before: it was made up here, and is partly random. Whatever is under it was made for
/// whoever has this, and nothing else can be erased.
#[derive(Debug)]
pub(crate) struct OwnPrefix(String);

impl OwnPrefix {
    /// Makes one up that begins with `kind`.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the system gives no random bytes.
    pub(crate) fn fresh(kind: &str) -> Result<Self, ApiError> {
        Ok(Self(format!("{kind}_{}_{}", std::process::id(), random_digits()?)))
    }

    /// The prefix.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Removes the stores under the prefix from the Redis and the PostgreSQL that the settings name, whatever prefix these name. Whoever used
/// them has shut down. Every failure tells where something may be left.
pub(crate) async fn erase(settings: &Settings, own: &OwnPrefix) -> Vec<ApiError> {
    let mut failures = Vec::new();
    let prefix = own.as_str();
    if let Some(url) = &settings.store.state {
        let options = RedisOptions {
            prefix: prefix.to_owned(),
            ..redis_options(settings, url, &[])
        };
        // As in `open`: what drivers nest in their futures stays in here.
        let erasing: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(RedisStore::erase(&options));
        match erasing.await {
            Ok(keys) => tracing::debug!(%url, prefix, keys, "a store is removed"),
            Err(error) => {
                let hint = format!("remove the keys whose names begin with `{{{prefix}:` by hand");
                failures.push(ApiError::new(error.code(), format!("{url}: {error}")).with_hint(hint));
            }
        }
    }
    if let Some(url) = &settings.store.definitions {
        let options = PostgresOptions {
            schema: prefix.to_owned(),
            ..postgres_options(settings, url)
        };
        let erasing: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(PostgresStore::erase(&options));
        match erasing.await {
            Ok(()) => tracing::debug!(%url, prefix, "a store is removed"),
            Err(error) => {
                let hint = format!("remove the schema `{prefix}` with everything in it by hand");
                failures.push(ApiError::new("UNAVAILABLE", format!("{url}: {error}")).with_hint(hint));
            }
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_config::Sources;

    use super::*;

    #[test]
    fn a_prefix_is_made_up_once_and_does_as_a_name_on_every_server() {
        let (one, other) = (OwnPrefix::fresh("bench").unwrap(), OwnPrefix::fresh("bench").unwrap());
        assert_ne!(one.as_str(), other.as_str());
        let sources = Sources::default().with_option("--state", "store.prefix", one.as_str());
        let settings = sources.load().unwrap();
        assert_eq!(settings.store.prefix, one.as_str());
    }

    #[tokio::test]
    async fn without_servers_nothing_is_erased() {
        let settings = Sources::default().load().unwrap();
        let own = OwnPrefix::fresh("bench").unwrap();
        assert!(erase(&settings, &own).await.is_empty());
    }
}
