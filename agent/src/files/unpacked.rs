//! The files of one unpacked layer as contents for a proof: each opened by its path below the snapshot's
//! directory, without following anything and without ever blocking, whatever has taken its place there.
//! Contents that were had from elsewhere stand in for some of them.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use holdfast_core::digest::Digest;
use holdfast_core::layer::skeleton::{Contents, Inode, Unfit};
use rustix::fs::FileType;
use rustix::io::{Errno, pread};

use super::open::Readable;
use super::skeletons::Skeletons;
use super::{Root, Unread};

/// A snapshot's directory, and what stands in for its files.
pub(super) struct Unpacked<'a> {
    root: &'a Root,
    /// Contents in place of files, by path.
    instead: HashMap<Vec<u8>, Digest>,
    contents: Option<&'a Skeletons>,
    is_over: &'a dyn Fn() -> bool,
    open: Option<OwnedFd>,
}

impl<'a> Unpacked<'a> {
    pub(super) fn new(root: &'a Root, is_over: &'a dyn Fn() -> bool) -> Self {
        Self {
            root,
            instead: HashMap::new(),
            contents: None,
            is_over,
            open: None,
        }
    }

    /// With these contents in place of the files at these paths.
    pub(super) fn with(self, instead: HashMap<Vec<u8>, Digest>, from: &'a Skeletons) -> Self {
        Self {
            instead,
            contents: Some(from),
            ..self
        }
    }

    fn stand_in(&mut self, digest: Digest, size: u64) -> Result<Option<Inode>, Unfit> {
        let file = self.contents.and_then(|contents| contents.content(digest));
        let file = file.ok_or(Unfit::Missing)?;
        let length = file.metadata().map_err(|_io| Unfit::Unread)?.len();
        if length != size {
            return Err(Unfit::Size);
        }
        self.open = Some(file.into());
        Ok(None)
    }
}

impl Contents for Unpacked<'_> {
    fn open(&mut self, path: &[u8], size: u64) -> Result<Option<Inode>, Unfit> {
        if (self.is_over)() {
            return Err(Unfit::Stopped);
        }
        self.open = None;
        if let Some(digest) = self.instead.get(path) {
            return self.stand_in(*digest, size);
        }
        let pinned = self.root.pin_in_layer(path).map_err(unfit)?;
        let pinned = pinned.ok_or(Unfit::Missing)?;
        if pinned.file_type() != FileType::RegularFile {
            return Err(Unfit::NotAFile);
        }
        let stat = pinned.stat;
        if stat.stx_size != size {
            return Err(Unfit::Size);
        }
        let own = match pinned.read().map_err(unfit)? {
            Readable::Own(fd) => Some(fd),
            Readable::Pin(_) => None,
        };
        self.open = Some(own.unwrap_or(pinned.fd));
        let inode = Inode {
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            number: stat.stx_ino,
        };
        Ok((stat.stx_nlink > 1).then_some(inode))
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Unfit> {
        let file = self.open.as_ref().ok_or(Unfit::Unread)?;
        if offset > 0 && (self.is_over)() {
            return Err(Unfit::Stopped);
        }
        loop {
            match pread(file.as_fd(), &mut *buf, offset) {
                Err(Errno::INTR) => {}
                read => return read.map_err(|_errno| Unfit::Unread),
            }
        }
    }
}

const fn unfit(unread: Unread) -> Unfit {
    match unread {
        // A component that should be a directory is a link.
        Unread::Changing => Unfit::NotAFile,
        _ => Unfit::Unread,
    }
}
