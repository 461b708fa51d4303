//! The processes of a container: those in the control group of its first process, and below it.
//!
//! Paths come from the kernel, names of groups below from the container. A group counts only when it holds the
//! first process, and the root group never does: it holds the whole node.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use holdfast_daemon::capped;

use super::kernel::KernelError;
use super::mountinfo::MountEntry;

/// Lines of `/proc/PID/cgroup`: a dozen hierarchies, a path each.
const MAX_CGROUP_BYTES: u64 = 64 << 10;

/// Processes of one container that are looked at: as many as `pid_max` allows by default.
pub(super) const MAX_PROCESSES: usize = 32_768;

/// One group's list of processes, with numbers of up to seven digits.
const MAX_PROCS_BYTES: u64 = 1 << 20;

/// Groups that a container makes below its own: a container that runs a service manager makes dozens.
const MAX_GROUPS: usize = 4096;

/// The folder of the control group that holds a container's first process; `None` where none can be had.
/// Blocks.
pub(super) fn group_of(pid: u32, node: &[MountEntry]) -> Result<Option<PathBuf>, KernelError> {
    let lines = File::open(format!("/proc/{pid}/cgroup"))?;
    let lines = capped::read(lines, MAX_CGROUP_BYTES)?;
    let mut folders = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| folder(line, node));
    Ok(folders.find(|folder| holds(folder, pid)))
}

/// `9:name=systemd:/default/c`, or `0::/default/c` for the unified hierarchy.
fn folder(line: &[u8], entries: &[MountEntry]) -> Option<PathBuf> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = path.strip_prefix(b"/")?;
    let is_outside = path.split(|byte| *byte == b'/').any(|name| name == b"..");
    if path.is_empty() || is_outside {
        return None;
    }
    let is_hierarchy = |entry: &&MountEntry| {
        let is_type = if controllers.is_empty() {
            entry.fs_type == b"cgroup2"
        } else {
            entry.fs_type == b"cgroup" && has_controller(entry, controllers)
        };
        is_type && entry.root == b"/"
    };
    let mount = entries.iter().find(is_hierarchy)?;
    Some(Path::new(OsStr::from_bytes(&mount.mount_point)).join(OsStr::from_bytes(path)))
}

fn has_controller(entry: &MountEntry, controllers: &[u8]) -> bool {
    let mut controllers = controllers.split(|byte| *byte == b',');
    controllers.all(|controller| {
        let mut options = entry.super_options.iter();
        options.any(|option| option == controller)
    })
}

/// Whether the group, or one below it that a service manager has made, holds the process.
fn holds(folder: &Path, pid: u32) -> bool {
    processes_of(folder).is_ok_and(|processes| processes.pids.contains(&pid))
}

/// The processes of a group and of all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    /// Their numbers.
    pub(super) pids: BTreeSet<u32>,
    /// There are more than were listed.
    pub(super) is_cut: bool,
}

/// Lists the processes of a group. Groups that end meanwhile are normal. Blocks.
pub(super) fn processes_of(group: &Path) -> Result<Processes, KernelError> {
    let mut processes = Processes::default();
    let mut ahead = vec![group.to_owned()];
    let mut groups = 0;
    while let Some(group) = ahead.pop() {
        groups += 1;
        if groups > MAX_GROUPS || processes.pids.len() > MAX_PROCESSES {
            processes.is_cut = true;
            break;
        }
        let listed = File::open(group.join("cgroup.procs"))
            .and_then(|file| capped::read(file, MAX_PROCS_BYTES));
        match listed {
            Ok(listed) => processes.pids.extend(numbers(&listed)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && groups > 1 => continue,
            // A group of threads lists none; its processes are in the group above.
            Err(_) if groups > 1 => {}
            Err(error) => return Err(error.into()),
        }
        let Ok(below) = std::fs::read_dir(&group) else {
            continue;
        };
        let room = MAX_GROUPS.saturating_sub(ahead.len());
        let folders = below
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        ahead.extend(folders.take(room).map(|entry| entry.path()));
    }
    Ok(processes)
}

fn numbers(listed: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let lines = listed.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> MountEntry {
        MountEntry::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_hierarchy_is_found_by_its_controllers_and_the_root_group_never() {
        let entries = [
            entry("1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory"),
            entry("2 0 0:2 / /cg/systemd rw - cgroup cgroup rw,name=systemd"),
            entry("3 0 0:3 /part /cg/part rw - cgroup2 cgroup2 rw"),
            entry("4 0 0:3 / /cg/unified rw - cgroup2 cgroup2 rw"),
        ];
        let of = |line: &str| folder(line.as_bytes(), &entries);

        assert_eq!(of("9:name=systemd:/a/b"), Some("/cg/systemd/a/b".into()));
        assert_eq!(of("0::/a"), Some("/cg/unified/a".into()));
        for none in ["0::/", "4:pids:/a", "0::/../a", "", "1:memory"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn processes_are_listed_with_those_of_groups_below() {
        let group = tempfile::tempdir().unwrap();
        let below = group.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let list = |folder: &Path, text: &str| std::fs::write(folder.join("cgroup.procs"), text);
        list(group.path(), "7\n9\n").unwrap();
        list(below.parent().unwrap(), "").unwrap();
        list(&below, "11\n").unwrap();

        let processes = processes_of(group.path()).unwrap();

        assert_eq!(processes.pids, BTreeSet::from([7, 9, 11]));
        assert!(!processes.is_cut);
        assert!(holds(group.path(), 11) && !holds(group.path(), 8));
    }

    #[test]
    fn a_group_that_is_gone_is_said() {
        assert_eq!(
            processes_of(Path::new("/sys/fs/cgroup/none")),
            Err(KernelError::Gone)
        );
    }

    #[test]
    fn more_groups_than_are_looked_at_are_said() {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cgroup.procs"), "7\n").unwrap();
        for number in 0..=MAX_GROUPS {
            std::fs::create_dir(group.path().join(number.to_string())).unwrap();
        }
        assert!(processes_of(group.path()).unwrap().is_cut);
    }
}
