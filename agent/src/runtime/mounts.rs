//! The mount tables of a container: that of its first process, and those of its other mount namespaces.
//!
//! Gathers only; `holdfast_core::mounts` decides. A container makes namespaces, processes and mounts as it
//! likes, so each is bounded, and what was not looked at is a [`Gap`]. That a process ends while it is looked
//! at is normal. All functions block.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use holdfast_core::mounts::{Declared, View};
use rustix::fs::{AtFlags, StatxAttributes};
use serde::{Deserialize, Serialize};

use super::bundle::{self, Place};
use super::cgroup::{self, MAX_PROCESSES};
use super::kernel::{
    KernelError, MAX_TABLE_BYTES, RootWitness, device_of, open_root, start_time, stat,
};
use super::mountinfo::{self, Limits, MountEntry};
use super::rootfs::RootForm;
use super::spec::Spec;

/// Mounts of the node itself: as many as the kernel allows in a namespace.
const NODE_TABLE: Limits = Limits {
    mounts: 100_000,
    bytes: MAX_TABLE_BYTES,
};

/// Mounts in all tables of one container. A node agent that has every volume of a large node has a few
/// thousand.
const MAX_MOUNTS: usize = 20_000;

/// Bytes of one table of a container.
const MAX_BYTES: u64 = 16 << 20;

/// Mount namespaces of one container whose tables are read: a service manager makes a few dozen.
const MAX_NAMESPACES: usize = 64;

/// Processes of one namespace that are asked for a table, until one is there that has not chrooted.
const MAX_ASKED: usize = 16;

/// What is fixed when a container's task is first seen: what is written later into the runtime's records
/// explains nothing, also after a restart of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The task's root.
    pub root: RootWitness,
    /// What the runtime was asked to mount.
    pub declared: Declared,
    /// Where on its superblock the root begins.
    top: Vec<u8>,
    /// The control group of its processes, where one was found.
    group: Option<PathBuf>,
}

/// What could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// Only the namespace of the first process was looked at.
    #[error(
        "the container's processes cannot be listed: it has no control group of its own that we see"
    )]
    NoGroup,
    /// More processes or groups than are looked at.
    #[error("the container has more than {MAX_PROCESSES} processes, or very many control groups")]
    Processes,
    /// More namespaces than are looked at.
    #[error("the container has more than {MAX_NAMESPACES} mount namespaces on its own files")]
    Namespaces,
    /// More mounts than are looked at.
    #[error("the container's mount namespaces have more than {MAX_MOUNTS} mounts")]
    Mounts,
    /// Every process of a namespace has chrooted, so part of its table is out of sight.
    #[error(
        "all processes of a mount namespace have chrooted: what is mounted elsewhere is out of sight"
    )]
    Chrooted,
}

impl Gap {
    /// The name in findings and labels.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoGroup => "no-control-group",
            Self::Processes => "too-many-processes",
            Self::Namespaces => "too-many-namespaces",
            Self::Mounts => "too-many-mounts",
            Self::Chrooted => "chrooted",
        }
    }

    /// Whether the container makes it so.
    pub const fn is_containers_fault(self) -> bool {
        match self {
            Self::NoGroup | Self::Chrooted => false,
            Self::Processes | Self::Namespaces | Self::Mounts => true,
        }
    }
}

/// The tables of one container, that of its first process first.
#[derive(Debug)]
pub struct Shown {
    /// The tables.
    pub views: Vec<View>,
    /// The worst of what could not be looked at.
    pub gap: Option<Gap>,
}

impl Launch {
    /// What is fixed about a task: `record` and `id` are containerd's.
    pub fn of(
        record: &Spec,
        id: &str,
        root: RootWitness,
        form: RootForm,
    ) -> Result<Self, KernelError> {
        let table = BufReader::new(File::open("/proc/self/mountinfo")?);
        let node = mountinfo::read(table, NODE_TABLE)?;
        let place = Place {
            device: root.device,
            top: match form {
                RootForm::Overlay => b"/".to_vec(),
                RootForm::Bind => top_of(id, root, &node)?,
            },
        };
        let launch = Self {
            root,
            declared: bundle::declared(record, id, &place, &node),
            top: place.top,
            group: cgroup::group_of(root.pid, &node)?,
        };
        // The number may have been given to another process meanwhile.
        if start_time(root.pid)? != root.started {
            return Err(KernelError::Gone);
        }
        Ok(launch)
    }

