//! Placing, entry by entry: the steps of containerd's `archive.Apply` on a directory in memory. The rules
//! are listed in `place`; what is refused here is refused there too.
//!
//! It has two ways. Over an overlay's lower directories, removals become marks and missing parents copy
//! those below. On a directory that is whole in itself (the lowest layer of an overlay, and every layer of
//! `native`, which starts from a copy of its parent) removals remove.

mod metadata;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::layer::codec::wide;
use crate::layer::limits::{NAME_BYTES, PATH_BYTES};
use crate::layer::rootpath::{Obstacle, Resolver, Stat, View, clean, join, parent, rooted};
use crate::layer::table::{Kind, Record};
use crate::layer::unpacked::{Full, Unpacked, directory, stat_of};
use crate::layer::{
    Entry, ExpectedTree, Node, PlaceError, Refusal, Snapshotter, TreeError, Unsupported,
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The bit of a directory that gives its group to what is made in it.
const SET_GROUP_ID: u32 = 0o2000;

/// A layer that is being placed over its parents, top first.
pub(super) struct Placing<'a> {
    snapshotter: Snapshotter,
    /// The directories below, of an overlay; none where the layer's own directory is whole.
    parents: &'a [Arc<ExpectedTree>],
    files: Unpacked,
    resolver: Resolver,
    /// Every path that an entry was unpacked to, where opaque markers remove all others.
    written: Option<BTreeSet<Vec<u8>>>,
}

impl View for ExpectedTree {
    fn stat(&self, path: &[u8]) -> Result<Option<Stat>, TreeError> {
        Ok(self.lookup(path)?.as_ref().map(stat_of))
    }
}

impl<'a> Placing<'a> {
    pub(super) fn new(
        snapshotter: Snapshotter,
        parents: &'a [Arc<ExpectedTree>],
    ) -> Result<Self, PlaceError> {
        let (files, parents) = match (snapshotter, parents.first()) {
            (Snapshotter::Native, Some(parent)) => (Unpacked::copy_of(parent)??, [].as_slice()),
            (Snapshotter::Native, None) | (Snapshotter::Overlayfs, _) => (Unpacked::new(), parents),
        };
        Ok(Self {
            snapshotter,
            parents,
            files,
            resolver: Resolver::new(),
            written: None,
        })
    }

    /// Remembers from now on what was unpacked: opaque markers in a whole directory need it.
    pub(super) fn remember_written(&mut self) {
        self.written = Some(BTreeSet::new());
    }

    pub(super) fn into_files(self) -> Unpacked {
        self.files
    }

    /// Unpacks one entry.
    pub(super) fn apply(&mut self, record: Record) -> Result<(), PlaceError> {
        let name = clean(&record.name);
        let (directory_name, base) = split(&name);
        if rooted(base).is_empty() {
            return Ok(()); // the root itself, or above it
        }
        let parent = self.parent(&name, directory_name)?;
        let path = join(&parent, base);
        if path.len() > PATH_BYTES {
            return Err(refused(&path, Refusal::NameTooLong));
        }
        if base == OPAQUE {
            return self.mark_opaque(&parent);
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            return self.hide(&parent, hidden, &record);
        }
        let is_merged = matches!(record.kind, Kind::Directory) && self.is_directory(&path);
        if !is_merged {
            self.files.remove(&path);
        }
        self.create(&path, record)?;
        if let Some(written) = &mut self.written {
            written.insert(path);
        }
        Ok(())
    }

    /// Checks that the directory of an entry is still there.
    pub(super) fn check_directory(&mut self, record: &Record) -> Result<(), PlaceError> {
        let name = clean(&record.name);
        let (_, base) = split(&name);
        let is_whiteout = base.starts_with(WHITEOUT);
        if !matches!(record.kind, Kind::Directory) || rooted(base).is_empty() || is_whiteout {
            return Ok(());
        }
        if self.is_directory(&rooted(&name)) {
            return Ok(());
        }
        let path = self.root_path(&name, &name)?;
        match self.files.at(&path) {
            Some(_) => Ok(()),
            None => Err(refused(&path, Refusal::DirectoryGone)),
        }
    }

    /// Whether nothing lies below this directory, so that removals remove.
    pub(super) const fn is_whole(&self) -> bool {
        self.parents.is_empty()
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        self.files
            .at(path)
            .is_some_and(|entry| entry.node.is_directory())
    }

