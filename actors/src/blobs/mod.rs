//! Large values: kept apart in the store, under the root of an execution's family, before any entry that refers to them.
//! See ADR 0024.

mod cache;
mod orphans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use troupe_core::{
    BlobRef, Composed, Epoch, ErrorInfo, ExecutionId, INLINE_BYTES_MAX, Json, Parts, ShardId, Timestamp, Value,
};
use troupe_ports::{BlobsPut, StateStore, StoreError};
use troupe_telemetry::CacheMetrics;

use crate::context::ShardContext;
use crate::error::EngineError;
use crate::options::EngineOptions;

use cache::ContentCache;
pub(crate) use orphans::collect_orphans;

/// Code of a value that the limit of its execution's large values has no room for.
const EXECUTION_TOO_LARGE: &str = "EXECUTION_TOO_LARGE";
/// Contents that are held in memory, in bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a document is kept under.
#[must_use]
pub fn reference(content: &Json) -> BlobRef {
    let digest = digest(&SHA256, content.as_str().as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    BlobRef {
        hash,
        bytes: content.bytes() as u64,
    }
}

/// Contents of blobs that somebody loaded, by reference.
#[derive(Clone, Debug, Default)]
pub struct Contents(BTreeMap<BlobRef, Json>);

impl Contents {
    /// The content, if it was loaded.
    #[must_use]
    pub fn get(&self, blob: &BlobRef) -> Option<&Json> {
        self.0.get(blob)
    }

    /// Adds a content.
    pub fn add(&mut self, blob: BlobRef, content: Json) {
        self.0.insert(blob, content);
    }
}

/// Why large values were not kept.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// There are too many of them.
    Full(ErrorInfo),
    /// The store could not.
    Store(StoreError),
}

impl From<NotKept> for EngineError {
    fn from(error: NotKept) -> Self {
        match error {
            NotKept::Full(info) => Self::Refused(Box::new(info)),
            NotKept::Store(error) => error.into(),
        }
    }
}

/// Keeps and reads large values.
pub(crate) struct Blobs {
    store: Arc<dyn StateStore>,
    /// Of one root together.
    bytes_max: u64,
    cache: Mutex<ContentCache>,
    metrics: CacheMetrics,
    /// The planted fault "values after entries".
    late: bool,
}

impl Blobs {
    pub(crate) fn new(store: Arc<dyn StateStore>, options: &EngineOptions) -> Self {
        Self {
            store,
            bytes_max: options.blob_bytes_max,
            late: options.mutants.values_after_entries,
            cache: Mutex::new(ContentCache::new(CACHE_BYTES_MAX)),
            metrics: CacheMetrics::new("value"),
        }
    }

    /// Keeps a document apart if it is large. `Ok` means durable.
    pub(crate) async fn keep(&self, shard: &ShardContext, root: ExecutionId, content: Json) -> Result<Value, NotKept> {
        if content.bytes() <= INLINE_BYTES_MAX {
            return Ok(content.into());
        }
        let blob = reference(&content);
        self.put(shard, root, blob, content).await?;
        Ok(blob.into())
    }

    /// Keeps a document apart if it is large; tries until the store answers, or the shard is lost and the caller dropped.
    ///
    /// # Errors
    /// `EXECUTION_TOO_LARGE`.
    pub(crate) async fn keep_patiently(
        &self,
        shard: &ShardContext,
        root: ExecutionId,
        content: Json,
    ) -> Result<Value, ErrorInfo> {
        if content.bytes() <= INLINE_BYTES_MAX {
            return Ok(content.into());
        }
        let blob = reference(&content);
        self.put_patiently(shard, root, blob, content).await?;
        Ok(blob.into())
    }

