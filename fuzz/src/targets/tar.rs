//! A layer's archive: read the same in pieces as at once, and the table made of it says the same. Where the
//! `tar` crate reads the same kind of archive, both see the same files.

use std::io::{BufRead, BufReader, Read};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::fuzzing::{Content, Member, members};
use holdfast_core::layer::{FileTable, Limits, TableError, TarError};

use crate::Target;
use crate::archive::{Archive, header, records_of, seal};

pub(super) const TARGET: Target = Target {
    name: "tar",
    check,
    max_bytes: 8 << 10,
    seeds,
    words: &[
        "ustar\0",
        "ustar\x0000",
        "ustar  \0",
        "tar\0",
        "path=",
        "linkpath=",
        "size=",
        "mtime=",
        "SCHILY.xattr.",
        "LIBARCHIVE.xattr.",
        "GNU.sparse.major=1",
        "GNU.sparse.map=",
        "GNU.sparse.realsize=",
        ".wh.",
        ".wh..wh..opq",
        "../",
        "./",
    ],
    repair: seal,
};

/// What a table may be here. The archive's own bound is that of the input.
pub(super) const LIMITS: Limits = Limits {
    entries: 200,
    uncompressed_bytes: 1 << 20,
    table_bytes: 1 << 20,
};

/// What the holes of sparse files may come to under these limits.
const MAX_HOLES: usize = 1 << 20;

fn check(bytes: &[u8]) {
    let read = |archive: &mut dyn BufRead, content| members(archive, &LIMITS, content);
    let (whole, refusal) = read(&mut &*bytes, Content::All);
    let held: usize = whole.iter().map(|member| member.content.len()).sum();
    assert!(held <= bytes.len() + MAX_HOLES);
    for size in [1, 511, 700] {
        let mut pieces = BufReader::with_capacity(size, bytes);
        let (in_pieces, again) = read(&mut pieces, Content::All);
        assert_eq!(in_pieces, whole, "in pieces of {size}");
        let refused = (shown(again.as_ref()), shown(refusal.as_ref()));
        assert_eq!(refused.0, refused.1, "in pieces of {size}");
    }
    let (of_files, refusal_of_files) = read(&mut &*bytes, Content::OfFiles);
    check_skipping(&whole, &of_files);
    check_table(bytes, &of_files, refusal_of_files.as_ref());
    if refusal.is_none() && is_plain(&whole) {
        check_against_other_reader(bytes, &whole);
    }
}

/// Who skips the contents sees the same entries, and may see more behind one that cannot be read.
fn check_skipping(whole: &[Member], of_files: &[Member]) {
    assert!(of_files.len() >= whole.len());
    for (read, of_files) in whole.iter().zip(of_files) {
        let mut expected = read.clone();
        if read.flag != b'0' {
            expected.content.clear();
        }
        assert_eq!(expected, *of_files);
    }
}

fn shown(refusal: Option<&TarError>) -> String {
    refusal.map_or_else(String::new, ToString::to_string)
}

/// The table is built exactly if the archive is read, and is the same each time.
fn check_table(bytes: &[u8], whole: &[Member], refusal: Option<&TarError>) {
    let digest = Digest::of(bytes);
    let build = || FileTable::build(bytes, digest, DiffId(digest), &LIMITS);
    match (build(), refusal) {
        (Ok(table), None) => {
            assert_eq!(usize::try_from(table.entries()), Ok(whole.len()));
            assert_eq!(table.digest(), build().unwrap().digest());
            let decoded = FileTable::decode(table.encoded().to_vec()).unwrap();
            assert_eq!(decoded.encoded(), table.encoded());
        }
        (Err(TableError::Tar(error)), Some(refusal)) => {
            assert_eq!(error.to_string(), refusal.to_string());
        }
        // Blobs that begin as a compressed one are `frames`' business.
        (_, _) if !is_raw(bytes) => {}
        (table, refusal) => panic!("built {table:?}, read {refusal:?}"),
    }
}

