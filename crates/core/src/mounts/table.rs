//! The kernel's mount table, `/proc/PID/mountinfo`, line by line. A container chooses paths, options and
//! number of its own mounts, so what has another form is refused and everything is bounded.

use std::io::{BufRead, Read as _};

use serde::{Deserialize, Serialize};

/// Longest line: an overlay of 500 layers with a path of a page each.
pub const MAX_LINE_BYTES: u64 = 4 << 20;

/// How much of one table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Mounts.
    pub mounts: usize,
    /// Bytes of all lines.
    pub bytes: u64,
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// More than the limits.
    #[error("the mount table is larger than we read")]
    TooLarge,
    /// A line has another form.
    #[error("the mount table has a line that cannot be read")]
    Malformed,
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads a table. The lines are in the order in which the mounts were made: the kernel sorts them by an
/// id that is never given twice, and before Linux 6.8 it appended them.
pub fn read(mut source: impl BufRead, limits: Limits) -> Result<Vec<MountEntry>, TableError> {
    let (mut entries, mut bytes, mut line) = (Vec::new(), 0_u64, Vec::new());
    loop {
        line.clear();
        let mut bounded = (&mut source).take(MAX_LINE_BYTES);
        let length = bounded.read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(entries);
        }
        bytes = bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        let is_cut = line.last() != Some(&b'\n');
        if is_cut || bytes > limits.bytes || entries.len() == limits.mounts {
            return Err(TableError::TooLarge);
        }
        entries.push(MountEntry::parse(&line).ok_or(TableError::Malformed)?);
    }
}

/// A superblock's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Whether a mount passes mounts on, and takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// Its peer group, if it is shared.
    pub shared: Option<u32>,
    /// The group that it takes mounts from, if it is a slave.
    pub master: Option<u32>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its id, unique while it is mounted.
    pub id: u64,
    /// Id of the mount that it stands on.
    pub parent: u64,
    /// Its superblock.
    pub device: Device,
    /// Which directory of the filesystem is mounted.
    pub root: Vec<u8>,
    /// Where, from the root of the process.
    pub mount_point: Vec<u8>,
    /// Nothing can be written through it, as far as the mount itself goes.
    pub is_read_only: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// `overlay`, `tmpfs`, …
    pub fs_type: Vec<u8>,
    /// Options of the superblock; hints, for an overlay.
    pub super_options: Vec<Vec<u8>>,
}

impl MountEntry {
    /// Reads one line; `None` when it has another form.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let mut device = fields.next()?.split(|byte| *byte == b':');
        let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
        let root = unescape(fields.next()?);
        let mount_point = unescape(fields.next()?);
        let mount_options = split_options(fields.next()?);
        let mut propagation = Propagation::default();
        loop {
            match fields.next()? {
                b"-" => break,
                field => propagation.note(field),
            }
        }
        let fs_type = unescape(fields.next()?);
        let _source = fields.next()?;
        let super_options = split_options(fields.next()?);
        let says_read_only = |options: &[Vec<u8>]| options.iter().any(|option| option == b"ro");
        Some(Self {
            id,
            parent,
            device: Device { major, minor },
            root,
            mount_point,
            is_read_only: says_read_only(&mount_options) || says_read_only(&super_options),
            propagation,
            fs_type,
            super_options,
        })
    }

    /// The value of a superblock option.
    pub fn option(&self, name: &[u8]) -> Option<&[u8]> {
        self.super_options
            .iter()
            .find_map(|option| option.strip_prefix(name)?.strip_prefix(b"="))
    }
}

