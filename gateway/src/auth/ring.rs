//! The keys as this server knows them. Requests are checked against a copy in memory, which is read again every
//! [`TTL`]: so a request costs no read of the store, and a revocation is seen by every server within that time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use troupe_config::SecretText;
use troupe_core::Timestamp;
use troupe_ports::{ApiKey, ApiKeyStore, Clock, KeyId, StoreError};

use super::token::{Token, same, sha256};
use super::{Caller, over, unauthenticated};
use crate::error::ApiError;

/// How long a change of keys by another server may stay unseen, while the store answers.
pub const TTL: Duration = Duration::from_secs(2);
/// A key that is not known may be new: the store is asked, but not more often than this, whatever strangers send.
const UNKNOWN_AFTER: Duration = Duration::from_millis(200);
/// How long a request waits for that.
const UNKNOWN_WITHIN: Duration = Duration::from_secs(2);
/// While the store cannot be reached nobody can revoke a key either, so what is known goes on to count; but not for ever,
/// because this server may be the only one that cannot reach it.
const STALE_MAX: Duration = Duration::from_secs(3_600);
/// The last use of a key is written when it is this much later than what is written.
const USE_STEP_MS: i64 = 60_000;
/// Keys that are read at once.
const PAGE: usize = 500;

/// The keys that were read last.
#[derive(Debug)]
struct Known {
    keys: HashMap<KeyId, ApiKey>,
    read_at: Instant,
}

/// Knows the keys.
pub struct KeyRing {
    store: Arc<dyn ApiKeyStore>,
    clock: Arc<dyn Clock>,
    bootstrap: Option<[u8; 32]>,
    known: watch::Sender<Arc<Known>>,
    /// Held by whoever reads the store; when that was tried last.
    reading: tokio::sync::Mutex<Instant>,
    /// How old what is known may be.
    stale_max: Duration,
    /// When keys were last used here.
    uses: Mutex<HashMap<KeyId, Timestamp>>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KeyRing")
            .field("keys", &self.known.borrow().keys.len())
            .field("bootstrap", &self.bootstrap.is_some())
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads the keys, and reads them again every [`TTL`] until `closing` fires or the ring is dropped.
    ///
    /// # Errors
    /// `NO_API_KEYS` when nobody could ever ask for anything, and what the store fails with.
    pub async fn open(
        store: Arc<dyn ApiKeyStore>,
        clock: Arc<dyn Clock>,
        bootstrap: Option<&SecretText>,
        closing: CancellationToken,
    ) -> Result<Arc<Self>, ApiError> {
        Self::open_with(store, clock, bootstrap, (closing, STALE_MAX)).await
    }

    async fn open_with(
        store: Arc<dyn ApiKeyStore>,
        clock: Arc<dyn Clock>,
        bootstrap: Option<&SecretText>,
        (closing, stale_max): (CancellationToken, Duration),
    ) -> Result<Arc<Self>, ApiError> {
        let known = read(&*store).await?;
        let now = clock.now();
        if bootstrap.is_none() && !known.keys.values().any(|key| key.is_valid(now)) {
            let error = ApiError::new(
                "NO_API_KEYS",
                "there is no key of the API, so nobody could ask for anything",
            );
            return Err(error.with_hint(
                "make one with `troupe key create --role admin` and the same --definitions or --state, or set TROUPE_BOOTSTRAP_KEY or TROUPE_BOOTSTRAP_KEY_FILE",
            ));
        }
        let ring = Arc::new(Self {
            store,
            clock,
            bootstrap: bootstrap.map(|key| sha256(key.expose().as_bytes())),
            known: watch::Sender::new(Arc::new(known)),
            reading: tokio::sync::Mutex::new(Instant::now()),
            stale_max,
            uses: Mutex::default(),
        });
        tokio::spawn(keep_up(Arc::downgrade(&ring), closing));
        Ok(ring)
    }

