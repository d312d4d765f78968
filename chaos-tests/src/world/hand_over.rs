//! Large values that one family takes over from another: they are its own before an entry of it refers to them.

use troupe_actors::{EngineError, values_of};
use troupe_core::execution::Started;
use troupe_core::{BlobRef, ExecutionId};
use troupe_ports::StateStore;

use super::process::ProcessNo;
use super::{World, at_once};

impl World {
    /// Keeps what is large of a start under the family that it begins.
    pub(super) fn hand_over(
        &self,
        process: ProcessNo,
        from: Option<ExecutionId>,
        started: &mut Started,
    ) -> Result<(), EngineError> {
        let to = started.id;
        let mut wanted: Vec<BlobRef> = Vec::new();
        for value in values_of(started) {
            value.blobs(&mut |blob| wanted.push(*blob));
        }
        let Some(from) = from.filter(|_| !wanted.is_empty()) else {
            return Ok(());
        };
        let unavailable = |why: &str| EngineError::Unavailable(why.into());
        if !self.reaches(process) {
            return Err(unavailable("the store is out"));
        }
        let serving = self
            .processes
            .get(&process)
            .and_then(|state| state.shards.get(&to.shard()));
        let epoch = serving.ok_or_else(|| unavailable("nobody serves the shard"))?.epoch;
        let mut blobs = Vec::new();
        for blob in wanted {
            let content = at_once(self.store.blob(from, blob.hash))?;
            let content = content.ok_or_else(|| EngineError::Damaged("a large value is gone".into()))?;
            blobs.push((blob, content));
        }
        at_once(self.store.put_blobs(to.shard(), epoch, to, self.now, blobs, u64::MAX))?;
        Ok(())
    }
}
