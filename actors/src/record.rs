//! The packed record: what one group commit appends to the shard log.
//!
//! ```text
//! record = header, frame*
//! header = version u8, commit u128, count u32, item*, crc32 u32       (crc over everything before it)
//! item   = execution [16], seq u64, length u32, mark u8, until i64    (mark + 4: the entry reopened an ended execution)
//! frame  = length u32, crc32 u32, entry (CBOR)                        (length of the entry alone)
//! ```
//! Integers are little-endian. Frames describe themselves, so a checkpoint segment is a concatenation of them.
//! A damaged frame harms its execution alone; a damaged header makes the record unreadable.

use std::ops::Range;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use troupe_core::control::ControlEntry;
use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, Seq, ShardId, Timestamp};
use troupe_ports::{CommitId, Wait};

const VERSION: u8 = 1;
const ITEM_BYTES: usize = 16 + 8 + 4 + 1 + 8;
const FIXED_BYTES: usize = 1 + 16 + 4;
const FRAME_HEAD_BYTES: usize = 8;
/// Beside the code of a mark.
const REOPENS: u8 = 4;

/// How an execution stands after an entry, so that recovery need not fold those that wait or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It has unfinished work.
    Running,
    /// It only waits for this instant.
    Until(Timestamp),
    /// It only waits for a message.
    Message,
    /// It is over.
    Ended,
}

impl Mark {
    /// What a checkpoint row says; none for an execution that is over.
    #[must_use]
    pub fn wait(self) -> Option<Wait> {
        match self {
            Self::Running => Some(Wait::Running),
            Self::Until(at) => Some(Wait::Until(at)),
            Self::Message => Some(Wait::Message),
            Self::Ended => None,
        }
    }

    fn code(self) -> (u8, i64) {
        match self {
            Self::Running => (0, 0),
            Self::Until(at) => (1, at.0),
            Self::Message => (2, 0),
            Self::Ended => (3, 0),
        }
    }
}

/// One entry's place in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordItem {
    /// The execution.
    pub id: ExecutionId,
    /// Seq of the entry.
    pub seq: Seq,
    /// How the execution stands after it.
    pub mark: Mark,
    /// Whether the execution had ended before it.
    pub reopens: bool,
    /// Where its frame lies in the record.
    pub frame: Range<usize>,
}

/// Why a record or a frame cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The header is damaged or of an unknown version: the shard halts.
    #[error("the record's header is damaged: {0}")]
    Header(&'static str),
    /// A frame is damaged: its execution is quarantined.
    #[error("an entry is damaged: {0}")]
    Frame(String),
}

/// Gathers entries and packs them.
#[derive(Debug, Default)]
pub struct RecordWriter {
    items: Vec<RecordItem>,
    body: Vec<u8>,
}

impl RecordWriter {
    /// Appends an entry; its bytes are encoded here, once.
    pub fn push(&mut self, id: ExecutionId, entry: &Entry, mark: Mark) {
        self.push_encoded(id, entry.seq, entry, mark, entry.reopens());
    }

    /// Appends an entry of a shard's controls.
    pub fn push_control(&mut self, shard: ShardId, entry: &ControlEntry) {
        self.push_encoded(ExecutionId::controls(shard), entry.seq, entry, Mark::Message, false);
    }

    fn push_encoded(&mut self, id: ExecutionId, seq: Seq, entry: &impl Encode<()>, mark: Mark, reopens: bool) {
        let start = self.body.len();
        push_frame(&mut self.body, entry);
        let frame = start..self.body.len();
        self.items.push(RecordItem {
            id,
            seq,
            mark,
            reopens,
            frame,
        });
    }

    /// Whether nothing was gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of entries gathered.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.items.len()
    }

    /// Bytes gathered so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Packs what was gathered and starts anew. The frames of the items are places in the returned record.
    pub fn finish(&mut self, commit: CommitId) -> (Bytes, Vec<RecordItem>) {
        let mut items = std::mem::take(&mut self.items);
        let header_bytes = FIXED_BYTES + items.len() * ITEM_BYTES + 4;
        let mut record = Vec::with_capacity(header_bytes + self.body.len());
        record.push(VERSION);
        record.extend_from_slice(&commit.0.to_le_bytes());
        record.extend_from_slice(&u32_of(items.len()).to_le_bytes());
        for item in &mut items {
            let (code, until) = item.mark.code();
            record.extend_from_slice(&item.id.0);
            record.extend_from_slice(&item.seq.0.to_le_bytes());
            record.extend_from_slice(&u32_of(item.frame.len()).to_le_bytes());
            record.push(code | if item.reopens { REOPENS } else { 0 });
            record.extend_from_slice(&until.to_le_bytes());
            item.frame = item.frame.start + header_bytes..item.frame.end + header_bytes;
        }
        let crc = crc32fast::hash(&record);
        record.extend_from_slice(&crc.to_le_bytes());
        record.extend_from_slice(&self.body);
        self.body.clear();
        (record.into(), items)
    }
}

fn u32_of(length: usize) -> u32 {
    u32::try_from(length).expect("a record is bounded far below 4 GiB")
}