    /// As [`Blobs::keep_patiently`], under a reference that is known.
    pub(crate) async fn put_patiently(
        &self,
        shard: &ShardContext,
        root: ExecutionId,
        blob: BlobRef,
        content: Json,
    ) -> Result<(), ErrorInfo> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.put(shard, root, blob, content.clone()).await {
                Ok(()) => return Ok(()),
                Err(NotKept::Full(error)) => return Err(error),
                Err(NotKept::Store(error)) => wait_for_store(shard, &error, &mut pause).await,
            }
        }
    }

    async fn put(&self, shard: &ShardContext, root: ExecutionId, blob: BlobRef, content: Json) -> Result<(), NotKept> {
        if self.cache.lock().get(root, &blob).is_some() {
            return Ok(());
        }
        let now = shard.engine.now();
        if self.late {
            self.put_late(shard, root, (blob, content), now);
            return Ok(());
        }
        let put = self.store.put_blobs(
            shard.shard,
            shard.epoch,
            root,
            now,
            vec![(blob, content.clone())],
            self.bytes_max,
        );
        let put = put.await;
        shard.engine.heed(shard.shard, &put);
        match put.map_err(NotKept::Store)? {
            BlobsPut::Kept => {
                self.cache.lock().insert(root, blob, content);
                Ok(())
            }
            BlobsPut::Full { bytes } => {
                let most = self.bytes_max;
                let message = format!("the large values of this execution would have {bytes} bytes, more than {most}");
                Err(NotKept::Full(ErrorInfo::new(EXECUTION_TOO_LARGE, message)))
            }
        }
    }

    /// The store came back older: keeps again what was kept or read lately of a shard. How much that was.
    ///
    /// # Errors
    /// The store's; some may be kept again.
    pub(crate) async fn restore(&self, shard: ShardId, epoch: Epoch, now: Timestamp) -> Result<usize, StoreError> {
        let held = self.cache.lock().of(shard);
        let count = held.len();
        for (root, blob, content) in held {
            let (store, values) = (&self.store, vec![(blob, content)]);
            let put = store.give_blobs_back(shard, epoch, root, now, values, self.bytes_max);
            if let BlobsPut::Full { bytes } = put.await? {
                tracing::warn!(%root, bytes, "a large value that was kept before has no room now");
            }
        }
        Ok(count)
    }

    /// What was kept of a shard may not be there any more.
    pub(crate) fn doubt(&self, shard: ShardId) {
        self.cache.lock().forget_shard(shard);
    }

    /// The planted fault: nobody waits for the store, which hears of it when the entry may be durable already.
    fn put_late(&self, shard: &ShardContext, root: ExecutionId, (blob, content): (BlobRef, Json), now: Timestamp) {
        self.cache.lock().insert(root, blob, content.clone());
        let (store, bytes_max) = (Arc::clone(&self.store), self.bytes_max);
        let (shard, epoch) = (shard.shard, shard.epoch);
        tokio::spawn(async move {
            tokio::time::sleep(RETRY_FIRST).await;
            let put = store.put_blobs(shard, epoch, root, now, vec![(blob, content)], bytes_max);
            if let Err(error) = put.await {
                tracing::warn!(%root, %error, "a large value was not kept");
            }
        });
    }

    /// The content of a blob.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`]; [`EngineError::Damaged`] when it is not there or is another one.
    pub(crate) async fn get(&self, root: ExecutionId, blob: &BlobRef) -> Result<Json, EngineError> {
        let known = self.cache.lock().get(root, blob);
        self.metrics.looked_up(known.is_some());
        if let Some(content) = known {
            return Ok(content);
        }
        let content = self.store.blob(root, blob.hash).await?;
        let damaged = |what: &str| EngineError::Damaged(format!("the value {} of {root} {what}", blob.hex()));
        let content = content.ok_or_else(|| damaged("is missing"))?;
        if reference(&content) != *blob {
            return Err(damaged("has another content"));
        }
        self.cache.lock().insert(root, *blob, content.clone());
        Ok(content)
    }

    /// As [`Blobs::get`]; tries until the store answers, or the shard is lost and the caller dropped.
    ///
    /// # Errors
    /// [`EngineError::Damaged`].
    pub(crate) async fn get_patiently(
        &self,
        shard: &ShardContext,
        root: ExecutionId,
        blob: &BlobRef,
    ) -> Result<Json, EngineError> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.get(root, blob).await {
                Err(error @ (EngineError::Unavailable(_) | EngineError::Elsewhere(_) | EngineError::Fenced)) => {
                    wait_for_store(shard, &error, &mut pause).await;
                }
                answer => return answer,
            }
        }
    }

    /// The whole document that a value stands for.
    ///
    /// # Errors
    /// [`EngineError::Damaged`].
    pub(crate) async fn document(
        &self,
        shard: &ShardContext,
        root: ExecutionId,
        value: &Value,
    ) -> Result<Json, EngineError> {
        let mut contents = Contents::default();
        for blob in blobs_of(value) {
            contents.add(blob, self.get_patiently(shard, root, &blob).await?);
        }
        let document = value.document(&|blob| contents.get(blob).cloned());
        document.map_err(|blob| EngineError::Damaged(format!("the value {} was not loaded", blob.hex())))
    }

    /// Gives another execution's value to one that is no child of it: what is kept apart of it is kept under that one too.
    ///
    /// # Errors
    /// As [`Blobs::keep`] and [`Blobs::get`].
    pub(crate) async fn adopt(
        &self,
        shard: &ShardContext,
        (from, to): (ExecutionId, ExecutionId),
        value: &Value,
    ) -> Result<(), EngineError> {
        for blob in blobs_of(value) {
            let content = self.get(from, &blob).await?;
            self.put(shard, to, blob, content).await?;
        }
        Ok(())
    }

    /// Sets the gauge of entries.
    pub(crate) fn sample(&self) {
        self.metrics.entries(self.cache.lock().len());
    }

    /// Forgets contents of a root that is gone.
    pub(crate) fn forget(&self, root: ExecutionId) {
        self.cache.lock().forget(root);
    }
}

