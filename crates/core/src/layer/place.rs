//! What a snapshotter makes of a file table: the expected tree of one snapshot. Pure; it reads the trees
//! of the layers below and never a disk.
//!
//! It does what containerd 1.6's `archive.Apply` does for the snapshotter, in its order, and refuses what it
//! refuses. `tests/e2e/unpack.rs` compares the two, entry by entry. For `overlayfs`:
//!
//! - names are cleaned as text; what comes out as the root is ignored, so the root is always `0755 0:0`;
//! - links in the way to a parent are followed within this layer alone (`rootpath`);
//! - a missing parent copies mode, owner and attributes of the topmost layer that has that directory
//!   (in no layer: `0755 0:0`);
//! - a file replaces what was there, a directory merges with a directory;
//! - a hard link changes its target's owner, mode and attributes;
//! - `.wh.x` becomes a whiteout and must not meet anything; `.wh..wh..opq` makes its directory opaque.
//!   The lowest layer is unpacked without an overlay: there both remove instead;
//! - `trusted.*` and unknown attributes are dropped, as are `user.*` where Linux has none;
//! - at the end every directory that the archive named must still be there.
//!
//! `native` has one whole directory a snapshot, a copy of its parent's, and so has its tree: links of the
//! layers below are followed, hard links may lead there, a character device 0:0 is one, and removals
//! remove. Of hard links between links, devices and pipes a copy makes files of their own.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use crate::digest::{ChainId, DiffId};
use crate::display;
use crate::layer::apply::{Placing, is_opaque_marker};
use crate::layer::limits::TREE_BYTES;
use crate::layer::tree::{self, Writer, path_of};
use crate::layer::unpacked::Unpacked;
use crate::layer::xattr::XattrRefusal;
use crate::layer::{Damage, Entry, ExpectedTree, FileTable, Snapshotter, TreeError};

/// Why a table gives no tree.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The snapshotter refuses the layer too, so that it was never unpacked like this.
    #[error("{}: {refusal}", display::path(.path))]
    Refused {
        /// The entry's path.
        path: Vec<u8>,
        /// Why.
        refusal: Refusal,
    },
    /// It may have been unpacked, but what came out cannot be known.
    #[error("{}: unsupported: {unsupported}", display::path(.path))]
    Unsupported {
        /// The entry's path.
        path: Vec<u8>,
        /// What.
        unsupported: Unsupported,
    },
    /// The layers below are not each other's parents, or another snapshotter's.
    #[error("the trees below are not one chain")]
    Parents,
    /// More than a tree may take in memory.
    #[error("tree of more than {TREE_BYTES} bytes")]
    TreeTooLarge,
    /// Links upon links beyond any real layer.
    #[error("placing takes too many steps")]
    TooMuchWork,
    /// A tree below cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The table cannot be read.
    #[error("file table is damaged: {0}")]
    Table(#[from] Damage),
}

/// Why a snapshotter refuses an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something in the way is no directory.
    #[error("a parent is not a directory")]
    NotADirectory,
    /// Links lead to links without end.
    #[error("too many links on the way")]
    TooManyLinks,
    /// A name or path that Linux does not take.
    #[error("name is too long")]
    NameTooLong,
    /// A whiteout of nothing, or of a directory above.
    #[error("whiteout has no valid name")]
    WhiteoutName,
    /// A whiteout of what the same layer has.
    #[error("whiteout of an entry of the same layer")]
    WhiteoutOverEntry,
    /// A type that no snapshotter knows.
    #[error("unknown type {0:#04x}")]
    UnknownType(u8),
    /// A hard link to what this layer does not have.
    #[error("hard link to what is not in the layer")]
    LinkTargetMissing,
    /// A hard link to a directory.
    #[error("hard link to a directory")]
    LinkToDirectory,
    /// A symbolic link to nothing.
    #[error("symbolic link without a target")]
    EmptyTarget,
    /// A directory that a later entry took away.
    #[error("directory was replaced by a later entry")]
    DirectoryGone,
    /// An extended attribute that Linux does not take.
    #[error("extended attribute {}: {reason}", display::escape(.name))]
    Xattr {
        /// Its name.
        name: Vec<u8>,
        /// Why.
        reason: XattrRefusal,
    },
}

