//! The expected tree: what one snapshot directory must hold, as a sorted file that is written once and
//! read at any place. It says what is expected; it never looks at a disk, and it never guesses: a
//! damaged file is [`Damage`], not an answer.
//!
//! ```text
//! header   "hftree", 0, version, snapshotter, chain ID (32 bytes), diff ID (32 bytes)
//! block    length (u32), CRC-32 of the records (u32), records         repeated
//! record   bytes shared with the key before, rest of the key, length of the entry, entry
//! trailer  0 (u32), number of entries (u64), SHA-256 of everything before it
//! ```
//! Numbers are little endian; those in records have variable length. A key is a path whose slashes are
//! NUL bytes: then the plain order of bytes puts everything below a directory directly behind it. A
//! block ends with the record that reaches [`BLOCK_BYTES`]. The bytes are a function of the entries
//! alone, so two nodes that unpacked the same layers have the same file.
//!
//! The SHA-256 is checked at [`ExpectedTree::open`], each block's CRC whenever the block is read: a page
//! that rots later is noticed too. Memory is the first key of each block.

mod contents;
mod header;
mod index;
mod read_at;
mod writer;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::digest::{ChainId, DiffId};
use crate::layer::Entry;
use crate::layer::codec::{Cursor, Damage, next_shared, take_entry, wide};
use crate::layer::limits::PATH_BYTES;
pub use crate::layer::tree::contents::Contents;
pub(super) use crate::layer::tree::header::Header;
pub use crate::layer::tree::header::{HEADER_BYTES, Snapshotter, diff_id_of};
use crate::layer::tree::index::read_index;
pub use crate::layer::tree::read_at::ReadAt;
pub(super) use crate::layer::tree::writer::Writer;

const BLOCK_HEADER_BYTES: usize = 8;

/// A block is closed when it is at least this long: one page of the disk.
const BLOCK_BYTES: usize = 4096;

/// No block is longer: a page, and one record with as many attributes as placing lets through.
const BLOCK_LIMIT: usize = 2 << 20;

/// Why a tree gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file could not be read or written.
    #[error("tree file: {0}")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("tree file is damaged: {0}")]
    Damage(#[from] Damage),
    /// The tree is of another snapshot.
    #[error("tree file is of chain {actual}, not {expected}")]
    OtherChain {
        /// Whose tree was asked for.
        expected: ChainId,
        /// Whose tree it is.
        actual: ChainId,
    },
}

/// What one snapshot directory must hold; open as long as it is used.
pub struct ExpectedTree {
    source: Box<dyn ReadAt + Send + Sync>,
    header: Header,
    entries: u64,
    blocks: Vec<Block>,
    end: u64,
    recent: Mutex<Option<Recent>>,
    contents: Mutex<Weak<Contents>>,
}

#[derive(Debug)]
struct Block {
    first: Box<[u8]>,
    offset: u64,
}

/// The block that was read last.
#[derive(Debug)]
struct Recent {
    index: usize,
    records: Arc<[u8]>,
}

