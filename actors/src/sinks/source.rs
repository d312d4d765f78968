//! Where an event sink reads what it was not offered: its spool, then the log, with the plans of its executions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;
use troupe_core::control::ControlEntry;
use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, LogPosition, ShardId};
use troupe_ports::{LogRecord, SpoolChunk, StoreError};

use super::events::{Content, EventItem, Items};
use super::gather::Unsent;
use super::spool::{SpoolIndex, SpooledRecord, unpack};
use crate::checkpointer::CheckpointerMessage;
use crate::context::EngineContext;
use crate::error::EngineError;
use crate::evaluation::CompiledPlan;
use crate::execution::load::{Loaded, load_over};
use crate::record::{read_frames_as, read_header_as};

/// What an event takes beside its data, about.
const EVENT_BYTES: usize = 200;
/// Bytes of log or spool read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Executions whose workflow is remembered meanwhile.
const KNOWN_MAX: usize = 4_096;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What an entry does not say of its execution: its plan, and the trace context of its start.
type Known = (Arc<CompiledPlan>, Option<Arc<str>>);

/// Reads the log of one shard.
#[derive(Debug)]
pub(super) struct Source {
    engine: Arc<EngineContext>,
    shard: ShardId,
    sink: &'static str,
    spool: SpoolIndex,
    /// A chunk may be in the store of which the index does not know.
    doubtful: bool,
    /// Knows executions that no checkpoint holds.
    checkpointer: ActorRef<CheckpointerMessage>,
    known: HashMap<ExecutionId, Known>,
}

