//! One record of a table: an entry of the archive, in memory and as bytes.

use crate::digest::Digest;
use crate::layer::codec::{
    Cursor, Xattrs, marker_byte, marker_of, next_shared, put_bytes, put_number, put_shared,
    put_xattrs, take_xattrs,
};
use crate::layer::limits::HEADER_BYTES;
use crate::layer::{Damage, Marker};

/// One entry of an archive, with its numbers cut to what the kernel would be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::layer) struct Record {
    /// As written: not cleaned.
    pub(in crate::layer) name: Vec<u8>,
    pub(in crate::layer) kind: Kind,
    pub(in crate::layer) mode: u32,
    /// `u32::MAX` leaves the owner as it is.
    pub(in crate::layer) uid: u32,
    pub(in crate::layer) gid: u32,
    pub(in crate::layer) xattrs: Xattrs,
}

/// The type of an archive's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::layer) enum Kind {
    File {
        size: u64,
        digest: Digest,
        marker: Marker,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Directory,
    Fifo,
    /// A global extended header, which containerd handles as an entry of its own.
    Global,
    /// A type that containerd does not know.
    Other(u8),
}

const HAS_XATTRS: u8 = 0x80;

pub(super) fn put_record(out: &mut Vec<u8>, previous: &[u8], record: &Record) {
    put_shared(out, previous, &record.name);
    let kind = match record.kind {
        Kind::File { .. } => 0,
        Kind::HardLink { .. } => 1,
        Kind::Symlink { .. } => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Directory => 5,
        Kind::Fifo => 6,
        Kind::Global => 7,
        Kind::Other(_) => 8,
    };
    let xattrs = if record.xattrs.is_empty() {
        0
    } else {
        HAS_XATTRS
    };
    out.push(kind | xattrs);
    for number in [record.mode, record.uid, record.gid] {
        put_number(out, u64::from(number));
    }
    match &record.kind {
        Kind::File {
            size,
            digest,
            marker,
        } => {
            put_number(out, *size);
            out.extend_from_slice(digest.as_bytes());
            out.push(marker_byte(*marker));
        }
        Kind::HardLink { target } | Kind::Symlink { target } => put_bytes(out, target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            put_number(out, u64::from(*major));
            put_number(out, u64::from(*minor));
        }
        Kind::Other(flag) => out.push(*flag),
        Kind::Directory | Kind::Fifo | Kind::Global => {}
    }
    if !record.xattrs.is_empty() {
        put_xattrs(out, &record.xattrs);
    }
}

pub(super) fn take_record(cursor: &mut Cursor<'_>, name: &mut Vec<u8>) -> Result<Record, Damage> {
    next_shared(cursor, name, HEADER_BYTES)?;
    let kind = cursor.byte()?;
    let (mode, uid, gid) = (cursor.number32()?, cursor.number32()?, cursor.number32()?);
    let kind_alone = kind & !HAS_XATTRS;
    let kind_value = take_kind(cursor, kind_alone)?;
    let xattrs = if kind == kind_alone {
        Vec::new()
    } else {
        take_xattrs(cursor)?
    };
    Ok(Record {
        name: name.clone(),
        kind: kind_value,
        mode,
        uid,
        gid,
        xattrs,
    })
}

fn take_kind(cursor: &mut Cursor<'_>, kind: u8) -> Result<Kind, Damage> {
    Ok(match kind {
        0 => Kind::File {
            size: cursor.number()?,
            digest: Digest::from_sha256(cursor.array()?),
            marker: marker_of(cursor.byte()?)?,
        },
        1 => Kind::HardLink {
            target: cursor.bytes(HEADER_BYTES)?.to_vec(),
        },
        2 => Kind::Symlink {
            target: cursor.bytes(HEADER_BYTES)?.to_vec(),
        },
        3 => Kind::CharDevice {
            major: cursor.number32()?,
            minor: cursor.number32()?,
        },
        4 => Kind::BlockDevice {
            major: cursor.number32()?,
            minor: cursor.number32()?,
        },
        5 => Kind::Directory,
        6 => Kind::Fifo,
        7 => Kind::Global,
        8 => Kind::Other(cursor.byte()?),
        _ => return Err(Damage::Record),
    })
}
