//! What a sink has still to send of records that it moves out of the log: their events, so that whoever sends them needs neither
//! plans nor executions, which may be gone by then.
//!
//! Packed is a CBOR array of records (`crate::format::packed`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use troupe_core::control::ControlEntry;
use troupe_core::definition::{EventExchange, ExchangeType, NodeKind};
use troupe_core::execution::Verb;
use troupe_core::lifecycle::{LifecycleEvent, Outward, Payload};
use troupe_core::{ExecutionId, FormatRange, Json, LogPosition, NodeKey, Seq, StateFormat, Timestamp, WorkflowId};

use crate::format::{Unreadable, packed};

/// What is to be sent of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledRecord {
    /// Where it stood.
    pub position: LogPosition,
    /// Events of its entries.
    pub events: Vec<LifecycleEvent>,
    /// Its controls.
    pub controls: Vec<ControlEntry>,
}

/// Why a chunk cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// It does not make sense.
    #[error("the spool is damaged: {0}")]
    Damaged(String),
    /// It is of a format that is not read here.
    #[error("the spool is of format {0}, which is not read here")]
    Newer(StateFormat),
}

fn unreadable(error: Unreadable) -> SpoolError {
    match error {
        Unreadable::Newer(format) => SpoolError::Newer(format),
        Unreadable::Damaged(why) => SpoolError::Damaged(why),
    }
}

fn damaged(why: impl ToString) -> SpoolError {
    SpoolError::Damaged(why.to_string())
}

#[derive(Encode, Decode)]
struct RecordForm {
    #[n(0)]
    position: u64,
    #[n(1)]
    events: Vec<EventForm>,
    #[n(2)]
    controls: Vec<ControlEntry>,
}

#[derive(Encode, Decode)]
struct EventForm {
    #[n(0)]
    execution: ExecutionId,
    #[n(1)]
    workflow: WorkflowId,
    #[n(2)]
    seq: Seq,
    #[n(3)]
    part: u32,
    #[n(4)]
    at: Timestamp,
    #[n(5)]
    verb: u8,
    #[n(6)]
    node: Option<NodeForm>,
    #[n(7)]
    compensates: bool,
    #[n(8)]
    data: Json,
    #[n(9)]
    outward: Option<OutwardForm>,
}

/// Absent where nothing publishes the event, and in chunks of releases before there was a choice.
#[derive(Encode, Decode)]
struct OutwardForm {
    #[n(0)]
    payload: Option<Json>,
    #[n(1)]
    payload_error: Option<String>,
    #[n(2)]
    exchanges: Vec<ExchangeForm>,
    #[n(3)]
    trace_parent: Option<String>,
}

#[derive(Encode, Decode)]
struct ExchangeForm {
    #[n(0)]
    name: String,
    #[n(1)]
    kind: String,
    #[n(2)]
    routing_key: Option<String>,
    #[n(3)]
    headers: BTreeMap<String, String>,
}

impl From<&Outward> for OutwardForm {
    fn from(outward: &Outward) -> Self {
        let (payload, payload_error) = match &outward.payload {
            None => (None, None),
            Some(Payload::Made(made)) => (Some(made.clone()), None),
            Some(Payload::Failed(why)) => (None, Some(why.to_string())),
        };
        let exchanges = outward.exchanges.iter().map(|exchange| ExchangeForm {
            name: exchange.name.clone(),
            kind: exchange.kind.as_str().to_owned(),
            routing_key: exchange.routing_key.clone(),
            headers: exchange.headers.clone(),
        });
        Self {
            payload,
            payload_error,
            exchanges: exchanges.collect(),
            trace_parent: outward.trace_parent.as_deref().map(str::to_owned),
        }
    }
}

impl OutwardForm {
    fn read(self) -> Result<Outward, SpoolError> {
        let payload = match (self.payload, self.payload_error) {
            (Some(made), _) => Some(Payload::Made(made)),
            (None, why) => why.map(|why| Payload::Failed(why.into())),
        };
        let exchanges = self.exchanges.into_iter().map(|exchange| {
            let kind = ExchangeType::parse(&exchange.kind);
            let unknown = || damaged(format!("a newer release knows exchanges of type {}", exchange.kind));
            Ok(EventExchange {
                kind: kind.ok_or_else(unknown)?,
                name: exchange.name,
                routing_key: exchange.routing_key,
                headers: exchange.headers,
            })
        });
        Ok(Outward {
            payload,
            exchanges: exchanges.collect::<Result<Vec<_>, _>>()?.into(),
            trace_parent: self.trace_parent.map(Arc::from),
        })
    }
}

