//! The packed record: what one group commit appends to the shard log.
//!
//! ```text
//! record = header, frame*
//! header = format u8, commit u128, count u32, item*, crc32 u32        (crc over everything before it)
//! item   = execution [16], seq u64, length u32, mark u8, until i64    (mark + 4: the entry reopened an ended execution)
//! frame  = length u28, format - 1 u4, crc32 u32, entry (CBOR)         (length of the entry alone)
//! ```
//! Integers are little-endian. Frames describe themselves, so a checkpoint segment is a concatenation of them, of any formats.
//! The trial format has another order in header and frame, and other checksums: `format, count, commit, item*, crc32` and
//! `length and format, entry, crc32`.
//! A damaged frame harms its execution alone; a damaged header makes the record unreadable.

use std::ops::Range;

use bytes::Bytes;
use minicbor::{Decode, Encode};
use troupe_core::control::ControlEntry;
use troupe_core::execution::Entry;
use troupe_core::{ExecutionId, FormatRange, Seq, ShardId, StateFormat, Timestamp};
use troupe_ports::{CommitId, Wait};

use crate::format::{Unreadable, trial};

const ITEM_BYTES: usize = 16 + 8 + 4 + 1 + 8;
const FIXED_BYTES: usize = 1 + 16 + 4;
/// Length, format and checksum of an entry: before it, or around it.
const FRAME_BYTES: usize = 8;
/// Bits of a frame's length; its format stands above them.
const LENGTH_BITS: u32 = 28;
const LENGTH_MASK: u32 = (1 << LENGTH_BITS) - 1;
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
    /// The header or a frame is of a format that is not read here.
    #[error("it is of format {0}, which is not read here")]
    Newer(StateFormat),
    /// The header is damaged: the shard halts.
    #[error("the record's header is damaged: {0}")]
    Header(&'static str),
    /// A frame is damaged: its execution is quarantined.
    #[error("an entry is damaged: {0}")]
    Frame(String),
}

impl From<RecordError> for Unreadable {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Newer(format) => Self::Newer(format),
            RecordError::Header(_) | RecordError::Frame(_) => Self::damaged(error),
        }
    }
}

/// Gathers entries and packs them.
#[derive(Debug, Default)]
pub struct RecordWriter {
    items: Vec<RecordItem>,
    body: Vec<u8>,
    format: StateFormat,
}

impl RecordWriter {
    /// What is gathered from now on is of this format, if nothing was gathered yet: a record is of one format.
    pub fn begin(&mut self, format: StateFormat) {
        if self.is_empty() {
            self.format = format;
        }
    }

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
        push_frame(&mut self.body, self.format, entry);
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
        record.push(self.format.0);
        let count = u32_of(items.len()).to_le_bytes();
        if self.format == StateFormat::FIRST {
            record.extend_from_slice(&commit.0.to_le_bytes());
            record.extend_from_slice(&count);
        } else {
            record.extend_from_slice(&count);
            record.extend_from_slice(&commit.0.to_le_bytes());
        }
        for item in &mut items {
            let (code, until) = item.mark.code();
            record.extend_from_slice(&item.id.0);
            record.extend_from_slice(&item.seq.0.to_le_bytes());
            record.extend_from_slice(&u32_of(item.frame.len()).to_le_bytes());
            record.push(code | if item.reopens { REOPENS } else { 0 });
            record.extend_from_slice(&until.to_le_bytes());
            item.frame = item.frame.start + header_bytes..item.frame.end + header_bytes;
        }
        let crc = checksum(self.format, &record);
        record.extend_from_slice(&crc.to_le_bytes());
        record.extend_from_slice(&self.body);
        self.body.clear();
        (record.into(), items)
    }
}

fn u32_of(length: usize) -> u32 {
    u32::try_from(length).expect("a record is bounded far below 4 GiB")
}

fn checksum(format: StateFormat, bytes: &[u8]) -> u32 {
    if format == StateFormat::FIRST {
        crc32fast::hash(bytes)
    } else {
        trial::checksum(bytes)
    }
}

/// Appends the frame of an entry.
fn push_frame(out: &mut Vec<u8>, format: StateFormat, entry: &impl Encode<()>) {
    let start = out.len();
    let body = start + head_bytes(format);
    out.resize(body, 0);
    minicbor::encode(entry, &mut *out).expect("writing to a vector cannot fail");
    close_frame(out, start, format);
}

