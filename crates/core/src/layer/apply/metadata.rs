//! Owner, extended attributes and mode of what is placed, in the order and with the side effects that
//! system calls have.

use crate::layer::apply::{refused, unsupported};
use crate::layer::table::Record;
use crate::layer::xattr::{self, Outcome};
use crate::layer::{Entry, Node, PlaceError, Refusal, Snapshotter, Unsupported};

/// An owner that the system call leaves as it is.
const UNCHANGED: u32 = u32::MAX;

/// What `mknod` takes of a device's numbers.
pub(super) const MAJOR_BITS: u32 = 0xfff;
pub(super) const MINOR_BITS: u32 = 0xf_ffff;

/// Gives an entry what its record says. First the owner, because changing it takes capabilities away.
pub(super) fn set(path: &[u8], entry: &mut Entry, record: Record) -> Result<(), PlaceError> {
    own(entry, &record);
    if !entry.node.is_directory() {
        xattr::drop_capability(&mut entry.xattrs);
    }
    for (name, value) in record.xattrs {
        set_xattr(path, entry, name, &value)?;
    }
    entry.mode = match entry.node {
        Node::Symlink { .. } => 0o777, // the kernel's; it has no other
        Node::File { .. }
        | Node::Directory { .. }
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo
        | Node::Socket
        | Node::Whiteout => record.mode,
    };
    Ok(())
}

/// Gives an entry its owner.
pub(super) fn own(entry: &mut Entry, record: &Record) {
    if record.uid != UNCHANGED {
        entry.uid = record.uid;
    }
    if record.gid != UNCHANGED {
        entry.gid = record.gid;
    }
}

fn set_xattr(
    path: &[u8],
    entry: &mut Entry,
    name: Vec<u8>,
    value: &[u8],
) -> Result<(), PlaceError> {
    let value = match xattr::outcome(&entry.node, &name, value) {
        Outcome::Set(value) => value,
        Outcome::Dropped => return Ok(()),
        Outcome::Unsupported(what) => return Err(unsupported(path, what)),
        Outcome::Refused(reason) => return Err(refused(path, Refusal::Xattr { name, reason })),
    };
    xattr::set(&mut entry.xattrs, &name, value);
    // Checked each time, so that a thousand headers for one directory cannot heap them up.
    if xattr::is_too_much(&entry.xattrs) {
        return Err(unsupported(path, Unsupported::TooManyXattrs));
    }
    Ok(())
}

/// A character device; 0:0 is what the overlay takes for a whiteout, whoever made it.
pub(super) const fn char_device(snapshotter: Snapshotter, major: u32, minor: u32) -> Node {
    match (snapshotter, major & MAJOR_BITS, minor & MINOR_BITS) {
        (Snapshotter::Overlayfs, 0, 0) => Node::Whiteout,
        (_, major, minor) => Node::CharDevice { major, minor },
    }
}