#[derive(Encode, Decode)]
struct NodeForm {
    #[n(0)]
    key: NodeKey,
    #[n(1)]
    kind: String,
}

impl From<&LifecycleEvent> for EventForm {
    fn from(event: &LifecycleEvent) -> Self {
        let node = event.node.as_ref().map(|(key, kind)| NodeForm {
            key: key.clone(),
            kind: (*kind).to_owned(),
        });
        Self {
            execution: event.execution,
            workflow: event.workflow.clone(),
            seq: event.seq,
            part: event.part,
            at: event.at,
            verb: event.verb as u8,
            node,
            compensates: event.compensates,
            data: event.data.clone(),
            outward: event.outward.as_ref().map(OutwardForm::from),
        }
    }
}

impl EventForm {
    fn read(self) -> Result<LifecycleEvent, SpoolError> {
        let node = self.node.map(|node| {
            let kind = NodeKind::parse(&node.kind);
            let kind = kind.ok_or_else(|| damaged(format!("a newer release knows nodes of type {}", node.kind)))?;
            Ok((node.key, kind.as_str()))
        });
        let verb = Verb::from_code(self.verb);
        Ok(LifecycleEvent {
            execution: self.execution,
            workflow: self.workflow,
            seq: self.seq,
            part: self.part,
            at: self.at,
            verb: verb.ok_or_else(|| damaged(format!("a newer release knows the verb {}", self.verb)))?,
            node: node.transpose()?,
            compensates: self.compensates,
            data: self.data,
            outward: self.outward.map(OutwardForm::read).transpose()?,
        })
    }
}

/// Packs records into a chunk of a format.
///
/// # Errors
/// When memory cannot be had, or the chunk would be too large.
pub fn pack(format: StateFormat, records: &[SpooledRecord]) -> Result<Bytes, SpoolError> {
    let forms = records.iter().map(|record| RecordForm {
        position: record.position.0,
        events: record.events.iter().map(EventForm::from).collect(),
        controls: record.controls.clone(),
    });
    let forms: Vec<RecordForm> = forms.collect();
    let raw = minicbor::to_vec(&forms).map_err(damaged)?;
    let mut compressor = packed::compressor().map_err(damaged)?;
    packed::pack(format, &mut compressor, &raw).map_err(unreadable)
}

/// Unpacks a chunk.
///
/// # Errors
/// [`SpoolError`] when it is damaged, or of a format that is not among `reads`.
pub fn unpack(reads: FormatRange, chunk: &[u8]) -> Result<Vec<SpooledRecord>, SpoolError> {
    let raw = packed::unpack(reads, chunk).map_err(unreadable)?;
    let forms: Vec<RecordForm> = minicbor::decode(&raw).map_err(damaged)?;
    let records = forms.into_iter().map(|form| {
        let events = form.events.into_iter().map(EventForm::read);
        Ok(SpooledRecord {
            position: LogPosition(form.position),
            events: events.collect::<Result<_, _>>()?,
            controls: form.controls,
        })
    });
    records.collect()
}

/// The format that a chunk says it is of.
#[must_use]
pub fn format_of(chunk: &[u8]) -> Option<StateFormat> {
    chunk.first().copied().map(StateFormat)
}

/// What the spool holds, as far as the sink knows: only the sink changes it.
#[derive(Clone, Debug, Default)]
pub struct SpoolIndex {
    chunks: VecDeque<(LogPosition, u64)>,
    bytes: u64,
}

impl SpoolIndex {
    /// An index of chunks that end at these positions, with their bytes, in order.
    #[must_use]
    pub fn new(chunks: Vec<(LogPosition, u64)>) -> Self {
        Self {
            bytes: chunks.iter().map(|(_, bytes)| bytes).sum(),
            chunks: chunks.into(),
        }
    }