/// What a snapshotter does, and we cannot say how it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The kernel joins them with the mode, and keeps them only where the disk has them.
    #[error("access control list")]
    AccessControlList,
    /// Linux sets it, and does not read it back.
    #[error("an empty set of capabilities")]
    EmptyCapability,
    /// It depends on the files that the node had at that time.
    #[error("a link that leads out of the layer while it is unpacked")]
    OutsideLayer,
    /// More attributes on one file than our tree holds.
    #[error("too many extended attributes")]
    TooManyXattrs,
}

/// The tree of one snapshot, before it is written.
#[derive(Debug)]
pub struct PlacedTree {
    header: tree::Header,
    files: Unpacked,
}

impl PlacedTree {
    /// The snapshot.
    pub const fn chain_id(&self) -> ChainId {
        self.header.chain_id
    }

    /// Every path with its entry, in the tree's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &Entry)> {
        let files = self.files.iter();
        files.map(|(key, _, entry)| (path_of(key.to_vec()), entry))
    }

    /// Writes the tree file. Of hard links, the first path in its order is the entry, and the others
    /// point to it.
    pub fn write(&self, out: impl Write) -> Result<(), TreeError> {
        let links = self.files.links();
        let mut first_paths: HashMap<usize, &[u8]> = HashMap::new();
        let mut writer = Writer::new(out, &self.header)?;
        for (key, inode, entry) in self.files.iter() {
            if links.get(inode).is_none_or(|links| *links < 2) {
                writer.push(key, entry)?;
            } else if let Some(first) = first_paths.get(&inode) {
                let hard_link = Some(path_of(first.to_vec()));
                let entry = Entry {
                    hard_link,
                    ..entry.clone()
                };
                writer.push(key, &entry)?;
            } else {
                first_paths.insert(inode, key);
                writer.push(key, entry)?;
            }
        }
        writer.finish()
    }
}

/// Places a table over the trees of the layers below, top first, as the snapshotter does.
pub fn place(
    table: &FileTable,
    snapshotter: Snapshotter,
    parents: &[Arc<ExpectedTree>],
) -> Result<PlacedTree, PlaceError> {
    if parents.iter().any(|tree| tree.snapshotter() != snapshotter) {
        return Err(PlaceError::Parents);
    }
    let header = tree::Header {
        snapshotter,
        chain_id: chain_of(table.diff_id(), parents)?,
        diff_id: table.diff_id(),
    };
    let mut placing = Placing::new(snapshotter, parents)?;
    if placing.is_whole() && has_opaque_marker(table)? {
        placing.remember_written();
    }
    for record in table.records() {
        placing.apply(record?)?;
    }
    // containerd sets the times of the directories last.
    for record in table.records() {
        placing.check_directory(&record?)?;
    }
    Ok(PlacedTree {
        header,
        files: placing.into_files(),
    })
}

/// Whether any entry is one: only then the paths have to be remembered.
fn has_opaque_marker(table: &FileTable) -> Result<bool, Damage> {
    for record in table.records() {
        if is_opaque_marker(&record?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The chain ID of a layer over its parents, which must be each other's.
fn chain_of(diff_id: DiffId, parents: &[Arc<ExpectedTree>]) -> Result<ChainId, PlaceError> {
    let mut chain = None;
    for tree in parents.iter().rev() {
        let expected = push(chain, tree.diff_id());
        if tree.chain_id() != expected {
            return Err(PlaceError::Parents);
        }
        chain = Some(expected);
    }
    Ok(push(chain, diff_id))
}

fn push(chain: Option<ChainId>, diff_id: DiffId) -> ChainId {
    chain.map_or(ChainId::bottom(diff_id), |below| below.push(diff_id))
}

#[cfg(test)]
mod tests;
