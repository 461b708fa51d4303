//! One mount table, mount for mount: who made it, on what it stands, and when.

use std::collections::{HashMap, HashSet};

use super::View;
use super::declared::{Asked, Declared, DeclaredMount, Origin};
use super::table::{Device, MountEntry};

/// Who made a mount.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made<'a> {
    /// The runtime, because it was asked to.
    Asked(&'a DeclaredMount),
    /// The runtime, by itself.
    Runtime,
    /// The root.
    Root,
    /// Nobody whom we know.
    Unexplained,
}

/// A table with what is known about each mount; positions are those of the table.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    view: &'a View,
    paths: Vec<Vec<u8>>,
    parents: Vec<Option<usize>>,
    made: Vec<Made<'a>>,
    /// The next mount of the runtime that each one stands on; none on the image's own files.
    grounds: Vec<Option<usize>>,
    last_of_runtime: Option<usize>,
    /// What is mounted writable somewhere.
    writable: HashSet<(Device, &'a [u8])>,
}

impl<'a> Survey<'a> {
    pub(super) fn of(view: &'a View, asked: &Asked<'a>, declared: &Declared) -> Self {
        let entries = &view.entries;
        let by_id: HashMap<u64, usize> = entries.iter().map(|entry| entry.id).zip(0..).collect();
        let parent = |entry: &MountEntry| {
            let parent = by_id.get(&entry.parent).copied();
            parent.filter(|_| entry.id != view.root)
        };
        let mut open = asked.open();
        let paths: Vec<Vec<u8>> = entries.iter().map(|entry| path_of(view, entry)).collect();
        let made = entries.iter().zip(&paths).map(|(entry, path)| {
            if entry.id == view.root {
                Made::Root
            } else {
                open.take(path, entry, view)
                    .map_or(Made::Unexplained, Made::Asked)
            }
        });
        let is_writable = |entry: &&MountEntry| !entry.is_read_only;
        let mut survey = Self {
            view,
            made: made.collect(),
            parents: entries.iter().map(parent).collect(),
            paths,
            grounds: Vec::with_capacity(entries.len()),
            last_of_runtime: None,
            writable: entries
                .iter()
                .filter(is_writable)
                .map(|entry| (entry.device, without_deleted(&entry.root)))
                .collect(),
        };
        for position in 0..entries.len() {
            survey.settle(position, asked, declared);
        }
        survey
    }

    /// Finds what a mount stands on, and whether the runtime makes it by itself.
    fn settle(&mut self, position: usize, asked: &Asked<'_>, declared: &Declared) {
        let ground = self.next_ground(position);
        self.grounds.push(ground);
        if self.is_unexplained(position)
            && self.is_made_by_runtime(position, asked, declared)
            && let Some(made) = self.made.get_mut(position)
        {
            *made = Made::Runtime;
        }
        if self.is_of_runtime(position) {
            self.last_of_runtime = Some(position);
        }
    }

    /// Up to a mount of the runtime, or to one whose ground is known. Ends whatever the table says: no more
    /// steps than it has mounts.
    fn next_ground(&self, position: usize) -> Option<usize> {
        let mut at = position;
        for _ in 0..self.made.len() {
            let parent = self.parents.get(at).copied().flatten()?;
            if self.is_of_runtime(parent) {
                return Some(parent);
            }
            if let Some(known) = self.grounds.get(parent) {
                return *known;
            }
            at = parent;
        }
        None
    }

    fn is_of_runtime(&self, position: usize) -> bool {
        let made = self.made.get(position);
        matches!(made, Some(Made::Asked(_) | Made::Runtime))
    }

    fn is_made_by_runtime(&self, position: usize, asked: &Asked<'_>, declared: &Declared) -> bool {
        let Some(entry) = self.view.entries.get(position) else {
            return false;
        };
        let path = self.path(position);
        let fs_type = entry.fs_type.as_slice();
        let is_foreign = !self.view.is_own(entry);
        let is_empty_file_or_folder = matches!(fs_type, b"tmpfs" | b"devtmpfs");
        if asked.is_masked(path) {
            return is_foreign && is_empty_file_or_folder;
        }
        if asked.is_read_only(path) {
            return self.shows_the_same(position);
        }
        let ground = self.grounds.get(position).copied().flatten();
        let Some(Made::Asked(below)) = ground.and_then(|ground| self.made.get(ground)) else {
            return false;
        };
        let is_controller = matches!(fs_type, b"cgroup" | b"cgroup2" | b"tmpfs");
        let device = path.strip_prefix(b"dev");
        match below.kind.as_str() {
            "cgroup" => is_controller,
            // The terminal of the first process.
            _ if path == b"dev/console" => declared.has_terminal && fs_type == b"devpts",
            // Where device nodes cannot be made, the node's own are mounted one by one.
            _ => fs_type == b"devtmpfs" && device == Some(entry.root.as_slice()),
        }
    }