    /// Who shows this key.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`; `UNAVAILABLE` when the keys that are known are too old to go by.
    pub(super) async fn admit(&self, shown: &str) -> Result<Caller, ApiError> {
        if self
            .bootstrap
            .is_some_and(|hash| same(&hash, &sha256(shown.as_bytes())))
        {
            return Ok(Caller::bootstrap());
        }
        let unknown = || unauthenticated("the key is not known here");
        let token = Token::parse(shown).ok_or_else(unknown)?;
        let mut known = self.known();
        if !known.keys.contains_key(&token.id) && known.read_at.elapsed() > UNKNOWN_AFTER {
            // A store that hangs makes strangers wait no longer than this.
            let read = self.read_if_older(UNKNOWN_AFTER);
            if tokio::time::timeout(UNKNOWN_WITHIN, read).await.is_err() {
                tracing::debug!("the store of keys is slow: a key that is not known was not looked up");
            }
            known = self.known();
        }
        let key = known.keys.get(&token.id).ok_or_else(unknown)?;
        if !same(&key.secret, &token.hash()) {
            return Err(unknown());
        }
        let now = self.clock.now();
        if let Some(at) = key.revoked_at {
            return Err(unauthenticated(over(
                &format!("the key {} was revoked at", key.name),
                at,
            )));
        }
        if let Some(at) = key.expires_at.filter(|at| *at <= now) {
            return Err(unauthenticated(over(&format!("the key {} expired at", key.name), at)));
        }
        if known.read_at.elapsed() > self.stale_max {
            let detail = "the store of keys has not answered for an hour: a key may have been revoked meanwhile";
            return Err(ApiError::new("UNAVAILABLE", detail));
        }
        self.uses.lock().insert(key.id, now);
        Ok(Caller {
            name: key.name.as_str().into(),
            role: key.role,
            key: Some(key.id),
        })
    }

    /// Reads the keys now: this server changed them.
    pub(super) async fn changed(&self) {
        self.read_if_older(Duration::ZERO).await;
    }

    /// Resolves when the caller's key is no longer accepted.
    pub(super) async fn until_refused(&self, caller: &Caller) {
        let Some(id) = caller.key else {
            return std::future::pending().await;
        };
        let mut changes = self.known.subscribe();
        // Each reading is a change, so expiry is looked at every `TTL` too.
        loop {
            let known = Arc::clone(&changes.borrow_and_update());
            let now = self.clock.now();
            if !known.keys.get(&id).is_some_and(|key| key.is_valid(now)) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// Reads the store unless somebody has tried so in the last `age`. What fails leaves what is known.
    async fn read_if_older(&self, age: Duration) {
        let asked = Instant::now();
        let mut tried = self.reading.lock().await;
        // Who waited for another reading that began later than it asked need not read again.
        if *tried > asked || tried.elapsed() < age {
            return;
        }
        *tried = Instant::now();
        let read_at = self.known().read_at;
        match read(&*self.store).await {
            Ok(known) => drop(self.known.send_replace(Arc::new(known))),
            Err(error) => {
                let age_s = read_at.elapsed().as_secs();
                tracing::warn!(%error, age_s, "the keys of the API cannot be read; those known count on");
            }
        }
    }

    async fn note_uses(&self) {
        let known = self.known();
        let uses: Vec<(KeyId, Timestamp)> = {
            let mut uses = self.uses.lock();
            uses.retain(|id, _| known.keys.contains_key(id));
            let is_later = |(id, at): &(&KeyId, &Timestamp)| {
                let written = known.keys.get(id).and_then(|key| key.used_at);
                written.is_none_or(|written| at.0 - written.0 >= USE_STEP_MS)
            };
            uses.iter().filter(is_later).map(|(id, at)| (*id, *at)).collect()
        };
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.store.used(uses).await {
            tracing::warn!(%error, "when keys were last used was not written; it will be tried again");
        }
    }
}

async fn keep_up(ring: Weak<KeyRing>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TTL) => {}
            () = closing.cancelled() => return,
        }
        let Some(ring) = ring.upgrade() else { return };
        ring.note_uses().await;
        ring.read_if_older(TTL / 2).await;
    }
}

