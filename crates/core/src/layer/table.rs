//! The file table: what one layer's archive says, entry by entry in its order, with the digest of every
//! file. It is a faithful record; what a snapshotter makes of it is `place`'s business. It knows the
//! layer by its diff ID alone, so that the same layer gives the same bytes whatever its compression.
//!
//! ```text
//! header   "hftable", version, diff ID (32 bytes), entries (u64), trailing bytes (u64)
//! record   name (bytes shared with the one before, rest), type, mode, uid, gid, what the type has,
//!          extended attributes                                                         repeated
//! trailer  SHA-256 of everything before it: the table's digest
//! ```
//! The whole table is held encoded in memory, about a hundred bytes an entry, and read from its front.

mod build;
mod record;

use std::io::{self, Read};

use crate::digest::{DiffId, Digest};
use crate::layer::blob::Blob;
use crate::layer::codec::Cursor;
use crate::layer::source::Passing;
pub(super) use crate::layer::table::build::{
    Builder, Contents, failure, number_as_digest, number_of_digest,
};
use crate::layer::table::record::take_record;
pub(super) use crate::layer::table::record::{Kind, Record};
use crate::layer::{Damage, Limits, TarError};

const MAGIC: [u8; 7] = *b"hftable";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8 + 32 + 8 + 8;
const DIGEST_BYTES: usize = 32;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The blob could not be read.
    #[error("blob could not be read: {0}")]
    Io(#[source] io::Error),
    /// What the blob holds cannot be decompressed.
    #[error("blob could not be decompressed: {0}")]
    Compression(#[source] io::Error),
    /// More uncompressed bytes than the limit.
    #[error("layer of more than {0} bytes")]
    LayerTooLarge(u64),
    /// More bytes of table than the limit.
    #[error("table of more than {0} bytes")]
    TableTooLarge(usize),
    /// The archive is refused.
    #[error("layer archive: {0}")]
    Tar(#[source] TarError),
    /// The blob is not the one that its name says.
    #[error("blob is {actual}, not {expected}")]
    BlobDigest {
        /// The name.
        expected: Digest,
        /// What it hashes to.
        actual: Digest,
    },
    /// The blob holds another layer than the image's config says.
    #[error("layer is {actual}, not {expected}")]
    DiffId {
        /// What the config says.
        expected: DiffId,
        /// What the uncompressed bytes hash to.
        actual: DiffId,
    },
}

/// What one layer's archive says. Only [`FileTable::build`] and [`FileTable::decode`] make one.
#[derive(Clone, Debug)]
pub struct FileTable {
    /// The table file, checked.
    encoded: Vec<u8>,
    diff_id: DiffId,
    entries: u64,
    trailing_bytes: u64,
}

impl FileTable {
    /// Reads a layer blob once and gives its table.
    ///
    /// 1. The archive is read to its last byte, within the limits.
    /// 2. The blob is the one that the manifest names.
    /// 3. The layer is the one that the config names.
    pub fn build(
        blob: impl Read,
        expected_blob: Digest,
        expected_diff: DiffId,
        limits: &Limits,
    ) -> Result<Self, TableError> {
        Self::build_showing(blob, expected_blob, expected_diff, limits, &mut ())
    }

    /// Does the same, and shows the archive's bytes while they pass. What was shown is worth nothing when
    /// there is no table.
    pub(super) fn build_showing(
        blob: impl Read,
        expected_blob: Digest,
        expected_diff: DiffId,
        limits: &Limits,
        passing: &mut impl Passing,
    ) -> Result<Self, TableError> {
        let mut blob = Blob::open(blob, limits.uncompressed_bytes).map_err(TableError::Io)?;
        // (1)
        let mut builder = Builder::new(limits.table_bytes, Contents::Hashed);
        if let Err(error) = builder.read_archive(&mut blob, limits, passing) {
            // A blob that is not the one named explains everything that is wrong in it.
            return Err(match blob.digest_of_rest() {
                Ok(actual) if actual != expected_blob => TableError::BlobDigest {
                    expected: expected_blob,
                    actual,
                },
                _ => error,
            });
        }
        let (blob_digest, diff_id) = blob.finish().map_err(TableError::Io)?;
        // (2)
        if blob_digest != expected_blob {
            return Err(TableError::BlobDigest {
                expected: expected_blob,
                actual: blob_digest,
            });
        }
        // (3)
        if diff_id != expected_diff {
            return Err(TableError::DiffId {
                expected: expected_diff,
                actual: diff_id,
            });
        }
        Ok(builder.finish(diff_id))
    }

    /// A table from its file's bytes, which are checked to the last one.
    pub fn decode(encoded: Vec<u8>) -> Result<Self, Damage> {
        let body_length = encoded.len().checked_sub(DIGEST_BYTES);
        let (body, digest) = body_length
            .and_then(|length| encoded.split_at_checked(length))
            .ok_or(Damage::Truncated)?;
        let mut header = Cursor::new(body);
        if header.array()? != MAGIC {
            return Err(Damage::Magic);
        }
        let version = header.byte()?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        if Digest::of(body).as_bytes() != digest {
            return Err(Damage::Digest);
        }
        let table = Self {
            diff_id: DiffId(Digest::from_sha256(header.array()?)),
            entries: u64::from_le_bytes(header.array()?),
            trailing_bytes: u64::from_le_bytes(header.array()?),
            encoded,
        };
        let mut counted = 0_u64;
        for record in table.records() {
            record?;
            counted = counted.saturating_add(1);
        }
        if counted == table.entries {
            Ok(table)
        } else {
            Err(Damage::Record)
        }
    }

    /// The table file.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The table's digest, by which nodes compare tables.
    pub fn digest(&self) -> Digest {
        let digest = self.encoded.last_chunk().copied().unwrap_or_default();
        Digest::from_sha256(digest)
    }

    /// Of the format: digests of two formats cannot be compared.
    pub const VERSION: u8 = VERSION;

    /// The layer.
    pub const fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// How many entries the archive has.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many bytes lie hidden behind the archive's end, not counting zeros at their end.
    pub const fn trailing_bytes(&self) -> u64 {
        self.trailing_bytes
    }

    /// The entries in the archive's order.
    pub(super) fn records(&self) -> Records<'_> {
        let end = self.encoded.len().saturating_sub(DIGEST_BYTES);
        let records = self.encoded.get(HEADER_BYTES..end).unwrap_or_default();
        Records {
            cursor: Cursor::new(records),
            name: Vec::new(),
        }
    }
}

/// The entries of a table. After damage it has ended.
#[derive(Debug)]
pub(super) struct Records<'a> {
    cursor: Cursor<'a>,
    name: Vec<u8>,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_at_end() {
            return None;
        }
        let record = take_record(&mut self.cursor, &mut self.name);
        if record.is_err() {
            self.cursor = Cursor::new(&[]);
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests;
