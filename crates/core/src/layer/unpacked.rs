//! A snapshot's directory while a layer is unpacked into it, in memory: paths, and the files that they
//! name. It follows no link and checks no rule; `apply` does.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::layer::limits::TREE_BYTES;
use crate::layer::rootpath::{Stat, View};
use crate::layer::tree::{key_of, path_of};
use crate::layer::{Entry, ExpectedTree, Node, TreeError};

/// What a path or a file takes beside its bytes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// The directory would take more than [`TREE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Paths and files. Paths of one file are hard links. A file that no path names any more stays in its
/// place until the end: there are never more files than entries and missing parents.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// By key, see `tree::key_of`: a directory comes directly before everything below it.
    paths: BTreeMap<Vec<u8>, usize>,
    files: Vec<Entry>,
    /// What all that was ever put here takes.
    bytes: usize,
}

impl Unpacked {
    /// A directory as snapshotters make it.
    pub(super) fn new() -> Self {
        let root = directory();
        Self {
            paths: BTreeMap::from([(Vec::new(), 0)]),
            bytes: bytes_of(&root),
            files: vec![root],
        }
    }

    /// A copy of a directory, as the `native` snapshotter makes one: of hard links it keeps those between
    /// regular files, every other becomes a file of its own.
    pub(super) fn copy_of(tree: &ExpectedTree) -> Result<Result<Self, Full>, TreeError> {
        let mut copy = Self {
            paths: BTreeMap::new(),
            files: Vec::new(),
            bytes: 0,
        };
        for next in tree {
            let (path, mut entry) = next?;
            let first = entry.hard_link.take().and_then(|first| copy.file(&first));
            let is_file = matches!(entry.node, Node::File { .. });
            let put = match first {
                Some(first) if is_file => copy.link(&path, first),
                _ => copy.insert(&path, entry).map(|_file| ()),
            };
            if let Err(full) = put {
                return Ok(Err(full));
            }
        }
        Ok(Ok(copy))
    }

    /// The file at `path`, by number.
    pub(super) fn file(&self, path: &[u8]) -> Option<usize> {
        self.paths.get(&key_of(path)?).copied()
    }

    pub(super) fn entry(&self, file: usize) -> Option<&Entry> {
        self.files.get(file)
    }

    pub(super) fn entry_mut(&mut self, file: usize) -> Option<&mut Entry> {
        self.files.get_mut(file)
    }

    /// The entry at `path`.
    pub(super) fn at(&self, path: &[u8]) -> Option<&Entry> {
        self.entry(self.file(path)?)
    }

    /// Puts a new file at `path`, where nothing is.
    pub(super) fn insert(&mut self, path: &[u8], entry: Entry) -> Result<usize, Full> {
        let file = self.files.len();
        self.spend(bytes_of(&entry))?;
        self.files.push(entry);
        self.link(path, file)?;
        Ok(file)
    }

    /// Puts a file at one more path, where nothing is.
    pub(super) fn link(&mut self, path: &[u8], file: usize) -> Result<(), Full> {
        if let Some(key) = key_of(path) {
            self.spend(key.len().saturating_add(OVERHEAD_BYTES))?;
            self.paths.insert(key, file);
        }
        Ok(())
    }

    /// Takes memory off the limit. What is removed gives none back: files stay, and names that come and go
    /// by the million are no image.
    fn spend(&mut self, bytes: usize) -> Result<(), Full> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > TREE_BYTES {
            Err(Full)
        } else {
            Ok(())
        }
    }

    /// Removes `path` and everything below it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        for below in self.below(path) {
            if let Some(key) = key_of(&below) {
                self.paths.remove(&key);
            }
        }
        if let Some(key) = key_of(path) {
            self.paths.remove(&key);
        }
    }

    /// The paths below a directory; of anything else, none.
    pub(super) fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let is_directory = |entry: &Entry| entry.node.is_directory();
        let (Some(mut first), true) = (key_of(path), self.at(path).is_some_and(is_directory))
        else {
            return Vec::new();
        };
        if !first.is_empty() {
            first.push(0);
        }
        let range = (Bound::Excluded(first.clone()), Bound::Unbounded);
        self.paths
            .range(range)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&first))
            .map(|key| path_of(key.clone()))
            .collect()
    }

    /// Every path's key, file and entry, in the order of keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], usize, &Entry)> {
        self.paths
            .iter()
            .filter_map(|(key, file)| Some((key.as_slice(), *file, self.files.get(*file)?)))
    }

    /// How many paths each file has, by its number.
    pub(super) fn links(&self) -> Vec<u32> {
        let mut links = vec![0_u32; self.files.len()];
        for file in self.paths.values() {
            if let Some(links) = links.get_mut(*file) {
                *links = links.saturating_add(1);
            }
        }
        links
    }
}

/// What an entry takes in memory, with what setting its attributes may add.
fn bytes_of(entry: &Entry) -> usize {
    let target = match &entry.node {
        Node::Symlink { target } => target.len(),
        Node::File { .. }
        | Node::Directory { .. }
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo
        | Node::Socket
        | Node::Whiteout => 0,
    };
    let xattrs = entry
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len());
    size_of::<Entry>() + target + xattrs.sum::<usize>()
}

impl View for Unpacked {
    fn stat(&self, path: &[u8]) -> Result<Option<Stat>, TreeError> {
        Ok(self.at(path).map(stat_of))
    }
}

/// What the system call would say about an entry.
pub(super) fn stat_of(entry: &Entry) -> Stat {
    match &entry.node {
        Node::Directory { .. } => Stat::Directory,
        Node::Symlink { target } => Stat::Link(target.clone()),
        Node::File { .. }
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo
        | Node::Socket
        | Node::Whiteout => Stat::Other,
    }
}

/// A directory as it is made where nothing says how.
pub(super) const fn directory() -> Entry {
    Entry {
        node: Node::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_beyond_the_limit_is_full() {
        let mut unpacked = Unpacked::new();
        unpacked.bytes = TREE_BYTES - 10_000;
        let file = unpacked.insert(b"a", directory()).unwrap();
        assert_eq!(unpacked.link(&[b'n'; 4000], file), Ok(()));
        // What was removed counts on: files stay in their places.
        unpacked.remove(b"a");
        assert_eq!(unpacked.link(&[b'm'; 4000], file), Ok(()));
        assert_eq!(unpacked.link(&[b'o'; 4000], file), Err(Full));
        let mut large = directory();
        large.xattrs = vec![(b"user.large".to_vec(), vec![0; 4000])];
        assert_eq!(unpacked.insert(b"b", large), Err(Full));
    }
}