    /// Whether nothing explains a mount.
    pub(super) fn is_unexplained(&self, position: usize) -> bool {
        matches!(self.made.get(position), Some(Made::Unexplained))
    }

    /// Mounts that were asked for by `origin`.
    pub(super) fn made_for(&self, origin: Origin) -> impl Iterator<Item = usize> + '_ {
        let made = self.made.iter().enumerate();
        made.filter(move |(_, made)| matches!(made, Made::Asked(mount) if mount.origin == origin))
            .map(|(position, _)| position)
    }

    pub(super) fn entry(&self, position: usize) -> Option<&'a MountEntry> {
        self.view.entries.get(position)
    }

    /// Which part of the container's own root is mounted; `None` when it is something else.
    pub(super) fn own_path<'e>(&self, entry: &'e MountEntry) -> Option<&'e [u8]> {
        self.view.own_path(entry)
    }

    /// The mount point, relative to the root.
    pub(super) fn path(&self, position: usize) -> &[u8] {
        self.paths.get(position).map_or(b"", Vec::as_slice)
    }

    /// The mount of the runtime that this one stands on.
    pub(super) fn ground(&self, position: usize) -> Option<usize> {
        self.grounds.get(position).copied().flatten()
    }

    /// What a mount is, in whatever namespace it is copied to.
    pub(super) fn identity(&self, position: usize) -> (Vec<u8>, Device, Vec<u8>) {
        let entry = self.view.entries.get(position);
        let (device, root) = entry.map_or((Device { major: 0, minor: 0 }, Vec::new()), |entry| {
            (entry.device, without_deleted(&entry.root).to_vec())
        });
        (self.path(position).to_vec(), device, root)
    }

    /// Whether a mount shows what would be at its mount point without it.
    pub(super) fn shows_the_same(&self, position: usize) -> bool {
        let parent = self.parents.get(position).copied().flatten();
        let entries = &self.view.entries;
        let (Some(entry), Some(parent)) =
            (entries.get(position), parent.and_then(|at| entries.get(at)))
        else {
            return false;
        };
        let on = |path: &[u8], point: &[u8]| {
            let point = point.strip_suffix(b"/").unwrap_or(point);
            let path = path.strip_suffix(b"/").unwrap_or(path);
            path.strip_prefix(point).map(<[u8]>::to_vec)
        };
        let below_parent = on(&entry.mount_point, &parent.mount_point);
        entry.device == parent.device && on(&entry.root, &parent.root) == below_parent
    }

    /// Whether the container may write what is mounted: it is its own file, or it is mounted writable, here
    /// or anywhere else in this table. Device nodes are not content.
    pub(super) fn is_writable(&self, position: usize) -> bool {
        let Some(entry) = self.view.entries.get(position) else {
            return true;
        };
        let path = self.path(position);
        let is_own = self.view.is_own(entry);
        match entry.fs_type.as_slice() {
            _ if is_own => true,
            b"devtmpfs" => !path.starts_with(b"dev/"),
            b"proc" => false,
            b"tmpfs" if path.starts_with(b"proc/") => false,
            // Whoever mounted it has written it, and mounts it read-only afterwards.
            b"tmpfs" if entry.root == b"/" => true,
            _ => self.is_writable_somewhere(entry),
        }
    }

    fn is_writable_somewhere(&self, entry: &MountEntry) -> bool {
        let root = without_deleted(&entry.root);
        let slashes = root.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let above = slashes.filter_map(|(end, _)| root.get(..end));
        let mut above = above.chain([b"/".as_slice(), root]);
        above.any(|root| self.writable.contains(&(entry.device, root)))
    }

    /// Whether the runtime has made a mount after this one, so that nothing had been executed yet.
    pub(super) fn came_before_start(&self, position: usize) -> bool {
        self.last_of_runtime.is_some_and(|last| position < last)
    }

    /// Whether a mount on `ground`, a mount of the runtime, surely came after the start. A recursive bind
    /// mount brings others along, which stand right behind it in the table; where the host passes mounts on,
    /// they come at any time.
    pub(super) fn came_after_start(&self, position: usize, ground: usize) -> bool {
        let is_slave = |position: usize| {
            let entry = self.view.entries.get(position);
            entry.is_some_and(|entry| entry.propagation.master.is_some())
        };
        let Some(Made::Asked(below)) = self.made.get(ground) else {
            return !self.came_before_start(position);
        };
        if below.propagates() || is_slave(ground) {
            return false;
        }
        let last = self.last_of_runtime.unwrap_or_default();
        position > last && (!below.is_recursive() || last > ground)
    }
}

/// Where a mount is, relative to the container's root.
fn path_of(view: &View, entry: &MountEntry) -> Vec<u8> {
    let point = without_deleted(&entry.mount_point);
    let joined = [view.base.as_slice(), point].join(&b'/');
    let names = joined.split(|byte| *byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
    names.join(&b'/')
}

/// A file that was removed after it was mounted is shown with this behind its path.
fn without_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"//deleted").unwrap_or(path)
}
