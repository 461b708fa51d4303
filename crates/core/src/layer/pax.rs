//! Extended (PAX) headers: records `LENGTH KEY=VALUE\n` that override fields of the next header.
//!
//! As Go's reader has it: of equal keys the last one counts, an empty value changes nothing, values are
//! bytes of the written length (a newline in one is no end), and numbers that cannot be read refuse the
//! archive. Attributes come as `SCHILY.xattr.NAME`; containerd ignores `LIBARCHIVE.xattr.` and so do we.

use std::collections::BTreeMap;

use crate::layer::header::Header;
use crate::layer::sparse::{Announced, Map, decimal};
use crate::layer::tar::TarError;

const XATTR: &[u8] = b"SCHILY.xattr.";
/// The keys that are no overrides but a list: each one counts.
const SPARSE_OFFSET: &[u8] = b"GNU.sparse.offset";
const SPARSE_LENGTH: &[u8] = b"GNU.sparse.numbytes";

/// The records of one extended header.
#[derive(Debug, Default)]
pub(super) struct Pax<'a> {
    records: BTreeMap<&'a [u8], &'a [u8]>,
    /// The map of holes in its oldest form, where it is not a record but a list of them.
    listed: Vec<&'a [u8]>,
}

impl<'a> Pax<'a> {
    pub(super) fn parse(mut bytes: &'a [u8]) -> Result<Self, TarError> {
        let (mut records, mut listed) = (BTreeMap::new(), Vec::new());
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(TarError::ExtendedHeader)?;
            bytes = rest;
            let is_offset = listed.len().is_multiple_of(2);
            match key {
                SPARSE_OFFSET | SPARSE_LENGTH
                    if is_offset != (key == SPARSE_OFFSET) || value.contains(&b',') =>
                {
                    return Err(TarError::ExtendedHeader);
                }
                SPARSE_OFFSET | SPARSE_LENGTH => listed.push(value),
                _ => {
                    records.insert(key, value);
                }
            }
        }
        Ok(Self { records, listed })
    }

    /// The name that a global header gives itself. What else it says is ignored.
    pub(super) fn global_name(&self) -> Result<Option<Vec<u8>>, TarError> {
        let Some(name) = self.value(b"path") else {
            return Ok(None);
        };
        // With a number that cannot be read, Go takes the name or not as its map's order falls.
        self.check_numbers()?;
        Ok(Some(name.to_vec()))
    }

    /// Overrides fields of the header that follows.
    pub(super) fn apply(&self, header: &mut Header) -> Result<(), TarError> {
        self.check_numbers()?;
        if let Some(name) = self.value(b"path") {
            header.name = name.to_vec();
        }
        if let Some(link) = self.value(b"linkpath") {
            header.link = link.to_vec();
        }
        for (key, field) in [
            (b"uid".as_slice(), &mut header.uid),
            (b"gid", &mut header.gid),
            (b"size", &mut header.size),
        ] {
            if let Some(number) = self.number(key)? {
                *field = number;
            }
        }
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(XATTR) {
                header.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(())
    }

    /// What is said about holes, in a form that Go's reader knows; to it any other is an ordinary file.
    pub(super) fn sparse(&self) -> Result<Option<Announced>, TarError> {
        let text = |key: &[u8]| self.value(key).unwrap_or_default();
        let listed = self.listed.join(&b',');
        let list = match listed.as_slice() {
            _ if self.listed.is_empty() => text(b"GNU.sparse.map"),
            listed => listed,
        };
        let is_in_front = match (text(b"GNU.sparse.major"), text(b"GNU.sparse.minor")) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if !list.is_empty() => false,
            _ => return Ok(None),
        };
        let size = match self.value(b"GNU.sparse.size") {
            None => self.value(b"GNU.sparse.realsize"),
            size => size,
        };
        let number = |text| decimal(text).ok_or(TarError::Sparse);
        Ok(Some(Announced {
            name: self.value(b"GNU.sparse.name").map(<[u8]>::to_vec),
            size: size.map(number).transpose()?,
            map: if is_in_front {
                None
            } else {
                Some(Map::of_list(text(b"GNU.sparse.numblocks"), list)?)
            },
        }))
    }

    fn value(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.records
            .get(key)
            .copied()
            .filter(|value| !value.is_empty())
    }

    fn number(&self, key: &[u8]) -> Result<Option<i64>, TarError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        decimal(value).map(Some).ok_or(TarError::ExtendedHeader)
    }

    fn check_numbers(&self) -> Result<(), TarError> {
        for key in [b"uid".as_slice(), b"gid", b"size"] {
            self.number(key)?;
        }
        for key in [b"atime".as_slice(), b"ctime", b"mtime"] {
            if !self.value(key).is_none_or(is_time) {
                return Err(TarError::ExtendedHeader);
            }
        }
        Ok(())
    }
}