/// Appends the frame of an entry.
pub fn push_frame(out: &mut Vec<u8>, entry: &impl Encode<()>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    minicbor::encode(entry, &mut *out).expect("writing to a vector cannot fail");
    let body = start + FRAME_HEAD_BYTES;
    let length = u32_of(out.len() - body);
    let crc = crc32fast::hash(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a record's header.
///
/// # Errors
/// [`RecordError::Header`] when it is damaged or of an unknown version.
pub fn read_header(record: &[u8]) -> Result<(CommitId, Vec<RecordItem>), RecordError> {
    const SHORT: RecordError = RecordError::Header("it is cut short");
    let mut reader = Reader(record);
    if reader.byte().ok_or(SHORT)? != VERSION {
        return Err(RecordError::Header("its version is unknown"));
    }
    let commit = CommitId(u128::from_le_bytes(reader.array().ok_or(SHORT)?));
    let count = u32::from_le_bytes(reader.array().ok_or(SHORT)?) as usize;
    let header_bytes = count
        .checked_mul(ITEM_BYTES)
        .and_then(|bytes| bytes.checked_add(FIXED_BYTES + 4))
        .filter(|bytes| *bytes <= record.len())
        .ok_or(SHORT)?;
    let crc = u32::from_le_bytes(Reader(&record[header_bytes - 4..]).array().ok_or(SHORT)?);
    if crc != crc32fast::hash(&record[..header_bytes - 4]) {
        return Err(RecordError::Header("its checksum is wrong"));
    }
    let mut items = Vec::with_capacity(count);
    let mut frame_start = header_bytes;
    for _ in 0..count {
        let id = ExecutionId(reader.array().ok_or(SHORT)?);
        let seq = Seq(u64::from_le_bytes(reader.array().ok_or(SHORT)?));
        let length = u32::from_le_bytes(reader.array().ok_or(SHORT)?) as usize;
        let code = reader.byte().ok_or(SHORT)?;
        let until = Timestamp(i64::from_le_bytes(reader.array().ok_or(SHORT)?));
        let reopens = code & REOPENS != 0;
        let mark = match code & !REOPENS {
            0 => Mark::Running,
            1 => Mark::Until(until),
            2 => Mark::Message,
            3 => Mark::Ended,
            _ => return Err(RecordError::Header("a mark is unknown")),
        };
        let frame = frame_start..frame_start + length;
        if frame.end > record.len() {
            return Err(SHORT);
        }
        frame_start = frame.end;
        items.push(RecordItem {
            id,
            seq,
            mark,
            reopens,
            frame,
        });
    }
    Ok((commit, items))
}

/// Reads the entries of concatenated frames, in order. After an error nothing follows.
pub fn read_frames(frames: &[u8]) -> impl Iterator<Item = Result<Entry, RecordError>> + '_ {
    read_frames_of(frames)
}

/// Reads concatenated frames of any kind of entry, in order. After an error nothing follows.
pub fn read_frames_of<'a, T: Decode<'a, ()> + 'a>(
    mut frames: &'a [u8],
) -> impl Iterator<Item = Result<T, RecordError>> + 'a {
    std::iter::from_fn(move || {
        if frames.is_empty() {
            return None;
        }
        let read = read_frame(frames);
        frames = read.as_ref().map_or(&[], |(_, rest)| rest);
        Some(read.map(|(entry, _)| entry))
    })
}

fn read_frame<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), RecordError> {
    let short = || RecordError::Frame("it is cut short".into());
    let mut reader = Reader(bytes);
    let length = u32::from_le_bytes(reader.array().ok_or_else(short)?) as usize;
    let crc = u32::from_le_bytes(reader.array().ok_or_else(short)?);
    let (body, rest) = reader.0.split_at_checked(length).ok_or_else(short)?;
    if crc32fast::hash(body) != crc {
        return Err(RecordError::Frame("its checksum is wrong".into()));
    }
    let entry = minicbor::decode(body).map_err(|error| RecordError::Frame(error.to_string()))?;
    Ok((entry, rest))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_core::execution::Event;

    fn entry(seq: u64) -> Entry {
        Entry {
            seq: Seq(seq),
            at: Timestamp(1_000 + i64::try_from(seq).unwrap()),
            event: Event::Paused,
            answers: Vec::new(),
            transitions: Vec::new(),
            principal: None,
            command: None,
        }
    }

    fn packed() -> (Bytes, Vec<RecordItem>) {
        let mut writer = RecordWriter::default();
        for n in 0..3 {
            let id = ExecutionId::fresh(ShardId(1), Timestamp(5), n);
            writer.push(
                id,
                &entry(n + 1),
                if n == 1 {
                    Mark::Until(Timestamp(-7))
                } else {
                    Mark::Ended
                },
            );
        }
        writer.finish(CommitId(42))
    }

    #[test]
    fn a_record_survives_its_encoding() {
        let (record, items) = packed();
        let (commit, read) = read_header(&record).unwrap();
        assert_eq!((commit, &read), (CommitId(42), &items));
        for (n, item) in read.iter().enumerate() {
            let entries: Vec<_> = read_frames(&record[item.frame.clone()])
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(entries, [entry(n as u64 + 1)]);
        }
        let all = read_frames(&record[items[0].frame.start..])
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        assert_eq!(all.len(), 3, "frames describe themselves");
    }

    #[test]
    fn every_damaged_byte_is_noticed_where_it_does_harm() {
        let (record, items) = packed();
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[at] ^= 0x10;
            if at < items[0].frame.start {
                assert!(
                    matches!(read_header(&damaged), Err(RecordError::Header(_))),
                    "header byte {at}"
                );
                continue;
            }
            let (_, read) = read_header(&damaged).unwrap();
            let broken: Vec<_> = read
                .iter()
                .filter(|item| read_frames(&damaged[item.frame.clone()]).any(|entry| entry.is_err()))
                .collect();
            assert_eq!(broken.len(), 1, "byte {at} harms one execution");
            assert!(broken[0].frame.contains(&at));
        }
    }

    #[test]
    fn a_record_cut_short_is_damaged() {
        let (record, _) = packed();
        for length in 0..record.len() {
            assert!(read_header(&record[..length]).is_err(), "{length} bytes");
        }
    }
}
