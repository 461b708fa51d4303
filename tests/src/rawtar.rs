//! Tar blocks byte by byte, for what no writer would write. It seals what it is told and judges nothing.

/// Everything in a tar comes in blocks of this size.
const BLOCK: usize = 512;

/// A header block of which any field can be anything.
#[derive(Clone, Debug)]
pub struct Block([u8; BLOCK]);

/// Where a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Permission bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Length of what follows.
    Size,
    /// Time of the last change.
    Mtime,
    /// A device's major number.
    Major,
    /// A device's minor number.
    Minor,
}

impl Field {
    const fn place(self) -> (usize, usize) {
        match self {
            Self::Mode => (100, 8),
            Self::Uid => (108, 8),
            Self::Gid => (116, 8),
            Self::Size => (124, 12),
            Self::Mtime => (136, 12),
            Self::Major => (329, 8),
            Self::Minor => (337, 8),
        }
    }
}

impl Block {
    /// The oldest format: no magic, no device numbers.
    pub fn v7(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mut block = Self([0; BLOCK]);
        block = block.put(0, name.as_ref()).put(156, &[flag]);
        for (field, value) in [
            (Field::Mode, 0o644),
            (Field::Uid, 0),
            (Field::Gid, 0),
            (Field::Size, 0),
            (Field::Mtime, 1_700_000_000),
        ] {
            block = block.octal(field, value);
        }
        block
    }

    /// ustar.
    pub fn ustar(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self::v7(flag, name).put(257, b"ustar\x0000").devices(0, 0)
    }

    /// GNU's own format.
    pub fn gnu(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self::v7(flag, name).put(257, b"ustar  \0").devices(0, 0)
    }

    /// The format of star.
    pub fn star(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self::ustar(flag, name)
            .put(476, b"00000000000 00000000000 ")
            .put(508, b"tar\0")
    }

    /// Any bytes at any place.
    #[must_use]
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The target of a link.
    #[must_use]
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.put(157, target.as_ref())
    }

    /// A number in octal digits.
    #[must_use]
    pub fn octal(self, field: Field, value: u64) -> Self {
        let (at, width) = field.place();
        let digits = width - 1;
        self.put(at, format!("{value:0digits$o}\0").as_bytes())
    }

    /// A number in binary.
    #[must_use]
    pub fn base256(self, field: Field, value: i64) -> Self {
        let (at, width) = field.place();
        let fill = if value < 0 { 0xff } else { 0 };
        let mut bytes = vec![fill; width];
        let number = value.to_be_bytes();
        let kept = width.min(number.len());
        bytes[width - kept..].copy_from_slice(&number[number.len() - kept..]);
        bytes[0] |= 0x80;
        self.put(at, &bytes)
    }

    /// A number's field as text.
    #[must_use]
    pub fn text(self, field: Field, text: &[u8]) -> Self {
        let (at, width) = field.place();
        let filled: Vec<u8> = text
            .iter()
            .copied()
            .chain(std::iter::repeat(0))
            .take(width)
            .collect();
        self.put(at, &filled)
    }

    /// A device's numbers.
    #[must_use]
    pub fn devices(self, major: u64, minor: u64) -> Self {
        self.octal(Field::Major, major).octal(Field::Minor, minor)
    }

    /// The block with the checksum that it needs.
    pub fn sealed(self) -> Vec<u8> {
        let sum: u64 = self.unsummed().iter().map(|byte| u64::from(*byte)).sum();
        self.sealed_with(sum)
    }

    /// The block with the checksum of old writers that took bytes for signed.
    pub fn sealed_signed(self) -> Vec<u8> {
        let signed = |byte: &u8| i64::from(byte.cast_signed());
        let sum: i64 = self.unsummed().iter().map(signed).sum();
        self.sealed_with(sum.unsigned_abs())
    }

    /// The block with any checksum.
    pub fn sealed_with(self, sum: u64) -> Vec<u8> {
        self.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec()
    }

    /// The block as it is.
    pub fn unsealed(self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The block, told its size, and its content with the padding.
    pub fn with(self, content: &[u8]) -> Vec<u8> {
        let size = u64::try_from(content.len()).unwrap();
        [self.octal(Field::Size, size).sealed(), padded(content)].concat()
    }

    fn unsummed(&self) -> [u8; BLOCK] {
        self.clone().put(148, b"        ").0
    }
}

/// Content with what fills its last block.
pub fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// An extended header for the entry that follows; keys and values are written as they are.
pub fn extended(records: &[(&str, &[u8])]) -> Vec<u8> {
    extended_raw(b'x', &records_of(records))
}

/// An extended header of this type and content.
pub fn extended_raw(flag: u8, content: &[u8]) -> Vec<u8> {
    Block::ustar(flag, "PaxHeaders/x").with(content)
}

/// The records of an extended header.
pub fn records_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    let record = |(key, value): &(&str, &[u8])| crate::layer::pax_record(key, value);
    records.iter().flat_map(record).collect()
}

/// What ends an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