impl Propagation {
    fn note(&mut self, field: &[u8]) {
        if let Some(group) = field.strip_prefix(b"shared:") {
            self.shared = number(group);
        } else if let Some(group) = field.strip_prefix(b"master:") {
            self.master = number(group);
        }
    }
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Splits at commas outside quotes: a security context holds commas.
fn split_options(field: &[u8]) -> Vec<Vec<u8>> {
    let mut is_quoted = false;
    field
        .split(|byte| {
            is_quoted ^= *byte == b'"';
            *byte == b',' && !is_quoted
        })
        .map(unescape)
        .collect()
}

/// Undoes the kernel's `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| octal(after)).flatten();
        if let Some(byte) = escaped {
            plain.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    let is_octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    is_octal
        .then(|| u8::from_str_radix(digits, 8).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_gives_its_fields() {
        let line = b"598 511 0:97 / /a\\040b rw,relatime shared:3 master:7 - overlay overlay rw,context=\"u:c1,c2\",lowerdir=/x\\054y:2/fs,upperdir=/u\\134\n";
        let entry = MountEntry::parse(line).unwrap();

        assert_eq!((entry.id, entry.parent), (598, 511));
        assert_eq!(
            entry.device,
            Device {
                major: 0,
                minor: 97
            }
        );
        assert_eq!(entry.mount_point, b"/a b");
        assert_eq!(
            entry.propagation,
            Propagation {
                shared: Some(3),
                master: Some(7)
            }
        );
        assert_eq!(entry.fs_type, b"overlay");
        assert_eq!(entry.option(b"lowerdir"), Some(&b"/x,y:2/fs"[..]));
        assert_eq!(entry.option(b"upperdir"), Some(&b"/u\\"[..]));
        assert_eq!(entry.option(b"context"), Some(&b"\"u:c1,c2\""[..]));
        assert_eq!(entry.option(b"upper"), None);
    }

    #[test]
    fn what_has_another_form_is_refused() {
        for line in [
            "",
            "1 2",
            "a 1 0:1 / / rw - t s o",
            "1 1 0 / / rw - t s o",
            "1 1 0:1 / / rw t s o",
        ] {
            assert_eq!(MountEntry::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    const LIMITS: Limits = Limits {
        mounts: 2,
        bytes: 100,
    };

    fn read_of(table: &str) -> Result<Vec<MountEntry>, TableError> {
        read(table.as_bytes(), LIMITS)
    }

    #[test]
    fn a_table_is_read_to_its_limits_and_not_beyond() {
        let line = "1 1 0:1 / / ro - t s o\n";
        let entries = read_of(&line.repeat(2)).unwrap();
        assert_eq!(entries.len(), 2);
        assert!(entries[0].is_read_only);
        assert!(
            !MountEntry::parse(b"1 1 0:1 / / rw - t s error=ro")
                .unwrap()
                .is_read_only
        );

        assert!(matches!(
            read_of(&line.repeat(3)),
            Err(TableError::TooLarge)
        ));
        let long = format!("1 1 0:1 / /{} rw - t s o\n", "x".repeat(100));
        assert!(matches!(read_of(&long), Err(TableError::TooLarge)));
    }

    #[test]
    fn a_table_with_a_cut_or_a_foreign_line_is_refused_whole() {
        assert!(matches!(
            read_of("1 1 0:1 / / rw - t s o"),
            Err(TableError::TooLarge)
        ));
        assert!(matches!(read_of("nothing\n"), Err(TableError::Malformed)));
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line: Vec<u8>) {
            let entry = MountEntry::parse(&line);
            prop_assert!(entry.is_none() || line.len() > 16);
        }

        #[test]
        fn an_escaped_path_comes_back(path in proptest::collection::vec(1_u8..=255, 0..40)) {
            let mut line = b"1 1 0:1 / /".to_vec();
            for byte in &path {
                if b" \t\n\\".contains(byte) {
                    line.extend(format!("\\{byte:03o}").bytes());
                } else {
                    line.push(*byte);
                }
            }
            line.extend(b" rw - t s o\n");
            let entry = MountEntry::parse(&line).unwrap();
            prop_assert_eq!(entry.mount_point.strip_prefix(b"/"), Some(path.as_slice()));
        }
    }
}
