//! Makes a table of an archive while it streams by. Digests of blob and layer are the callers' question.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::digest::{DiffId, Digest};
use crate::layer::blob::{Blob, Stop};
use crate::layer::codec::wide;
use crate::layer::header::Header;
use crate::layer::source::{Passing, Shown, Source};
use crate::layer::table::record::{Kind, Record, put_record};
use crate::layer::table::{HEADER_BYTES, MAGIC, VERSION};
use crate::layer::tar::TarReader;
use crate::layer::{FileTable, Limits, MARKER_BYTES, Marker, TableError, TarError};

/// A table while its archive is read.
pub(in crate::layer) struct Builder {
    encoded: Vec<u8>,
    limit: usize,
    last: Vec<u8>,
    entries: u64,
    trailing_bytes: u64,
    /// The first bytes of the file that is being read.
    head: Vec<u8>,
    contents: Contents,
}

/// What stands for the content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer) enum Contents {
    /// Its digest.
    Hashed,
    /// The number of its entry, in the digest's place: such a table says where each content ends up once
    /// it is placed, and is never kept.
    Numbered,
}

impl Builder {
    pub(in crate::layer) fn new(limit: usize, contents: Contents) -> Self {
        Self {
            encoded: vec![0; HEADER_BYTES],
            limit,
            last: Vec::new(),
            entries: 0,
            trailing_bytes: 0,
            head: Vec::with_capacity(MARKER_BYTES),
            contents,
        }
    }

    pub(super) fn read_archive<R: Read>(
        &mut self,
        blob: &mut Blob<R>,
        limits: &Limits,
        passing: &mut impl Passing,
    ) -> Result<(), TableError> {
        let shown = Shown::new(&mut *blob, passing);
        let read = self.read_entries(&mut TarReader::new(shown, limits));
        match read {
            Err(TableError::Tar(error)) => Err(stopped(blob.stopped(), error, limits)),
            read => read,
        }
    }

    pub(in crate::layer) fn read_entries(
        &mut self,
        archive: &mut TarReader<impl Source>,
    ) -> Result<(), TableError> {
        while let Some(mut header) = archive.next().map_err(TableError::Tar)? {
            let kind = self.kind(&mut header, archive).map_err(TableError::Tar)?;
            self.push(&Record {
                name: header.name,
                kind,
                mode: low_bits(header.mode) & 0o7777,
                uid: low_bits(header.uid),
                gid: low_bits(header.gid),
                xattrs: header.xattrs,
            })?;
        }
        self.trailing_bytes = archive.drain().map_err(TableError::Tar)?;
        Ok(())
    }

    fn kind(
        &mut self,
        header: &mut Header,
        archive: &mut TarReader<impl Source>,
    ) -> Result<Kind, TarError> {
        let (major, minor) = (low_bits(header.major), low_bits(header.minor));
        let target = std::mem::take(&mut header.link);
        Ok(match header.flag {
            b'0' => self.file(archive)?,
            b'1' => Kind::HardLink { target },
            b'2' => Kind::Symlink { target },
            b'3' => Kind::CharDevice { major, minor },
            b'4' => Kind::BlockDevice { major, minor },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'g' => Kind::Global,
            other => Kind::Other(other),
        })
    }

    fn file(&mut self, archive: &mut TarReader<impl Source>) -> Result<Kind, TarError> {
        if self.contents == Contents::Numbered {
            let mut size = 0_u64;
            archive.content(|piece| size = size.saturating_add(wide(piece.len())))?;
            return Ok(Kind::File {
                size,
                digest: number_as_digest(self.entries),
                marker: Marker::None,
            });
        }
        let (mut sha256, mut size) = (Sha256::new(), 0_u64);
        let head = &mut self.head;
        head.clear();
        archive.content(|piece| {
            sha256.update(piece);
            size = size.saturating_add(wide(piece.len()));
            let missing = MARKER_BYTES.saturating_sub(head.len()).min(piece.len());
            head.extend_from_slice(piece.get(..missing).unwrap_or_default());
        })?;
        Ok(Kind::File {
            size,
            digest: Digest::from_sha256(sha256.finalize().into()),
            marker: Marker::of(head),
        })
    }

    pub(in crate::layer) fn push(&mut self, record: &Record) -> Result<(), TableError> {
        put_record(&mut self.encoded, &self.last, record);
        if self.encoded.len() > self.limit {
            return Err(TableError::TableTooLarge(self.limit));
        }
        self.last.clear();
        self.last.extend_from_slice(&record.name);
        self.entries = self.entries.saturating_add(1);
        Ok(())
    }

    pub(in crate::layer) fn finish(mut self, diff_id: DiffId) -> FileTable {
        let header = [
            MAGIC.as_slice(),
            &[VERSION],
            diff_id.0.as_bytes(),
            &self.entries.to_le_bytes(),
            &self.trailing_bytes.to_le_bytes(),
        ]
        .concat();
        for (to, from) in self.encoded.iter_mut().zip(header) {
            *to = from;
        }
        let digest = Digest::of(&self.encoded);
        self.encoded.extend_from_slice(digest.as_bytes());
        FileTable {
            encoded: self.encoded,
            diff_id,
            entries: self.entries,
            trailing_bytes: self.trailing_bytes,
        }
    }
}

/// Why an archive could not be read to its end, when its blob may be to blame.
fn stopped(stop: Option<Stop>, error: TarError, limits: &Limits) -> TableError {
    match (error, stop) {
        (TarError::Io(error), Some(Stop::Source)) => TableError::Io(error),
        (TarError::Io(error), Some(Stop::Compression)) => TableError::Compression(error),
        (TarError::Io(_), Some(Stop::Limit)) => {
            TableError::LayerTooLarge(limits.uncompressed_bytes)
        }
        (error, _) => TableError::Tar(error),
    }
}

/// Why the archive of a blob could not be read: a blob that is not the one named explains everything that
/// is wrong in it.
pub(in crate::layer) fn failure<R: Read>(
    mut blob: Blob<R>,
    error: TarError,
    expected_blob: Digest,
    limits: &Limits,
) -> TableError {
    let error = stopped(blob.stopped(), error, limits);
    match blob.digest_of_rest() {
        Ok(actual) if actual != expected_blob => TableError::BlobDigest {
            expected: expected_blob,
            actual,
        },
        _ => error,
    }
}

/// The number of an entry where its digest would stand.
pub(in crate::layer) fn number_as_digest(entry: u64) -> Digest {
    let mut bytes = [0; 32];
    let (number, _) = bytes.split_at_mut(8);
    number.copy_from_slice(&entry.to_le_bytes());
    Digest::from_sha256(bytes)
}

/// The entry whose number stands for a digest; none for a digest, which never ends in so many zeros.
pub(in crate::layer) fn number_of_digest(digest: Digest) -> Option<u64> {
    let (number, rest) = digest.as_bytes().split_first_chunk()?;
    let is_number = rest.iter().all(|byte| *byte == 0);
    is_number.then(|| u64::from_le_bytes(*number))
}

/// What is left of a number in a system call's argument of 32 bits.
fn low_bits(number: i64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
