//! The walk over a directory: every entry once, in the order of expected trees (what is below a directory
//! directly behind it), by descriptors, with bounded memory, descriptors, depth and time.
//!
//! It follows nothing and opens directories only; what an entry means is the visitor's business.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, RawDir, Statx};

use super::expected::{is_at_or_below, tree_order};
use super::open::{directory, file_type, stat_at};
use super::{Pass, Root, Unread};

/// Linux's own limit for a path in one call; longer ones exist, and nobody runs anything by them.
const MAX_PATH_BYTES: usize = 4096;

/// Names that wait to be visited: those of all directories down to the current one.
const MAX_NAMES_BYTES: usize = 64 << 20;

/// A directory of a thousand names in one call.
const DIRENTS_BYTES: usize = 64 << 10;

/// Directories kept open at once; above it they are opened again by their path.
const MAX_OPEN: usize = 64;

/// Looks at a name that is a directory at one moment and something else at the next.
const ATTEMPTS: u32 = 3;

/// How often the time is asked for.
const ENTRIES_PER_POLL: u64 = 64;

/// One entry, as the visitor gets it.
#[derive(Debug)]
pub(super) struct At<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) path: &'a [u8],
    pub(super) stat: &'a Statx,
}

/// Where the walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Into this directory.
    Below,
    /// Past it.
    Past,
}

/// Who is told what the walk meets.
pub(super) trait Visitor {
    /// Why a visitor gives up.
    type Error;

    /// An entry.
    fn visit(&mut self, at: &At<'_>) -> Result<Next, Self::Error>;

    /// What is at and below `path` could not be read.
    fn unread(&mut self, path: &[u8], reason: Unread);

    /// Whether this part of a walk is long enough: the next one begins behind the last visited entry.
    fn is_enough(&self) -> bool {
        false
    }
}

/// Buffers of a walk, kept between walks.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    dirents: Vec<u8>,
    /// Names, each with its NUL, of all directories that are being walked.
    names: Vec<u8>,
    /// Where each name is: its start and its length with the NUL.
    index: Vec<(u32, u16)>,
    path: Vec<u8>,
    frames: Vec<Frame>,
}

/// A directory that is being walked.
#[derive(Debug)]
struct Frame {
    /// Closed while too many are open.
    fd: Option<OwnedFd>,
    path_length: usize,
    first_name: usize,
    names_start: usize,
    next: usize,
}

/// What comes next in a walk.
enum Advance {
    /// A name: where it is. The path is set.
    Name(u32, u16),
    /// A directory has ended.
    Left,
    /// Everything has.
    End,
}

impl Buffers {
    fn advance(&mut self) -> Advance {
        let Some(frame) = self.frames.last_mut() else {
            return Advance::End;
        };
        self.path.truncate(frame.path_length);
        let Some((from, length)) = self.index.get(frame.next).copied() else {
            self.names.truncate(frame.names_start);
            self.index.truncate(frame.first_name);
            self.frames.pop();
            return Advance::Left;
        };
        frame.next = frame.next.saturating_add(1);
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        let name = name_at(&self.names, from, length);
        self.path.extend_from_slice(name.to_bytes());
        Advance::Name(from, length)
    }
}

impl Frame {
    /// The directory's descriptor; opened again when it was closed. `path` is that of one of its entries.
    fn opened(&mut self, root: &Root, path: &[u8]) -> Result<BorrowedFd<'_>, Unread> {
        let fd = match self.fd.take() {
            Some(fd) => fd,
            None => root.directory(path.get(..self.path_length).unwrap_or_default())?,
        };
        let fd: &OwnedFd = self.fd.insert(fd);
        Ok(fd.as_fd())
    }
}

fn found(root: &Root, directory: BorrowedFd<'_>, name: &CStr) -> Result<Option<Statx>, Unread> {
    match stat_at(directory, name)? {
        Some(found) if root.is_foreign(&found) => Err(Unread::Mounted),
        found => Ok(found),
    }
}

/// Walks everything below `root`; gives the number of entries.
pub(super) fn walk<V: Visitor>(
    root: &Root,
    buffers: &mut Buffers,
    pass: Pass<'_>,
    visitor: &mut V,
) -> Result<u64, V::Error> {
    Ok(walk_behind(root, b"", buffers, pass, visitor)?.0)
}

/// Walks what comes behind the entry `after` in the order of the walk, until the visitor has enough; gives
/// the number of entries, and whether the end was reached. With an empty `after`, from the beginning.
pub(super) fn walk_behind<V: Visitor>(
    root: &Root,
    after: &[u8],
    buffers: &mut Buffers,
    pass: Pass<'_>,
    visitor: &mut V,
) -> Result<(u64, Reached), V::Error> {
    buffers.dirents.reserve(DIRENTS_BYTES);
    buffers.names.clear();
    buffers.index.clear();
    buffers.path.clear();
    buffers.frames.clear();
    let mut walk = Walk {
        root,
        buffers,
        pass,
        entries: 0,
        after: after.to_vec(),
    };
    match root.directory(b"") {
        Ok(fd) => walk.enter(fd, visitor),
        Err(reason) => visitor.unread(b"", reason),
    }
    while walk.step(visitor)? {
        // The names that are held were read for this part alone: a part that visits fewer entries would
        // make a directory of a million names cost the square of it.
        let held = u64::try_from(walk.buffers.index.len()).unwrap_or(u64::MAX);
        if walk.entries >= held && visitor.is_enough() {
            return Ok((walk.entries, Reached::Enough));
        }
    }
    Ok((walk.entries, Reached::End))
}