/// Whether a blob of these bytes is the archive itself.
pub(super) fn is_raw(bytes: &[u8]) -> bool {
    let is_skippable = matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    !is_skippable && !bytes.starts_with(b"\x1f\x8b") && !bytes.starts_with(b"\x28\xb5\x2f\xfd")
}

/// Whether nothing in it is a matter of dialects.
fn is_plain(members: &[Member]) -> bool {
    let is_plain = |member: &Member| {
        matches!(member.flag, b'0'..=b'6')
            && member.xattrs.is_empty()
            && member
                .numbers
                .iter()
                .all(|number| (0..1 << 21).contains(number))
    };
    members.iter().all(is_plain)
}

/// What it refuses it refuses; what it reads are the same names, types and contents.
fn check_against_other_reader(bytes: &[u8], ours: &[Member]) {
    let has_headers_of_headers = bytes.chunks(512).any(|block| {
        matches!(
            block.get(156),
            Some(b'x' | b'g' | b'L' | b'K' | b'X' | b'S' | 0)
        )
    });
    if has_headers_of_headers {
        return;
    }
    let mut archive = tar::Archive::new(bytes);
    let mut theirs = Vec::new();
    for entry in archive.entries().unwrap() {
        let Ok(mut entry) = entry else { return };
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_err() {
            return;
        }
        theirs.push((
            entry.header().entry_type().as_byte(),
            entry.path_bytes().into_owned(),
            content,
        ));
    }
    // It stops at the first block of zeros, we look at the one behind it.
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if ours.flag != b'0' && !theirs.2.is_empty() {
            return; // it reads contents behind links and directories
        }
        assert_eq!(
            (ours.flag, &ours.name, &ours.content),
            (theirs.0, &theirs.1, &theirs.2)
        );
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut gnu = tar::Header::new_gnu();
    gnu.set_entry_type(tar::EntryType::Regular);
    gnu.set_path("gnu").unwrap();
    gnu.set_size(3);
    gnu.set_uid(1 << 40);
    gnu.set_cksum();
    let mut sparse = header(b'S', "sparse", "", 512);
    sparse.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
    sparse.as_mut_bytes()[386..410].copy_from_slice(b"00000000000\x0000000001000\0");
    sparse.as_mut_bytes()[483..495].copy_from_slice(b"00000010000\0");
    sparse.set_cksum();
    let mut old = header(0, "old/", "", 0);
    old.as_mut_bytes()[257..].fill(0);
    old.set_cksum();
    let mut prefixed = header(b'0', "name", "", 0);
    prefixed.as_mut_bytes()[345..351].copy_from_slice(b"prefix");
    prefixed.set_cksum();
    let global = records_of(&[("path", b"global"), ("comment", b"x")]);
    let xattr = [("SCHILY.xattr.user.a", b"b\nc\0".as_slice())];
    vec![
        Archive::default()
            .entry(b'5', "d/", "", b"")
            .file("d/a", "content")
            .entry(b'2', "d/l", "a", b"")
            .entry(b'1', "d/h", "d/a", b"")
            .entry(b'3', "null", "", b"")
            .entry(b'6', "fifo", "", b"")
            .end(),
        Archive::default()
            .extended(&[("path", b"long"), ("size", b"7"), ("mtime", b"1.5")])
            .file("a", "content")
            .extended(&xattr)
            .file("b", "")
            .end(),
        Archive::default()
            .entry(b'g', "g", "", &global)
            .entry(b'L', "././@LongLink", "", b"longer name\0")
            .entry(b'K', "././@LongLink", "", b"longer link\0")
            .entry(b'2', "b", "a", b"")
            .cut(),
        Archive::default()
            .header(&gnu, b"abc")
            .header(&prefixed, b"")
            .header(&old, b"")
            .end(),
        Archive::default().header(&sparse, &[b'x'; 512]).end(),
        Archive::default()
            .extended(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", b"4096"),
            ])
            .entry(b'0', "GNUSparseFile.0/s", "", b"1\n0\n5\nhello")
            .end(),
        Archive::default()
            .extended(&[("GNU.sparse.map", b"0,1,5,1"), ("GNU.sparse.size", b"9")])
            .file("s", "ab")
            .end(),
    ]
}
