//! Reads a whole tree file once, as a stream: its digest, its blocks' checksums and order, and the first
//! key of each block. What it accepts is only looked up in later, never trusted blindly: blocks are
//! checked again when they are read.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::layer::codec::{Damage, wide};
use crate::layer::tree::header::HEADER_BYTES;
use crate::layer::tree::{BLOCK_LIMIT, Block, Header, Position};
use crate::layer::{ReadAt, TreeError};

/// Read ahead while opening.
const OPEN_BUFFER: usize = 64 << 10;

/// What [`read_index`] learns.
pub(super) struct Opened {
    pub(super) header: Header,
    pub(super) entries: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) end: u64,
}

/// Reads a whole tree file once: digest, order of the blocks, first keys.
pub(super) fn read_index(source: &dyn ReadAt) -> Result<Opened, TreeError> {
    let length = source.length()?;
    let mut file = HashedFile {
        file: io::BufReader::with_capacity(
            OPEN_BUFFER,
            Sequential {
                source,
                offset: 0,
                length,
            },
        ),
        sha256: Sha256::new(),
        offset: 0,
    };
    let header = file.array::<HEADER_BYTES>()?;
    let header = Header::parse(&header)?;
    let mut blocks: Vec<Block> = Vec::new();
    let mut records = Vec::new();
    let end = loop {
        let offset = file.offset;
        let size = u32::from_le_bytes(file.array()?);
        if size == 0 {
            break offset;
        }
        let checksum = u32::from_le_bytes(file.array()?);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > BLOCK_LIMIT {
            return Err(Damage::Length.into());
        }
        records.resize(size, 0);
        file.fill(&mut records)?;
        if crc32fast::hash(&records) != checksum {
            return Err(Damage::Checksum.into());
        }
        let mut at = Position::default();
        at.advance(&records)?;
        if blocks.last().is_some_and(|before| *before.first >= *at.key) {
            return Err(Damage::Order.into());
        }
        let first = at.key.into_boxed_slice();
        blocks.push(Block { first, offset });
    };
    let entries = u64::from_le_bytes(file.array()?);
    let digest: [u8; 32] = file.sha256.clone().finalize().into();
    if file.array()? != digest {
        return Err(Damage::Digest.into());
    }
    if file.offset != length {
        return Err(Damage::Trailing.into());
    }
    Ok(Opened {
        header,
        entries,
        blocks,
        end,
    })
}

/// A source as a stream.
struct Sequential<'a> {
    source: &'a dyn ReadAt,
    offset: u64,
    length: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.length.saturating_sub(self.offset);
        let size = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let (part, _) = buf.split_at_mut_checked(size).unwrap_or_default();
        self.source.read_exact_at(part, self.offset)?;
        self.offset = self.offset.saturating_add(wide(size));
        Ok(size)
    }
}

/// A stream whose bytes are hashed and counted as they are read.
struct HashedFile<R> {
    file: R,
    sha256: Sha256,
    offset: u64,
}

impl<R: Read> HashedFile<R> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), TreeError> {
        self.file.read_exact(buf).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                TreeError::Damage(Damage::Truncated)
            } else {
                TreeError::Io(error)
            }
        })?;
        self.sha256.update(&*buf);
        self.offset = self.offset.saturating_add(wide(buf.len()));
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TreeError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }
}
