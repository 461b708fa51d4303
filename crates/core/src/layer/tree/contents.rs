//! Where in a tree a content is: a list of its files by digest, made when somebody asks and gone when nobody
//! holds it. It only says where to look; the answer comes from the tree's own records.

use std::sync::{Arc, PoisonError};

use crate::digest::Digest;
use crate::layer::codec::take_entry;
use crate::layer::tree::{Position, path_of};
use crate::layer::{ExpectedTree, Node, TreeError};

/// Files that are listed: 16 MiB. A layer with more has nothing to be found by content.
const MAX_FILES: usize = 2_000_000;

/// Blocks looked into for one content: an image may hold one file a million times.
const MAX_BLOCKS: usize = 16;

/// The files of one tree by content, 8 bytes each.
#[derive(Debug)]
pub struct Contents {
    /// Ascending: the first 32 bits of the digest, then the block that holds the file's record.
    places: Box<[u64]>,
}

impl ExpectedTree {
    /// Its files by content; shared by all who hold it at one time.
    pub fn contents(&self) -> Result<Arc<Contents>, TreeError> {
        let mut shared = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = shared.upgrade() {
            return Ok(contents);
        }
        let contents = Arc::new(self.list_contents()?);
        *shared = Arc::downgrade(&contents);
        Ok(contents)
    }

    fn list_contents(&self) -> Result<Contents, TreeError> {
        let mut places = Vec::new();
        for block in 0..self.blocks.len() {
            self.list_block(block, &mut places)?;
            if places.len() > MAX_FILES {
                places = Vec::new();
                break;
            }
        }
        places.sort_unstable();
        places.dedup();
        Ok(Contents {
            places: places.into_boxed_slice(),
        })
    }

    fn list_block(&self, block: usize, places: &mut Vec<u64>) -> Result<(), TreeError> {
        let records = self.read_block(block)?;
        let mut at = Position::default();
        while let Some(value) = at.advance(&records)? {
            let node = take_entry(value)?.node;
            if let Node::File { size, digest, .. } = node
                && size > 0
            {
                places.push(place(digest, block));
            }
        }
        Ok(())
    }

    /// The first path with this content that is `wanted`, among those that `contents` has a place of.
    pub(in crate::layer) fn find_content(
        &self,
        contents: &Contents,
        digest: Digest,
        is_wanted: impl Fn(&[u8]) -> Result<bool, TreeError>,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        for block in contents.blocks(digest).take(MAX_BLOCKS) {
            let found = self.find_in_block(block, digest, &is_wanted)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn find_in_block(
        &self,
        block: usize,
        content: Digest,
        is_wanted: impl Fn(&[u8]) -> Result<bool, TreeError>,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let records = self.records(block)?;
        let mut at = Position::default();
        while let Some(value) = at.advance(&records)? {
            let node = take_entry(value)?.node;
            let is_same = matches!(node, Node::File { digest, .. } if digest == content);
            let path = || path_of(at.key.clone());
            if is_same && is_wanted(&path())? {
                return Ok(Some(path()));
            }
        }
        Ok(None)
    }
}

impl Contents {
    fn blocks(&self, digest: Digest) -> impl Iterator<Item = usize> {
        let first = place(digest, 0);
        let start = self.places.partition_point(|place| *place < first);
        let rest = self.places.get(start..).unwrap_or_default();
        rest.iter()
            .take_while(move |place| *place >> 32 == first >> 32)
            .filter_map(|place| usize::try_from(place & u64::from(u32::MAX)).ok())
    }
}

fn place(digest: Digest, block: usize) -> u64 {
    let prefix = digest.as_bytes().iter().take(4);
    let prefix = prefix.fold(0, |prefix, byte| prefix << 8 | u64::from(*byte));
    prefix << 32 | u64::try_from(block).unwrap_or(u64::MAX) & u64::from(u32::MAX)
}
