//! The bytes of tables and trees: numbers of variable length, entries, and a reader that hostile bytes
//! cannot make panic or allocate beyond what they hold. Files are the callers' business.

use crate::digest::Digest;
use crate::layer::limits::{HEADER_BYTES, PATH_BYTES};
use crate::layer::{Entry, Marker, Node};

/// Extended attributes: names with values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Why a file of ours cannot be used. It is set aside and made anew; it never answers wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as such a file does.
    #[error("not a file of this kind")]
    Magic,
    /// Written by another version.
    #[error("format version {0} is not known")]
    Version(u8),
    /// It ends before its end.
    #[error("ends too early")]
    Truncated,
    /// It goes on after its end.
    #[error("goes on after its end")]
    Trailing,
    /// A block is not what was written.
    #[error("checksum of a block does not match")]
    Checksum,
    /// The file is not what was written.
    #[error("digest of the file does not match")]
    Digest,
    /// Paths do not ascend.
    #[error("paths are out of order")]
    Order,
    /// A length that nothing written by us has.
    #[error("a length is beyond its limit")]
    Length,
    /// A record that nothing written by us has.
    #[error("a record is malformed")]
    Record,
}

/// Lengths in memory as numbers in files.
pub(super) fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Reads bytes that may be hostile: whatever is not there is [`Damage`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Damage::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Damage::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Damage> {
        self.array().map(|[byte]| byte)
    }

    /// A number of at most ten bytes, seven bits each, lowest first.
    pub(super) fn number(&mut self) -> Result<u64, Damage> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Damage::Length);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage::Length)
    }

    pub(super) fn number32(&mut self) -> Result<u32, Damage> {
        u32::try_from(self.number()?).map_err(|_too_large| Damage::Length)
    }

    /// A number that counts something of which there are at most `limit`.
    pub(super) fn length(&mut self, limit: usize) -> Result<usize, Damage> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|length| *length <= limit)
            .ok_or(Damage::Length)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], Damage> {
        let length = self.length(limit)?;
        self.take(length)
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, wide(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Puts `key` as what it shares with `previous` and what follows.
pub(super) fn put_shared(out: &mut Vec<u8>, previous: &[u8], key: &[u8]) {
    let shared = previous.iter().zip(key).take_while(|(a, b)| a == b).count();
    put_number(out, wide(shared));
    put_bytes(out, key.get(shared..).unwrap_or_default());
}

/// Turns `key` into the next one, and gives the order of the next one to it.
pub(super) fn next_shared(
    cursor: &mut Cursor<'_>,
    key: &mut Vec<u8>,
    limit: usize,
) -> Result<std::cmp::Ordering, Damage> {
    let shared = cursor.length(key.len())?;
    let suffix = cursor.bytes(limit)?;
    if suffix.len().saturating_add(shared) > limit {
        return Err(Damage::Length);
    }
    let order = suffix.cmp(key.get(shared..).unwrap_or_default());
    key.truncate(shared);
    key.extend_from_slice(suffix);
    Ok(order)
}

pub(super) fn put_xattrs(out: &mut Vec<u8>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    put_number(out, wide(xattrs.len()));
    for (name, value) in xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

pub(super) fn take_xattrs(cursor: &mut Cursor<'_>) -> Result<Xattrs, Damage> {
    let mut xattrs = Vec::new();
    for _ in 0..cursor.number()? {
        // Each turn takes at least two bytes, so a lying count ends at the end of the bytes.
        let name = cursor.bytes(HEADER_BYTES)?.to_vec();
        xattrs.push((name, cursor.bytes(HEADER_BYTES)?.to_vec()));
    }
    Ok(xattrs)
}

pub(super) const fn marker_byte(marker: Marker) -> u8 {
    match marker {
        Marker::None => 0,
        Marker::Elf => 1,
        Marker::Shebang => 2,
        Marker::Code => 3,
    }
}

pub(super) const fn marker_of(byte: u8) -> Result<Marker, Damage> {
    Ok(match byte {
        0 => Marker::None,
        1 => Marker::Elf,
        2 => Marker::Shebang,
        3 => Marker::Code,
        _ => return Err(Damage::Record),
    })
}

const HAS_XATTRS: u8 = 0x80;
const HAS_HARD_LINK: u8 = 0x40;
const IS_OPAQUE: u8 = 0x20;
const TYPE: u8 = 0x0f;

/// Appends an entry of a tree.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let kind = match entry.node {
        Node::File { .. } => 0,
        Node::Directory { opaque: false } => 1,
        Node::Directory { opaque: true } => 1 | IS_OPAQUE,
        Node::Symlink { .. } => 2,
        Node::CharDevice { .. } => 3,
        Node::BlockDevice { .. } => 4,
        Node::Fifo => 5,
        Node::Socket => 6,
        Node::Whiteout => 7,
    };
    let xattrs = if entry.xattrs.is_empty() {
        0
    } else {
        HAS_XATTRS
    };
    let hard_link = entry.hard_link.as_ref().map_or(0, |_| HAS_HARD_LINK);
    out.push(kind | xattrs | hard_link);
    for number in [entry.mode, entry.uid, entry.gid] {
        put_number(out, u64::from(number));
    }
    match &entry.node {
        Node::File {
            size,
            digest,
            marker,
        } => {
            put_number(out, *size);
            out.extend_from_slice(digest.as_bytes());
            out.push(marker_byte(*marker));
        }
        Node::Symlink { target } => put_bytes(out, target),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            put_number(out, u64::from(*major));
            put_number(out, u64::from(*minor));
        }
        Node::Directory { .. } | Node::Fifo | Node::Socket | Node::Whiteout => {}
    }
    if !entry.xattrs.is_empty() {
        put_xattrs(out, &entry.xattrs);
    }
    if let Some(target) = &entry.hard_link {
        put_bytes(out, target);
    }
}

