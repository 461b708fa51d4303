//! One path on the disk → one [`Entry`]: type, mode, owner, attributes, link target, and for a regular file
//! digest and marker in one reading. Nothing but regular files is opened, and nothing is read without a
//! limit.

use std::os::fd::{AsFd, BorrowedFd};

use holdfast_core::digest::Digest;
use holdfast_core::layer::{Entry, MARKER_BYTES, Marker, Node};
use holdfast_core::overlay::{XattrPrefix, is_compared};
use rustix::fs::{FileType, Statx, fgetxattr, flistxattr, getxattr, listxattr, readlinkat};
use rustix::io::{Errno, pread};
use sha2::{Digest as _, Sha256};

use super::open::{Pinned, Readable, stat_of};
use super::reading::{ALIGNMENT, Reading, aligned};
use super::walk::Buffers;
use super::{MAX_FILE_BYTES, Unread};

/// How much is read at a time, little enough to be hashed while it is in the core's own cache; the time is
/// asked for between two of them.
const CHUNK_BYTES: usize = 256 << 10;

/// Linux's own limits for the list of names and for one value.
const XATTR_BYTES: usize = 64 << 10;

/// Attributes of one file, all together. A container may set hundreds of 64 KiB.
const MAX_XATTRS_BYTES: usize = 1 << 20;

/// Linux's own limit for a link's target.
const MAX_TARGET_BYTES: usize = 4096;

/// Extended attributes: names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// As it is compared with the image.
    pub entry: Entry,
    /// Attributes that are not compared: overlay's own.
    pub overlay_xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How much of a regular file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of it.
    Whole,
    /// The bytes that decide its class; the entry's digest then says nothing.
    Head,
}

/// The buffers of looking, for one worker at a time.
#[derive(Debug)]
pub struct Observer {
    pub(super) walk: Buffers,
    chunk: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
    /// Bytes that went through SHA-256 since somebody took them.
    pub(super) bytes_hashed: u64,
    /// How whole files are read.
    pub reading: Reading,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            walk: Buffers::default(),
            chunk: vec![0; CHUNK_BYTES + ALIGNMENT],
            names: vec![0; XATTR_BYTES],
            value: vec![0; XATTR_BYTES],
            bytes_hashed: 0,
            reading: Reading::default(),
        }
    }
}

