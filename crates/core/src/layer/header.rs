//! One header block of a tar archive, as Go's reader understands it, because that is what containerd
//! unpacks with: two readers that see different names in one signed layer are an attack.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0, 100, 108, 116 | name, mode, uid, gid | 100, 8, 8, 8 bytes |
//! | 124, 136, 148, 156 | size, mtime, checksum, type | 12, 12, 8, 1 |
//! | 157, 257, 329, 337 | link, magic, major, minor | 100, 8, 8, 8 |
//! | 345 | prefix: 155 bytes in ustar, 131 in star; in GNU atime and ctime of 12 bytes each | |

use std::ops::Range;

use crate::layer::sparse::OldMap;
use crate::layer::tar::TarError;

/// Everything in an archive comes in blocks of this size.
pub(super) const BLOCK: usize = 512;

/// A header block with its numbers as written; extended headers may override them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flag: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) xattrs: super::codec::Xattrs,
    /// The map of holes that a header of GNU's type `S` has.
    pub(super) old_map: Option<OldMap>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Parses a block that is not the end marker.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        check_sum(block)?;
        let number =
            |at: Range<usize>, name| numeric(field(block, at)).ok_or(TarError::Number(name));
        let format = format(block);
        number(136..148, "mtime")?;
        let (major, minor) = if format == Format::V7 {
            (0, 0)
        } else {
            (number(329..337, "major")?, number(337..345, "minor")?)
        };
        let mut name = text(field(block, 0..100)).to_vec();
        let prefix = prefix(block, format)?;
        if !prefix.is_empty() {
            name = [prefix, &name].join(&b'/');
        }
        let [flag] = *field(block, 156..157) else {
            return Err(TarError::Checksum);
        };
        let is_sparse = flag == b'S' && format == Format::Gnu;
        let old_map = is_sparse.then(|| OldMap::begin(block)).transpose()?;
        Ok(Self {
            flag,
            name,
            link: text(field(block, 157..257)).to_vec(),
            size: number(124..136, "size")?,
            mode: number(100..108, "mode")?,
            uid: number(108..116, "uid")?,
            gid: number(116..124, "gid")?,
            major,
            minor,
            xattrs: Vec::new(),
            old_map,
        })
    }

    /// Whether nothing can follow the header.
    pub(super) const fn is_alone(&self) -> bool {
        matches!(self.flag, b'1'..=b'6')
    }

    /// The length of what follows the header. Links, devices and directories have nothing behind them,
    /// whatever their size says.
    pub(super) fn body(&self) -> Result<u64, TarError> {
        if self.is_alone() {
            return Ok(0);
        }
        u64::try_from(self.size).map_err(|_negative| TarError::NegativeSize)
    }
}

pub(super) fn field(block: &[u8; BLOCK], at: Range<usize>) -> &[u8] {
    block.get(at).unwrap_or_default()
}

/// Text up to its NUL, if it has one.
pub(super) fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The sum of all bytes, the checksum itself taken as spaces. Some old writers summed signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    let (mut unsigned, mut signed) = (8 * i64::from(b' '), 8 * i64::from(b' '));
    for byte in field(block, 0..148).iter().chain(field(block, 156..BLOCK)) {
        unsigned += i64::from(*byte);
        signed += i64::from(byte.cast_signed());
    }
    match octal(field(block, 148..156)) {
        Some(written) if written == unsigned || written == signed => Ok(()),
        _ => Err(TarError::Checksum),
    }
}

fn format(block: &[u8; BLOCK]) -> Format {
    let (magic, version) = (field(block, 257..263), field(block, 263..265));
    if magic == b"ustar\0" && field(block, 508..BLOCK) == b"tar\0" {
        Format::Star
    } else if magic == b"ustar\0" {
        Format::Ustar
    } else if magic == b"ustar " && version == b" \0" {
        Format::Gnu
    } else {
        Format::V7
    }
}

/// What comes before the name. An early Go writer put a prefix where GNU has its times: where the times
/// are no numbers and the text is plain, it is one.
fn prefix(block: &[u8; BLOCK], format: Format) -> Result<&[u8], TarError> {
    let is_number = |at: Range<usize>| numeric(field(block, at)).is_some();
    Ok(match format {
        Format::V7 => &[],
        Format::Ustar => text(field(block, 345..500)),
        Format::Star => {
            if !is_number(476..488) || !is_number(488..500) {
                return Err(TarError::Number("atime or ctime"));
            }
            text(field(block, 345..476))
        }
        Format::Gnu => {
            let is_time =
                |at: Range<usize>| field(block, at.clone()).first() == Some(&0) || is_number(at);
            if is_time(345..357) && is_time(357..369) {
                &[]
            } else {
                Some(text(field(block, 345..500)))
                    .filter(|prefix| prefix.is_ascii())
                    .unwrap_or_default()
            }
        }
    })
}

/// A number: octal digits, or, where the first bit is set, two's complement in the remaining bits.
pub(super) fn numeric(bytes: &[u8]) -> Option<i64> {
    let Some((first, rest)) = bytes.split_first().filter(|(first, _)| **first & 0x80 != 0) else {
        return octal(bytes);
    };
    let is_negative = first & 0x40 != 0;
    let inverted = if is_negative { 0xff } else { 0 };
    let mut value = u64::from((first ^ inverted) & 0x7f);
    for byte in rest {
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte ^ inverted);
    }
    let value = i64::try_from(value).ok()?;
    Some(if is_negative { !value } else { value })
}

/// Octal digits between spaces and NULs; nothing at all is zero.
fn octal(bytes: &[u8]) -> Option<i64> {
    let is_padding = |byte: &u8| matches!(byte, 0 | b' ');
    let Some(start) = bytes.iter().position(|byte| !is_padding(byte)) else {
        return Some(0);
    };
    let end = bytes.iter().rposition(|byte| !is_padding(byte))?;
    text(bytes.get(start..=end)?)
        .iter()
        .try_fold(0_i64, |value, byte| match byte {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_and_nothing_else() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   644 \0"), Some(0o644));
        assert_eq!(numeric(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(numeric(b"644\x00777"), Some(0o644));
        assert_eq!(numeric(b"0000648\0"), None);
        assert_eq!(numeric(b"+000644\0"), None);
        assert_eq!(numeric(b"6 44\0"), None);
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(numeric(&[0xff; 8]), Some(-1));
        assert_eq!(
            numeric(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            Some(-2)
        );
        let largest = [0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(numeric(&largest), Some(i64::MAX));
        let beyond = [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(numeric(&beyond), None);
    }

    #[test]
    fn a_block_with_any_byte_changed_has_another_checksum() {
        let mut archive = tar::Header::new_ustar();
        archive.set_path("usr/bin/tool").unwrap();
        archive.set_size(3);
        archive.set_mode(0o755);
        archive.set_cksum();
        let block = *archive.as_bytes();
        assert_eq!(Header::parse(&block).unwrap().name, b"usr/bin/tool");
        for index in 0..BLOCK {
            let mut flipped = block;
            flipped[index] ^= 0x01;
            // Behind the digits of the checksum itself comes only padding.
            let refused = Header::parse(&flipped).is_err();
            assert!(refused || (154..156).contains(&index), "byte {index}");
        }
    }
}
