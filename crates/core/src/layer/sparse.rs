//! Files that were written with their holes left out: the map of what was written, in the four forms that
//! Go's reader knows. It only reads maps; the content is put together by `tar`.
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU, type `S` | in the header, 4 regions, and in blocks of 21 behind it. containerd refuses to create one |
//! | 0.0 | `GNU.sparse.offset` and `GNU.sparse.numbytes`, repeated in turn in the extended header |
//! | 0.1 | `GNU.sparse.map`: `offset,length,offset,length` |
//! | 1.0 | decimal lines in front of the content, filled up to a block |

use crate::layer::codec::wide;
use crate::layer::header::{BLOCK, field, numeric};
use crate::layer::tar::TarError;

/// Regions of one file. Go stops here too since it stops at all; the map is held in memory.
const REGIONS: usize = 1 << 20;

/// Longest number in a map of form 1.0: any number with a line's worth of leading zeros.
const DIGITS: usize = BLOCK;

/// Where in the header of an old GNU sparse file its parts are.
const OLD_MAP: usize = 386;
const OLD_IS_EXTENDED: usize = 482;
const OLD_SIZE: std::ops::Range<usize> = 483..495;
const OLD_REGIONS: usize = 4;

/// The same of the blocks that follow it.
const EXTENSION_IS_EXTENDED: usize = 504;
const EXTENSION_REGIONS: usize = 21;

/// A piece of the file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What an extended header says about holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// The file's name, which the header itself may only make up.
    pub(super) name: Option<Vec<u8>>,
    /// Its length with its holes.
    pub(super) size: Option<i64>,
    /// The map; none when it stands in front of the content.
    pub(super) map: Option<Map>,
}

/// Regions as they are read, before they are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map(Vec<(i64, i64)>);

impl Map {
    fn push(&mut self, offset: i64, length: i64) -> Result<(), TarError> {
        if self.0.len() >= REGIONS {
            return Err(TarError::SparseTooLarge);
        }
        self.0.push((offset, length));
        Ok(())
    }

    /// The regions of forms 0.0 and 0.1.
    pub(super) fn of_list(count: &[u8], list: &[u8]) -> Result<Self, TarError> {
        let count = decimal(count).ok_or(TarError::Sparse)?;
        let numbers: Vec<&[u8]> = match list {
            [] => Vec::new(),
            list => list.split(|byte| *byte == b',').collect(),
        };
        // As many as were said: another reader might believe the count.
        if usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(2))
            != Some(numbers.len())
        {
            return Err(TarError::Sparse);
        }
        let mut map = Self::default();
        for pair in numbers.chunks_exact(2) {
            let [offset, length] = pair else {
                return Err(TarError::Sparse);
            };
            let number = |text: &[u8]| decimal(text).ok_or(TarError::Sparse);
            map.push(number(offset)?, number(length)?)?;
        }
        Ok(map)
    }

    /// The regions, which must ascend without meeting and end within the file.
    pub(super) fn regions(self, size: i64) -> Result<(u64, Vec<Region>), TarError> {
        let size = u64::try_from(size).map_err(|_negative| TarError::Sparse)?;
        let mut end = 0;
        let mut regions = Vec::with_capacity(self.0.len());
        for (offset, length) in self.0 {
            let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
                return Err(TarError::Sparse);
            };
            // Two numbers of 63 bits: their sum fits.
            if offset < end || offset.saturating_add(length) > size {
                return Err(TarError::Sparse);
            }
            end = offset.saturating_add(length);
            regions.push(Region { offset, length });
        }
        Ok((size, regions))
    }
}

/// Reads a map of the old form, block by block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OldMap {
    map: Map,
    size: i64,
    /// Another block of it follows.
    pub(super) is_extended: bool,
}

impl OldMap {
    /// The file's length and the regions that fit into the header.
    pub(super) fn begin(header: &[u8; BLOCK]) -> Result<Self, TarError> {
        let mut map = Self {
            map: Map::default(),
            size: numeric(field(header, OLD_SIZE)).ok_or(TarError::Sparse)?,
            is_extended: is_set(header, OLD_IS_EXTENDED),
        };
        map.take(header, OLD_MAP, OLD_REGIONS)?;
        Ok(map)
    }

    /// Adds a block's regions.
    pub(super) fn extend(&mut self, block: &[u8; BLOCK]) -> Result<(), TarError> {
        self.is_extended = is_set(block, EXTENSION_IS_EXTENDED);
        self.take(block, 0, EXTENSION_REGIONS)
    }

