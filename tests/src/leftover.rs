//! What a private containerd leaves when it is gone: shims, containers' processes, mounts, sockets, cgroups.
//!
//! All of it is found by our own folder's path or by the ids in it, so that nothing of another containerd
//! on this machine can be hit. Runs in `Drop`: it must not panic, and does what it can.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A killed process is gone in milliseconds; this bounds one that hangs in the kernel.
const END: Duration = Duration::from_secs(10);

/// Where the kernel's control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where runc keeps its state unless it is told otherwise, by containerd namespace.
const RUNC: &str = "/run/containerd/runc";

/// Where containerd keeps what it gives to shims, in its state folder: a folder a namespace, in it one a container.
const TASKS: &str = "io.containerd.runtime.v2.task";

/// Pids of processes one of whose arguments is exactly `argument`.
pub fn processes_naming(argument: &Path) -> Vec<i32> {
    processes()
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|word| word == argument.as_os_str().as_bytes())
        })
        .collect()
}

/// Mount points at or below `folder`, deepest first.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|point| PathBuf::from(OsString::from_vec(unescape(point))))
        .filter(|point| point.starts_with(folder))
        .collect();
    found.reverse(); // later mounts lie on earlier ones
    found
}

/// Ends what runs below a containerd's state folder and was started through `socket`.
pub(crate) fn end_tasks(state: &Path, socket: &Path) {
    let bundles = bundles(state);
    let shims = processes_naming(socket);
    let mut doomed: Vec<i32> = shims.iter().flat_map(|shim| descendants(*shim)).collect();
    doomed.extend(bundles.iter().filter_map(|bundle| orphan(bundle)));
    let groups: BTreeSet<PathBuf> = doomed.iter().flat_map(|pid| cgroups(*pid)).collect();

    // A frozen process cannot die.
    for group in &groups {
        thaw(group);
    }
    // The shims first: then nobody reacts to the end of the containers.
    for pid in shims.iter().chain(&doomed) {
        kill(*pid);
    }
    wait::blocking(END, || {
        shims.iter().chain(&doomed).all(|pid| !is_alive(*pid))
    });
    for group in &groups {
        remove_group(group);
    }
    for bundle in bundles {
        remove_shim_socket(&bundle);
        remove_runc_state(&bundle);
    }
}

/// Takes away every mount below `folder`.
pub(crate) fn unmount_below(folder: &Path) {
    for point in mounts_below(folder) {
        if let Err(error) = unmount(&point, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", point.display());
        }
    }
}

/// Removes the folders of containerd namespaces that runc has made and that are empty now: the system refuses
/// where another containerd still uses one of that name.
pub(crate) fn remove_namespaces(state: &Path) {
    for namespace in children(&state.join(TASKS)) {
        let Some(name) = namespace.file_name() else {
            continue;
        };
        drop(std::fs::remove_dir(Path::new(RUNC).join(name)));
        for hierarchy in hierarchies() {
            drop(std::fs::remove_dir(hierarchy.join(name)));
        }
    }
}

fn bundles(state: &Path) -> Vec<PathBuf> {
    children(&state.join(TASKS))
        .iter()
        .flat_map(|namespace| children(namespace))
        .collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map_or_else(
        |_| Vec::new(),
        |entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        },
    )
}

/// The first process of a container whose shim is gone, proved by its cgroup: the pid may be another's by now.
fn orphan(bundle: &Path) -> Option<i32> {
    let pid: i32 = read(&bundle.join("init.pid")).trim().parse().ok()?;
    let id = bundle.file_name()?.to_str()?;
    let groups = read(format!("/proc/{pid}/cgroup").as_ref());
    groups.lines().any(|line| line.ends_with(id)).then_some(pid)
}

/// Shim sockets lie outside containerd's own folders; the bundle says where.
fn remove_shim_socket(bundle: &Path) {
    if let Some(socket) = read(&bundle.join("address")).trim().strip_prefix("unix://") {
        drop(std::fs::remove_file(socket));
    }
}

/// runc's own record of a container that was started without a state folder of ours.
fn remove_runc_state(bundle: &Path) {
    let mut names = bundle.iter().rev();
    if let (Some(id), Some(namespace)) = (names.next(), names.next()) {
        // Absent for containers that the harness has started itself.
        drop(std::fs::remove_dir_all(
            Path::new(RUNC).join(namespace).join(id),
        ));
    }
}

/// The control groups of a container's process in every hierarchy that is mounted, old form and new.
///
/// runc names them `/NAMESPACE/ID`, so what has one component only is not a container's.
fn cgroups(pid: i32) -> Vec<PathBuf> {
    let text = read(format!("/proc/{pid}/cgroup").as_ref());
    let names: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix('/'))
        .filter(|path| path.contains('/'))
        .collect();
    hierarchies()
        .iter()
        .flat_map(|hierarchy| names.iter().map(|name| hierarchy.join(name)))
        .filter(|group| group.is_dir())
        .collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new(CGROUPS);
    let mut found = children(top);
    found.push(top.to_owned());
    found
}

fn thaw(group: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let file = group.join(file);
        if file.exists()
            && let Err(error) = std::fs::write(&file, word)
        {
            eprintln!("{} stays frozen: {error}", group.display());
        }
    }
}

/// Removes a container's group and, where it was the last, that of its containerd namespace. The kernel
/// refuses where anybody still uses one.
fn remove_group(group: &Path) {
    drop(std::fs::remove_dir(group));
    if let Some(parent) = group.parent() {
        drop(std::fs::remove_dir(parent));
    }
}

fn processes() -> impl Iterator<Item = i32> {
    children(Path::new("/proc"))
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}

fn descendants(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = processes()
        .filter_map(|pid| Some((pid, stat_field(pid, 1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

fn is_alive(pid: i32) -> bool {
    // A zombie has ended; it waits only for init to notice.
    stat_field(pid, 0).is_some_and(|state| state != "Z")
}

/// A field of `/proc/PID/stat`, counted after the command name (which may hold anything).
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let stat = read(format!("/proc/{pid}/stat").as_ref());
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(index).map(str::to_owned)
}

fn kill(pid: i32) {
    let killed = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
    if let Some(Err(error)) = killed
        && error != Errno::SRCH
    {
        eprintln!("process {pid} stays: {error}");
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The mount table writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_tables_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c\012"), b"/a b\\c\n");
        assert_eq!(unescape(br"/plain\"), br"/plain\");
    }

    #[test]
    fn a_process_is_found_by_one_whole_argument() {
        let mut child = std::process::Command::new("sleep")
            .arg("3141.5926")
            .spawn()
            .unwrap();
        let id = i32::try_from(child.id()).unwrap();

        wait::blocking(END, || processes_naming(Path::new("3141.5926")) == [id]);
        assert_eq!(processes_naming(Path::new("3141.5926")), [id]);
        assert_eq!(processes_naming(Path::new("3141")), [0; 0]);

        child.kill().unwrap();
        child.wait().unwrap();
    }
}
