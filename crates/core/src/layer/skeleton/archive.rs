//! An archive that is put together again while it is read: structure from a skeleton, contents from
//! whoever gives them. It checks nothing; that the bytes are right is what the diff ID is for.

use std::io::{self, BufRead, Read};
use std::ops::Range;

use crate::layer::codec::wide;
use crate::layer::header::BLOCK;
use crate::layer::skeleton::blocks::BlockReader;
use crate::layer::skeleton::{ProofError, Skeleton};
use crate::layer::source::{Part, Source};
use crate::layer::table::Builder;
use crate::layer::tar::TarReader;
use crate::layer::{Limits, TableError};

/// Contents come in pieces of this length, which are still in the cache when they are hashed again.
const BUFFER: usize = 128 << 10;

/// Structure of one archive. Four million entries with an extended header each have less.
const MAX_STRUCTURE_BYTES: u64 = 8 << 30;

/// Who has the contents.
pub(super) trait Giver {
    /// The next bytes that are asked for are `length` bytes of an entry's content, from `offset` on.
    fn open(&mut self, entry: u64, offset: u64, length: u64) -> io::Result<()>;

    /// Fills the buffer, or a part of it.
    fn give(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Every byte of the archive, in its order.
    fn passed(&mut self, _bytes: &[u8]) {}
}

pub(super) struct Archive<R, G> {
    blocks: BlockReader<R>,
    giver: G,
    buffer: Vec<u8>,
    /// The part of `buffer` that was not handed out yet.
    unread: Range<usize>,
    /// What is left of the content that is being read; none while it is structure.
    content: Option<u64>,
    failed: Option<io::Error>,
    position: u64,
    structure: u64,
    limit: u64,
}

impl<'s, G: Giver> Archive<Box<dyn BufRead + 's>, G> {
    pub(super) fn open(
        skeleton: &'s Skeleton,
        limits: &Limits,
        giver: G,
    ) -> Result<Self, ProofError> {
        let structure = skeleton.structure().map_err(TableError::Io)?;
        Ok(Self {
            blocks: BlockReader::new(Box::new(structure)),
            giver,
            buffer: vec![0; BUFFER],
            unread: 0..0,
            content: None,
            failed: None,
            position: 0,
            structure: 0,
            limit: limits.uncompressed_bytes,
        })
    }
}

impl<R: BufRead, G: Giver> Archive<R, G> {
    /// Has it read to its last byte.
    pub(super) fn read_with(
        &mut self,
        builder: &mut Builder,
        limits: &Limits,
    ) -> Result<(), ProofError> {
        let read = builder.read_entries(&mut TarReader::new(&mut *self, limits));
        if self.is_too_large() {
            return Err(ProofError::TooLarge(self.limit));
        }
        read.map_err(ProofError::Archive)
    }

    pub(super) fn into_giver(self) -> G {
        self.giver
    }

    fn is_too_large(&self) -> bool {
        self.position > self.limit || self.structure > MAX_STRUCTURE_BYTES
    }

    fn refill(&mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let length = match self.content {
            None => self.refill_structure()?,
            Some(left) => self.refill_content(left)?,
        };
        self.unread = 0..length;
        self.position = self.position.saturating_add(wide(length));
        if self.is_too_large() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let filled = self.buffer.get(..length).unwrap_or_default();
        self.giver.passed(filled);
        Ok(())
    }

    fn refill_structure(&mut self) -> io::Result<usize> {
        let offset = self.position % wide(BLOCK);
        let offset = usize::try_from(offset).unwrap_or_default();
        let unit = self.buffer.get_mut(..BLOCK).unwrap_or_default();
        let length = self.blocks.next(offset, unit)?;
        self.structure = self.structure.saturating_add(wide(length));
        Ok(length)
    }

    fn refill_content(&mut self, left: u64) -> io::Result<usize> {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
        let length = match self.buffer.get_mut(..room) {
            Some(room) if !room.is_empty() => self.giver.give(room)?,
            _ => 0,
        };
        self.content = Some(left.saturating_sub(wide(length)));
        Ok(length)
    }
}

impl<R: BufRead, G: Giver> Source for Archive<R, G> {
    fn enter(&mut self, part: Part) {
        self.content = match part {
            Part::Structure => None,
            Part::Content { length, .. } => Some(length),
        };
        if let Part::Content {
            entry,
            offset,
            length,
        } = part
            && length > 0
            && let Err(error) = self.giver.open(entry, offset, length)
        {
            self.failed = Some(error);
        }
    }
}

impl<R: BufRead, G: Giver> Read for Archive<R, G> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buf)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead, G: Giver> BufRead for Archive<R, G> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            self.refill()?;
        }
        Ok(self.buffer.get(self.unread.clone()).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        let start = self.unread.start.saturating_add(length);
        self.unread.start = start.min(self.unread.end);
    }
}
