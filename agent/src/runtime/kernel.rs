//! The kernel's side: mount tables, the root of a process, which file is at a path.
//!
//! Reads `/proc` and file metadata only. A container controls what these show about itself, so every
//! read is bounded, no link is followed out of a root, and no descriptor into a container outlives its
//! call: one that pins an old mount while the same upper directory is mounted again is undefined
//! behaviour in the kernel. All functions block; callers run them where blocking is allowed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_core::display;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mountinfo::{Device, MAX_LINE_BYTES, MountEntry, TableError};
use super::overlay::{Defaults, Setting};
use crate::local::{self, NotLocal};

pub use super::bind::{Binding, WitnessFile, bind_hashed, bind_lowers};

/// Most bytes of one mount table: the kernel allows 100,000 mounts in a namespace.
pub(super) const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Longest text shown of anything that comes from outside.
const MAX_SHOWN_CHARS: usize = 200;

/// Why the kernel could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The process has ended, or its number now belongs to another.
    #[error("the process is gone")]
    Gone,
    /// We may not look.
    #[error("the kernel refuses the look: {0}")]
    Denied(Errno),
    /// More than we read.
    #[error("the mount table is larger than we read")]
    TableTooLarge,
    /// The process has made another directory its root since it was identified.
    #[error("the process has another root now")]
    RootMoved,
    /// The process has chrooted, and nobody else shows the mount that its root is on.
    #[error("the root mount is not visible: the process has chrooted")]
    RootHidden,
    /// The kernel does not tell mount ids (before Linux 5.8).
    #[error("the kernel tells no mount id")]
    NoMountId,
    /// What `/proc` shows has another form than we know.
    #[error("what /proc shows cannot be read")]
    Malformed,
    /// Another error.
    #[error("{0}")]
    Other(Errno),
}

impl KernelError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "process-gone",
            Self::Denied(_) => "process-refused",
            Self::TableTooLarge => "mount-table-too-large",
            Self::RootMoved => "root-moved",
            Self::RootHidden => "root-not-visible",
            Self::NoMountId => "mount-id",
            Self::Malformed => "proc-malformed",
            Self::Other(_) => "process-error",
        }
    }
}

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::SRCH => Self::Gone,
            Errno::ACCESS | Errno::PERM => Self::Denied(errno),
            other => Self::Other(other),
        }
    }
}

impl From<TableError> for KernelError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::TooLarge => Self::TableTooLarge,
            TableError::Malformed => Self::Malformed,
            TableError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::Malformed, Self::from)
    }
}

/// What fixes a container's root: at first sight kept, at each look compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootWitness {
    /// The task's first process.
    pub pid: u32,
    /// When it started, in ticks since boot: tells it from a later process of the same number.
    pub started: u64,
    /// The root's superblock.
    pub device: Device,
    /// The root's mount.
    pub mount_id: u64,
}

/// The root of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// What fixes it.
    pub witness: RootWitness,
    /// The top directory of the root mount; `None` when the process has chrooted below it.
    pub top: Option<FileId>,
    /// Its line in a mount table; `None` when the process has chrooted below it and nobody else shows
    /// the superblock.
    pub mount: Option<MountEntry>,
}

/// Which file it is: a number can be given again, with its birth time it is one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    inode: u64,
    born: Option<(i64, u32)>,
}

impl FileId {
    /// A file that was looked at elsewhere: its number, and when it was made.
    pub const fn new(inode: u64, born: Option<(i64, u32)>) -> Self {
        Self { inode, born }
    }

    pub(super) fn of(seen: &Statx) -> Self {
        let is_known = seen.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            inode: seen.stx_ino,
            born: is_known.then_some((seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec)),
        }
    }

    /// Whether both are one file, of one filesystem or seen through an overlay on it.
    pub fn is_same(self, other: Self) -> bool {
        let are_born = self.born.is_some() && other.born.is_some();
        self.inode == other.inode && (!are_born || self.born == other.born)
    }
}

/// The root mount of a process, by its own mount table, else by ours: a process that has chrooted does
/// not see the mount that it stands on.
pub fn root_of(pid: u32) -> Result<Root, KernelError> {
    let started = start_time(pid)?;
    let seen = {
        let root = open_root(pid)?;
        stat(root.as_fd(), c"", AtFlags::EMPTY_PATH)?
    };
    if seen.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(KernelError::NoMountId);
    }
    let witness = RootWitness {
        pid,
        started,
        device: device_of(&seen),
        mount_id: seen.stx_mnt_id,
    };
    let own = find_mount(&format!("/proc/{pid}/mountinfo"), |entry| {
        entry.id == witness.mount_id && entry.device == witness.device
    })?;
    let mount = match own {
        Some(entry) => Some(entry),
        None => find_mount("/proc/self/mountinfo", |entry| {
            entry.device == witness.device
        })?,
    };
    // The number may have been given to another process meanwhile.
    if start_time(pid)? != started {
        return Err(KernelError::Gone);
    }
    let is_top = seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let top = is_top.then(|| FileId::of(&seen));
    Ok(Root {
        witness,
        top,
        mount,
    })
}

