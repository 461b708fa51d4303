//! Files whose holes were left out.

use super::{Case, file, ground, layer_of};
use crate::rawtar::{Block, Field, extended, padded};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::bytes_over(
            "sparse",
            &[
                listed("form-0.0", &[(2, 3), (8, 2)], "11", b"abcde"),
                mapped("form-0.1", "2", "2,3,8,2", "11", b"abcde"),
                lines("form-1.0", "2\n2\n3\n8\n2\n", "11", b"abcde"),
                lines("nothing-but-holes", "0\n", "70000", b""),
                lines("a-hole-at-the-end", "1\n0\n3\n", "100000", b"abc"),
                lines("empty", "0\n", "0", b""),
                lines("many", &many(300), "600", &[b'x'; 300]),
                lines("empty-regions", "3\n0\n0\n1\n1\n5\n0\n", "5", b"a"),
                versioned("form-2.0", "2", "0", b"as it is"),
                file("after", "x"),
            ],
        ),
        Case::bytes_over("sparse-old", &[old("old", &[(2, 3)], 11, b"abc")]),
        Case::bytes_over(
            "sparse-old-whiteout",
            &[old(".wh.bin", &[(2, 3)], 11, b"abc"), file("x", "x")],
        ),
        Case::bytes_over("sparse-old-of-star", &[Block::star(b'S', "a").sealed()]),
    ];
    cases.extend(malformed());
    cases
}

fn malformed() -> Vec<Case> {
    let ends = "2\n2\n3\n8\n2\n";
    let one = |name, bytes: Vec<u8>| Case::new(name, [ground(), layer_of(&[bytes])]);
    vec![
        one("sparse-too-little", lines("a", ends, "11", b"abcd")),
        one("sparse-too-much", lines("a", ends, "11", b"abcdef")),
        one("sparse-beyond-its-size", lines("a", ends, "9", b"abcde")),
        one(
            "sparse-overlapping",
            mapped("a", "2", "0,3,2,2", "11", b"abcde"),
        ),
        one(
            "sparse-backwards",
            mapped("a", "2", "8,2,2,3", "11", b"abcde"),
        ),
        one("sparse-negative", mapped("a", "1", "-1,5", "11", b"abcde")),
        one("sparse-negative-size", mapped("a", "0", "", "-1", b"")),
        one("sparse-odd-map", mapped("a", "2", "0,3,2", "11", b"abcde")),
        one(
            "sparse-without-a-count",
            mapped("a", "", "0,5", "11", b"abcde"),
        ),
        one(
            "sparse-wrong-count",
            mapped("a", "3", "0,5", "11", b"abcde"),
        ),
        one("sparse-map-cut", lines("a", "9\n1\n2\n", "11", b"")),
        one(
            "sparse-map-of-words",
            lines("a", "one\n0\n5\n", "11", b"abcde"),
        ),
        one("sparse-out-of-turn", {
            let records = [
                ("GNU.sparse.numbytes", b"1".as_slice()),
                ("GNU.sparse.offset", b"0"),
            ];
            [extended(&records), file("a", "x")].concat()
        }),
        one("sparse-directory", {
            let records = [
                ("GNU.sparse.map", b"0,0".as_slice()),
                ("GNU.sparse.numblocks", b"1"),
            ];
            [extended(&records), Block::ustar(b'5', "d").sealed()].concat()
        }),
    ]
}

/// A file whose map is a list of records.
fn listed(name: &str, regions: &[(u64, u64)], size: &str, body: &[u8]) -> Vec<u8> {
    let count = regions.len().to_string();
    let numbers: Vec<(String, String)> = regions
        .iter()
        .map(|(offset, length)| (offset.to_string(), length.to_string()))
        .collect();
    let mut records = vec![
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", count.as_bytes()),
    ];
    for (offset, length) in &numbers {
        records.push(("GNU.sparse.offset", offset.as_bytes()));
        records.push(("GNU.sparse.numbytes", length.as_bytes()));
    }
    [extended(&records), Block::ustar(b'0', name).with(body)].concat()
}

/// A file whose map is one record.
fn mapped(name: &str, count: &str, map: &str, size: &str, body: &[u8]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.size", size),
        ("GNU.sparse.numblocks", count),
        ("GNU.sparse.map", map),
    ]
    .map(|(key, value)| (key, value.as_bytes()));
    [
        extended(&records),
        Block::ustar(b'0', "GNUSparseFile.1/x").with(body),
    ]
    .concat()
}

/// A file whose map stands in front of its content.
fn lines(name: &str, map: &str, size: &str, body: &[u8]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", size),
    ]
    .map(|(key, value)| (key, value.as_bytes()));
    let content = [padded(map.as_bytes()), body.to_vec()].concat();
    [
        extended(&records),
        Block::ustar(b'0', "GNUSparseFile.1/x").with(&content),
    ]
    .concat()
}

fn versioned(name: &str, major: &str, minor: &str, body: &[u8]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", major.as_bytes()),
        ("GNU.sparse.minor", minor.as_bytes()),
    ];
    [extended(&records), Block::ustar(b'0', name).with(body)].concat()
}

fn many(count: u64) -> String {
    let regions = (0..count).flat_map(|at| [at * 2, 1]);
    let numbers = std::iter::once(count).chain(regions);
    let lines: Vec<String> = numbers.map(|number| number.to_string()).collect();
    lines.join("\n") + "\n"
}

/// A file of GNU's own type, with one block more than its map needs.
fn old(name: &str, regions: &[(u64, u64)], size: u64, body: &[u8]) -> Vec<u8> {
    let mut block = Block::gnu(b'S', name);
    for (index, (offset, length)) in regions.iter().enumerate() {
        let region = format!("{offset:011o}\0{length:011o}\0");
        block = block.put(386 + 24 * index, region.as_bytes());
    }
    block = block
        .put(482, &[1])
        .put(483, format!("{size:011o}\0").as_bytes())
        .octal(Field::Size, u64::try_from(body.len()).unwrap());
    [block.sealed(), vec![0; 512], padded(body)].concat()
}