/// Bytes of a frame before its entry.
fn head_bytes(format: StateFormat) -> usize {
    if format == StateFormat::FIRST { FRAME_BYTES } else { 4 }
}

/// Writes what stands around the entry of the frame that begins at `start`.
fn close_frame(out: &mut Vec<u8>, start: usize, format: StateFormat) {
    let body = start + head_bytes(format);
    let length = u32_of(out.len() - body);
    assert_eq!(length >> LENGTH_BITS, 0, "an entry is bounded far below 256 MiB");
    let crc = checksum(format, &out[body..]).to_le_bytes();
    let head = length | u32::from(format.0 - 1) << LENGTH_BITS;
    out[start..start + 4].copy_from_slice(&head.to_le_bytes());
    if format == StateFormat::FIRST {
        out[start + 4..body].copy_from_slice(&crc);
    } else {
        out.extend_from_slice(&crc);
    }
}

/// The format that a record says it is of.
#[must_use]
pub fn format_of_record(record: &[u8]) -> Option<StateFormat> {
    record.first().copied().map(StateFormat)
}

/// Reads the header of a record of this release's formats.
///
/// # Errors
/// As [`read_header_as`].
pub fn read_header(record: &[u8]) -> Result<(CommitId, Vec<RecordItem>), RecordError> {
    read_header_as(FormatRange::RELEASE, record)
}

/// Reads a record's header.
///
/// # Errors
/// [`RecordError::Header`] when it is damaged, [`RecordError::Newer`] when it is of a format that is not among `reads`.
pub fn read_header_as(reads: FormatRange, record: &[u8]) -> Result<(CommitId, Vec<RecordItem>), RecordError> {
    const SHORT: RecordError = RecordError::Header("it is cut short");
    let mut reader = Reader(record);
    let format = StateFormat(reader.byte().ok_or(SHORT)?);
    if !reads.reads(format) {
        return Err(RecordError::Newer(format));
    }
    let (commit, count): (_, [u8; 4]) = if format == StateFormat::FIRST {
        (reader.array().ok_or(SHORT)?, reader.array().ok_or(SHORT)?)
    } else {
        let count = reader.array().ok_or(SHORT)?;
        (reader.array().ok_or(SHORT)?, count)
    };
    let (commit, count) = (
        CommitId(u128::from_le_bytes(commit)),
        u32::from_le_bytes(count) as usize,
    );
    let header_bytes = count
        .checked_mul(ITEM_BYTES)
        .and_then(|bytes| bytes.checked_add(FIXED_BYTES + 4))
        .filter(|bytes| *bytes <= record.len())
        .ok_or(SHORT)?;
    let crc = u32::from_le_bytes(Reader(&record[header_bytes - 4..]).array().ok_or(SHORT)?);
    if crc != checksum(format, &record[..header_bytes - 4]) {
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

/// Reads the entries of concatenated frames of this release's formats, in order. After an error nothing follows.
pub fn read_frames(frames: &[u8]) -> impl Iterator<Item = Result<Entry, RecordError>> + '_ {
    read_frames_as(FormatRange::RELEASE, frames)
}

/// As [`read_frames`], of any kind of entry.
pub fn read_frames_of<'a, T: Decode<'a, ()> + 'a>(
    frames: &'a [u8],
) -> impl Iterator<Item = Result<T, RecordError>> + 'a {
    read_frames_as(FormatRange::RELEASE, frames)
}

/// Reads concatenated frames of any kind of entry, in order. After an error nothing follows.
pub fn read_frames_as<'a, T: Decode<'a, ()> + 'a>(
    reads: FormatRange,
    mut frames: &'a [u8],
) -> impl Iterator<Item = Result<T, RecordError>> + 'a {
    std::iter::from_fn(move || {
        if frames.is_empty() {
            return None;
        }
        let read = read_frame(reads, frames);
        frames = read.as_ref().map_or(&[], |(_, rest)| rest);
        Some(read.map(|(entry, _)| entry))
    })
}