    /// Reads all tables.
    pub fn look(&self) -> Result<Shown, KernelError> {
        let mut shown = Shown {
            views: Vec::new(),
            gap: None,
        };
        let mut namespaces = self.namespaces(&mut shown.gap)?;
        let first = namespace_of(self.root.pid)?;
        let of_first = namespaces.remove(&first).unwrap_or_default();
        let mut room = MAX_MOUNTS;
        let asked = [self.root.pid].into_iter().chain(of_first);
        let own = self.table(asked, room, &mut shown.gap)?;
        let own = own.ok_or(KernelError::Gone)?;
        room = room.saturating_sub(own.entries.len());
        shown.views.push(own);
        for pids in namespaces.into_values() {
            if shown.views.len() > MAX_NAMESPACES {
                shown.gap = Some(Gap::Namespaces);
                break;
            }
            match self.table(pids.into_iter(), room, &mut shown.gap) {
                Ok(Some(view)) => {
                    room = room.saturating_sub(view.entries.len());
                    shown.views.push(view);
                }
                Ok(None) => {}
                Err(KernelError::TableTooLarge) => shown.gap = Some(Gap::Mounts),
                Err(error) => return Err(error),
            }
        }
        if start_time(self.root.pid)? != self.root.started {
            return Err(KernelError::Gone);
        }
        Ok(shown)
    }

