//! Archives of every format, cut, damaged and hostile.

use proptest::prelude::*;

mod holes;

use super::*;
use crate::layer::fixture::{Tar, header, record, sealed};

type Contents = Vec<(Header, Vec<u8>)>;

/// Every entry with its content.
fn read(bytes: &[u8]) -> Result<Contents, TarError> {
    read_at_most(bytes, 1000)
}

fn read_at_most(bytes: &[u8], limit: u64) -> Result<Contents, TarError> {
    // A small buffer, so that every piece is cut somewhere.
    let mut reader = TarReader::new(io::BufReader::with_capacity(100, bytes), &limits(limit));
    let mut entries = Vec::new();
    while let Some(header) = reader.next()? {
        let mut content = Vec::new();
        reader.content(|piece| content.extend_from_slice(piece))?;
        entries.push((header, content));
    }
    Ok(entries)
}

fn limits(entries: u64) -> Limits {
    Limits {
        entries,
        uncompressed_bytes: 1 << 20,
        ..Limits::default()
    }
}

fn names(bytes: &[u8]) -> Vec<String> {
    let entries = read(bytes).unwrap();
    let name = |(header, _): &(Header, _)| String::from_utf8_lossy(&header.name).into_owned();
    entries.iter().map(name).collect()
}

fn refusal(bytes: &[u8]) -> String {
    format!("{:?}", read(bytes).unwrap_err())
}

#[test]
fn entries_come_with_their_contents_in_their_order() {
    let archive = Tar::default()
        .directory("d/")
        .file("d/a", &"x".repeat(513))
        .symlink("d/l", "a")
        .char_device("null", 1, 3)
        .file("empty", "")
        .end();
    let entries = read(&archive).unwrap();
    let flags: Vec<u8> = entries.iter().map(|(header, _)| header.flag).collect();
    assert_eq!(flags, b"50230");
    assert_eq!(entries[0].0.mode, 0o755);
    assert_eq!(entries[1].1, "x".repeat(513).as_bytes());
    assert_eq!(entries[2].0.link, b"a");
    assert_eq!((entries[3].0.major, entries[3].0.minor), (1, 3));
    assert_eq!(entries[4].1, b"");
}