/// Reads what [`put_entry`] wrote, to the last byte.
pub(super) fn take_entry(bytes: &[u8]) -> Result<Entry, Damage> {
    let mut cursor = Cursor::new(bytes);
    let kind = cursor.byte()?;
    let (mode, uid, gid) = (cursor.number32()?, cursor.number32()?, cursor.number32()?);
    let node = take_node(&mut cursor, kind & (TYPE | IS_OPAQUE))?;
    let xattrs = if kind & HAS_XATTRS == 0 {
        Vec::new()
    } else {
        take_xattrs(&mut cursor)?
    };
    let hard_link = if kind & HAS_HARD_LINK == 0 {
        None
    } else {
        Some(cursor.bytes(PATH_BYTES)?.to_vec())
    };
    if !cursor.is_at_end() {
        return Err(Damage::Record);
    }
    Ok(Entry {
        node,
        mode,
        uid,
        gid,
        xattrs,
        hard_link,
    })
}

fn take_node(cursor: &mut Cursor<'_>, kind: u8) -> Result<Node, Damage> {
    const OPAQUE_DIRECTORY: u8 = 1 | IS_OPAQUE;
    Ok(match kind {
        0 => Node::File {
            size: cursor.number()?,
            digest: Digest::from_sha256(cursor.array()?),
            marker: marker_of(cursor.byte()?)?,
        },
        1 => Node::Directory { opaque: false },
        OPAQUE_DIRECTORY => Node::Directory { opaque: true },
        2 => Node::Symlink {
            target: cursor.bytes(PATH_BYTES)?.to_vec(),
        },
        3 => Node::CharDevice {
            major: cursor.number32()?,
            minor: cursor.number32()?,
        },
        4 => Node::BlockDevice {
            major: cursor.number32()?,
            minor: cursor.number32()?,
        },
        5 => Node::Fifo,
        6 => Node::Socket,
        7 => Node::Whiteout,
        _ => return Err(Damage::Record),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let marker = prop::sample::select(vec![
            Marker::None,
            Marker::Elf,
            Marker::Shebang,
            Marker::Code,
        ]);
        prop_oneof![
            (any::<u64>(), any::<[u8; 32]>(), marker).prop_map(|(size, digest, marker)| {
                Node::File {
                    size,
                    digest: Digest::from_sha256(digest),
                    marker,
                }
            }),
            any::<bool>().prop_map(|opaque| Node::Directory { opaque }),
            bytes().prop_map(|target| Node::Symlink { target }),
            any::<(u32, u32)>().prop_map(|(major, minor)| Node::CharDevice { major, minor }),
            any::<(u32, u32)>().prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
            Just(Node::Fifo),
            Just(Node::Socket),
            Just(Node::Whiteout),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let xattrs = prop::collection::vec((bytes(), bytes()), 0..3);
        let numbers = any::<(u32, u32, u32)>();
        (node(), numbers, xattrs, prop::option::of(bytes())).prop_map(
            |(node, (mode, uid, gid), xattrs, hard_link)| Entry {
                node,
                mode,
                uid,
                gid,
                xattrs,
                hard_link,
            },
        )
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_bytes_and_nothing_shorter_does(entry in entry()) {
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &entry);
            prop_assert_eq!(take_entry(&bytes), Ok(entry));
            for length in 0..bytes.len() {
                prop_assert!(take_entry(&bytes[..length]).is_err());
            }
            bytes.push(0);
            prop_assert_eq!(take_entry(&bytes), Err(Damage::Record));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_but_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut again = Vec::new();
            if let Ok(entry) = take_entry(&bytes) {
                put_entry(&mut again, &entry);
                prop_assert_eq!(take_entry(&again), Ok(entry));
            }
        }

        #[test]
        fn a_number_survives_its_bytes(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value);
            prop_assert_eq!(Cursor::new(&bytes).number(), Ok(value));
        }
    }

    #[test]
    fn a_number_beyond_64_bits_is_refused() {
        let too_large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Cursor::new(&too_large).number(), Err(Damage::Length));
        let endless = [0x80; 11];
        assert_eq!(Cursor::new(&endless).number(), Err(Damage::Length));
    }
}