/// Key, value and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let text = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (text.get(..equals)?, text.get(equals.checked_add(1)?..)?);
    let is_text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || key.contains(&0) || (is_text && value.contains(&0)) {
        return None;
    }
    Some((key, value, rest))
}

/// Seconds, with an optional fraction.
fn is_time(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    decimal(seconds).is_some() && fraction.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            bytes.extend_from_slice(format!("{length} ").as_bytes());
            bytes.extend_from_slice(&[key, b"=".as_slice(), value, b"\n"].concat());
        }
        bytes
    }

    #[test]
    fn of_equal_keys_the_last_one_counts() {
        let bytes = written(&[
            (b"path", b"first"),
            (b"uid", b"none"),
            (b"path", b"last"),
            (b"uid", b"7"),
        ]);
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(pax.value(b"path"), Some(b"last".as_slice()));
        assert_eq!(pax.number(b"uid").unwrap(), Some(7));
    }

    #[test]
    fn a_value_may_hold_any_byte() {
        let value = b"\x01\n9 a=b\n\0\xff=";
        let bytes = written(&[
            (b"SCHILY.xattr.security.capability", value),
            (b"path", b"p"),
        ]);
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!(
            pax.value(b"SCHILY.xattr.security.capability"),
            Some(value.as_slice())
        );
        assert_eq!(pax.value(b"path"), Some(b"p".as_slice()));
    }

    #[test]
    fn a_malformed_record_is_refused() {
        for bytes in [
            b"6 a=b".as_slice(), // no newline
            b"7 a=b\n",          // length beyond the end
            b"5 a=b\n",          // length short of the newline
            b"-6 a=b\n",
            b"6a=b\n",
            b"5 ab\n",
            b"5 =b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"10 path=\0\n",
            b" 6 a=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        assert!(Pax::parse(b"6 a=b\n").is_ok());
        for (key, value) in [
            ("size", "1e3"),
            ("mtime", "1.5x"),
            ("uid", "0x7"),
            ("gid", " 1"),
        ] {
            let bytes = written(&[(key.as_bytes(), value.as_bytes())]);
            assert!(
                Pax::parse(&bytes).unwrap().check_numbers().is_err(),
                "{key}={value}"
            );
        }
    }

    /// What a header of these records, `KEY=VALUE`, says about holes.
    fn sparse(lines: &[&str]) -> Result<Option<Announced>, TarError> {
        let pairs = lines.iter().map(|line| line.split_once('=').unwrap());
        let records: Vec<_> = pairs
            .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
            .collect();
        Pax::parse(&written(&records))?.sparse()
    }

    #[test]
    fn sparse_files_of_every_known_form_are_noticed() {
        let map = Map::of_list(b"2", b"0,1,5,2").unwrap();
        for lines in [["GNU.sparse.major=0", "GNU.sparse.minor=1"].as_slice(), &[]] {
            let with = |more: &[&str]| sparse(&[lines, more].concat()).unwrap().unwrap();
            let found = with(&[
                "GNU.sparse.numblocks=2",
                "GNU.sparse.offset=0",
                "GNU.sparse.numbytes=1",
                "GNU.sparse.offset=5",
                "GNU.sparse.numbytes=2",
                "GNU.sparse.size=9",
                "GNU.sparse.realsize=8",
            ]);
            assert_eq!((found.size, &found.map), (Some(9), &Some(map.clone())));
            let found = with(&[
                "GNU.sparse.numblocks=2",
                "GNU.sparse.map=0,1,5,2",
                "GNU.sparse.name=n",
            ]);
            assert_eq!(
                (found.name, found.map),
                (Some(b"n".to_vec()), Some(map.clone()))
            );
        }
        let front = sparse(&["GNU.sparse.major=1", "GNU.sparse.minor=0"]);
        assert_eq!(front.unwrap().unwrap().map, None);
        // To Go these are ordinary files.
        for lines in [
            ["GNU.sparse.major=2", "GNU.sparse.minor=0"],
            ["GNU.sparse.major=1", "GNU.sparse.map=0,1"],
            ["GNU.sparse.name=n", "GNU.sparse.size=9"],
        ] {
            assert_eq!(sparse(&lines).unwrap(), None, "{lines:?}");
        }
    }

    #[test]
    fn a_malformed_list_of_regions_is_refused() {
        for lines in [
            ["GNU.sparse.numbytes=1", "GNU.sparse.offset=0"].as_slice(),
            &["GNU.sparse.offset=0", "GNU.sparse.offset=1"],
            &["GNU.sparse.offset=0,1"],
            &["GNU.sparse.offset=0", "GNU.sparse.numblocks=1"],
            &["GNU.sparse.map=0,1"],
            &[
                "GNU.sparse.map=0,1",
                "GNU.sparse.numblocks=1",
                "GNU.sparse.size=x",
            ],
        ] {
            assert!(sparse(lines).is_err(), "{lines:?}");
        }
    }
}
