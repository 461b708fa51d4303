//! What the runtime was asked to mount, and which mount of a table answers to it.
//!
//! Source paths are not compared: a source that is a link, a subvolume or a moved folder has another name in
//! the table. What cannot be is that the source of a bind mount lies in the container's own root, which
//! did not exist when the spec was written; and each request explains one mount, so that what is mounted over
//! it is not explained.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::View;
use super::table::MountEntry;
use crate::layer::{MergedTree, Resolved, TreeError};

/// What a container's spec says about mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// Mounts.
    pub mounts: Vec<DeclaredMount>,
    /// Paths over which the runtime mounts something empty.
    pub masked: Vec<Vec<u8>>,
    /// Paths that the runtime mounts over themselves, read-only.
    pub read_only: Vec<Vec<u8>>,
    /// The first process has a terminal, which is mounted on `/dev/console`.
    pub has_terminal: bool,
    /// Its processes may mount (`CAP_SYS_ADMIN`).
    pub may_mount: bool,
}

/// One mount that the runtime was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredMount {
    /// Where, as written.
    pub destination: Vec<u8>,
    /// `bind`, `tmpfs`, `proc`, …
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
    /// Who asked.
    pub origin: Origin,
}

/// Who asked for a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// containerd's record, so whoever made the container.
    Record,
    /// Only the bundle's own config: a wrapper around the runtime.
    Bundle,
}

impl DeclaredMount {
    pub(super) fn has(&self, names: &[&str]) -> bool {
        let mut options = self.options.iter();
        options.any(|option| names.contains(&option.as_str()))
    }

    fn is_bind(&self) -> bool {
        self.kind == "bind" || self.has(&["bind", "rbind"])
    }

    /// Whether mounts below the source come along.
    pub(super) fn is_recursive(&self) -> bool {
        self.has(&["rbind"])
    }

    /// Whether mounts that the host makes later appear here too.
    pub(super) fn propagates(&self) -> bool {
        self.has(&["shared", "rshared", "slave", "rslave"])
    }

    /// Whether `entry` can be what the runtime made of this. `sysfs` and `cgroup` can become bind mounts.
    fn fits(&self, entry: &MountEntry, view: &View) -> bool {
        let fs_type = entry.fs_type.as_slice();
        let is_kind = match self.kind.as_str() {
            _ if self.is_bind() => true,
            kind @ ("proc" | "tmpfs" | "devpts" | "mqueue") => fs_type == kind.as_bytes(),
            _ => true,
        };
        is_kind && !view.is_own(entry)
    }
}

/// The spec's paths as they are in the container: links of the image are followed.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    mounts: &'a [DeclaredMount],
    /// Requests by place, the first one last.
    places: HashMap<Vec<u8>, Vec<usize>>,
    masked: BTreeSet<Vec<u8>>,
    read_only: BTreeSet<Vec<u8>>,
}

impl<'a> Asked<'a> {
    pub(super) fn resolve(declared: &'a Declared, image: &MergedTree) -> Result<Self, TreeError> {
        let mut by_place: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (request, mount) in declared.mounts.iter().enumerate().rev() {
            for place in places(&mount.destination, image)? {
                by_place.entry(place).or_default().push(request);
            }
        }
        let all = |paths: &[Vec<u8>]| -> Result<BTreeSet<Vec<u8>>, TreeError> {
            let mut resolved = BTreeSet::new();
            for path in paths {
                resolved.extend(places(path, image)?);
            }
            Ok(resolved)
        };
        Ok(Self {
            mounts: &declared.mounts,
            places: by_place,
            masked: all(&declared.masked)?,
            read_only: all(&declared.read_only)?,
        })
    }

    /// All requests, for one table.
    pub(super) fn open(&self) -> Open<'_, 'a> {
        Open {
            asked: self,
            places: self.places.clone(),
            met: BTreeSet::new(),
        }
    }

    pub(super) fn is_masked(&self, path: &[u8]) -> bool {
        self.masked.contains(path)
    }

    pub(super) fn is_read_only(&self, path: &[u8]) -> bool {
        self.read_only.contains(path)
    }
}

/// Requests that no mount of a table answers to yet.
#[derive(Debug)]
pub(super) struct Open<'o, 'a> {
    asked: &'o Asked<'a>,
    places: HashMap<Vec<u8>, Vec<usize>>,
    met: BTreeSet<usize>,
}

impl<'a> Open<'_, 'a> {
    /// Takes the request that explains `entry`, if there is one left: the oldest mount at a path is the
    /// runtime's.
    pub(super) fn take(
        &mut self,
        path: &[u8],
        entry: &MountEntry,
        view: &View,
    ) -> Option<&'a DeclaredMount> {
        let requests = self.places.get_mut(path)?;
        // A request has two places where the image has a link on the way; it is met at one of them.
        while requests.last().is_some_and(|last| self.met.contains(last)) {
            requests.pop();
        }
        let request = *requests.last()?;
        let mount = self.asked.mounts.get(request)?;
        if !mount.fits(entry, view) {
            return None;
        }
        self.met.insert(request);
        Some(mount)
    }
}

/// Where a path of the spec can be: as written, and where the image's links lead.
fn places(destination: &[u8], image: &MergedTree) -> Result<Vec<Vec<u8>>, TreeError> {
    let mut places = vec![clean(destination)];
    match image.resolve(destination)? {
        Resolved::Found { path, .. } | Resolved::Dangling { path } => places.push(path),
        Resolved::Loop => {}
    }
    places.dedup();
    Ok(places)
}

/// Relative, without empty components, `.` and `..`.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}