impl Observer {
    /// Looks at what was pinned; gives it with its state at that time.
    pub(super) fn observe(
        &mut self,
        pinned: &Pinned,
        depth: Depth,
        prefix: XattrPrefix,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(Observed, Statx), Unread> {
        let stat = pinned.stat;
        if pinned.file_type() == FileType::RegularFile {
            return self.regular_file(pinned, depth, prefix, is_over);
        }
        let node = node_of(pinned)?;
        // Nobody asks a whiteout for attributes, and it may have been made without any.
        let xattrs = if node == (Node::CharDevice { major: 0, minor: 0 }) {
            Vec::new()
        } else {
            self.xattrs(Source::Path(&pinned.path()))?
        };
        Ok((observed(node, &stat, xattrs, prefix), stat))
    }

    /// Reads a file until two looks at its state, before and after, agree; twice at most.
    fn regular_file(
        &mut self,
        pinned: &Pinned,
        depth: Depth,
        prefix: XattrPrefix,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(Observed, Statx), Unread> {
        let file = pinned.read()?;
        let mut before = pinned.stat;
        for _attempt in 0..2 {
            let xattrs = self.xattrs(Source::Fd(file.as_fd()))?;
            let (digest, marker) = match depth {
                Depth::Head => self.head(&file)?,
                Depth::Whole => self.hash(&file, before.stx_size, is_over)?,
            };
            let after = stat_of(&file)?;
            if depth == Depth::Head || is_same_state(&before, &after) {
                let node = Node::File {
                    size: before.stx_size,
                    digest,
                    marker,
                };
                return Ok((observed(node, &before, xattrs, prefix), before));
            }
            before = after;
        }
        Err(Unread::Changing)
    }

    fn head(&mut self, file: &Readable<'_>) -> Result<(Digest, Marker), Unread> {
        let head = self.chunk.get_mut(..MARKER_BYTES).unwrap_or_default();
        let count = read_at(file, head, 0)?;
        let marker = Marker::of(head.get(..count).unwrap_or_default());
        Ok((Digest::of(&[]), marker))
    }

    /// Digest and marker of the first `size` bytes, in one reading.
    fn hash(
        &mut self,
        file: &Readable<'_>,
        size: u64,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(Digest, Marker), Unread> {
        if size > MAX_FILE_BYTES {
            return Err(Unread::FileLength);
        }
        let after = self.reading.begin(file.as_fd(), size);
        let hashed = self.hash_to(file, size, is_over);
        after.end(file.as_fd());
        hashed
    }

    fn hash_to(
        &mut self,
        file: &Readable<'_>,
        size: u64,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(Digest, Marker), Unread> {
        let (mut sha256, mut marker, mut offset) = (Sha256::new(), Marker::None, 0_u64);
        while offset < size {
            let rest = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let read = self.next(file, offset, rest)?;
            if read.is_empty() {
                break; // it was cut; its state says so too
            }
            let count = read.len();
            if offset == 0 {
                marker = Marker::of(read);
            }
            sha256.update(read);
            offset = offset.saturating_add(wide(count));
            self.reading.has_read(wide(count));
            self.bytes_hashed = self.bytes_hashed.saturating_add(wide(count));
            if offset < size && is_over() {
                return Err(Unread::Deadline);
            }
        }
        Ok((Digest::from_sha256(sha256.finalize().into()), marker))
    }

    /// Some of the next `rest` bytes of a file; none at its end.
    fn next(&mut self, file: &Readable<'_>, offset: u64, rest: usize) -> Result<&[u8], Unread> {
        let chunk = aligned(&mut self.chunk);
        let around = if self.reading.is_direct {
            self.reading.read_around(file.as_fd(), chunk, offset)?
        } else {
            None
        };
        let count = if let Some(count) = around {
            count.min(rest)
        } else {
            let room = rest.min(chunk.len());
            fill(file, chunk.get_mut(..room).unwrap_or_default(), offset)?
        };
        Ok(chunk.get(..count).unwrap_or_default())
    }

    /// Every attribute, sorted by name.
    fn xattrs(&mut self, source: Source<'_>) -> Result<Xattrs, Unread> {
        let length = match source.list(&mut self.names) {
            Ok(length) => length,
            // A file system without attributes, or a list longer than Linux can say.
            Err(Errno::OPNOTSUPP) => 0,
            Err(Errno::TOOBIG | Errno::RANGE) => return Err(Unread::Xattrs),
            Err(errno) => return Err(Unread::refused("listxattr")(errno)),
        };
        let listed = self.names.get(..length).unwrap_or_default();
        let (mut xattrs, mut bytes) = (Vec::new(), 0_usize);
        for name in listed
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let length = match source.value(name, &mut self.value) {
                Ok(length) => length,
                // Removed since it was listed; the state of the file says so too.
                Err(Errno::NODATA) => continue,
                Err(Errno::TOOBIG | Errno::RANGE) => return Err(Unread::Xattrs),
                Err(errno) => return Err(Unread::refused("getxattr")(errno)),
            };
            bytes = bytes.saturating_add(name.len()).saturating_add(length);
            if bytes > MAX_XATTRS_BYTES {
                return Err(Unread::Xattrs);
            }
            let value = self.value.get(..length).unwrap_or_default();
            xattrs.push((name.to_vec(), value.to_vec()));
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }
}

/// Reads a file that a caller wants to understand, at most `limit` bytes; `None` when it is longer or no
/// regular file.
pub(super) fn content(pinned: &Pinned, limit: u64) -> Result<Option<Vec<u8>>, Unread> {
    let is_short = pinned.stat.stx_size <= limit;
    if pinned.file_type() != FileType::RegularFile || !is_short {
        return Ok(None);
    }
    let file = pinned.read()?;
    let length = usize::try_from(pinned.stat.stx_size).unwrap_or(usize::MAX);
    let mut content = vec![0; length];
    let filled = fill(&file, &mut content, 0)?;
    content.truncate(filled);
    Ok(Some(content))
}

/// Where attributes are read: a descriptor that was opened, or the path of a pin.
#[derive(Clone, Copy)]
enum Source<'a> {
    Fd(BorrowedFd<'a>),
    Path(&'a str),
}

impl Source<'_> {
    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Fd(fd) => flistxattr(fd, buffer),
            Self::Path(path) => listxattr(path, buffer),
        }
    }

    fn value(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Fd(fd) => fgetxattr(fd, name, buffer),
            Self::Path(path) => getxattr(path, name, buffer),
        }
    }
}

/// What a pinned inode is that is no regular file.
fn node_of(pinned: &Pinned) -> Result<Node, Unread> {
    let (major, minor) = (pinned.stat.stx_rdev_major, pinned.stat.stx_rdev_minor);
    Ok(match pinned.file_type() {
        FileType::Directory => Node::Directory { opaque: false },
        FileType::Symlink => {
            let buffer = Vec::with_capacity(256);
            let target =
                readlinkat(&pinned.fd, c"", buffer).map_err(Unread::refused("readlink"))?;
            let mut target = target.into_bytes();
            target.truncate(MAX_TARGET_BYTES);
            Node::Symlink { target }
        }
        FileType::CharacterDevice => Node::CharDevice { major, minor },
        FileType::BlockDevice => Node::BlockDevice { major, minor },
        FileType::Fifo => Node::Fifo,
        _ => Node::Socket,
    })
}

fn observed(node: Node, stat: &Statx, xattrs: Xattrs, prefix: XattrPrefix) -> Observed {
    let (xattrs, overlay_xattrs) = xattrs
        .into_iter()
        .partition(|(name, _)| is_compared(name, prefix));
    Observed {
        entry: Entry {
            node,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            xattrs,
            hard_link: None,
        },
        overlay_xattrs,
    }
}

fn is_same_state(before: &Statx, after: &Statx) -> bool {
    let time = |stamp: rustix::fs::StatxTimestamp| (stamp.tv_sec, stamp.tv_nsec);
    before.stx_size == after.stx_size
        && time(before.stx_mtime) == time(after.stx_mtime)
        && time(before.stx_ctime) == time(after.stx_ctime)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &Readable<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Unread> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_at(file, rest, offset.saturating_add(wide(filled)))? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    Ok(filled)
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn read_at(file: &Readable<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Unread> {
    loop {
        match pread(file, &mut *buffer, offset) {
            Err(Errno::INTR) => {}
            read => return read.map_err(Unread::refused("pread")),
        }
    }
}