/// Where a part of a walk has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At the last entry, or where the walk was given up.
    End,
    /// Where the visitor had enough.
    Enough,
}

/// Without a visitor, an entry that an earlier part has visited: what is below it may be behind that part's
/// end.
fn meet<V: Visitor>(at: &At<'_>, visitor: Option<&mut V>) -> Result<Next, V::Error> {
    match (visitor, file_type(at.stat)) {
        (Some(visitor), _) => visitor.visit(at),
        (None, FileType::Directory) => Ok(Next::Below),
        (None, _) => Ok(Next::Past),
    }
}

struct Walk<'a> {
    root: &'a Root,
    buffers: &'a mut Buffers,
    pass: Pass<'a>,
    entries: u64,
    /// Up to and with this entry everything was visited by an earlier part.
    after: Vec<u8>,
}

impl Walk<'_> {
    /// Visits the next entry; false at the end.
    fn step<V: Visitor>(&mut self, visitor: &mut V) -> Result<bool, V::Error> {
        let (from, length) = match self.buffers.advance() {
            Advance::Name(from, length) => (from, length),
            Advance::Left => return Ok(true),
            Advance::End => return Ok(false),
        };
        let Buffers {
            names,
            path,
            frames,
            ..
        } = &mut *self.buffers;
        let is_behind = self.after.is_empty() || tree_order(path, &self.after).is_gt();
        if !is_behind && !is_at_or_below(&self.after, path) {
            return Ok(true);
        }
        if let Some(reason) = self.pass.given_up(path, self.entries) {
            visitor.unread(path, reason);
            return Ok(reason == Unread::PathLength);
        }
        self.entries = self.entries.saturating_add(u64::from(is_behind));
        let name = name_at(names, from, length);
        let Some(frame) = frames.last_mut() else {
            return Ok(false);
        };
        for attempt in 1..=ATTEMPTS {
            let found = frame
                .opened(self.root, path)
                .and_then(|fd| Ok((fd, found(self.root, fd, name)?)));
            let (fd, stat) = match found {
                Ok((fd, Some(stat))) => (fd, stat),
                // Gone since its name was read: it is not there.
                Ok((_, None)) => return Ok(true),
                Err(reason) => {
                    visitor.unread(path, reason);
                    return Ok(true);
                }
            };
            let at = At {
                directory: fd,
                name,
                path,
                stat: &stat,
            };
            if meet(&at, is_behind.then_some(&mut *visitor))? == Next::Past {
                return Ok(true);
            }
            match directory(fd, name.to_bytes()) {
                Ok(fd) => {
                    self.enter(fd, visitor);
                    return Ok(true);
                }
                // Gone since it was visited.
                Err(reason) if reason.is_gone() => return Ok(true),
                Err(Unread::Changing) if attempt < ATTEMPTS => {}
                Err(reason) => {
                    visitor.unread(path, reason);
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Reads and sorts the names of a directory, whose path is the current one.
    fn enter<V: Visitor>(&mut self, fd: OwnedFd, visitor: &mut V) {
        let Buffers {
            dirents,
            names,
            index,
            path,
            frames,
        } = &mut *self.buffers;
        let (names_start, first_name) = (names.len(), index.len());
        if let Err(reason) = read_names(&fd, dirents, names, index) {
            names.truncate(names_start);
            index.truncate(first_name);
            visitor.unread(path, reason);
            return;
        }
        if let Some(new) = index.get_mut(first_name..) {
            new.sort_unstable_by(|a, b| name_at(names, a.0, a.1).cmp(name_at(names, b.0, b.1)));
        }
        if let Some(far) = frames.len().checked_sub(MAX_OPEN)
            && let Some(frame) = frames.get_mut(far)
        {
            frame.fd = None;
        }
        frames.push(Frame {
            fd: Some(fd),
            path_length: path.len(),
            first_name,
            names_start,
            next: first_name,
        });
    }
}

impl Pass<'_> {
    /// Why the walk ends here, or, for a path that is too long, goes past it.
    fn given_up(&self, path: &[u8], entries: u64) -> Option<Unread> {
        if path.len() > MAX_PATH_BYTES {
            Some(Unread::PathLength)
        } else if entries >= self.max_entries {
            Some(Unread::Entries)
        } else if entries.is_multiple_of(ENTRIES_PER_POLL) && (self.is_over)() {
            Some(Unread::Deadline)
        } else {
            None
        }
    }
}

fn read_names(
    fd: &OwnedFd,
    dirents: &mut Vec<u8>,
    names: &mut Vec<u8>,
    index: &mut Vec<(u32, u16)>,
) -> Result<(), Unread> {
    let mut entries = RawDir::new(fd, dirents.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(Unread::refused("getdents"))?;
        let name = entry.file_name().to_bytes_with_nul();
        if name == b".\0" || name == b"..\0" {
            continue;
        }
        let start = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        names.extend_from_slice(name);
        index.push((start, length));
        if names.len() > MAX_NAMES_BYTES {
            return Err(Unread::Names);
        }
    }
    Ok(())
}

fn name_at(names: &[u8], start: u32, length: u16) -> &CStr {
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    names
        .get(start..start.saturating_add(length.into()))
        .and_then(|name| CStr::from_bytes_with_nul(name).ok())
        .unwrap_or_default()
}