    /// A chunk was spooled.
    pub fn add(&mut self, up_to: LogPosition, bytes: u64) {
        if self.end().is_none_or(|end| up_to > end) {
            self.chunks.push_back((up_to, bytes));
            self.bytes += bytes;
        }
    }

    /// Everything up to `position` was sent.
    pub fn sent(&mut self, position: LogPosition) {
        while let Some((up_to, bytes)) = self.chunks.front().copied()
            && up_to <= position
        {
            self.bytes -= bytes;
            self.chunks.pop_front();
        }
    }

    /// The last record that is spooled; none when the spool is empty.
    #[must_use]
    pub fn end(&self) -> Option<LogPosition> {
        self.chunks.back().map(|(up_to, _)| *up_to)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::ShardId;
    use troupe_core::control::{Clocks, ControlKey, Scope, Setting};

    use super::*;

    fn record() -> SpooledRecord {
        let event = |verb, node| LifecycleEvent {
            execution: ExecutionId::fresh(ShardId(1), Timestamp(2), 3),
            workflow: "orders".into(),
            seq: Seq(4),
            part: 1,
            at: Timestamp(1_790_000_000_000),
            verb,
            node,
            compensates: true,
            data: Json::from_trusted(r#"{"attempt":1}"#),
            outward: Some(Outward {
                payload: Some(Payload::Failed("why".into())),
                exchanges: [EventExchange {
                    name: "audit".to_owned(),
                    kind: ExchangeType::Headers,
                    routing_key: Some("k".to_owned()),
                    headers: [("a".to_owned(), "b".to_owned())].into(),
                }]
                .into(),
                trace_parent: Some("00-a".into()),
            }),
        };
        SpooledRecord {
            position: LogPosition(7),
            events: vec![
                event(Verb::ExecutionCreated, None),
                event(Verb::NodeStarted, Some((NodeKey::from("pay"), "http"))),
            ],
            controls: vec![ControlEntry {
                seq: Seq(1),
                at: Timestamp(5),
                key: ControlKey::Pause(Scope::All),
                setting: Some(Setting::Paused { clocks: Clocks::Run }),
                command: "c".into(),
                principal: None,
                reason: Some("why".into()),
                only_id: false,
            }],
        }
    }

    #[test]
    fn a_chunk_survives_its_packing_and_a_damaged_one_is_noticed() {
        let empty = SpooledRecord {
            position: LogPosition(8),
            events: vec![],
            controls: vec![],
        };
        let records = [record(), empty];
        for format in [StateFormat::FIRST, StateFormat::TRIAL] {
            let packed = pack(format, &records).unwrap();
            assert_eq!(unpack(FormatRange::WITH_TRIAL, &packed).unwrap(), records);
            for length in 0..packed.len() {
                let read = unpack(FormatRange::WITH_TRIAL, &packed[..length]);
                assert!(matches!(read, Err(SpoolError::Damaged(_))), "{length} bytes");
            }
        }
        let newer = pack(StateFormat::TRIAL, &records).unwrap();
        let read = unpack(FormatRange::RELEASE, &newer);
        assert_eq!(read, Err(SpoolError::Newer(StateFormat::TRIAL)));
    }

    #[test]
    fn every_verb_and_type_comes_back() {
        let all = (0..=u8::MAX).filter_map(Verb::from_code);
        assert_eq!(all.clone().count(), 17);
        for (verb, kind) in all.zip(NodeKind::WORDS.iter().cycle()) {
            let mut record = record();
            record.events[1].verb = verb;
            record.events[1].node = Some((NodeKey::from("n"), kind));
            let records = [record];
            let packed = pack(StateFormat::FIRST, &records).unwrap();
            assert_eq!(unpack(FormatRange::RELEASE, &packed).unwrap(), records);
        }
    }

    #[test]
    fn what_is_sent_is_spooled_no_longer() {
        let mut index = SpoolIndex::new(vec![(LogPosition(4), 10)]);
        index.add(LogPosition(9), 5);
        index.add(LogPosition(9), 5);
        assert_eq!((index.end(), index.bytes()), (Some(LogPosition(9)), 15));
        index.sent(LogPosition(8));
        assert_eq!((index.end(), index.bytes()), (Some(LogPosition(9)), 5));
        index.sent(LogPosition(9));
        assert_eq!((index.end(), index.bytes()), (None, 0));
    }
}
