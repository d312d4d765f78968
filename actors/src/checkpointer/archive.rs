//! Archives of ended executions: the final state and the frames that no segment of the store holds, compressed.
//!
//! `version u8, raw length u32, zstd(state length u32, state, frames)`

use bytes::Bytes;
use troupe_core::execution::Entry;
use troupe_ports::{Archive, CheckpointRow};

use super::machine::Pending;
use crate::record::read_frames;

const VERSION: u8 = 1;
const LEVEL: i32 = 1;
/// Largest archive that is unpacked: beyond it the length is damage.
const RAW_BYTES_MAX: usize = 1 << 30;

/// Why an archive cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the archive is damaged: {0}")]
pub struct ArchiveError(pub String);

impl From<std::io::Error> for ArchiveError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Packs archives; its context is worth reusing.
pub struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// When memory for the compressor's context cannot be had.
    pub fn new() -> Result<Self, ArchiveError> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            raw: Vec::new(),
        })
    }

    /// Packs an encoded state and frames.
    ///
    /// # Errors
    /// When the archive would be too large.
    pub fn pack<'a>(&mut self, state: &[u8], frames: impl Iterator<Item = &'a Bytes>) -> Result<Bytes, ArchiveError> {
        let too_large = || ArchiveError("it is too large".into());
        self.raw.clear();
        self.raw
            .extend_from_slice(&u32::try_from(state.len()).map_err(|_| too_large())?.to_le_bytes());
        self.raw.extend_from_slice(state);
        frames.for_each(|frame| self.raw.extend_from_slice(frame));
        let raw_bytes = u32::try_from(self.raw.len())
            .ok()
            .filter(|bytes| *bytes as usize <= RAW_BYTES_MAX);
        let mut packed = vec![VERSION];
        packed.extend_from_slice(&raw_bytes.ok_or_else(too_large)?.to_le_bytes());
        packed.extend_from_slice(&self.compressor.compress(&self.raw)?);
        Ok(packed.into())
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
    /// Unpacks an archive.
    ///
    /// # Errors
    /// [`ArchiveError`] when it is damaged or of an unknown version.
    pub fn read(packed: &[u8]) -> Result<Self, ArchiveError> {
        let damaged = |why: &str| ArchiveError(why.into());
        let (version, rest) = packed.split_first().ok_or_else(|| damaged("it is empty"))?;
        if *version != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let (length, compressed) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("it is cut short"))?;
        let raw_bytes = u32::from_le_bytes(*length) as usize;
        if raw_bytes > RAW_BYTES_MAX {
            return Err(damaged("its length is absurd"));
        }
        let raw = Bytes::from(zstd::bulk::decompress(compressed, raw_bytes)?);
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
        read_frames(&self.frames)
            .collect::<Result<_, _>>()
            .map_err(|error| ArchiveError(error.to_string()))
    }
}

/// The row with which an archive gives way to what is pending of its execution, which has been reopened since; none where the
/// archive is as new as that.
///
/// # Errors
/// [`ArchiveError`] when it cannot be read.
pub fn give_way(archive: &Archive, pending: &Pending) -> Result<Option<CheckpointRow>, ArchiveError> {
    if archive.last >= pending.last() {
        return Ok(None);
    }
    let Unpacked { state, frames } = Unpacked::read(&archive.bytes)?;
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
        let mut packer = Packer::new().unwrap();
        for (state, frames) in [
            (
                &b"state"[..],
                vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
            ),
            (b"", vec![]),
        ] {
            let packed = packer.pack(state, frames.iter()).unwrap();
            let read = Unpacked::read(&packed).unwrap();
            assert_eq!((&read.state[..], &read.frames[..]), (state, &frames.concat()[..]));
            for length in 0..packed.len() {
                assert!(Unpacked::read(&packed[..length]).is_err(), "{length} bytes");
            }
        }
    }
}