    /// Where a path of the archive leads within this layer.
    fn root_path(&mut self, name: &[u8], path: &[u8]) -> Result<Vec<u8>, PlaceError> {
        self.resolver
            .root_path(&self.files, path)
            .map_err(|obstacle| refusal_of(&rooted(name), obstacle))
    }

    /// The directory that an entry goes into; it is made if it is missing.
    fn parent(&mut self, name: &[u8], directory_name: &[u8]) -> Result<Vec<u8>, PlaceError> {
        // A real directory at this very path has only real directories above it.
        let plain = rooted(directory_name);
        if self.is_directory(&plain) {
            return Ok(plain);
        }
        let path = self.root_path(name, directory_name)?;
        self.make_parents(&path)?;
        Ok(path)
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let mut missing = Vec::new();
        let mut at = Some(path);
        while let Some(ancestor) = at {
            match self.files.at(ancestor) {
                Some(entry) if entry.node.is_directory() => break,
                Some(_) => return Err(refused(ancestor, Refusal::NotADirectory)),
                None => missing.push(ancestor),
            }
            // Each of a thousand levels is looked up by its whole path.
            self.resolver
                .step(ancestor)
                .map_err(|obstacle| refusal_of(ancestor, obstacle))?;
            at = parent(ancestor);
        }
        for directory in missing.into_iter().rev() {
            self.make_parent(directory)?;
        }
        Ok(())
    }

    /// Makes a directory that the archive does not name.
    fn make_parent(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        check_name(path)?;
        let mut made = Entry {
            gid: self.inherited_group(path),
            ..directory()
        };
        let rooted_path = [b"/".as_slice(), path].concat();
        for tree in self.parents {
            let below = self
                .resolver
                .root_path(&**tree, &rooted_path)
                .map_err(|obstacle| refusal_of(path, obstacle))?;
            match tree.lookup(&below)? {
                None => {}
                Some(below) if below.node.is_directory() => {
                    made = Entry {
                        node: made.node,
                        ..below
                    };
                    break;
                }
                Some(_) => break, // replaced there: nothing to copy
            }
        }
        self.files.insert(path, made)?;
        Ok(())
    }

    /// The group of what is made at `path` before anybody says another.
    fn inherited_group(&self, path: &[u8]) -> u32 {
        let directory = parent(path).and_then(|parent| self.files.at(parent));
        directory
            .filter(|directory| directory.mode & SET_GROUP_ID != 0)
            .map_or(0, |directory| directory.gid)
    }

    fn mark_opaque(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        if self.is_whole() {
            return self.clear(path);
        }
        if let Some(file) = self.files.file(path)
            && let Some(entry) = self.files.entry_mut(file)
        {
            entry.node = Node::Directory { opaque: true };
        }
        Ok(())
    }

    /// An opaque marker in a whole directory: removes what is below it and no entry of this layer.
    fn clear(&mut self, path: &[u8]) -> Result<(), PlaceError> {
        let below = self.files.below(path);
        // Marker after marker over one large directory would be a square of work.
        self.resolver
            .spend(wide(below.len()))
            .map_err(|obstacle| refusal_of(path, obstacle))?;
        for path in below {
            let is_written = |written: &BTreeSet<_>| written.contains(&path);
            if !self.written.as_ref().is_some_and(is_written) {
                self.files.remove(&path);
            }
        }
        Ok(())
    }

    /// A whiteout of `name` in the directory `parent`.
    fn hide(&mut self, parent: &[u8], name: &[u8], record: &Record) -> Result<(), PlaceError> {
        let path = join(parent, name);
        // These would hide the directory itself, or the one above it.
        if matches!(name, b"" | b"." | b"..") {
            return Err(refused(&path, Refusal::WhiteoutName));
        }
        check_name(&path)?;
        if self.is_whole() {
            self.files.remove(&path);
            return Ok(());
        }
        if self.files.at(&path).is_some() {
            return Err(refused(&path, Refusal::WhiteoutOverEntry));
        }
        let whiteout = self.new_entry(&path, Node::Whiteout);
        let file = self.files.insert(&path, whiteout)?;
        if let Some(entry) = self.files.entry_mut(file) {
            entry.mode = 0;
            metadata::own(entry, record);
        }
        Ok(())
    }

    fn new_entry(&self, path: &[u8], node: Node) -> Entry {
        Entry {
            node,
            gid: self.inherited_group(path),
            ..directory()
        }
    }