    pub(super) fn regions(self) -> Result<(u64, Vec<Region>), TarError> {
        self.map.regions(self.size)
    }

    fn take(&mut self, block: &[u8; BLOCK], at: usize, count: usize) -> Result<(), TarError> {
        let places = field(block, at..at.saturating_add(count.saturating_mul(24)));
        for region in places.chunks_exact(24) {
            let (offset, length) = region.split_at_checked(12).ok_or(TarError::Sparse)?;
            if offset.first() == Some(&0) {
                break;
            }
            let number = |text: &[u8]| numeric(text).ok_or(TarError::Sparse);
            self.map.push(number(offset)?, number(length)?)?;
        }
        Ok(())
    }
}

fn is_set(block: &[u8; BLOCK], at: usize) -> bool {
    block.get(at).is_some_and(|flag| *flag != 0)
}

/// Reads a map of form 1.0, block by block: how many regions, then offset and length of each, a line each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    map: Map,
    line: Vec<u8>,
    count: Option<i64>,
    offset: Option<i64>,
}

impl Lines {
    /// Takes one block; true when the map is complete. What is left of its last block is filling.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, TarError> {
        for byte in block {
            if *byte == b'\n' {
                self.end_line()?;
            } else {
                self.line.push(*byte);
            }
            if self.is_complete() {
                return Ok(true);
            }
        }
        if self.line.len() > DIGITS {
            return Err(TarError::Sparse);
        }
        Ok(false)
    }

    fn end_line(&mut self) -> Result<(), TarError> {
        let number = decimal(&std::mem::take(&mut self.line)).ok_or(TarError::Sparse)?;
        match (self.count, self.offset.take()) {
            (None, _) if number < 0 => return Err(TarError::Sparse),
            (None, _) => self.count = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.map.push(offset, number)?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Map {
        self.map
    }

    fn is_complete(&self) -> bool {
        self.count
            .is_some_and(|count| u64::try_from(count) == Ok(wide(self.map.0.len())))
    }
}

/// Digits with an optional sign.
pub(super) fn decimal(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(count: &str, list: &str, size: i64) -> Option<Vec<(u64, u64)>> {
        let map = Map::of_list(count.as_bytes(), list.as_bytes()).ok()?;
        let (_, regions) = map.regions(size).ok()?;
        let pair = |region: &Region| (region.offset, region.length);
        Some(regions.iter().map(pair).collect())
    }

    #[test]
    fn regions_ascend_within_the_file_or_are_refused() {
        assert_eq!(regions("0", "", 9), Some(vec![]));
        assert_eq!(regions("2", "1,2,3,0", 3), Some(vec![(1, 2), (3, 0)]));
        assert_eq!(regions("1", "0,+4", 4), Some(vec![(0, 4)]));
        for (count, list, size) in [
            ("", "", 9),
            ("x", "", 9),
            ("-1", "", 9),
            ("1", "", 9),
            ("1", "0,1,2,3", 9),
            ("2", "0,1,2", 9),
            ("1", "0", 9),
            ("1", "0,x", 9),
            ("1", "0,", 9),
            ("1", "-1,1", 9),
            ("1", "0,-1", 9),
            ("1", "0,10", 9),
            ("2", "0,2,1,2", 9),
            ("2", "4,2,1,2", 9),
            ("1", "9223372036854775807,9223372036854775807", i64::MAX),
            ("9223372036854775807", "0,1", 9),
            ("0", "", -1),
        ] {
            assert_eq!(regions(count, list, size), None, "{count} {list} {size}");
        }
    }

    #[test]
    fn a_map_in_lines_ends_with_its_last_number() {
        let mut lines = Lines::default();
        assert!(!lines.take(b"2\n0").unwrap());
        assert!(!lines.take(b"5\n6\n").unwrap());
        assert!(lines.take(b"20\n1\nnot looked at").unwrap());
        assert_eq!(lines.finish(), Map(vec![(5, 6), (20, 1)]));
        assert!(Lines::default().take(b"0\n").unwrap());
        for bad in [b"\n".as_slice(), b"-1\n", b"x\n", b"1\n0\n \n"] {
            assert!(
                Lines::default().take(bad).is_err(),
                "{}",
                bad.escape_ascii()
            );
        }
        assert!(Lines::default().take(&[b'0'; DIGITS + 1]).is_err());
    }

    #[test]
    fn a_map_beyond_the_limit_is_refused() {
        let mut map = Map(vec![(0, 0); REGIONS]);
        assert!(matches!(map.push(0, 0), Err(TarError::SparseTooLarge)));
    }
}
