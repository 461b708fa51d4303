//! Makes a skeleton in the table's own pass over the blob. Only for a layer that hides contents of its own
//! is the blob read once more: which ones it hides is known at its end.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};

use crate::digest::{DiffId, Digest};
use crate::layer::blob::{Blob, Stop};
use crate::layer::codec::wide;
use crate::layer::skeleton::blocks::BlockWriter;
use crate::layer::skeleton::file::{Compressor, MAX_BYTES, MAX_INLINE_BYTES, Sections, compressor};
use crate::layer::skeleton::plan::hidden;
use crate::layer::skeleton::{Skeleton, SkeletonError};
use crate::layer::source::Passing;
use crate::layer::table::Kind;
use crate::layer::{Damage, FileTable, Limits, TableError};

/// Whether the digests of the files go into the skeleton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digests {
    /// A failed proof can name the files that differ.
    Carried,
    /// It is a third of the size, and a failed proof says no more than that.
    LeftOut,
}

/// What one blob gave.
#[derive(Debug)]
pub struct Made {
    /// The layer's table.
    pub table: FileTable,
    /// Its skeleton.
    pub skeleton: Result<Skeleton, Unmade>,
}

/// Why a layer has a table and no skeleton.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// The layer hides more of its own contents than a skeleton carries.
    #[error("the layer hides more than {MAX_INLINE_BYTES} bytes of its own files")]
    TooMuchHidden,
    /// It does not fit the format.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    /// The blob could not be read a second time.
    #[error("blob could not be read again: {0}")]
    Again(#[source] TableError),
    /// Compression failed.
    #[error("skeleton could not be written: {0}")]
    Io(#[from] io::Error),
}

impl From<Damage> for Unmade {
    fn from(damage: Damage) -> Self {
        Self::Skeleton(damage.into())
    }
}

/// Reads a layer blob as [`FileTable::build`] does, and makes its skeleton on the way. `open` gives the
/// blob from its beginning; it is called a second time for a layer that hides contents of its own.
pub fn make<R: Read>(
    mut open: impl FnMut() -> io::Result<R>,
    expected_blob: Digest,
    expected_diff: DiffId,
    limits: &Limits,
    digests: Digests,
) -> Result<Made, TableError> {
    let blob = open().map_err(TableError::Io)?;
    let mut outline = Outline::new();
    let table = FileTable::build_showing(blob, expected_blob, expected_diff, limits, &mut outline)?;
    let mut again = |hidden: &mut Hidden| {
        let blob = open().map_err(TableError::Io)?;
        FileTable::build_showing(blob, expected_blob, expected_diff, limits, hidden)
    };
    let skeleton = (|| {
        let structure = outline.finish()?;
        let mut hidden = Hidden::of(hidden(&table))?;
        if !hidden.wanted.is_empty() {
            again(&mut hidden).map_err(Unmade::Again)?;
        }
        finish(&table, &structure, hidden, digests)
    })();
    Ok(Made { table, skeleton })
}

/// The digest of a blob that nobody has named, and of the layer that it holds.
pub fn digests_of_blob(blob: impl Read, limits: &Limits) -> Result<(Digest, DiffId), TableError> {
    let mut blob = Blob::open(blob, limits.uncompressed_bytes).map_err(TableError::Io)?;
    io::copy(&mut blob, &mut io::sink()).map_err(|error| match blob.stopped() {
        Some(Stop::Compression) => TableError::Compression(error),
        Some(Stop::Limit) => TableError::LayerTooLarge(limits.uncompressed_bytes),
        Some(Stop::Source) | None => TableError::Io(error),
    })?;
    blob.finish().map_err(TableError::Io)
}

fn finish(
    table: &FileTable,
    structure: &[u8],
    hidden: Hidden,
    digests: Digests,
) -> Result<Skeleton, Unmade> {
    let (index, inline) = hidden.finish()?;
    let digests = match digests {
        Digests::Carried => digests_of(table)?,
        Digests::LeftOut => Vec::new(),
    };
    let sections = Sections {
        structure,
        index: &index,
        inline: &inline,
        digests: &digests,
    };
    Ok(Skeleton::encode(table.diff_id(), &sections)?)
}

fn digests_of(table: &FileTable) -> Result<Vec<u8>, Damage> {
    let mut digests = Vec::new();
    for record in table.records() {
        if let Kind::File { digest, .. } = record?.kind {
            digests.extend_from_slice(digest.as_bytes());
        }
    }
    Ok(digests)
}

/// The structure of the archive that passes.
struct Outline {
    writer: Result<BlockWriter<Compressor>, io::Error>,
}

impl Outline {
    fn new() -> Self {
        Self {
            writer: compressor().map(BlockWriter::new),
        }
    }

    /// The pass cannot be stopped from here, and should not be: its table is worth more than a skeleton.
    fn write(&mut self, write: impl FnOnce(&mut BlockWriter<Compressor>) -> io::Result<()>) {
        if let Ok(writer) = &mut self.writer
            && let Err(error) = write(writer)
        {
            self.writer = Err(error);
        }
    }

    fn finish(self) -> Result<Vec<u8>, Unmade> {
        Ok(self.writer?.finish()?.finish()?)
    }
}

impl Passing for Outline {
    fn structure(&mut self, bytes: &[u8]) {
        self.write(|writer| {
            writer.structure(bytes)?;
            // An archive of nothing but noise behind its end.
            if writer.out().get_ref().len() > MAX_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(())
        });
    }

    fn content(&mut self, _entry: u64, bytes: &[u8]) {
        self.write(|writer| writer.pass(bytes.len()));
    }
}

/// Entries, and the lengths of their contents.
type Lengths = BTreeMap<u64, u64>;

/// The contents that a disk cannot give back.
struct Hidden {
    /// Entries, and how much of each was seen.
    wanted: Lengths,
    out: Compressor,
    failed: Option<Unmade>,
    total: u64,
}

impl Hidden {
    fn of(entries: Vec<u64>) -> Result<Self, Unmade> {
        Ok(Self {
            out: compressor()?,
            wanted: entries.into_iter().map(|entry| (entry, 0)).collect(),
            failed: None,
            total: 0,
        })
    }

    /// The contents, one behind the other, and how long each is.
    fn finish(self) -> Result<(Lengths, Vec<u8>), Unmade> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        Ok((self.wanted, self.out.finish()?))
    }
}

impl Passing for Hidden {
    fn content(&mut self, entry: u64, bytes: &[u8]) {
        let Some(seen) = self.wanted.get_mut(&entry) else {
            return;
        };
        *seen = seen.saturating_add(wide(bytes.len()));
        self.total = self.total.saturating_add(wide(bytes.len()));
        if self.total > MAX_INLINE_BYTES {
            self.failed = Some(Unmade::TooMuchHidden);
        } else if let Err(error) = self.out.write_all(bytes) {
            self.failed = Some(error.into());
        }
    }
}