fn read_frame<'a, T: Decode<'a, ()>>(reads: FormatRange, bytes: &'a [u8]) -> Result<(T, &'a [u8]), RecordError> {
    let (_, body, rest) = open_frame(reads, bytes)?;
    let entry = minicbor::decode(body).map_err(|error| RecordError::Frame(error.to_string()))?;
    Ok((entry, rest))
}

/// The format of the first frame, its entry, and what follows.
fn open_frame(reads: FormatRange, bytes: &[u8]) -> Result<(StateFormat, &[u8], &[u8]), RecordError> {
    let short = || RecordError::Frame("it is cut short".into());
    let mut reader = Reader(bytes);
    let head = u32::from_le_bytes(reader.array().ok_or_else(short)?);
    let format = format_of_head(head);
    if !reads.reads(format) {
        return Err(RecordError::Newer(format));
    }
    let length = (head & LENGTH_MASK) as usize;
    let before = (format == StateFormat::FIRST).then(|| reader.array().ok_or_else(short));
    let body = reader.take(length).ok_or_else(short)?;
    let crc = match before {
        Some(crc) => crc?,
        None => reader.array().ok_or_else(short)?,
    };
    if checksum(format, body) != u32::from_le_bytes(crc) {
        return Err(RecordError::Frame("its checksum is wrong".into()));
    }
    Ok((format, body, reader.0))
}

fn format_of_head(head: u32) -> StateFormat {
    StateFormat((head >> LENGTH_BITS) as u8 + 1)
}

/// Concatenated frames in a form that readers of `format` know: those of newer formats are written anew, the others stay.
///
/// # Errors
/// [`RecordError`] when there are newer ones and one cannot be read.
pub fn frames_for(format: StateFormat, reads: FormatRange, frames: &Bytes) -> Result<Bytes, RecordError> {
    // Nothing newer than what is read gets here.
    if format == reads.newest || !has_newer(format, frames) {
        return Ok(frames.clone());
    }
    let mut out = Vec::with_capacity(frames.len());
    let mut rest = &frames[..];
    while !rest.is_empty() {
        let start = rest;
        let (found, body, after) = open_frame(reads, start)?;
        rest = after;
        if found <= format {
            out.extend_from_slice(&start[..start.len() - after.len()]);
            continue;
        }
        let begun = out.len();
        out.resize(begun + head_bytes(format), 0);
        out.extend_from_slice(body);
        close_frame(&mut out, begun, format);
    }
    Ok(out.into())
}

