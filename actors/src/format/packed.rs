//! What is compressed: archives of executions, and chunks of spools.
//!
//! `format u8, raw length u32, zstd(raw)`; in the trial format a checksum (u32) of what follows it stands after the length.

use bytes::Bytes;
use troupe_core::{FormatRange, StateFormat};
use zstd::bulk::Compressor;

use super::{Unreadable, trial};

const LEVEL: i32 = 1;
const HEAD_BYTES: usize = 1 + 4;
/// Most bytes that are packed or unpacked: beyond it a length is damage.
const RAW_BYTES_MAX: usize = 1 << 30;

/// What packs; worth reusing.
///
/// # Errors
/// When memory for its context cannot be had.
pub(crate) fn compressor() -> std::io::Result<Compressor<'static>> {
    Compressor::new(LEVEL)
}

/// Packs bytes in a format.
///
/// # Errors
/// [`Unreadable::Damaged`] when they are too many.
pub(crate) fn pack(format: StateFormat, compressor: &mut Compressor<'_>, raw: &[u8]) -> Result<Bytes, Unreadable> {
    let length = u32::try_from(raw.len())
        .ok()
        .filter(|length| *length as usize <= RAW_BYTES_MAX)
        .ok_or_else(|| Unreadable::damaged("it is too large"))?;
    let mut packed = vec![format.0];
    packed.extend_from_slice(&length.to_le_bytes());
    let compressed = compressor.compress(raw).map_err(Unreadable::damaged)?;
    if format > StateFormat::FIRST {
        packed.extend_from_slice(&trial::checksum(&compressed).to_le_bytes());
    }
    packed.extend_from_slice(&compressed);
    Ok(packed.into())
}

/// The bytes that were packed.
///
/// # Errors
/// [`Unreadable`] when they are damaged, or of a format that is not among `reads`.
pub(crate) fn unpack(reads: FormatRange, packed: &[u8]) -> Result<Bytes, Unreadable> {
    let short = || Unreadable::damaged("it is cut short");
    let ([format, length @ ..], mut compressed) = packed.split_first_chunk::<HEAD_BYTES>().ok_or_else(short)?;
    let format = StateFormat(*format);
    Unreadable::unless(reads, format)?;
    if format > StateFormat::FIRST {
        let (sum, summed) = compressed.split_first_chunk::<4>().ok_or_else(short)?;
        if trial::checksum(summed) != u32::from_le_bytes(*sum) {
            return Err(Unreadable::damaged("its checksum is wrong"));
        }
        compressed = summed;
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length > RAW_BYTES_MAX {
        return Err(Unreadable::damaged("its length is absurd"));
    }
    let raw = zstd::bulk::decompress(compressed, length).map_err(Unreadable::damaged)?;
    // Nothing at all decompresses to nothing.
    if raw.len() != length {
        return Err(Unreadable::damaged("it is cut short"));
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_come_back_in_each_format_and_damaged_ones_are_noticed() {
        let raw = b"what is kept".repeat(9);
        for format in [StateFormat::FIRST, StateFormat::TRIAL] {
            let packed = pack(format, &mut compressor().unwrap(), &raw).unwrap();
            assert_eq!(packed.first(), Some(&format.0));
            assert_eq!(unpack(FormatRange::WITH_TRIAL, &packed).unwrap(), raw);
            for length in 0..packed.len() {
                let read = unpack(FormatRange::WITH_TRIAL, &packed[..length]);
                assert!(matches!(read, Err(Unreadable::Damaged(_))), "{length} bytes");
            }
        }
        let mut flipped = pack(StateFormat::TRIAL, &mut compressor().unwrap(), &raw)
            .unwrap()
            .to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        let read = unpack(FormatRange::WITH_TRIAL, &flipped);
        assert_eq!(read, Err(Unreadable::damaged("its checksum is wrong")));
        let mut absurd = pack(StateFormat::FIRST, &mut compressor().unwrap(), &raw)
            .unwrap()
            .to_vec();
        absurd[1..HEAD_BYTES].fill(0xff);
        let read = unpack(FormatRange::RELEASE, &absurd);
        assert_eq!(read, Err(Unreadable::damaged("its length is absurd")));
    }
}