#[test]
fn a_skipped_content_is_not_read_as_headers() {
    let archive = Tar::default()
        .file("a", &"y".repeat(2000))
        .file("b", "")
        .end();
    let mut reader = TarReader::new(archive.as_slice(), &limits(10));
    assert_eq!(reader.next().unwrap().unwrap().name, b"a");
    assert_eq!(reader.next().unwrap().unwrap().name, b"b");
    assert!(reader.next().unwrap().is_none());
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn long_names_of_every_format_are_read() {
    let long = "n".repeat(300);
    let gnu = Tar::default()
        .entry(b'L', "././@LongLink", "", format!("{long}\0").as_bytes())
        .entry(b'K', "././@LongLink", "", b"target\0ignored")
        .symlink("short", "short")
        .end();
    let entries = read(&gnu).unwrap();
    assert_eq!(entries[0].0.name, long.as_bytes());
    assert_eq!(entries[0].0.link, b"target");

    let pax = Tar::default()
        .extended(&[
            (b"path", long.as_bytes()),
            (b"linkpath", b"t"),
            (b"uid", b"4000000000"),
        ])
        .file("short", "")
        .end();
    let entries = read(&pax).unwrap();
    assert_eq!(
        (entries[0].0.name.as_slice(), entries[0].0.uid),
        (long.as_bytes(), 4_000_000_000)
    );

    let mut block = header(b'0', "name", "", 0);
    block[345..351].copy_from_slice(b"prefix");
    let ustar = Tar::default().header(&sealed(block)).end();
    assert_eq!(names(&ustar), ["prefix/name"]);
}

#[test]
fn the_old_formats_keep_other_things_where_ustar_has_its_prefix() {
    let mut gnu = header(b'0', "name", "", 0);
    gnu[257..265].copy_from_slice(b"ustar  \0");
    gnu[345..357].copy_from_slice(b"00000000017\0");
    assert_eq!(names(&Tar::default().header(&sealed(gnu)).end()), ["name"]);
    // Go once wrote a prefix there.
    gnu[345..357].copy_from_slice(b"prefix/to\0\0\0");
    assert_eq!(
        names(&Tar::default().header(&sealed(gnu)).end()),
        ["prefix/to/name"]
    );

    let mut star = header(b'0', "name", "", 0);
    star[508..].copy_from_slice(b"tar\0");
    star[345..351].copy_from_slice(b"prefix");
    star[476..488].copy_from_slice(b"00000000017\0");
    assert_eq!(
        names(&Tar::default().header(&sealed(star)).end()),
        ["prefix/name"]
    );
    star[476] = b'x';
    assert_eq!(
        refusal(&Tar::default().header(&sealed(star)).end()),
        r#"Number("atime or ctime")"#
    );

    // Before ustar there were no device numbers, and a slash made a directory.
    let mut oldest = header(0, "name/", "", 600);
    oldest[257..265].fill(0);
    oldest[329..337].fill(b'z');
    let entries = read(&Tar::default().header(&sealed(oldest)).end()).unwrap();
    assert_eq!((entries[0].0.flag, entries[0].0.major), (b'5', 0));
}

#[test]
fn the_last_extended_header_counts_and_replaces_the_one_before() {
    let archive = Tar::default()
        .extended(&[(b"path", b"first"), (b"uid", b"7")])
        .extended(&[(b"path", b"second")])
        .file("own", "")
        .file("next", "")
        .end();
    let entries = read(&archive).unwrap();
    assert_eq!(
        (entries[0].0.name.as_slice(), entries[0].0.uid),
        (b"second".as_slice(), 0)
    );
    assert_eq!(entries[1].0.name, b"next");
}

#[test]
fn gnu_names_win_over_extended_ones() {
    let archive = Tar::default()
        .extended(&[(b"path", b"extended")])
        .entry(b'L', "", "", b"gnu\0")
        .file("own", "")
        .end();
    assert_eq!(names(&archive), ["gnu"]);
}

#[test]
fn a_global_header_is_an_entry_and_forgets_what_was_announced() {
    let archive = Tar::default()
        .extended(&[(b"path", b"forgotten")])
        .entry(
            b'g',
            "pax_global_header",
            "",
            &record(b"comment", b"a commit"),
        )
        .file("own", "")
        .entry(b'g', "other", "", &record(b"path", b"named"))
        .end();
    assert_eq!(names(&archive), ["pax_global_header", "own", "named"]);
    let ambiguous = [record(b"path", b"named"), record(b"uid", b"x")].concat();
    assert_eq!(
        refusal(&Tar::default().entry(b'g', "g", "", &ambiguous).end()),
        "ExtendedHeader"
    );
}

#[test]
fn attributes_keep_every_byte_of_their_value() {
    let value = b"\x01\0\0\x02\n\xff=\n";
    let archive = Tar::default()
        .extended(&[
            (b"SCHILY.xattr.security.capability", value),
            (b"LIBARCHIVE.xattr.user.x", b"eA=="),
            (b"SCHILY.xattr.user.empty", b""),
        ])
        .file("a", "")
        .end();
    let entries = read(&archive).unwrap();
    let expected = [
        (b"security.capability".to_vec(), value.to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
    ];
    assert_eq!(entries[0].0.xattrs, expected);
}

#[test]
fn a_size_in_an_extended_header_counts() {
    let archive = Tar::default()
        .extended(&[(b"size", b"3")])
        .header(&header(b'0', "a", "", 0))
        .body(b"abc")
        .file("b", "")
        .end();
    let entries = read(&archive).unwrap();
    assert_eq!(
        (entries[0].1.as_slice(), entries[1].0.name.as_slice()),
        (b"abc".as_slice(), b"b".as_slice())
    );
}

#[test]
fn links_and_directories_have_no_content_whatever_their_size() {
    let archive = Tar::default()
        .header(&header(b'1', "h", "a", 5000))
        .header(&header(b'5', "d", "", 5000))
        .file("b", "")
        .end();
    assert_eq!(names(&archive), ["h", "d", "b"]);
}

#[test]
fn an_archive_may_end_as_go_lets_it_end() {
    let entry = Tar::default().file("a", "abc").0;
    let with = |rest: &[u8]| [entry.as_slice(), rest].concat();
    assert_eq!(names(&[]), [""; 0]);
    assert_eq!(names(&entry), ["a"]);
    assert_eq!(names(&with(&[0; 512])), ["a"]);
    assert_eq!(names(&entry[..512 + 3]), ["a"]); // without its padding
    assert_eq!(
        names(&with(&Tar::default().extended(&[(b"path", b"x")]).0)),
        ["a"]
    );
    assert_eq!(refusal(&with(&[0; 600])), "Truncated");
    assert_eq!(refusal(&entry[..512 + 2]), "Truncated");
    assert_eq!(refusal(&entry[..511]), "Truncated");
    assert_eq!(
        refusal(&with(&Tar(vec![0; 512]).file("b", "").0)),
        "LoneZeroBlock"
    );
}

#[test]
fn what_lies_behind_the_end_is_counted() {
    let drained = |behind: &[u8]| {
        let archive = [Tar::default().file("a", "").end().as_slice(), behind].concat();
        let mut reader = TarReader::new(
            io::BufReader::with_capacity(100, archive.as_slice()),
            &limits(10),
        );
        while reader.next().unwrap().is_some() {}
        reader.drain().unwrap()
    };
    assert_eq!(drained(&[]), 0);
    assert_eq!(drained(&[0; 9000]), 0);
    assert_eq!(
        drained(&[vec![0; 700], b"x".to_vec(), vec![0; 700]].concat()),
        701
    );
}

#[test]
fn every_refusal_has_its_name() {
    let with = |change: &dyn Fn(&mut [u8; 512])| {
        let mut block = header(b'0', "a", "", 0);
        change(&mut block);
        Tar::default().header(&sealed(block)).end()
    };
    assert_eq!(
        refusal(&with(&|block| block[100] = b'9')),
        r#"Number("mode")"#
    );
    assert_eq!(
        refusal(&with(&|block| block[140] = b'x')),
        r#"Number("mtime")"#
    );
    assert_eq!(
        refusal(&with(&|block| block[124..136].fill(0xff))),
        "NegativeSize"
    );
    let mut unsealed = header(b'0', "a", "", 0);
    unsealed[0] = b'b';
    assert_eq!(refusal(&Tar::default().header(&unsealed).end()), "Checksum");

    let size = Tar::default().extended(&[(b"size", b"-1")]).file("a", "");
    assert_eq!(refusal(&size.end()), "NegativeSize");
    let record = Tar::default()
        .entry(b'x', "x", "", b"12 path=abc")
        .file("a", "");
    assert_eq!(refusal(&record.end()), "ExtendedHeader");

    let bomb = vec![b'n'; HEADER_BYTES + 1];
    assert_eq!(
        refusal(&Tar::default().entry(b'x', "x", "", &bomb).end()),
        "HeaderTooLong"
    );
    assert_eq!(
        refusal(&Tar::default().entry(b'L', "x", "", &bomb).end()),
        "HeaderTooLong"
    );
}

#[test]
fn names_are_as_long_as_their_headers() {
    let path = vec![b'/'; HEADER_BYTES - 100];
    let long = Tar::default().entry(b'L', "x", "", &path).file("a", "");
    assert_eq!(read(&long.end()).unwrap()[0].0.name, path);
    let long = Tar::default()
        .extended(&[(b"linkpath", &path)])
        .symlink("a", "b");
    assert_eq!(read(&long.end()).unwrap()[0].0.link, path);
}

#[test]
fn a_header_that_says_it_is_huge_allocates_nothing() {
    let mut block = header(b'x', "x", "", 0);
    block[124..136].copy_from_slice(b"77777777777\0");
    let archive = Tar::default().header(&sealed(block)).end();
    assert_eq!(refusal(&archive), "HeaderTooLong");
    block[156] = b'0';
    assert_eq!(
        refusal(&Tar::default().header(&sealed(block)).end()),
        "Truncated"
    );
}

#[test]
fn more_entries_than_the_limit_are_refused() {
    let archive = Tar::default()
        .file("a", "")
        .file("b", "")
        .file("c", "")
        .end();
    assert_eq!(read_at_most(&archive, 3).unwrap().len(), 3);
    let refused = read_at_most(&archive, 2);
    assert!(matches!(refused, Err(TarError::TooManyEntries(2))));
}

#[test]
fn an_archive_cut_anywhere_gives_its_beginning_or_a_refusal() {
    let archive = Tar::default()
        .extended(&[(b"path", b"long name"), (b"SCHILY.xattr.user.x", b"1")])
        .file("a", "content")
        .entry(b'L', "", "", b"longer\0")
        .symlink("b", "a")
        .directory("c")
        .end();
    let whole = read(&archive).unwrap();
    for length in 0..archive.len() {
        match read(&archive[..length]) {
            Ok(entries) => assert!(whole.starts_with(&entries), "{length}"),
            Err(TarError::Truncated) => {}
            Err(other) => panic!("{length}: {other}"),
        }
    }
}

proptest! {
    #[test]
    fn a_damaged_archive_is_refused_or_read_but_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        is_sealed in any::<bool>(),
    ) {
        let mut bytes = Tar::default()
            .extended(&[(b"path", b"long name"), (b"size", b"7"), (b"mtime", b"1.5")])
            .file("a", "content")
            .entry(b'g', "g", "", &record(b"comment", b"x"))
            .entry(b'K', "", "", b"longer\0")
            .symlink("b", "a")
            .end();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if is_sealed {
            // A checksum that is right lets the damage through to what is behind it.
            for block in bytes.chunks_exact_mut(512).filter(|block| block.iter().any(|byte| *byte != 0)) {
                let resealed = sealed(block.try_into().unwrap());
                block.copy_from_slice(&resealed);
            }
        }
        let kept = cut.index(bytes.len()) + 1;
        let read = read(&bytes[..kept]);
        let content: usize = read.iter().flatten().map(|(_, content)| content.len()).sum();
        prop_assert!(content <= kept);
    }
}
