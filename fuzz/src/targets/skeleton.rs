//! A skeleton that anybody may have made: it is read within the bounds of a layer, looks at each file once, and
//! proves nothing that does not hash to its layer.
//!
//! The input is a skeleton's file, or its sections before they are compressed, which a mutation can reach.

use std::collections::BTreeMap;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::fuzzing::{assembled, seal_skeleton};
use holdfast_core::layer::skeleton::{
    Contents, Digests, Inode, Plan, ProofError, Skeleton, Unfit, make,
};

use super::tar::{LIMITS, seeds as archives};
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "skeleton",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &["hfskel\0\u{1}", "ustar\x0000", ".wh.", ".wh..wh..opq"],
    repair,
};

fn repair(input: &mut [u8]) {
    if is_file(input) {
        seal_skeleton(input);
    }
}

fn is_file(input: &[u8]) -> bool {
    input.starts_with(b"hfskel")
}

/// What a hostile skeleton is read from: a file of any length at every path, all of them one inode or each its
/// own.
#[derive(Debug, Default)]
struct Disk {
    is_one_inode: bool,
    length: u64,
    read: u64,
    opened: u64,
}

impl Contents for Disk {
    fn open(&mut self, path: &[u8], size: u64) -> Result<Option<Inode>, Unfit> {
        assert!(!path.is_empty() && !path.starts_with(b"/"));
        assert!(
            path.split(|byte| *byte == b'/')
                .all(|name| !matches!(name, b"" | b"." | b".."))
        );
        self.opened += 1;
        self.length = size;
        let number = if self.is_one_inode { 1 } else { self.opened };
        Ok(Some(Inode { device: 1, number }))
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Unfit> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(buf.len());
        buf[..length].fill(0);
        self.read += u64::try_from(length).unwrap();
        Ok(length)
    }
}

fn check(input: &[u8]) {
    let skeleton = if is_file(input) {
        Skeleton::decode(input.to_vec()).ok()
    } else {
        of_sections(input)
    };
    let Some(skeleton) = skeleton else {
        return;
    };
    let again = Skeleton::decode(skeleton.encoded().to_vec());
    assert_eq!(again.as_ref(), Ok(&skeleton));
    check_proof(&skeleton, Disk::default());
    let one = Disk {
        is_one_inode: true,
        ..Disk::default()
    };
    check_proof(&skeleton, one);
}

fn check_proof(skeleton: &Skeleton, mut disk: Disk) {
    let proved = Plan::of(skeleton, &[], &LIMITS).and_then(|plan| plan.prove(&mut disk));
    match proved {
        Ok(table) => assert_eq!(table.diff_id(), skeleton.diff_id()),
        Err(ProofError::Failed(failure)) => assert_eq!(failure.expected, skeleton.diff_id()),
        Err(other) => assert!(!other.reason().is_empty()),
    }
    assert!(disk.opened <= 2 * LIMITS.entries);
    // Once for the proof, once to say what differs, and at most a piece too much each time.
    assert!(disk.read <= 2 * (LIMITS.uncompressed_bytes + (1 << 20)));
}

/// Lengths of structure and inline content, which entry is inline, how long it is, and the bytes.
fn of_sections(input: &[u8]) -> Option<Skeleton> {
    let (head, rest) = input.split_first_chunk::<4>()?;
    let [structure, inline, entry, length] = *head;
    let (structure, rest) = rest.split_at_checked(usize::from(structure) * 16)?;
    let (inline, digests) = rest.split_at_checked(usize::from(inline))?;
    let mut index = BTreeMap::new();
    if length != 0 {
        index.insert(u64::from(entry), u64::from(length));
    }
    let digests = &digests[..digests.len() / 32 * 32];
    assembled(
        DiffId(Digest::of(input)),
        structure,
        &index,
        inline,
        digests,
    )
    .ok()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for archive in archives() {
        let digest = Digest::of(&archive);
        let open = || Ok(archive.as_slice());
        for digests in [Digests::Carried, Digests::LeftOut] {
            let made = make(open, digest, DiffId(digest), &LIMITS, digests);
            if let Ok(skeleton) = made.map(|made| made.skeleton) {
                seeds.push(skeleton.unwrap().encoded().to_vec());
            }
        }
    }
    // A header as a literal, with a file of five bytes; then the end.
    let header = crate::archive::header(b'0', "a", "", 5);
    let literal = [[4, 0x80, 0x04].as_slice(), header.as_bytes(), &[0, 0, 0]].concat();
    let filled = literal.len().next_multiple_of(16);
    let mut sections = vec![u8::try_from(filled / 16).unwrap(), 5, 0, 5];
    sections.extend_from_slice(&literal);
    sections.resize(4 + filled, 0);
    sections.extend_from_slice(b"hello");
    seeds.push(sections);
    seeds
}