/// Every key there is.
async fn read(store: &dyn ApiKeyStore) -> Result<Known, StoreError> {
    let read_at = Instant::now();
    let mut keys = HashMap::new();
    let mut after = None;
    loop {
        let page = store.list(after, PAGE).await?;
        after = page.last().map(|last| last.id);
        let is_last = page.len() < PAGE;
        keys.extend(page.into_iter().map(|key| (key.id, key)));
        if is_last {
            return Ok(Known { keys, read_at });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use troupe_ports::{KeyError, Role, SystemClock};

    use super::*;

    /// One key; counts how often it is read, and may be away.
    struct Store {
        key: ApiKey,
        reads: AtomicUsize,
        is_away: AtomicBool,
    }

    #[async_trait]
    impl ApiKeyStore for Store {
        async fn create(&self, _: ApiKey) -> Result<(), KeyError> {
            Ok(())
        }

        async fn get(&self, _: KeyId) -> Result<Option<ApiKey>, StoreError> {
            Ok(None)
        }

        async fn list(&self, _: Option<KeyId>, _: usize) -> Result<Vec<ApiKey>, StoreError> {
            self.reads.fetch_add(1, Ordering::AcqRel);
            if self.is_away.load(Ordering::Acquire) {
                return Err(StoreError::Unavailable("away".to_owned()));
            }
            Ok(vec![self.key.clone()])
        }

        async fn revoke(&self, _: KeyId, _: Timestamp) -> Result<Option<ApiKey>, StoreError> {
            Ok(None)
        }

        async fn used(&self, _: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
            Ok(())
        }
    }

    async fn opened(stale_max: Duration) -> (Arc<Store>, Arc<KeyRing>, String) {
        let token = Token::fresh().unwrap();
        let store = Arc::new(Store {
            key: ApiKey {
                id: token.id,
                name: "ada".to_owned(),
                role: Role::Viewer,
                secret: token.hash(),
                created_at: Timestamp(1),
                created_by: None,
                expires_at: None,
                revoked_at: None,
                used_at: None,
            },
            reads: AtomicUsize::new(0),
            is_away: AtomicBool::new(false),
        });
        let (keys, clock) = (Arc::clone(&store), Arc::new(SystemClock));
        // Nothing reads again by itself.
        let closing = CancellationToken::new();
        closing.cancel();
        let ring = KeyRing::open_with(keys, clock, None, (closing, stale_max))
            .await
            .unwrap();
        (store, ring, token.expose())
    }

    #[tokio::test]
    async fn requests_read_no_store_whatever_strangers_send() {
        let (store, ring, key) = opened(STALE_MAX).await;
        let begun = Instant::now();
        for _ in 0..200 {
            assert_eq!(ring.admit(&key).await.unwrap().name(), "ada");
            let stranger = Token::fresh().unwrap().expose();
            assert_eq!(ring.admit(&stranger).await.unwrap_err().code(), "UNAUTHENTICATED");
            assert_eq!(ring.admit("no key").await.unwrap_err().code(), "UNAUTHENTICATED");
        }
        let most = 1 + begun.elapsed().as_millis() / UNKNOWN_AFTER.as_millis();
        let reads = store.reads.load(Ordering::Acquire);
        assert!(reads as u128 <= most, "{reads} reads, {most} allowed");
    }

    #[tokio::test]
    async fn the_known_keys_count_on_while_the_store_is_away() {
        let (store, ring, key) = opened(STALE_MAX).await;
        store.is_away.store(true, Ordering::Release);
        ring.changed().await;
        assert_eq!(store.reads.load(Ordering::Acquire), 2);
        assert_eq!(ring.admit(&key).await.unwrap().name(), "ada");
        // Strangers do not have a store that is away asked more often either.
        let begun = Instant::now();
        for _ in 0..200 {
            let stranger = Token::fresh().unwrap().expose();
            assert_eq!(ring.admit(&stranger).await.unwrap_err().code(), "UNAUTHENTICATED");
        }
        let most = 3 + begun.elapsed().as_millis() / UNKNOWN_AFTER.as_millis();
        let reads = store.reads.load(Ordering::Acquire);
        assert!(reads as u128 <= most, "{reads} reads, {most} allowed");
    }

    #[tokio::test]
    async fn keys_that_were_read_too_long_ago_count_no_more() {
        let (_, ring, key) = opened(Duration::ZERO).await;
        assert_eq!(ring.admit(&key).await.unwrap_err().code(), "UNAVAILABLE");
    }
}