impl Source {
    pub(super) fn new(
        engine: Arc<EngineContext>,
        shard: ShardId,
        (sink, spool): (&'static str, SpoolIndex),
        checkpointer: ActorRef<CheckpointerMessage>,
    ) -> Self {
        Self {
            engine,
            shard,
            sink,
            spool,
            doubtful: false,
            checkpointer,
            known: HashMap::new(),
        }
    }

    /// A chunk was handed to the store and the outcome is unknown: the log may be trimmed behind it all the same.
    pub(super) fn doubt_spool(&mut self) {
        self.doubtful = true;
    }

    /// Looks into the store, where what the spool holds is in doubt.
    pub(super) async fn settle_spool(&mut self, sent: LogPosition) -> Result<(), StoreError> {
        if self.doubtful {
            let state = &self.engine.parts.state;
            self.spool = SpoolIndex::new(state.spool_extent(self.shard, self.sink).await?);
            self.spool.sent(sent);
            self.doubtful = false;
        }
        Ok(())
    }

    /// What the spool holds.
    pub(super) fn spool(&mut self) -> &mut SpoolIndex {
        &mut self.spool
    }

    /// The next records from `from` on; none when there are no more.
    pub(super) async fn read(&mut self, from: LogPosition) -> Result<Vec<Unsent<Content>>, StoreError> {
        let records = self.read_once(from).await?;
        if records.first().is_none_or(|first| first.position <= from) {
            return Ok(records);
        }
        // The log begins later: whoever trimmed it, perhaps a next owner that this one knows nothing of, has sent what is missing or moved
        // it to the spool. Passed over, it would come behind what follows it.
        self.doubt_spool();
        self.read_once(from).await
    }

    async fn read_once(&mut self, from: LogPosition) -> Result<Vec<Unsent<Content>>, StoreError> {
        let after = LogPosition(from.0.saturating_sub(1));
        self.settle_spool(after).await?;
        if self.spool.end().is_some_and(|end| from <= end) {
            let state = &self.engine.parts.state;
            let chunks = state.spooled(self.shard, self.sink, after, READ_BYTES).await?;
            if !chunks.is_empty() {
                return Ok(chunks
                    .into_iter()
                    .flat_map(|chunk| self.unpacked(chunk, from))
                    .collect());
            }
            tracing::error!(
                shard = self.shard.0,
                sink = self.sink,
                "a spool is gone: its events are lost"
            );
            self.spool = SpoolIndex::default();
        }
        self.read_log(from).await
    }

    fn unpacked(&self, chunk: SpoolChunk, from: LogPosition) -> Vec<Unsent<Content>> {
        let records = unpack(self.engine.options.reads, &chunk.bytes).unwrap_or_else(|error| {
            let (shard, up_to) = (self.shard.0, chunk.up_to.0);
            tracing::error!(shard, up_to, %error, "events of a damaged chunk are lost");
            Vec::new()
        });
        let unsent = |record: SpooledRecord| Unsent {
            position: record.position,
            entries: record.events.len(),
            bytes: record.events.iter().map(|event| event.data.bytes() + EVENT_BYTES).sum(),
            alone: !record.controls.is_empty(),
            content: Content {
                items: Items::Spooled(record.events),
                controls: record.controls.into(),
            },
        };
        let is_whole = records.last().is_some_and(|last| last.position >= chunk.up_to);
        let nothing = SpooledRecord {
            position: chunk.up_to,
            events: Vec::new(),
            controls: Vec::new(),
        };
        let records = records.into_iter().filter(|record| record.position >= from);
        // What is lost of a chunk must not keep what comes behind it.
        let rest = (!is_whole).then_some(nothing);
        records.chain(rest).map(unsent).collect()
    }

    /// The next records of the log from `from` on; none when there are no more.
    pub(super) async fn read_log(&mut self, from: LogPosition) -> Result<Vec<Unsent<Content>>, StoreError> {
        let records = self.engine.parts.state.read(self.shard, from, READ_BYTES).await?;
        if records.is_empty() {
            self.known.clear();
        }
        let mut unsent = Vec::with_capacity(records.len());
        for record in records {
            unsent.push(self.unsent(record).await);
        }
        Ok(unsent)
    }

    async fn unsent(&mut self, record: LogRecord) -> Unsent<Content> {
        let (mut found, mut controls) = (Vec::new(), Vec::new());
        let reads = self.engine.options.reads;
        let items = match read_header_as(reads, &record.bytes) {
            Ok((_, items)) => items,
            Err(error) => {
                let (shard, position) = (self.shard.0, record.position.0);
                tracing::error!(shard, position, %error, "events of a damaged record are lost");
                Vec::new()
            }
        };
        for item in items {
            let frame = &record.bytes[item.frame];
            if item.id.is_controls() {
                // Those that cannot be read halt the shard when it is opened.
                controls.extend(read_frames_as::<ControlEntry>(reads, frame).next().and_then(Result::ok));
                continue;
            }
            let Some(Ok(entry)) = read_frames_as::<Entry>(reads, frame).next() else {
                continue;
            };
            if let Some((compiled, trace_parent)) = self.known_of(item.id, &entry).await {
                found.push(EventItem {
                    id: item.id,
                    entry,
                    compiled,
                    trace_parent,
                });
            }
        }
        Unsent {
            position: record.position,
            entries: found.len(),
            bytes: record.bytes.len(),
            alone: !controls.is_empty(),
            content: Content {
                items: Items::Read(found),
                controls: controls.into(),
            },
        }
    }

    /// An entry does not name its workflow: the first one does, or the execution's base.
    async fn known_of(&mut self, id: ExecutionId, entry: &Entry) -> Option<Known> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        let mut pause = RETRY_FIRST;
        let known = loop {
            let found = match entry.event.start() {
                Some(started) => {
                    let version = self.engine.plans.version(started.workflow.as_str(), started.version);
                    let trace_parent = started.trace_parent.as_deref().map(Arc::from);
                    version.await.map(|compiled| Some((compiled, trace_parent)))
                }
                None => self.load(id).await.map(|loaded| match loaded {
                    Loaded::Found(found) => Some((found.compiled, found.state.trace_parent.as_deref().map(Arc::from))),
                    Loaded::Missing | Loaded::Tombstone(_) => {
                        tracing::error!(%id, "events of an execution that is gone cannot be derived");
                        None
                    }
                }),
            };
            match found {
                Ok(found) => break found,
                Err(EngineError::Unavailable(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => {
                    tracing::error!(%id, %error, "events of an execution cannot be derived");
                    break None;
                }
            }
        }?;
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(id, known.clone());
        Some(known)
    }

    /// First what the log alone holds, then the store: what leaves the one in between is in the other.
    async fn load(&self, id: ExecutionId) -> Result<Loaded, EngineError> {
        let gone = || EngineError::Unavailable("the checkpointer is gone".into());
        let (reply, answer) = oneshot::channel();
        self.checkpointer
            .send_message(CheckpointerMessage::Lookup(id, reply))
            .map_err(|_| gone())?;
        let pending = answer.await.map_err(|_| gone())?;
        load_over(&self.engine, id, pending.as_ref()).await
    }
}
