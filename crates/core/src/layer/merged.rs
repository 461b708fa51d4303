//! What a container sees of its image: expected trees stacked as the kernel's overlay stacks them. Pure
//! rules over trees; the container's own upper directory is not part of it.
//!
//! Looking a name up in a merged directory, top layer first, Linux does this (tried on 6.18): a whiteout
//! ends the search; a file, link or device is the answer only if nothing above is a directory, and ends
//! the search either way; directories merge, with the topmost one's metadata, until one is opaque. The
//! root is never looked up, so an opaque mark on a layer's root hides nothing.

mod content;
mod resolve;
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::layer::merged::content::MergedContents;
pub use crate::layer::merged::resolve::Resolved;
pub use crate::layer::merged::walk::{Seen, Visible};
use crate::layer::tree::key_of;
use crate::layer::{Entry, ExpectedTree, Node, Snapshotter, TreeError, xattr};

/// Trees of a whole image, top layer first.
#[derive(Debug)]
pub struct MergedTree {
    layers: Vec<Arc<ExpectedTree>>,
    /// The directories down to the one looked into last: scans come in the order of paths.
    walked: Mutex<Vec<Directory>>,
    /// Added to every owner and group: the container runs in a user namespace.
    shift: (u32, u32),
    /// How often it is added where that is not once: the names of hard links, by the first of them.
    shifted_often: HashMap<Vec<u8>, u32>,
}

/// A directory that is seen, and the layers of which it is made, topmost first.
#[derive(Clone, Debug)]
struct Directory {
    path: Vec<u8>,
    layers: Vec<usize>,
}

impl MergedTree {
    /// Stacks trees, top layer first.
    pub fn new(layers: Vec<Arc<ExpectedTree>>) -> Self {
        Self {
            layers,
            walked: Mutex::new(Vec::new()),
            shift: (0, 0),
            shifted_often: HashMap::new(),
        }
    }

    /// The same trees as a container in a user namespace must see them, where every file's owner was changed
    /// on the disk, name by name. An overlay copies each name for itself; where hard links are kept, a file is
    /// changed once for each of its names. No shift at all is no change.
    pub fn with_owners_shifted(mut self, uid: u32, gid: u32) -> Result<Self, TreeError> {
        self.shift = (uid, gid);
        let whole = self.layers.first().cloned();
        let whole = whole.filter(|tree| tree.snapshotter() == Snapshotter::Native);
        for entry in whole.iter().flat_map(|tree| tree.iter()) {
            let (_, entry) = entry?;
            // A copy makes links of other types files of their own.
            if let (Node::File { .. }, Some(first)) = (entry.node, entry.hard_link) {
                let times = self.shifted_often.entry(first).or_insert(1);
                *times = times.saturating_add(1);
            }
        }
        Ok(self)
    }

    fn shifted(&self, path: &[u8], mut entry: Entry) -> Entry {
        let (uid, gid) = self.shift;
        if self.shift == (0, 0) {
            return entry;
        }
        if !entry.node.is_directory() {
            drop_privileges(&mut entry);
        }
        let first = entry.hard_link.as_deref().unwrap_or(path);
        let times = self.shifted_often.get(first).copied().unwrap_or(1);
        entry.uid = entry.uid.wrapping_add(uid.wrapping_mul(times));
        entry.gid = entry.gid.wrapping_add(gid.wrapping_mul(times));
        entry
    }

    /// The trees, top layer first.
    pub fn layers(&self) -> &[Arc<ExpectedTree>] {
        &self.layers
    }