/// Whether one of the frames is of a newer format than `format`, as far as their lengths can be followed.
fn has_newer(format: StateFormat, mut frames: &[u8]) -> bool {
    while let Some(head) = frames.first_chunk::<4>() {
        let head = u32::from_le_bytes(*head);
        if format_of_head(head) > format {
            return true;
        }
        let length = (head & LENGTH_MASK) as usize + FRAME_BYTES;
        frames = frames.get(length..).unwrap_or_default();
    }
    false
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

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

    const FORMATS: [StateFormat; 2] = [StateFormat::FIRST, StateFormat::TRIAL];

    fn packed(format: StateFormat) -> (Bytes, Vec<RecordItem>) {
        let mut writer = RecordWriter::default();
        writer.begin(format);
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
        for format in FORMATS {
            let (record, items) = packed(format);
            assert_eq!(format_of_record(&record), Some(format));
            let (commit, read) = read_header_as(FormatRange::WITH_TRIAL, &record).unwrap();
            assert_eq!((commit, &read), (CommitId(42), &items));
            for (n, item) in read.iter().enumerate() {
                let frames = &record[item.frame.clone()];
                let entries: Vec<Entry> = read_frames_as(FormatRange::WITH_TRIAL, frames)
                    .collect::<Result<_, _>>()
                    .unwrap();
                assert_eq!(entries, [entry(n as u64 + 1)]);
            }
            let all = read_frames_as::<Entry>(FormatRange::WITH_TRIAL, &record[items[0].frame.start..])
                .collect::<Result<Vec<_>, _>>()
                .unwrap();
            assert_eq!(all.len(), 3, "frames describe themselves");
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed_where_it_does_harm() {
        for format in FORMATS {
            let (record, items) = packed(format);
            for at in 0..record.len() {
                let mut damaged = record.to_vec();
                damaged[at] ^= 0x10;
                let header = read_header_as(FormatRange::WITH_TRIAL, &damaged);
                if at < items[0].frame.start {
                    let expected = if at == 0 {
                        matches!(header, Err(RecordError::Newer(_)))
                    } else {
                        matches!(header, Err(RecordError::Header(_)))
                    };
                    assert!(expected, "header byte {at}: {header:?}");
                    continue;
                }
                let (_, read) = header.unwrap();
                let is_broken =
                    |frame: &[u8]| read_frames_as::<Entry>(FormatRange::WITH_TRIAL, frame).any(|entry| entry.is_err());
                let broken: Vec<_> = read
                    .iter()
                    .filter(|item| is_broken(&damaged[item.frame.clone()]))
                    .collect();
                assert_eq!(broken.len(), 1, "byte {at} harms one execution");
                assert!(broken[0].frame.contains(&at));
            }
        }
    }

    #[test]
    fn a_record_cut_short_is_damaged() {
        for format in FORMATS {
            let (record, _) = packed(format);
            for length in 0..record.len() {
                let read = read_header_as(FormatRange::WITH_TRIAL, &record[..length]);
                assert!(matches!(read, Err(RecordError::Header(_))), "{length} bytes");
            }
        }
    }

    #[test]
    fn a_format_that_is_not_read_is_no_damage() {
        let (record, items) = packed(StateFormat::TRIAL);
        assert_eq!(read_header(&record), Err(RecordError::Newer(StateFormat::TRIAL)));
        let frames: Vec<_> = read_frames(&record[items[0].frame.clone()]).collect();
        assert_eq!(frames, [Err(RecordError::Newer(StateFormat::TRIAL))]);
        let mut later = record.to_vec();
        later[0] = 9;
        let read = read_header_as(FormatRange::WITH_TRIAL, &later);
        assert_eq!(read, Err(RecordError::Newer(StateFormat(9))));
    }

    #[test]
    fn frames_of_newer_formats_are_written_anew_for_those_who_do_not_read_them() {
        let frames_of = |format| {
            let (record, items) = packed(format);
            record.slice(items[0].frame.start..)
        };
        let (first, trial) = (frames_of(StateFormat::FIRST), frames_of(StateFormat::TRIAL));
        assert_ne!(first, trial);
        let mixed = Bytes::from([&first[..], &trial, &first].concat());
        let fitted = frames_for(StateFormat::FIRST, FormatRange::WITH_TRIAL, &mixed).unwrap();
        assert_eq!(fitted, [&first[..], &first, &first].concat());
        assert_eq!(
            frames_for(StateFormat::TRIAL, FormatRange::WITH_TRIAL, &mixed).unwrap(),
            mixed
        );
        let damaged = trial.slice(..trial.len() - 1);
        assert!(frames_for(StateFormat::FIRST, FormatRange::WITH_TRIAL, &damaged).is_err());
        let harmed = first.slice(..first.len() - 1);
        assert_eq!(
            frames_for(StateFormat::FIRST, FormatRange::WITH_TRIAL, &harmed).unwrap(),
            harmed,
            "what is damaged and of no newer format is left to whoever reads it"
        );
    }

    #[test]
    fn a_record_is_of_one_format() {
        let mut writer = RecordWriter::default();
        writer.begin(StateFormat::TRIAL);
        writer.push(ExecutionId::fresh(ShardId(1), Timestamp(5), 1), &entry(1), Mark::Ended);
        writer.begin(StateFormat::FIRST);
        writer.push(ExecutionId::fresh(ShardId(1), Timestamp(5), 2), &entry(1), Mark::Ended);
        let (record, items) = writer.finish(CommitId(1));
        let frames = read_frames_as::<Entry>(FormatRange::WITH_TRIAL, &record[items[0].frame.start..]);
        assert_eq!(frames.filter(Result::is_ok).count(), 2);
        assert_eq!(format_of_record(&record), Some(StateFormat::TRIAL));
        writer.begin(StateFormat::FIRST);
        writer.push(ExecutionId::fresh(ShardId(1), Timestamp(5), 1), &entry(2), Mark::Ended);
        assert!(read_header(&writer.finish(CommitId(2)).0).is_ok());
    }
}