impl std::fmt::Debug for ExpectedTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExpectedTree")
            .field("header", &self.header)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl ExpectedTree {
    /// Opens the tree of the snapshot `chain_id`, after reading it once and checking its digest.
    pub fn open(
        source: impl ReadAt + Send + Sync + 'static,
        chain_id: ChainId,
    ) -> Result<Self, TreeError> {
        let opened = read_index(&source)?;
        let actual = opened.header.chain_id;
        if actual != chain_id {
            let expected = chain_id;
            return Err(TreeError::OtherChain { expected, actual });
        }
        Ok(Self {
            source: Box::new(source),
            header: opened.header,
            entries: opened.entries,
            blocks: opened.blocks,
            end: opened.end,
            recent: Mutex::new(None),
            contents: Mutex::default(),
        })
    }

    /// The snapshot.
    pub const fn chain_id(&self) -> ChainId {
        self.header.chain_id
    }

    /// Who must have unpacked it.
    pub const fn snapshotter(&self) -> Snapshotter {
        self.header.snapshotter
    }

    /// Its topmost layer, the one that this tree is about.
    pub const fn diff_id(&self) -> DiffId {
        self.header.diff_id
    }

    /// How many entries there are, the root among them.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// What this snapshot directory must hold at `path`; nothing of the layers below counts.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, TreeError> {
        let Some(key) = key_of(path) else {
            return Ok(None);
        };
        let Some(block) = self.block_of(&key) else {
            return Ok(None);
        };
        let records = self.records(block)?;
        let mut at = Position::default();
        while let Some(value) = at.advance(&records)? {
            if at.key == key {
                return Ok(Some(take_entry(value)?));
            }
            if at.key > key {
                break;
            }
        }
        Ok(None)
    }

    /// Every entry, each directory directly before what is below it, the root (the empty path) first.
    pub fn iter(&self) -> Entries<'_> {
        Entries::new(self, Vec::new(), Vec::new())
    }

    /// Every entry from `path` on, in the order of [`Self::iter`].
    pub fn starting_at(&self, path: &[u8]) -> Entries<'_> {
        match key_of(path) {
            Some(from) => Entries::new(self, from, Vec::new()),
            None => self.iter(),
        }
    }

    /// Every entry below `directory`, in the order of [`Self::iter`], without the directory itself.
    pub fn below(&self, directory: &[u8]) -> Entries<'_> {
        let Some(mut prefix) = key_of(directory) else {
            return Entries::ended(self);
        };
        if !prefix.is_empty() {
            prefix.push(0);
        }
        // No key is a lone NUL, so that this skips exactly the root itself.
        let from = if prefix.is_empty() {
            vec![0]
        } else {
            prefix.clone()
        };
        Entries::new(self, from, prefix)
    }

    /// The block that holds `key`, if any does.
    fn block_of(&self, key: &[u8]) -> Option<usize> {
        self.blocks
            .partition_point(|block| &*block.first <= key)
            .checked_sub(1)
    }

    /// The records of a block, checked; the last one used is kept.
    fn records(&self, index: usize) -> Result<Arc<[u8]>, TreeError> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*recent()
            && kept.index == index
        {
            return Ok(Arc::clone(&kept.records));
        }
        let records = self.read_block(index)?;
        *recent() = Some(Recent {
            index,
            records: Arc::clone(&records),
        });
        Ok(records)
    }

    fn read_block(&self, index: usize) -> Result<Arc<[u8]>, TreeError> {
        let start = self.blocks.get(index).ok_or(Damage::Length)?.offset;
        let next = index.saturating_add(1);
        let end = self.blocks.get(next).map_or(self.end, |block| block.offset);
        let span = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        if span > BLOCK_HEADER_BYTES + BLOCK_LIMIT {
            return Err(Damage::Length.into());
        }
        let mut bytes = vec![0; span];
        self.source.read_exact_at(&mut bytes, start)?;
        let mut cursor = Cursor::new(&bytes);
        let length = u32::from_le_bytes(cursor.array()?);
        let checksum = u32::from_le_bytes(cursor.array()?);
        let records = cursor.rest();
        if wide(records.len()) != u64::from(length) || crc32fast::hash(records) != checksum {
            return Err(Damage::Checksum.into());
        }
        Ok(Arc::from(records))
    }

    /// Writes the tree file of an overlay's layer that has `entries`, which must ascend in the order of [`Self::iter`] and begin
    /// with the root.
    pub fn write<'e>(
        out: impl Write,
        chain_id: ChainId,
        diff_id: DiffId,
        entries: impl IntoIterator<Item = (&'e [u8], &'e Entry)>,
    ) -> Result<(), TreeError> {
        let header = Header {
            snapshotter: Snapshotter::Overlayfs,
            chain_id,
            diff_id,
        };
        let mut writer = Writer::new(out, &header)?;
        for (path, entry) in entries {
            let key = key_of(path).ok_or(Damage::Record)?;
            writer.push(&key, entry)?;
        }
        writer.finish()
    }
}

