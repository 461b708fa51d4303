//! Sparse files of every form: what Go's reader makes of them, and what it refuses.

use super::*;

/// An entry that an extended header of `KEY=VALUE` lines comes before.
fn announced(lines: &[&str], body: &[u8]) -> Vec<u8> {
    let pairs = lines.iter().map(|line| line.split_once('=').unwrap());
    let records: Vec<_> = pairs
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
        .collect();
    Tar::default()
        .extended(&records)
        .entry(b'0', "GNUSparseFile.1/a", "", body)
        .file("after", "")
        .end()
}

/// The same in form 1.0, with the map in front of the body.
fn in_lines(map: &str, size: &str, body: &[u8]) -> Vec<u8> {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(body);
    let size = format!("GNU.sparse.realsize={size}");
    let lines = [
        "GNU.sparse.major=1",
        "GNU.sparse.minor=0",
        "GNU.sparse.name=a",
        &size,
    ];
    announced(&lines, &content)
}

/// An old one: the regions of its header, how many blocks follow, its length.
fn old(regions: &[(u64, u64)], blocks: &[[u8; 512]], size: u64, body: &[u8]) -> Vec<u8> {
    let mut block = header(b'S', "a", "", body.len());
    block[257..265].copy_from_slice(b"ustar  \0");
    fill(&mut block[386..482], regions);
    block[482] = u8::from(!blocks.is_empty());
    block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
    let mut archive = Tar::default().header(&sealed(block));
    for block in blocks {
        archive = archive.header(block);
    }
    archive.body(body).file("after", "").end()
}

fn fill(field: &mut [u8], regions: &[(u64, u64)]) {
    for (place, (offset, length)) in field.chunks_exact_mut(24).zip(regions) {
        place.copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
}

/// A block of an old map; `more` says whether another one follows.
fn extension(regions: &[(u64, u64)], more: u8) -> [u8; 512] {
    let mut block = [0; 512];
    fill(&mut block[..504], regions);
    block[504] = more;
    block
}

/// Name and content of the first entry; the one behind it must be found.
fn first(archive: &[u8]) -> (String, Vec<u8>) {
    let entries = read(archive).unwrap();
    assert_eq!(entries[1].0.name, b"after");
    let name = String::from_utf8_lossy(&entries[0].0.name).into_owned();
    (name, entries[0].1.clone())
}

#[test]
fn holes_of_every_form_are_filled() {
    let expected = b"\0\0abc\0\0\0de\0".to_vec();
    let listed = [
        "GNU.sparse.numblocks=2",
        "GNU.sparse.offset=2",
        "GNU.sparse.numbytes=3",
        "GNU.sparse.offset=8",
        "GNU.sparse.numbytes=2",
        "GNU.sparse.size=11",
    ];
    let name = "GNUSparseFile.1/a".to_owned();
    assert_eq!(
        first(&announced(&listed, b"abcde")),
        (name, expected.clone())
    );
    let mapped = [
        "GNU.sparse.numblocks=2",
        "GNU.sparse.map=2,3,8,2",
        "GNU.sparse.size=11",
        "GNU.sparse.name=d/a",
    ];
    assert_eq!(
        first(&announced(&mapped, b"abcde")),
        ("d/a".to_owned(), expected.clone())
    );
    let lines = in_lines("2\n2\n3\n8\n2\n", "11", b"abcde");
    assert_eq!(first(&lines), ("a".to_owned(), expected.clone()));
    let blocks = [extension(&[], 1), extension(&[(8, 2)], 0)];
    let old = old(&[(2, 3)], &blocks, 11, b"abcde");
    assert_eq!(first(&old), ("a".to_owned(), expected));
}

#[test]
fn a_map_may_fill_many_blocks() {
    let regions: Vec<_> = (0..300).map(|at| format!("{}\n1\n", at * 2)).collect();
    let map = format!("300\n{}", regions.concat());
    let (_, content) = first(&in_lines(&map, "600", &[b'x'; 300]));
    assert_eq!(content, b"x\0".repeat(300));
}

#[test]
fn nothing_but_holes_is_nothing_but_zeros() {
    assert_eq!(first(&in_lines("0\n", "70000", b"")).1, vec![0; 70_000]);
    assert_eq!(first(&in_lines("1\n0\n0\n", "0", b"")).1, b"");
}

#[test]
fn what_does_not_fit_its_map_is_refused() {
    let ends = "2\n2\n3\n8\n2\n";
    assert_eq!(refusal(&in_lines(ends, "11", b"abcd")), "Sparse");
    assert_eq!(refusal(&in_lines(ends, "11", b"abcdef")), "Sparse");
    assert_eq!(refusal(&in_lines(ends, "9", b"abcde")), "Sparse");
    assert_eq!(refusal(&in_lines(ends, "-1", b"abcde")), "Sparse");
    assert_eq!(refusal(&in_lines("3\n2\n3\n", "11", b"abcde")), "Sparse");
    // The map must stand in whole blocks of the content.
    let short = ["GNU.sparse.major=1", "GNU.sparse.minor=0"];
    assert_eq!(refusal(&announced(&short, b"0\n")), "Sparse");
    // A directory has no content to have holes in.
    let directory = Tar::default()
        .extended(&[(b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.numblocks", b"1")])
        .directory("d");
    assert_eq!(refusal(&directory.end()), "Sparse");
    // Only GNU's own format has the old map.
    let mut block = header(b'S', "a", "", 0);
    assert_eq!(refusal(&Tar::default().header(&block).end()), "Sparse");
    block[257..265].copy_from_slice(b"ustar  \0");
    block[483] = b'x';
    assert_eq!(
        refusal(&Tar::default().header(&sealed(block)).end()),
        "Sparse"
    );
    let cut = old(&[], &[extension(&[], 1)], 0, b"");
    assert_eq!(refusal(&cut[..1024]), "Truncated");
}

#[test]
fn a_sparse_file_that_nobody_reads_is_skipped_as_it_was_written() {
    let archive = in_lines("1\n5\n9\n", "9", b"less than said");
    assert_eq!(refusal(&archive), "Sparse");
    let archive = in_lines("1\n5\n9\n", "999999999999", b"less than said");
    let mut reader = TarReader::new(archive.as_slice(), &limits(10));
    assert_eq!(reader.next().unwrap().unwrap().name, b"a");
    assert_eq!(reader.next().unwrap().unwrap().name, b"after");
}

#[test]
fn holes_beyond_the_limit_are_refused_before_they_are_filled() {
    assert_eq!(first(&in_lines("0\n", "1048576", b"")).1.len(), 1 << 20);
    let most = i64::MAX.to_string();
    assert_eq!(refusal(&in_lines("0\n", &most, b"")), "SparseTooLarge");
    // All files of a layer share the limit.
    let half = in_lines("0\n", "600000", b"");
    let both = [&half[..half.len() - 1024], &half].concat();
    assert_eq!(refusal(&both), "SparseTooLarge");
}
