//! Opening what a container controls: never outside the given directory, never through a link, never onto
//! another mount, and never a device or a FIFO.
//!
//! A container may put anything in place of anything between two of our calls. So a path is first *pinned*
//! with `O_PATH`, which opens nothing; what it is is asked of the pinned inode; and only a regular file is
//! then opened, through the pin. (A plain `open` that hopes to find a file can be given a watchdog device:
//! containers may make device nodes, and the node's root is not held back by their device rules.)

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_core::digest::Digest;
use holdfast_core::layer::{Entry, Marker, Node};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstatfs, open, openat,
    openat2, statx,
};
use rustix::io::Errno;

use super::Unread;
use crate::local::{self, NotLocal};

/// A directory on the node below which everything is looked at without leaving it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    mount: u64,
}

/// Why a directory cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The kernel said no.
    #[error("directory cannot be opened: {0}")]
    Refused(#[from] Errno),
    /// A server that can make a look hang for ever answers for this directory.
    #[error("directory is on a foreign file system: {0}")]
    Foreign(String),
}

impl From<NotLocal> for RootError {
    fn from(error: NotLocal) -> Self {
        match error {
            NotLocal::Refused(errno) => Self::Refused(errno),
            NotLocal::Foreign(fs_type) => Self::Foreign(fs_type),
        }
    }
}

const STAY_BELOW: ResolveFlags = ResolveFlags::IN_ROOT
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

const STAT: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID);

impl Root {
    /// Opens a directory that the node's runtime made.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let pinned = local::directory(path)?;
        // A mount below an unknown type's name is still one of these by its number.
        let magic = fstatfs(&pinned)?.f_type.cast_unsigned();
        if local::is_foreign_magic(magic) {
            return Err(RootError::Foreign(format!("{magic:#x}")));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&pinned, c".", flags, Mode::empty())?;
        let mount = statx(&fd, c"", AtFlags::EMPTY_PATH, STAT)?.stx_mnt_id;
        Ok(Self { fd, mount })
    }

    /// Pins what is at `path`, a relative one; `None` when nothing is.
    pub(super) fn pin(&self, path: &[u8]) -> Result<Option<Pinned>, Unread> {
        let path = if path.is_empty() { b"." } else { path };
        pin(self.fd.as_fd(), path)
    }

    /// Opens what is at `path` in an unpacked layer, see [`open_in_layer`].
    pub(super) fn pin_in_layer(&self, path: &[u8]) -> Result<Option<Pinned>, Unread> {
        open_in_layer(self.fd.as_fd(), path)
    }

    /// Opens the directory at `path` for reading its names.
    pub(super) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Unread> {
        directory(self.fd.as_fd(), if path.is_empty() { b"." } else { path })
    }

    /// Whether an entry lies on another mount than this directory.
    pub(super) const fn is_foreign(&self, stat: &Statx) -> bool {
        stat.stx_mnt_id != self.mount
    }
}

/// An inode that nobody can swap under us.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) fd: OwnedFd,
    pub(super) stat: Statx,
    is_open: bool,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) enum Readable<'p> {
    /// Opened through its pin.
    Own(OwnedFd),
    /// The pin was open for reading already.
    Pin(&'p OwnedFd),
}

impl AsFd for Readable<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(fd) => fd.as_fd(),
            Self::Pin(fd) => fd.as_fd(),
        }
    }
}

/// How a file is opened for reading. `O_NONBLOCK`, because whoever holds a lease on it would have us wait
/// for 45 seconds.
const QUIET: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

impl Pinned {
    pub(super) fn file_type(&self) -> FileType {
        file_type(&self.stat)
    }

    /// The pinned inode as a path, for calls that take no descriptor of this kind.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// A regular file as far as it is known without reading it.
    pub(super) fn unread_entry(&self) -> Entry {
        file_entry(&self.stat, Digest::of(&[]), Marker::None)
    }

    /// Opens the pinned inode, which must be a regular file, for reading.
    pub(super) fn read(&self) -> Result<Readable<'_>, Unread> {
        if self.is_open {
            return Ok(Readable::Pin(&self.fd));
        }
        let path = self.path();
        // Through the pin: here the link must be followed, and it leads to the pinned inode alone.
        let quiet = QUIET.difference(OFlags::NOFOLLOW);
        let open = |flags| open(path.as_str(), flags, Mode::empty());
        let opened = open(quiet | OFlags::NOATIME).or_else(without_noatime(|| open(quiet)));
        opened.map(Readable::Own).map_err(Unread::refused("open"))
    }
}

/// A regular file in this state, with this content and no attributes.
pub(super) fn file_entry(stat: &Statx, digest: Digest, marker: Marker) -> Entry {
    Entry {
        node: Node::File {
            size: stat.stx_size,
            digest,
            marker,
        },
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

/// Only the owner of a file and the privileged may leave its access time alone.
fn without_noatime<T>(
    again: impl FnOnce() -> Result<T, Errno>,
) -> impl FnOnce(Errno) -> Result<T, Errno> {
    |errno| match errno {
        Errno::PERM => again(),
        errno => Err(errno),
    }
}

/// Pins `name` in a directory; `None` when nothing is there.
pub(super) fn pin(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Pinned>, Unread> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(directory, name, flags, Mode::empty(), STAY_BELOW) {
        Ok(fd) => {
            let stat = stat_of(&fd)?;
            Ok(Some(Pinned {
                fd,
                stat,
                is_open: false,
            }))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        // Something on the way has just become a link.
        Err(Errno::LOOP) => Err(Unread::Changing),
        Err(errno) => Err(Unread::refused("openat2")(errno)),
    }
}

/// Opens `name`, a regular file in an unpacked layer, at once. Containers cannot write there, so nobody but
/// the node's own root could put a device in its place between two calls; a scrub opens every file.
pub(super) fn open_in_layer(
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> Result<Option<Pinned>, Unread> {
    let open = |flags| openat2(directory, name, flags, Mode::empty(), STAY_BELOW);
    let opened = open(QUIET | OFlags::NOATIME).or_else(without_noatime(|| open(QUIET)));
    match opened {
        Ok(fd) => {
            let stat = stat_of(&fd)?;
            let is_open = file_type(&stat) == FileType::RegularFile;
            Ok(Some(Pinned { fd, stat, is_open }))
        }
        // Gone, or something else by now: the pin says what.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            pin(directory, name)
        }
        Err(errno) => Err(Unread::refused("openat2")(errno)),
    }
}

/// Opens the directory `name` for reading its names. `O_DIRECTORY` refuses anything else before opening it.
pub(super) fn directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Unread> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK;
    let opened = match openat2(
        parent,
        name,
        flags | OFlags::NOATIME,
        Mode::empty(),
        STAY_BELOW,
    ) {
        Err(Errno::PERM) => openat2(parent, name, flags, Mode::empty(), STAY_BELOW),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        // It was a directory a moment ago.
        Errno::LOOP | Errno::NOTDIR => Unread::Changing,
        errno => Unread::refused("openat2")(errno),
    })
}

/// What is at `name` in a directory, without following it; `None` when nothing is.
pub(super) fn stat_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Option<Statx>, Unread> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(directory, name, flags, STAT) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Unread::refused("statx")(errno)),
    }
}

/// What an open file is.
pub(super) fn stat_of(fd: impl AsFd) -> Result<Statx, Unread> {
    statx(fd, c"", AtFlags::EMPTY_PATH, STAT).map_err(Unread::refused("statx"))
}

pub(super) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}
