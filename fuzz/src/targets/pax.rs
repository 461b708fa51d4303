//! The records of an extended header: what is read of them is what a plain reading of the format gives.

use std::collections::BTreeMap;

use holdfast_core::layer::fuzzing::{Content, members};

use super::tar::LIMITS;
use crate::archive::{Archive, records_of};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "pax",
    check,
    max_bytes: 2 << 10,
    seeds,
    words: &[
        "path=",
        "linkpath=",
        "size=",
        "uid=",
        "gid=",
        "mtime=",
        "atime=",
        "uname=",
        "comment=",
        "hdrcharset=BINARY",
        "SCHILY.xattr.",
        "SCHILY.xattr.security.capability=",
        "LIBARCHIVE.xattr.",
        "GNU.sparse.major=",
        "GNU.sparse.minor=",
        "GNU.sparse.name=",
        "GNU.sparse.realsize=",
        "GNU.sparse.size=",
        "GNU.sparse.numblocks=",
        "GNU.sparse.offset=",
        "GNU.sparse.numbytes=",
        "GNU.sparse.map=",
    ],
    repair: as_it_is,
};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn check(bytes: &[u8]) {
    let archive = Archive::default()
        .entry(b'x', "x", "", bytes)
        .entry(b'0', "name", "link", &[b'c'; 700])
        .end();
    let (members, refusal) = members(archive.as_slice(), &LIMITS, Content::All);
    if refusal.is_some() {
        assert!(members.len() <= 2);
        return;
    }
    let records = records(bytes).expect("accepted what is no sequence of records");
    if records.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
        return; // what is behind the header is another format
    }
    let member = &members[0];
    assert_eq!(member.name, text(&records, "path", b"name"));
    assert_eq!(member.link, text(&records, "linkpath", b"link"));
    for (key, number) in [("uid", member.numbers[1]), ("gid", member.numbers[2])] {
        let written = text(&records, key, b"0");
        assert_eq!(std::str::from_utf8(&written).unwrap().parse(), Ok(number));
    }
    let length = text(&records, "size", b"700");
    let length: usize = std::str::from_utf8(&length).unwrap().parse().unwrap();
    assert_eq!(member.content.len(), length);
    let attribute = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        let name = key.strip_prefix(b"SCHILY.xattr.".as_slice())?;
        Some((name.to_vec(), value.clone()))
    };
    let expected: Records = records.iter().filter_map(attribute).collect();
    assert_eq!(member.xattrs.len(), expected.len());
    assert_eq!(member.xattrs.iter().cloned().collect::<Records>(), expected);
}

/// The value of a key; an empty one changes nothing.
fn text(records: &Records, key: &str, otherwise: &[u8]) -> Vec<u8> {
    let value = records.get(key.as_bytes());
    let value = value.filter(|value| !value.is_empty());
    value.map_or_else(|| otherwise.to_vec(), Clone::clone)
}

/// `LENGTH KEY=VALUE\n`, again and again; of equal keys the last one counts.
fn records(mut bytes: &[u8]) -> Option<Records> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Some(records)
}

fn seeds() -> Vec<Vec<u8>> {
    let long = "l".repeat(300);
    vec![
        Vec::new(),
        records_of(&[("path", b"a/b"), ("linkpath", b"c"), ("size", b"1")]),
        records_of(&[("uid", b"4294967296"), ("gid", b"-1"), ("mtime", b"1.5")]),
        records_of(&[("path", b"first"), ("path", b"second"), ("path", b"")]),
        records_of(&[
            ("SCHILY.xattr.user.a", b"\0\n=\xff"),
            ("SCHILY.xattr.security.capability", &[1, 0, 0, 2]),
            ("SCHILY.xattr.", b"x"),
        ]),
        records_of(&[("path", long.as_bytes())]),
        records_of(&[
            ("GNU.sparse.size", b"9"),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"9"),
        ]),
        records_of(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]),
        b"6 a=b\n7 c=d".to_vec(),
    ]
}
