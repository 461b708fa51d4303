//! How much one layer may be. An image's author chooses everything in it, so nothing is read without one
//! of these.

/// Longest path or link target that Linux accepts (`PATH_MAX` without its NUL).
pub(super) const PATH_BYTES: usize = 4095;

/// Longest name in a directory (`NAME_MAX`).
pub(super) const NAME_BYTES: usize = 255;

/// One extended header or long name; Go's reader, which containerd uses, stops here too. It bounds the
/// extended attributes of an entry as well, and names: what is too long for Linux may be short when its
/// dots are taken out.
pub(super) const HEADER_BYTES: usize = 1 << 20;

/// A tree while it is put together in memory: names and files, whatever they would take on the disk. An
/// archive of a megabyte can name a billion missing directories.
pub(super) const TREE_BYTES: usize = 1 << 30;

/// Bounds of one layer; what goes beyond is refused by name.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the archive. The largest images in common use have some hundred thousand.
    pub entries: u64,
    /// The archive, uncompressed: a bomb ends here. As much again may be holes of sparse files.
    pub uncompressed_bytes: u64,
    /// The table made from it, which is held in memory.
    pub table_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            uncompressed_bytes: 64 << 30,
            table_bytes: 512 << 20,
        }
    }
}
