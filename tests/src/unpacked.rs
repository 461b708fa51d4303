//! One line for every entry: of a snapshot directory on the disk, and of the tree that the product expects.
//!
//! The disk is read with the plain system calls and nothing of the product but its marker of a file's first
//! bytes. Nothing is left out: a test that compares two such lists compares everything.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::{
    Entry, ExpectedTree, FileTable, Limits, Marker, Node, PlaceError, Snapshotter, TableError,
    place,
};

use crate::layer::Layer;

/// What is in a directory: path, escaped, and everything about the entry. The root's path is empty.
pub type Listing = BTreeMap<String, String>;

/// Everything below `root`, and the root.
pub fn of_directory(root: &Path) -> Listing {
    let mut reading = Reading {
        root,
        paths: Vec::new(),
        files: HashMap::new(),
    };
    reading.walk(b"");
    reading.listing()
}

/// Everything that a tree expects.
pub fn of_tree(tree: &ExpectedTree) -> Listing {
    tree.iter()
        .map(|next| {
            let (path, entry) = next.unwrap();
            (path.escape_ascii().to_string(), of_entry(&entry))
        })
        .collect()
}

/// Everything about one expected entry. An opaque directory has the attribute that says so.
pub fn of_entry(entry: &Entry) -> String {
    let mut line = Line::new(entry.mode, entry.uid, entry.gid);
    match &entry.node {
        Node::File {
            size,
            digest,
            marker,
        } => line.file(*size, digest, *marker),
        Node::Directory { .. } => line.word("directory"),
        Node::Symlink { target } => line.word(&format!("-> {}", target.escape_ascii())),
        Node::CharDevice { major, minor } => line.word(&format!("char {major}:{minor}")),
        Node::BlockDevice { major, minor } => line.word(&format!("block {major}:{minor}")),
        Node::Fifo => line.word("fifo"),
        Node::Socket => line.word("socket"),
        Node::Whiteout => line.word("char 0:0"),
    }
    let mut xattrs = entry.xattrs.clone();
    if matches!(entry.node, Node::Directory { opaque: true }) {
        xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    }
    line.xattrs(xattrs);
    line.linked(entry.hard_link.as_deref());
    line.0
}

/// Why there is no tree.
#[derive(Debug)]
pub enum Refused {
    /// The archive is refused.
    Table(TableError),
    /// No snapshotter would have unpacked it.
    Place(PlaceError),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Place(error) => error.fmt(f),
        }
    }
}

impl Refused {
    /// Whether the layer may have been unpacked, and only what came out is not known.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Place(PlaceError::Unsupported { .. }))
    }
}

/// The product's trees of a stack, lowest first, as far as it makes them.
pub fn expected(
    snapshotter: Snapshotter,
    layers: &[Layer],
) -> (Vec<Arc<ExpectedTree>>, Option<Refused>) {
    let mut trees: Vec<Arc<ExpectedTree>> = Vec::new();
    for layer in layers {
        match tree_of(snapshotter, layer, &trees) {
            Ok(tree) => trees.insert(0, Arc::new(tree)),
            Err(refused) => {
                trees.reverse();
                return (trees, Some(refused));
            }
        }
    }
    trees.reverse();
    (trees, None)
}

/// The chain IDs of a stack, lowest first.
pub fn chain_ids(layers: &[Layer]) -> Vec<ChainId> {
    let mut chains: Vec<ChainId> = Vec::new();
    for layer in layers {
        let diff_id = DiffId(layer.diff_id());
        let below = chains.last().copied();
        chains.push(below.map_or(ChainId::bottom(diff_id), |below| below.push(diff_id)));
    }
    chains
}

fn tree_of(
    snapshotter: Snapshotter,
    layer: &Layer,
    below: &[Arc<ExpectedTree>],
) -> Result<ExpectedTree, Refused> {
    let diff_id = DiffId(layer.diff_id());
    let table = FileTable::build(layer.blob(), layer.digest(), diff_id, &Limits::default())
        .map_err(Refused::Table)?;
    let placed = place(&table, snapshotter, below).map_err(Refused::Place)?;
    let mut file = Vec::new();
    placed.write(&mut file).unwrap();
    Ok(ExpectedTree::open(file, placed.chain_id()).unwrap())
}

/// The result of unpacking a stack in one line: how far it came, and the digest of all that is there.
pub fn verdict(
    snapshotter: Snapshotter,
    name: &str,
    layers: &[Layer],
    listings: &[Listing],
) -> String {
    let mut text = String::new();
    for listing in listings {
        for (path, line) in listing {
            writeln!(text, "{path} {line}").unwrap();
        }
        text.push('\n');
    }
    let unpacked = listings.len();
    let how = if unpacked < layers.len() {
        "refused-above"
    } else {
        "unpacked"
    };
    let digest = hex::encode(&Digest::of(text.as_bytes()).as_bytes()[..8]);
    let snapshotter = crate::snapshot::name_of(snapshotter);
    format!("{snapshotter} {name} {how} {unpacked} {digest}")
}

/// What one entry is, as words.
struct Line(String);

impl Line {
    fn new(mode: u32, uid: u32, gid: u32) -> Self {
        Self(format!("{mode:04o} {uid}:{gid}"))
    }

    fn word(&mut self, word: &str) {
        write!(self.0, " {word}").unwrap();
    }

    fn file(&mut self, size: u64, digest: &Digest, marker: Marker) {
        self.word(&format!("file {size} {marker:?} {}", digest.encoded()));
    }