    /// What is seen at `path`, with the layer whose entry counts.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<(usize, Entry)>, TreeError> {
        if key_of(path).is_none() {
            return Ok(None);
        }
        if path.is_empty() {
            return self.root();
        }
        let Some(layers) = self.layers_of(parent_of(path))? else {
            return Ok(None);
        };
        Ok(self.look(path, &layers)?.top)
    }

    /// Everything seen below `directory` with its layer, in the order of [`ExpectedTree::iter`], without
    /// the directory itself.
    pub fn below(&self, directory: &[u8]) -> Result<Visible<'_>, TreeError> {
        let layers = match key_of(directory) {
            Some(_) => self.layers_of(directory)?.unwrap_or_default(),
            None => Vec::new(),
        };
        Visible::new(self, directory, layers)
    }

    fn root(&self) -> Result<Option<(usize, Entry)>, TreeError> {
        let Some(top) = self.layers.first() else {
            return Ok(None);
        };
        Ok(top.lookup(b"")?.map(|entry| (0, self.shifted(b"", entry))))
    }

    /// The layers that make up the directory at `path`; none when no directory is seen there.
    fn layers_of(&self, path: &[u8]) -> Result<Option<Vec<usize>>, TreeError> {
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = walked
            .iter()
            .take_while(|directory| is_at_or_below(path, &directory.path))
            .count();
        walked.truncate(known);
        if walked.is_empty() {
            walked.push(Directory {
                path: Vec::new(),
                layers: (0..self.layers.len()).collect(),
            });
        }
        loop {
            let Some(last) = walked.last() else {
                return Ok(None);
            };
            if last.path == path {
                return Ok(Some(last.layers.clone()));
            }
            let next = one_further(path, last.path.len());
            let merge = self.look(next, &last.layers)?;
            if !merge.is_directory() {
                return Ok(None);
            }
            walked.push(Directory {
                path: next.to_vec(),
                layers: merge.layers,
            });
        }
    }

    /// Looks one name up in a directory that `layers` make up.
    fn look(&self, path: &[u8], layers: &[usize]) -> Result<Merge, TreeError> {
        let mut merge = Merge::default();
        for layer in layers {
            if let Some(tree) = self.layers.get(*layer)
                && let Some(entry) = tree.lookup(path)?
            {
                merge.add(*layer, self.shifted(path, entry));
            }
            if merge.is_done {
                break;
            }
        }
        Ok(merge)
    }
}

/// What Linux takes away when the owner of anything but a directory changes: a set-group-id bit without the
/// bit to execute it means a lock, and stays.
fn drop_privileges(entry: &mut Entry) {
    const SET_USER_ID: u32 = 0o4000;
    const SET_GROUP_ID: u32 = 0o2000;
    const GROUP_EXECUTES: u32 = 0o0010;
    entry.mode &= !SET_USER_ID;
    if entry.mode & GROUP_EXECUTES != 0 {
        entry.mode &= !SET_GROUP_ID;
    }
    xattr::drop_capability(&mut entry.xattrs);
}

/// The kernel's rule for one name, fed with what each layer has, topmost first.
#[derive(Debug, Default)]
struct Merge {
    top: Option<(usize, Entry)>,
    layers: Vec<usize>,
    is_done: bool,
}

impl Merge {
    fn add(&mut self, layer: usize, entry: Entry) {
        if self.is_done {
            return;
        }
        match entry.node {
            Node::Whiteout => self.is_done = true,
            Node::Directory { opaque } => {
                self.layers.push(layer);
                self.top.get_or_insert((layer, entry));
                self.is_done = opaque;
            }
            Node::File { .. }
            | Node::Symlink { .. }
            | Node::CharDevice { .. }
            | Node::BlockDevice { .. }
            | Node::Fifo
            | Node::Socket => {
                self.top.get_or_insert((layer, entry));
                self.is_done = true;
            }
        }
    }

    fn is_directory(&self) -> bool {
        matches!(&self.top, Some((_, entry)) if entry.node.is_directory())
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, name].join(&b'/')
    }
}

/// The path of the directory that holds `path`; the root's is the root.
fn parent_of(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    slash
        .and_then(|slash| path.get(..slash))
        .unwrap_or_default()
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    match path.strip_prefix(directory) {
        Some(rest) if directory.is_empty() => !rest.is_empty(),
        Some(rest) => rest.starts_with(b"/"),
        None => false,
    }
}

fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    path == directory || is_below(path, directory)
}

/// `path` cut one component behind its first `known` bytes.
fn one_further(path: &[u8], known: usize) -> &[u8] {
    let from = if known == 0 {
        0
    } else {
        known.saturating_add(1)
    };
    let rest = path.get(from..).unwrap_or_default();
    let length = rest.iter().position(|byte| *byte == b'/');
    let end = length.map_or(path.len(), |length| from.saturating_add(length));
    path.get(..end).unwrap_or(path)
}

#[cfg(test)]
mod tests;