    /// Creates what an entry says, where nothing is but perhaps the same directory.
    fn create(&mut self, path: &[u8], record: Record) -> Result<(), PlaceError> {
        let node = match &record.kind {
            Kind::Global => return Ok(()),
            Kind::Other(flag) => return Err(refused(path, Refusal::UnknownType(*flag))),
            Kind::HardLink { target } => {
                let file = self.link_target(path, target)?;
                check_name(path)?;
                self.files.link(path, file)?;
                return self.set_metadata(path, file, record);
            }
            Kind::File {
                size,
                digest,
                marker,
            } => Node::File {
                size: *size,
                digest: *digest,
                marker: *marker,
            },
            Kind::Directory => Node::Directory { opaque: false },
            Kind::Symlink { target } if target.is_empty() => {
                return Err(refused(path, Refusal::EmptyTarget));
            }
            Kind::Symlink { target } if target.len() > PATH_BYTES => {
                return Err(refused(path, Refusal::NameTooLong));
            }
            Kind::Symlink { target } => Node::Symlink {
                target: target.clone(),
            },
            Kind::CharDevice { major, minor } => {
                metadata::char_device(self.snapshotter, *major, *minor)
            }
            Kind::BlockDevice { major, minor } => Node::BlockDevice {
                major: major & metadata::MAJOR_BITS,
                minor: minor & metadata::MINOR_BITS,
            },
            Kind::Fifo => Node::Fifo,
        };
        check_name(path)?;
        let file = match self.files.file(path) {
            Some(directory) => directory,
            None => self.files.insert(path, self.new_entry(path, node))?,
        };
        self.set_metadata(path, file, record)
    }

    /// The file that a hard link is made to.
    fn link_target(&mut self, path: &[u8], target: &[u8]) -> Result<usize, PlaceError> {
        let (directory_name, base) = split(target);
        let directory = self.root_path(path, directory_name)?;
        let found = match base {
            b"" | b"." => directory,
            b".." => return Err(refused(path, Refusal::LinkToDirectory)),
            _ => join(&directory, base),
        };
        let file = self.files.file(&found);
        match file.and_then(|file| Some((file, self.files.entry(file)?))) {
            None => Err(refused(path, Refusal::LinkTargetMissing)),
            Some((_, entry)) if entry.node.is_directory() => {
                Err(refused(path, Refusal::LinkToDirectory))
            }
            Some((file, _)) => Ok(file),
        }
    }

    fn set_metadata(&mut self, path: &[u8], file: usize, record: Record) -> Result<(), PlaceError> {
        match self.files.entry_mut(file) {
            Some(entry) => metadata::set(path, entry, record),
            None => Ok(()),
        }
    }
}

/// Whether an entry is one, by its cleaned name: a slash or dots behind it change nothing.
pub(super) fn is_opaque_marker(record: &Record) -> bool {
    let name = clean(&record.name);
    let (_, base) = split(&name);
    base == OPAQUE
}

/// A name's directory, with its slash, and what follows it.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let slash = name.iter().rposition(|byte| *byte == b'/');
    let at = slash.map_or(0, |slash| slash.saturating_add(1));
    name.split_at_checked(at).unwrap_or((b"", name))
}

fn check_name(path: &[u8]) -> Result<(), PlaceError> {
    let (_, base) = split(path);
    if base.len() > NAME_BYTES || path.len() > PATH_BYTES {
        return Err(refused(path, Refusal::NameTooLong));
    }
    Ok(())
}

fn refused(path: &[u8], refusal: Refusal) -> PlaceError {
    PlaceError::Refused {
        path: path.to_vec(),
        refusal,
    }
}

fn unsupported(path: &[u8], unsupported: Unsupported) -> PlaceError {
    PlaceError::Unsupported {
        path: path.to_vec(),
        unsupported,
    }
}

impl From<Full> for PlaceError {
    fn from(_: Full) -> Self {
        Self::TreeTooLarge
    }
}

fn refusal_of(path: &[u8], obstacle: Obstacle) -> PlaceError {
    match obstacle {
        Obstacle::NotADirectory => refused(path, Refusal::NotADirectory),
        Obstacle::TooManyLinks => refused(path, Refusal::TooManyLinks),
        Obstacle::NameTooLong => refused(path, Refusal::NameTooLong),
        Obstacle::OutsideLayer => unsupported(path, Unsupported::OutsideLayer),
        Obstacle::TooMuchWork => PlaceError::TooMuchWork,
        Obstacle::Tree(error) => PlaceError::Tree(error),
    }
}