    fn xattrs(&mut self, mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) {
        xattrs.sort();
        for (name, value) in xattrs {
            // Blanks are between words only.
            let pair = format!("{}={}", name.escape_ascii(), value.escape_ascii());
            self.word(&pair.replace(' ', "\\x20"));
        }
    }

    /// Of hard links, the first path stands for all.
    fn linked(&mut self, first: Option<&[u8]>) {
        if let Some(first) = first {
            self.word(&format!("= {}", first.escape_ascii()));
        }
    }
}

/// A directory while it is read.
struct Reading<'a> {
    root: &'a Path,
    /// Path, inode if it may have other paths, and line.
    paths: Vec<(Vec<u8>, Option<u64>, String)>,
    /// The first path of each inode.
    files: HashMap<u64, Vec<u8>>,
}

impl Reading<'_> {
    fn walk(&mut self, path: &[u8]) {
        let full = match path {
            [] => self.root.to_owned(),
            path => self.root.join(OsStr::from_bytes(path)),
        };
        let found = full.symlink_metadata().unwrap();
        let is_linked = !found.is_dir() && found.nlink() > 1;
        let inode = is_linked.then_some(found.ino());
        self.paths.push((path.to_vec(), inode, described(&full)));
        if let Some(inode) = inode {
            let first = self.files.entry(inode).or_insert_with(|| path.to_vec());
            if key(path) < key(first) {
                *first = path.to_vec();
            }
        }
        if found.is_dir() {
            for next in std::fs::read_dir(&full).unwrap() {
                let name = next.unwrap().file_name();
                let below = match path {
                    [] => name.as_bytes().to_vec(),
                    path => [path, name.as_bytes()].join(&b'/'),
                };
                self.walk(&below);
            }
        }
    }

    fn listing(self) -> Listing {
        let Self { paths, files, .. } = self;
        let line = |(path, inode, line): (Vec<u8>, Option<u64>, String)| {
            let mut line = Line(line);
            let first = inode.and_then(|inode| files.get(&inode));
            line.linked(first.filter(|first| **first != path).map(Vec::as_slice));
            (path.escape_ascii().to_string(), line.0)
        };
        paths.into_iter().map(line).collect()
    }
}

/// The order in which the first of several hard links is found: a directory before what is below it.
fn key(path: &[u8]) -> Vec<u8> {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    path.iter().map(key).collect()
}

/// Everything about what is at a path but its other paths.
fn described(path: &Path) -> String {
    let found = path.symlink_metadata().unwrap();
    let mut line = Line::new(found.mode() & 0o7777, found.uid(), found.gid());
    let kind = found.file_type();
    let (major, minor) = (
        rustix::fs::major(found.rdev()),
        rustix::fs::minor(found.rdev()),
    );
    if kind.is_file() {
        let content = std::fs::read(path).unwrap();
        line.file(found.size(), &Digest::of(&content), Marker::of(&content));
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).unwrap();
        let target = target.as_os_str().as_bytes();
        line.word(&format!("-> {}", target.escape_ascii()));
    } else if kind.is_dir() {
        line.word("directory");
    } else if kind.is_char_device() {
        line.word(&format!("char {major}:{minor}"));
    } else if kind.is_block_device() {
        line.word(&format!("block {major}:{minor}"));
    } else if kind.is_fifo() {
        line.word("fifo");
    } else {
        line.word("socket");
    }
    line.xattrs(xattrs_of(path));
    line.0
}

fn xattrs_of(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0);
    let mut value = vec![0; 64 << 10];
    let mut xattrs = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        let value = match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => value[..length].to_vec(),
            Err(errno) => format!("{errno:?}").into_bytes(),
        };
        xattrs.push((name.to_vec(), value));
    }
    xattrs
}

/// What differs, a line each; nothing when the two are equal.
pub fn differences(disk: &Listing, expected: &Listing) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = disk.keys().chain(expected.keys()).collect();
    let shown = |line: Option<&String>| line.map_or("nothing".to_owned(), Clone::clone);
    paths
        .into_iter()
        .filter(|path| disk.get(*path) != expected.get(*path))
        .map(|path| {
            let (disk, expected) = (shown(disk.get(path)), shown(expected.get(path)));
            format!("/{path}\n    disk     {disk}\n    expected {expected}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_a_line() {
        let list = |pairs: &[(&str, &str)]| -> Listing {
            let pair = |(path, line): &(&str, &str)| ((*path).to_owned(), (*line).to_owned());
            pairs.iter().map(pair).collect()
        };
        let disk = list(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(differences(&disk, &disk), Vec::<String>::new());
        let expected = list(&[("a", "1"), ("b", "0"), ("d", "4")]);
        assert_eq!(differences(&disk, &expected).len(), 3);
    }

    #[test]
    fn everything_about_an_entry_is_in_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("b"), "#!/bin/sh\n").unwrap();
        std::fs::hard_link(at("b"), at("a")).unwrap();
        std::os::unix::fs::symlink("a", at("l")).unwrap();
        std::fs::create_dir(at("d")).unwrap();

        let listing = of_directory(folder.path());

        assert_eq!(listing.len(), 5);
        assert!(listing["a"].contains("file 10 Shebang"), "{listing:?}");
        assert!(!listing["a"].contains('='), "{listing:?}");
        assert!(listing["b"].ends_with(" = a"), "{listing:?}");
        assert!(listing["l"].ends_with(" -> a"), "{listing:?}");
        assert!(listing["d"].ends_with(" directory"), "{listing:?}");
    }
}