/// The blobs that a value needs, each once.
pub(crate) fn blobs_of(value: &Value) -> Vec<BlobRef> {
    let mut found = Vec::new();
    value.blobs(&mut |blob| {
        if !found.contains(blob) {
            found.push(*blob);
        }
    });
    found
}

/// A document of which the large members, if it is an object, are made apart by `keep`.
pub(crate) fn split<E>(document: Json, keep: &mut dyn FnMut(Json) -> Result<Value, E>) -> Result<Value, E> {
    if document.bytes() <= INLINE_BYTES_MAX {
        return Ok(document.into());
    }
    let Ok(serde_json::Value::Object(members)) = document.to_value() else {
        return keep(document);
    };
    let members = members
        .into_iter()
        .map(|(name, value)| Ok((name, keep(Json::of(&value))?)));
    Ok(Composed::new(Parts::Object(members.collect::<Result<_, E>>()?)).into())
}

/// Pauses; never returns once the shard is lost, because whoever waits is about to be dropped with it.
async fn wait_for_store(shard: &ShardContext, error: &(dyn std::fmt::Display + Sync), pause: &mut Duration) {
    if shard.gate.is_closed() {
        return std::future::pending().await;
    }
    tracing::warn!(shard = shard.shard.0, %error, "a large value waits for the store");
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(RETRY_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_fips_180_4() {
        let blob = reference(&Json::from_trusted("\"abc\""));
        assert_eq!(blob.bytes, 5);
        // printf '"abc"' | sha256sum
        assert_eq!(
            blob.hex(),
            "6cc43f858fbb763301637b5af970e2a46b46f461f27e5a0f41e009c59b827b25"
        );
    }

    #[test]
    fn only_what_is_large_is_kept_apart() {
        let large = "x".repeat(INLINE_BYTES_MAX);
        let document = Json::of(&serde_json::json!({"large": large, "small": 1}));
        let mut kept = 0;
        let mut keep = |json: Json| {
            let apart = json.bytes() > INLINE_BYTES_MAX;
            kept += usize::from(apart);
            Ok::<Value, ()>(if apart { reference(&json).into() } else { json.into() })
        };
        let Ok(Value::Composed(split)) = split(document, &mut keep) else {
            panic!("it is an object")
        };
        assert_eq!(kept, 1);
        assert!(matches!(split.member("large"), Some(Value::Blob(_))));
        assert!(matches!(split.member("small"), Some(Value::Inline(_))));
    }
}
