//! Layers: one strict tar reader, the file table made from it, and the tree that a snapshotter makes of it.

mod entry;

pub use entry::{Entry, MARKER_BYTES, Marker, Node};
