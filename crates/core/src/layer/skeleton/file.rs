//! The skeleton as a file: sections behind a header, checked to the last byte before anything is believed
//! of their lengths. What they say is for `plan` and `prove`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

use crate::digest::{DiffId, Digest};
use crate::layer::Damage;
use crate::layer::codec::{Cursor, put_number, wide};

const MAGIC: [u8; 7] = *b"hfskel\0";
const VERSION: u8 = 1;
const SECTIONS: usize = 4;
const HEADER_BYTES: usize = 8 + 32 + SECTIONS * 8;
const DIGEST_BYTES: usize = 32;

/// A skeleton is held in memory while it is used. The largest layers in common use give 3 MB and as much
/// again for digests.
pub(super) const MAX_BYTES: usize = 256 << 20;

/// Contents that one layer hides from a disk; images have none or a few files.
pub(super) const MAX_INLINE_BYTES: u64 = 256 << 20;

/// log2 of the largest zstd window accepted: what our own level writes.
const WINDOW_LOG_MAX: u32 = 23;

/// Quick, and within a tenth of what the highest levels give.
const LEVEL: i32 = 3;

/// Why bytes are no skeleton.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkeletonError {
    /// The file is not what was written.
    #[error("skeleton is damaged: {0}")]
    Damage(#[from] Damage),
    /// It is larger than the limit.
    #[error("skeleton of more than {MAX_BYTES} bytes")]
    TooLarge,
    /// More inline content than the limit.
    #[error("skeleton with more than {MAX_INLINE_BYTES} bytes of content")]
    TooMuchInline,
}

/// A layer's archive without the contents of its files. Only [`super::make`] and [`Skeleton::decode`]
/// make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    encoded: Vec<u8>,
    diff_id: DiffId,
    sections: [Range<usize>; SECTIONS],
    /// Entries with inline content, ascending, and its length.
    inline: Vec<(u64, u64)>,
}

/// What a skeleton is made of.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    pub(super) structure: &'a [u8],
    pub(super) index: &'a BTreeMap<u64, u64>,
    pub(super) inline: &'a [u8],
    pub(super) digests: &'a [u8],
}

impl Skeleton {
    /// A skeleton from its file's bytes, which are checked to the last one.
    pub fn decode(encoded: Vec<u8>) -> Result<Self, SkeletonError> {
        if encoded.len() > MAX_BYTES {
            return Err(SkeletonError::TooLarge);
        }
        let body_length = encoded.len().checked_sub(DIGEST_BYTES);
        let (body, digest) = body_length
            .and_then(|length| encoded.split_at_checked(length))
            .ok_or(Damage::Truncated)?;
        let mut header = Cursor::new(body);
        if header.array()? != MAGIC {
            return Err(Damage::Magic.into());
        }
        let version = header.byte()?;
        if version != VERSION {
            return Err(Damage::Version(version).into());
        }
        if Digest::of(body).as_bytes() != digest {
            return Err(Damage::Digest.into());
        }
        let diff_id = DiffId(Digest::from_sha256(header.array()?));
        let mut sections = [const { 0..0 }; SECTIONS];
        let mut end = HEADER_BYTES;
        for section in &mut sections {
            let length = u64::from_le_bytes(header.array()?);
            let length = usize::try_from(length).map_err(|_too_large| Damage::Length)?;
            let start = end;
            end = start.checked_add(length).ok_or(Damage::Length)?;
            *section = start..end;
        }
        if end != body.len() {
            return Err(Damage::Length.into());
        }
        let inline = index(body.get(sections[1].clone()).unwrap_or_default())?;
        if !sections[3].len().is_multiple_of(DIGEST_BYTES) {
            return Err(Damage::Length.into());
        }
        Ok(Self {
            encoded,
            diff_id,
            sections,
            inline,
        })
    }

    /// Puts a skeleton together.
    pub(super) fn encode(diff_id: DiffId, sections: &Sections<'_>) -> Result<Self, SkeletonError> {
        let mut index = Vec::new();
        let mut last = 0;
        for (entry, length) in sections.index {
            put_number(&mut index, entry.saturating_sub(last));
            put_number(&mut index, *length);
            last = *entry;
        }
        let parts = [
            sections.structure,
            &index,
            sections.inline,
            sections.digests,
        ];
        let mut encoded = [MAGIC.as_slice(), &[VERSION], diff_id.0.as_bytes()].concat();
        for part in parts {
            encoded.extend_from_slice(&wide(part.len()).to_le_bytes());
        }
        for part in parts {
            encoded.extend_from_slice(part);
        }
        let digest = Digest::of(&encoded);
        encoded.extend_from_slice(digest.as_bytes());
        // What was put together is taken apart again: a defect of ours is found where it is made.
        Self::decode(encoded)
    }

    /// The skeleton file.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The skeleton's digest.
    pub fn digest(&self) -> Digest {
        let digest = self.encoded.last_chunk().copied().unwrap_or_default();
        Digest::from_sha256(digest)
    }

    /// The layer that it is said to be of.
    pub const fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Whether it says what the files' digests are.
    pub fn has_digests(&self) -> bool {
        !self.section(3).is_empty()
    }

    /// How many bytes it has without digests.
    pub fn bytes_without_digests(&self) -> usize {
        self.encoded.len().saturating_sub(self.section(3).len())
    }

    /// The archive's structure, in the coding of `blocks`.
    pub(super) fn structure(&self) -> io::Result<impl BufRead + use<'_>> {
        Ok(BufReader::new(decompressed(self.section(0))?))
    }

    /// Entries with inline content, ascending, and its length.
    pub(super) fn index(&self) -> &[(u64, u64)] {
        &self.inline
    }

    /// The inline contents, one behind the other.
    pub(super) fn inline(&self) -> io::Result<impl Read + use<'_>> {
        decompressed(self.section(2))
    }

    /// The digest of a file, counted in the archive's order.
    pub(super) fn digest_of(&self, file: usize) -> Option<Digest> {
        let start = file.checked_mul(DIGEST_BYTES)?;
        let bytes = self.section(3).get(start..)?.first_chunk()?;
        Some(Digest::from_sha256(*bytes))
    }

    pub(super) fn section(&self, number: usize) -> &[u8] {
        let range = self.sections.get(number).cloned();
        range
            .and_then(|range| self.encoded.get(range))
            .unwrap_or_default()
    }
}

fn index(bytes: &[u8]) -> Result<Vec<(u64, u64)>, SkeletonError> {
    let mut cursor = Cursor::new(bytes);
    let mut index: Vec<(u64, u64)> = Vec::new();
    let (mut last, mut total) = (0_u64, 0_u64);
    while !cursor.is_at_end() {
        let step = cursor.number()?;
        if step == 0 && !index.is_empty() {
            return Err(Damage::Order.into());
        }
        last = last.checked_add(step).ok_or(Damage::Length)?;
        let length = cursor.number()?;
        total = total.saturating_add(length);
        if total > MAX_INLINE_BYTES {
            return Err(SkeletonError::TooMuchInline);
        }
        index.push((last, length));
    }
    Ok(index)
}

/// A section that is being written.
pub(super) type Compressor = zstd::stream::write::Encoder<'static, Vec<u8>>;

pub(super) fn compressor() -> io::Result<Compressor> {
    Compressor::new(Vec::new(), LEVEL)
}

fn decompressed(section: &[u8]) -> io::Result<zstd::stream::read::Decoder<'static, &[u8]>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(section)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}
