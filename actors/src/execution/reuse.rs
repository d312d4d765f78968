//! Outputs that other attempts may reuse.

use std::sync::Arc;

use troupe_core::ExecutionId;
use troupe_core::execution::OfferOutput;
use troupe_ports::CacheLimits;

use crate::context::ShardContext;

/// Largest output that is worth its place, in bytes.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

/// Keeps an output for reuse. If it cannot be, the next attempt runs.
pub(super) async fn keep_for_reuse(shard: Arc<ShardContext>, root: Option<ExecutionId>, offer: OfferOutput) {
    let engine = &shard.engine;
    if offer.output.bytes() > OUTPUT_BYTES_MAX {
        return;
    }
    let output = match (offer.output.as_inline(), root) {
        (Some(output), _) => output.clone(),
        (None, Some(root)) => match engine.blobs.document(&shard, root, &offer.output).await {
            Ok(output) => output,
            Err(error) => return tracing::warn!(%error, "an output is not kept for reuse"),
        },
        (None, None) => return,
    };
    let now = engine.now();
    let most = CacheLimits {
        entries: engine.options.cached_outputs_max,
        bytes: engine.options.cached_bytes_max,
    };
    let store = &engine.parts.state;
    let kept = store
        .cache_output(offer.key, output, now, now.plus_ms(offer.ttl_ms), most)
        .await;
    if let Err(error) = kept {
        tracing::warn!(%error, "an output is not kept for reuse");
    }
}