impl<'a> IntoIterator for &'a ExpectedTree {
    type Item = Result<(Vec<u8>, Entry), TreeError>;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// An entry with its key.
pub(super) type Keyed = (Vec<u8>, Entry);

/// The key of a path; none for what is no path here: too long, or with empty components, which a search
/// component by component would take for the root.
pub(super) fn key_of(path: &[u8]) -> Option<Vec<u8>> {
    let has_gap = path.split(|byte| *byte == b'/').any(<[u8]>::is_empty) && !path.is_empty();
    if path.len() > PATH_BYTES || path.contains(&0) || has_gap {
        return None;
    }
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    Some(path.iter().map(key).collect())
}

/// The path of a key.
pub(super) fn path_of(mut key: Vec<u8>) -> Vec<u8> {
    for byte in &mut key {
        if *byte == 0 {
            *byte = b'/';
        }
    }
    key
}

/// Where one is in the records of a block.
#[derive(Debug, Default)]
struct Position {
    offset: usize,
    key: Vec<u8>,
}

impl Position {
    /// Steps to the next record: its key is in `self.key`, its entry is given.
    fn advance<'r>(&mut self, records: &'r [u8]) -> Result<Option<&'r [u8]>, Damage> {
        let mut cursor = Cursor::new(records.get(self.offset..).unwrap_or_default());
        if cursor.is_at_end() {
            return Ok(None);
        }
        let order = next_shared(&mut cursor, &mut self.key, PATH_BYTES)?;
        if self.offset > 0 && order.is_le() {
            return Err(Damage::Order);
        }
        let value = cursor.bytes(BLOCK_LIMIT)?;
        self.offset = records.len().saturating_sub(cursor.rest().len());
        Ok(Some(value))
    }
}

/// Entries of a tree in its order. After an error it has ended.
#[derive(Debug)]
pub struct Entries<'a> {
    tree: &'a ExpectedTree,
    block: usize,
    records: Option<Arc<[u8]>>,
    at: Position,
    from: Vec<u8>,
    prefix: Vec<u8>,
}

impl<'a> Entries<'a> {
    fn new(tree: &'a ExpectedTree, from: Vec<u8>, prefix: Vec<u8>) -> Self {
        Self {
            tree,
            block: tree.block_of(&from).unwrap_or(0),
            records: None,
            at: Position::default(),
            from,
            prefix,
        }
    }

    fn ended(tree: &'a ExpectedTree) -> Self {
        Self {
            block: tree.blocks.len(),
            ..Self::new(tree, Vec::new(), Vec::new())
        }
    }

    /// The next entry with its key.
    pub(super) fn next_keyed(&mut self) -> Result<Option<Keyed>, TreeError> {
        while self.block < self.tree.blocks.len() {
            let records = match &self.records {
                Some(records) => Arc::clone(records),
                None => Arc::clone(self.records.insert(self.tree.read_block(self.block)?)),
            };
            let Some(value) = self.at.advance(&records)? else {
                self.block = self.block.saturating_add(1);
                self.records = None;
                self.at = Position::default();
                continue;
            };
            if self.at.key < self.from {
                continue;
            }
            if !self.at.key.starts_with(&self.prefix) {
                break;
            }
            return Ok(Some((self.at.key.clone(), take_entry(value)?)));
        }
        self.block = self.tree.blocks.len();
        Ok(None)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(Vec<u8>, Entry), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_keyed().transpose()?;
        if next.is_err() {
            self.block = self.tree.blocks.len();
        }
        Some(next.map(|(key, entry)| (path_of(key), entry)))
    }
}

/// Gives each block of a changed file the checksum that it needs.
#[cfg(feature = "fuzzing")]
pub(super) fn seal_blocks(file: &mut [u8]) {
    let mut rest = file.get_mut(HEADER_BYTES..).unwrap_or_default();
    while let Some((head, behind)) = rest.split_first_chunk_mut::<BLOCK_HEADER_BYTES>() {
        let [a, b, c, d, checksum @ ..] = head;
        let size = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let Some((records, after)) = behind.split_at_mut_checked(size) else {
            return;
        };
        if size == 0 {
            return;
        }
        checksum.copy_from_slice(&crc32fast::hash(records).to_le_bytes());
        rest = after;
    }
}

#[cfg(test)]
mod tests;