/// When a process started, in ticks since boot.
pub fn start_time(pid: u32) -> Result<u64, KernelError> {
    let mut stat = Vec::new();
    let file = File::open(format!("/proc/{pid}/stat"))?;
    file.take(4096).read_to_end(&mut stat)?;
    parse_start_time(&stat).ok_or(KernelError::Malformed)
}

/// Field 22, counted from the last parenthesis: a process chooses its name, parentheses included.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after_name.saturating_add(1)..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn find_mount(
    table: &str,
    is_wanted: impl Fn(&MountEntry) -> bool,
) -> Result<Option<MountEntry>, KernelError> {
    let mut table = BufReader::new(File::open(table)?);
    let mut read = 0_u64;
    let mut line = Vec::new();
    let mut found = None;
    loop {
        line.clear();
        let length = (&mut table)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(found);
        }
        read = read.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if read > MAX_TABLE_BYTES || line.last() != Some(&b'\n') {
            return Err(KernelError::TableTooLarge);
        }
        let entry = MountEntry::parse(&line).ok_or(KernelError::Malformed)?;
        if is_wanted(&entry) {
            found = Some(entry);
        }
    }
}

/// What overlay mounts do where they are not told.
pub fn overlay_defaults() -> Defaults {
    Defaults {
        metacopy: module_parameter("metacopy"),
        redirect_dir: module_parameter("redirect_dir"),
    }
}

fn module_parameter(name: &str) -> Setting {
    let mut value = [0];
    let read = File::open(Path::new("/sys/module/overlay/parameters").join(name))
        .and_then(|mut file| file.read_exact(&mut value));
    match (read, value) {
        (Ok(()), [b'Y']) => Setting::On,
        _ => Setting::Off,
    }
}

/// The directory at a path of the host. Never for paths below a container's root.
pub fn directory_id(path: &Path) -> Option<FileId> {
    directory_on(path).map(|(id, _)| id)
}

/// The same, with the superblock that it is on.
pub(super) fn directory_on(path: &Path) -> Option<(FileId, Device)> {
    let parent = local::directory(path.parent()?).ok()?;
    let seen = stat(parent.as_fd(), path.file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_directory = FileType::from_raw_mode(seen.stx_mode.into()) == FileType::Directory;
    is_directory.then(|| (FileId::of(&seen), device_of(&seen)))
}

/// Metadata of a path below `root`, without following any link and without leaving its mount.
pub(super) fn look(root: BorrowedFd<'_>, path: &Path) -> Result<Statx, Errno> {
    let file = beneath(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
    )?;
    stat(file.as_fd(), c"", AtFlags::EMPTY_PATH)
}

pub(super) fn beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

pub(super) fn open_root(pid: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
}

/// Pins a directory of the node.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    local::directory(path).map_err(|error| match error {
        NotLocal::Refused(errno) => errno,
        NotLocal::Foreign(_) => Errno::NOTSUP,
    })
}

pub(super) fn stat<P: rustix::path::Arg>(
    directory: BorrowedFd<'_>,
    path: P,
    flags: AtFlags,
) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    // A process may make a file system its root whose server never answers: what the kernel has at hand.
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(directory, path, flags, wanted)
}

/// Whether a pinned root is the one of `witness`: nothing is looked up in another, whose server may never
/// answer.
pub(super) fn is_root_of(root: BorrowedFd<'_>, witness: RootWitness) -> Result<bool, Errno> {
    let seen = stat(root, c"", AtFlags::EMPTY_PATH)?;
    Ok(seen.stx_mnt_id == witness.mount_id && device_of(&seen) == witness.device)
}

pub(super) const fn device_of(seen: &Statx) -> Device {
    Device {
        major: seen.stx_dev_major,
        minor: seen.stx_dev_minor,
    }
}

/// Bytes from outside as they are shown: reversible form, shortened.
pub fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(MAX_SHOWN_CHARS.saturating_mul(4));
    let escaped = display::escape(bytes.get(..end).unwrap_or(bytes));
    match escaped.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", escaped.get(..cut).unwrap_or_default()),
        None => escaped,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_start_time() {
        let forged = b"7 (a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 5 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_start_time(forged), Some(4242));
        assert_eq!(parse_start_time(b"7 a S"), None);
    }

    #[test]
    fn our_own_root_is_in_our_own_mount_table() {
        let pid = std::process::id();
        let root = root_of(pid).unwrap();

        assert_eq!(root.witness.started, start_time(pid).unwrap());
        let mount = root.mount.unwrap();
        assert_eq!(mount.mount_point, b"/");
        assert_eq!(mount.device, root.witness.device);
    }

    #[test]
    fn a_process_that_does_not_exist_is_gone() {
        assert_eq!(root_of(u32::MAX), Err(KernelError::Gone));
    }

    #[test]
    fn one_directory_is_known_by_two_paths() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let id = |path: &Path| directory_id(path).unwrap();

        assert!(id(folder.path()).is_same(id(&folder.path().join("."))));
        assert!(!id(folder.path()).is_same(id(other.path())));
        assert_eq!(directory_id(&folder.path().join("none")), None);
    }

    proptest! {
        #[test]
        fn shown_text_is_bounded(bytes: Vec<u8>) {
            prop_assert!(shown(&bytes).chars().count() <= MAX_SHOWN_CHARS + 1);
        }
    }
}
