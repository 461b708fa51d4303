//! Layers: one strict tar reader, the file table made from it, and the tree that a snapshotter makes of it.
//!
//! ```text
//! blob ─▶ FileTable::build (digest, diff ID, tar) ─▶ place (over the trees below) ─▶ ExpectedTree ─▶ MergedTree
//! ```
//! Nothing here opens a file: blobs are readers, tables and trees are bytes that the caller keeps.

mod apply;
mod blob;
mod codec;
mod contents;
mod entry;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod limits;
mod merged;
mod pax;
mod place;
mod rootpath;
pub mod skeleton;
mod source;
mod sparse;
mod table;
mod tar;
mod tree;
mod unpacked;
mod xattr;

pub use codec::Damage;
pub use contents::{WantedContents, find_contents};
pub use entry::{Entry, MARKER_BYTES, Marker, Node};
pub use limits::Limits;
pub use merged::{MergedContents, MergedTree, Resolved, Seen, Visible};
pub use place::{PlaceError, PlacedTree, Refusal, Unsupported, place};
pub use table::{FileTable, TableError};
pub use tar::TarError;
pub use tree::{
    Contents, Entries, ExpectedTree, HEADER_BYTES as TREE_HEADER_BYTES, ReadAt, Snapshotter,
    TreeError, diff_id_of as diff_id_of_tree,
};
pub use xattr::XattrRefusal;