    /// The container's processes by mount namespace.
    fn namespaces(&self, gap: &mut Option<Gap>) -> Result<BTreeMap<u64, Vec<u32>>, KernelError> {
        let mut namespaces: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let Some(group) = &self.group else {
            *gap = Some(Gap::NoGroup);
            return Ok(namespaces);
        };
        let processes = cgroup::processes_of(group)?;
        if processes.is_cut {
            *gap = Some(Gap::Processes);
        }
        for pid in processes.pids {
            match namespace_of(pid) {
                Ok(namespace) => namespaces.entry(namespace).or_default().push(pid),
                Err(KernelError::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(namespaces)
    }

    /// The table of one namespace: by a process that shows all of it, else by one that has chrooted. `None`
    /// when none of them stands on the container's own files.
    fn table(
        &self,
        pids: impl Iterator<Item = u32>,
        room: usize,
        gap: &mut Option<Gap>,
    ) -> Result<Option<View>, KernelError> {
        let mut narrowed = None;
        for pid in pids.take(MAX_ASKED) {
            let seat = match self.seat(pid) {
                Ok(Some(seat)) => seat,
                Ok(None) | Err(KernelError::Gone) => continue,
                Err(error) => return Err(error),
            };
            let entries = match table_of(pid, room) {
                Ok(entries) => entries,
                Err(KernelError::Gone) => continue,
                Err(error) => return Err(error),
            };
            if !self.is_own(&seat, &entries) {
                continue;
            }
            let view = self.view(pid, &seat, entries)?;
            if seat.is_top {
                return Ok(Some(view));
            }
            narrowed = narrowed.or(Some(view));
        }
        if narrowed.is_some() && gap.is_none() {
            *gap = Some(Gap::Chrooted);
        }
        Ok(narrowed)
    }

    /// Where a process stands, if that is on the container's own files.
    fn seat(&self, pid: u32) -> Result<Option<Seat>, KernelError> {
        let root = open_root(pid)?;
        let seen = stat(root.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        if device_of(&seen) != self.root.device {
            return Ok(None);
        }
        Ok(Some(Seat {
            mount_id: seen.stx_mnt_id,
            is_top: seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }))
    }

    /// Whether a process stands on the container's own files, and not on others of the same superblock. One
    /// that has chrooted does not show its root.
    fn is_own(&self, seat: &Seat, entries: &[MountEntry]) -> bool {
        let root = entries.iter().find(|entry| entry.id == seat.mount_id);
        root.is_none_or(|root| below(&self.top, &root.root).is_some())
    }

    fn view(&self, pid: u32, seat: &Seat, entries: Vec<MountEntry>) -> Result<View, KernelError> {
        // A namespace whose root is part of the container's files shows paths from there.
        let root = entries.iter().find(|entry| entry.id == seat.mount_id);
        let base = root.and_then(|root| below(&self.top, &root.root));
        let mut base = base.unwrap_or_default().to_vec();
        if !seat.is_top {
            let link = rustix::fs::readlink(format!("/proc/{pid}/root"), Vec::new())?;
            base.extend(link.as_bytes());
        }
        Ok(View {
            root: seat.mount_id,
            device: self.root.device,
            top: self.top.clone(),
            base,
            entries,
        })
    }
}

/// Where on its superblock a root begins that is a bind mount: as its first process shows it, else as the
/// node's table shows its bundle.
fn top_of(id: &str, root: RootWitness, node: &[MountEntry]) -> Result<Vec<u8>, KernelError> {
    let own = table_of(root.pid, MAX_MOUNTS)?;
    let shown = own.into_iter().find(|entry| entry.id == root.mount_id);
    let shown = shown.map(|entry| entry.root);
    let bundled = || bundle::top_of(id, root.device, node);
    shown.or_else(bundled).ok_or(KernelError::RootHidden)
}

/// The rest of a path below `top`.
fn below<'p>(top: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(top.strip_suffix(b"/").unwrap_or(top))?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Where a process stands.
struct Seat {
    mount_id: u64,
    is_top: bool,
}

fn table_of(pid: u32, mounts: usize) -> Result<Vec<MountEntry>, KernelError> {
    let table = match File::open(format!("/proc/{pid}/mountinfo")) {
        Ok(table) => BufReader::new(table),
        // A process that has ended and that nobody has waited for has no table.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            return Err(KernelError::Gone);
        }
        Err(error) => return Err(error.into()),
    };
    let limits = Limits {
        mounts,
        bytes: MAX_BYTES,
    };
    Ok(mountinfo::read(table, limits)?)
}

/// The number of a process's mount namespace.
fn namespace_of(pid: u32) -> Result<u64, KernelError> {
    let path = format!("/proc/{pid}/ns/mnt");
    let seen = stat(rustix::fs::CWD, path, AtFlags::empty())?;
    Ok(seen.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kernel::root_of;

    /// Our own process stands for a container's first one.
    fn launch(group: Option<PathBuf>) -> Launch {
        Launch {
            root: root_of(std::process::id()).unwrap().witness,
            declared: Declared::default(),
            top: b"/".to_vec(),
            group,
        }
    }

    fn group(pids: &str) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cgroup.procs"), pids).unwrap();
        group
    }

    #[test]
    fn the_first_process_shows_its_own_table_and_one_that_has_ended_is_passed_over() {
        let group = group(&format!("{}\n4194304\n", std::process::id()));

        let shown = launch(Some(group.path().to_owned())).look().unwrap();

        assert_eq!(shown.gap, None);
        let [own] = shown.views.as_slice() else {
            panic!("{shown:?}");
        };
        assert!(own.entries.iter().any(|entry| entry.id == own.root));
    }

    #[test]
    fn without_a_group_the_other_namespaces_are_a_gap() {
        let shown = launch(None).look().unwrap();
        assert_eq!((shown.views.len(), shown.gap), (1, Some(Gap::NoGroup)));
    }

    #[test]
    fn another_process_with_the_same_number_is_not_looked_at() {
        let mut launch = launch(None);
        launch.root.started += 1;
        assert_eq!(launch.look().err(), Some(KernelError::Gone));
    }

    #[test]
    fn a_table_with_more_mounts_than_there_is_room_for_is_refused() {
        let refused = table_of(std::process::id(), 0);
        assert_eq!(refused.err(), Some(KernelError::TableTooLarge));
    }
}
