//! Contents of a layer's files, found by their digests in one pass over its blob: what a proof needs that
//! failed over files of a disk. A content proves itself, so each is handed on when it has passed; that one
//! is not in the layer is only said of the layer that was asked for.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use crate::digest::{DiffId, Digest};
use crate::layer::blob::Blob;
use crate::layer::codec::wide;
use crate::layer::table::failure;
use crate::layer::tar::TarReader;
use crate::layer::{Limits, TableError};

/// Contents that are looked for, and how long each is.
pub type WantedContents = HashMap<Digest, u64>;

/// Reads a layer blob and hands the wanted contents to `found`. Gives those that the layer does not have.
///
/// 1. Every file that can be one of them is hashed, and handed on if it is.
/// 2. The blob is the one that was named, and holds the layer that was named.
pub fn find_contents(
    blob: impl Read,
    (expected_blob, expected_diff): (Digest, DiffId),
    limits: &Limits,
    wanted: &WantedContents,
    mut found: impl FnMut(Digest, &[u8]) -> io::Result<()>,
) -> Result<BTreeSet<Digest>, TableError> {
    let mut blob = Blob::open(blob, limits.uncompressed_bytes).map_err(TableError::Io)?;
    let mut missing: BTreeSet<Digest> = wanted.keys().copied().collect();
    // (1)
    let mut archive = TarReader::new(&mut blob, limits);
    let mut candidate = Candidate::of(wanted);
    let mut kept = Ok(());
    let read = (|| {
        while let Some(header) = archive.next()? {
            if header.flag != b'0' {
                continue;
            }
            candidate.clear();
            archive.content(|piece| candidate.push(piece))?;
            if let Some(digest) = candidate.digest()
                && missing.remove(&digest)
                && kept.is_ok()
            {
                kept = found(digest, &candidate.content);
            }
        }
        archive.drain().map(drop)
    })();
    drop(archive);
    kept.map_err(TableError::Io)?;
    // (2)
    if let Err(error) = read {
        return Err(failure(blob, error, expected_blob, limits));
    }
    let (actual_blob, actual) = blob.finish().map_err(TableError::Io)?;
    if actual_blob != expected_blob {
        return Err(TableError::BlobDigest {
            expected: expected_blob,
            actual: actual_blob,
        });
    }
    if actual != expected_diff {
        return Err(TableError::DiffId {
            expected: expected_diff,
            actual,
        });
    }
    Ok(missing)
}

/// The file that passes, as long as it can be one of those that are wanted.
struct Candidate<'a> {
    wanted: &'a WantedContents,
    sizes: BTreeSet<u64>,
    content: Vec<u8>,
    is_too_long: bool,
}

impl<'a> Candidate<'a> {
    fn of(wanted: &'a WantedContents) -> Self {
        Self {
            wanted,
            sizes: wanted.values().copied().collect(),
            content: Vec::new(),
            is_too_long: false,
        }
    }

    fn clear(&mut self) {
        self.content.clear();
        self.is_too_long = false;
    }

    fn push(&mut self, piece: &[u8]) {
        let length = wide(self.content.len()).saturating_add(wide(piece.len()));
        self.is_too_long |= Some(&length) > self.sizes.last();
        if !self.is_too_long {
            self.content.extend_from_slice(piece);
        }
    }

    /// The digest of the file, if it is one of those that are wanted.
    fn digest(&self) -> Option<Digest> {
        let length = wide(self.content.len());
        let may_be = !self.is_too_long && self.sizes.contains(&length);
        let digest = may_be.then(|| Digest::of(&self.content))?;
        (self.wanted.get(&digest) == Some(&length)).then_some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::fixture::Tar;

    fn archive() -> Vec<u8> {
        let tar = Tar(Vec::new()).directory("usr");
        let tar = tar.file("usr/a", "one").file("usr/b", "two");
        tar.file("usr/long", &"long".repeat(1000)).end()
    }

    fn wanted(contents: &[&str]) -> WantedContents {
        let of = |content: &&str| (Digest::of(content.as_bytes()), wide(content.len()));
        contents.iter().map(of).collect()
    }

    fn find(wanted: &WantedContents) -> (Vec<String>, Result<usize, TableError>) {
        let archive = archive();
        let digest = Digest::of(&archive);
        let mut contents = Vec::new();
        let names = (digest, DiffId(digest));
        let missing = find_contents(
            archive.as_slice(),
            names,
            &Limits::default(),
            wanted,
            |of, content| {
                assert_eq!(of, Digest::of(content));
                contents.push(String::from_utf8_lossy(content).into_owned());
                Ok(())
            },
        );
        (contents, missing.map(|missing| missing.len()))
    }

    #[test]
    fn what_the_layer_has_is_found_and_what_it_has_not_is_told() {
        let (contents, missing) = find(&wanted(&["two", "one", "none"]));
        assert_eq!(contents, ["one", "two"]);
        assert_eq!(missing.unwrap(), 1);
    }

    #[test]
    fn a_content_of_another_length_than_was_said_is_not_the_one() {
        let mut wanted = wanted(&["one"]);
        wanted.insert(Digest::of(b"two"), 4);
        let (contents, missing) = find(&wanted);
        assert_eq!(contents, ["one"]);
        assert_eq!(missing.unwrap(), 1);
    }

    #[test]
    fn another_blob_or_layer_says_nothing_about_what_is_missing() {
        let (archive, other) = (archive(), Digest::of(b"other"));
        let digest = Digest::of(&archive);
        let find = |names| {
            let wanted = wanted(&["none"]);
            let limits = Limits::default();
            find_contents(archive.as_slice(), names, &limits, &wanted, |_, _| Ok(()))
        };
        let of_blob = find((other, DiffId(digest)));
        assert!(matches!(of_blob, Err(TableError::BlobDigest { .. })));
        let of_layer = find((digest, DiffId(other)));
        assert!(matches!(of_layer, Err(TableError::DiffId { .. })));
    }

    #[test]
    fn a_disk_that_is_full_ends_it() {
        let archive = archive();
        let digest = Digest::of(&archive);
        let full = find_contents(
            archive.as_slice(),
            (digest, DiffId(digest)),
            &Limits::default(),
            &wanted(&["one"]),
            |_, _| Err(io::ErrorKind::StorageFull.into()),
        );
        assert!(matches!(full, Err(TableError::Io(_))));
    }
}
