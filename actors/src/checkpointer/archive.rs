//! Archives of ended executions: the final state and the frames that no segment of the store holds, compressed.
//!
//! Packed are `state length u32, state, frames` (`crate::format::packed`). The state is encoded as in the first format; frames say theirs
//! themselves.

use bytes::Bytes;
use troupe_core::execution::Entry;
use troupe_core::{FormatRange, StateFormat};
use troupe_ports::{Archive, CheckpointRow};

use super::machine::Pending;
use crate::format::{Unreadable, packed};
use crate::record::{RecordError, read_frames};

/// Why an archive cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It does not make sense.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// It is of a format that is not read here.
    #[error("the archive is of format {0}, which is not read here")]
    Newer(StateFormat),
}

impl From<Unreadable> for ArchiveError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Newer(format) => Self::Newer(format),
            Unreadable::Damaged(why) => Self::Damaged(why),
        }
    }
}

impl From<RecordError> for ArchiveError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Newer(format) => Self::Newer(format),
            RecordError::Header(_) | RecordError::Frame(_) => Self::Damaged(error.to_string()),
        }
    }
}

/// Packs archives; its context is worth reusing.
pub struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
    format: StateFormat,
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// When memory for the compressor's context cannot be had.
    pub fn new() -> Result<Self, ArchiveError> {
        Ok(Self {
            compressor: packed::compressor().map_err(Unreadable::damaged)?,
            raw: Vec::new(),
            format: StateFormat::FIRST,
        })
    }

    /// A packer that writes `format`.
    #[must_use]
    pub fn writing(self, format: StateFormat) -> Self {
        Self { format, ..self }
    }

    /// Packs an encoded state and frames.
    ///
    /// # Errors
    /// When the archive would be too large.
    pub fn pack<'a>(&mut self, state: &[u8], frames: impl Iterator<Item = &'a Bytes>) -> Result<Bytes, ArchiveError> {
        let too_large = || ArchiveError::Damaged("it is too large".into());
        self.raw.clear();
        self.raw
            .extend_from_slice(&u32::try_from(state.len()).map_err(|_| too_large())?.to_le_bytes());
        self.raw.extend_from_slice(state);
        frames.for_each(|frame| self.raw.extend_from_slice(frame));
        Ok(packed::pack(self.format, &mut self.compressor, &self.raw)?)
    }
}

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The final state, encoded.
    pub state: Bytes,
    /// Frames, concatenated.
    pub frames: Bytes,
}

impl Unpacked {
    /// Unpacks an archive of this release's formats.
    ///
    /// # Errors
    /// As [`Unpacked::read_as`].
    pub fn read(packed: &[u8]) -> Result<Self, ArchiveError> {
        Self::read_as(FormatRange::RELEASE, packed)
    }

    /// Unpacks an archive.
    ///
    /// # Errors
    /// [`ArchiveError`] when it is damaged, or of a format that is not among `reads`.
    pub fn read_as(reads: FormatRange, packed: &[u8]) -> Result<Self, ArchiveError> {
        let damaged = |why: &str| ArchiveError::Damaged(why.into());
        let raw = packed::unpack(reads, packed)?;
        let (length, rest) = raw.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
        let state_bytes = u32::from_le_bytes(*length) as usize;
        if state_bytes > rest.len() {
            return Err(damaged("its state is cut short"));
        }
        Ok(Self {
            state: raw.slice(4..4 + state_bytes),
            frames: raw.slice(4 + state_bytes..),
        })
    }

    /// The entries it holds.
    ///
    /// # Errors
    /// [`ArchiveError`] when one is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>, ArchiveError> {
        Ok(read_frames(&self.frames).collect::<Result<_, _>>()?)
    }
}

/// The row with which an archive gives way to what is pending of its execution, which has been reopened since; none where the
/// archive is as new as that.
///
/// # Errors
/// [`ArchiveError`] when it cannot be read.
pub fn give_way(
    reads: FormatRange,
    archive: &Archive,
    pending: &Pending,
) -> Result<Option<CheckpointRow>, ArchiveError> {
    if archive.last >= pending.last() {
        return Ok(None);
    }
    let Unpacked { state, frames } = Unpacked::read_as(reads, &archive.bytes)?;
    Ok(Some(CheckpointRow::Reopened {
        id: archive.id,
        ended: archive.last,
        segment: frames,
        snapshot: state,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_archive_survives_its_packing_and_a_damaged_one_is_noticed() {
        for format in [StateFormat::FIRST, StateFormat::TRIAL] {
            let mut packer = Packer::new().unwrap().writing(format);
            for (state, frames) in [
                (
                    &b"state"[..],
                    vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
                ),
                (b"", vec![]),
            ] {
                let packed = packer.pack(state, frames.iter()).unwrap();
                let read = Unpacked::read_as(FormatRange::WITH_TRIAL, &packed).unwrap();
                assert_eq!((&read.state[..], &read.frames[..]), (state, &frames.concat()[..]));
                for length in 0..packed.len() {
                    let read = Unpacked::read_as(FormatRange::WITH_TRIAL, &packed[..length]);
                    assert!(matches!(read, Err(ArchiveError::Damaged(_))), "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn a_format_that_is_not_read_is_no_damage() {
        let mut packer = Packer::new().unwrap().writing(StateFormat::TRIAL);
        let packed = packer.pack(b"state", std::iter::empty()).unwrap();
        assert_eq!(Unpacked::read(&packed), Err(ArchiveError::Newer(StateFormat::TRIAL)));
    }
}
