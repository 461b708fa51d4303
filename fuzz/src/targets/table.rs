//! A table's file: what is read is what was written, and no other bytes are it.

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::fuzzing::seal_table;
use holdfast_core::layer::{FileTable, Snapshotter, place};

use super::tar::{LIMITS, seeds as archives};
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "table",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &[
        "hftable",
        "security.capability",
        "user.",
        ".wh.",
        ".wh..wh..opq",
    ],
    repair: seal_table,
};

/// How many bits of each file are flipped.
const FLIPS: usize = 4;

fn check(file: &[u8]) {
    let table = match FileTable::decode(file.to_vec()) {
        Ok(table) => table,
        Err(damage) => {
            assert_eq!(FileTable::decode(file.to_vec()).unwrap_err(), damage);
            return;
        }
    };
    assert_eq!(table.encoded(), file);
    assert!(usize::try_from(table.entries()).unwrap() <= file.len());
    check_flips(file, |flipped| FileTable::decode(flipped).is_err());
    let placed = || place(&table, Snapshotter::Overlayfs, &[]);
    if let (Ok(first), Ok(second)) = (placed(), placed()) {
        let (mut tree, mut again) = (Vec::new(), Vec::new());
        first.write(&mut tree).unwrap();
        second.write(&mut again).unwrap();
        assert_eq!(tree, again);
    }
}

/// Bits that the file's own digest picks.
pub(super) fn check_flips(file: &[u8], is_refused: impl Fn(Vec<u8>) -> bool) {
    let digest = Digest::of(file);
    for bytes in digest.as_bytes().chunks_exact(4).take(FLIPS) {
        let at = u32::from_le_bytes(bytes.try_into().unwrap());
        let at = usize::try_from(at).unwrap() % (file.len() * 8);
        let mut flipped = file.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(is_refused(flipped), "bit {at} does not matter");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let table = |archive: &Vec<u8>| {
        let digest = Digest::of(archive);
        let table = FileTable::build(archive.as_slice(), digest, DiffId(digest), &LIMITS);
        Some(table.ok()?.encoded().to_vec())
    };
    archives().iter().filter_map(table).collect()
}
