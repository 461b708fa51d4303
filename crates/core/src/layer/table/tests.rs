//! Blobs in every compression, wrong, cut and mutated; table files with damage in every place.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::layer::fixture::{Tar, record, table};
use crate::layer::{Marker, Snapshotter, place};

fn sample() -> Vec<u8> {
    Tar::default()
        .directory("bin/")
        .file("bin/tool", "\x7fELF")
        .hard_link("bin/again", "bin/tool")
        .extended(&[(b"SCHILY.xattr.user.x", b"1\n2")])
        .file("bin/script", "#!/bin/sh\n")
        .symlink("l", "bin/tool")
        .file("page", "<html><?php system($x); ?>")
        .file("bin/.wh.old", "")
        .entry(b'g', "g", "", &record(b"comment", b"x"))
        .entry(b'V', "volume", "", b"")
        .end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// The table of a blob whose archive is known.
fn of_blob(blob: &[u8], archive: &[u8]) -> Result<FileTable, TableError> {
    let diff_id = DiffId(Digest::of(archive));
    FileTable::build(blob, Digest::of(blob), diff_id, &Limits::default())
}

#[test]
fn every_entry_is_recorded_as_it_was_written() {
    let table = table(&sample()).unwrap();
    let records: Vec<Record> = table.records().map(Result::unwrap).collect();
    assert_eq!(table.entries(), 9);
    let names: Vec<_> = records
        .iter()
        .map(|record| record.name.escape_ascii().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "bin/",
            "bin/tool",
            "bin/again",
            "bin/script",
            "l",
            "page",
            "bin/.wh.old",
            "g",
            "volume"
        ]
    );
    let file = |content: &str, marker| Kind::File {
        size: content.len().try_into().unwrap(),
        digest: Digest::of(content.as_bytes()),
        marker,
    };
    assert_eq!(records[1].kind, file("\x7fELF", Marker::Elf));
    assert_eq!(
        records[2].kind,
        Kind::HardLink {
            target: b"bin/tool".into()
        }
    );
    assert_eq!(records[3].kind, file("#!/bin/sh\n", Marker::Shebang));
    assert_eq!(records[3].xattrs, [(b"user.x".to_vec(), b"1\n2".to_vec())]);
    assert_eq!(
        records[4].kind,
        Kind::Symlink {
            target: b"bin/tool".into()
        }
    );
    assert_eq!(
        records[5].kind,
        file("<html><?php system($x); ?>", Marker::Code)
    );
    assert_eq!(records[7].kind, Kind::Global);
    assert_eq!(records[8].kind, Kind::Other(b'V'));
}

#[test]
fn one_layer_gives_one_table_whatever_its_compression() {
    let archive = sample();
    let plain = of_blob(&archive, &archive).unwrap();
    let (front, back) = archive.split_at(700);
    let skippable = [
        b"\x50\x2a\x4d\x18\x04\0\0\0skip".as_slice(),
        &zstd_frame(&archive),
    ]
    .concat();
    for blob in [
        gzip(&archive),
        [gzip(front), gzip(back)].concat(),
        [gzip(b""), gzip(&archive), gzip(b"")].concat(),
        zstd_frame(&archive),
        [zstd_frame(front), zstd_frame(back)].concat(),
        skippable,
    ] {
        let table = of_blob(&blob, &archive).unwrap();
        assert_eq!(table.encoded(), plain.encoded());
    }
    assert_eq!(plain.diff_id(), DiffId(Digest::of(&archive)));
    assert_eq!(of_blob(b"", b"").unwrap().entries(), 0);
}

#[test]
fn the_bytes_of_a_table_never_change() {
    // If this fails, the format or what is read has changed: once released, that needs another version.
    let table = table(&sample()).unwrap();
    assert_eq!(
        table.digest().encoded(),
        "12bba147d9db353be5c8c7c6962d3a0da57b0945929298128b47c676cc33f3ba"
    );
}

#[test]
fn a_blob_that_is_not_the_one_named_is_refused() {
    let (archive, other) = (sample(), Digest::of(b"other"));
    let diff_id = DiffId(Digest::of(&archive));
    let build = |blob: &[u8]| FileTable::build(blob, other, diff_id, &Limits::default());
    assert!(matches!(
        build(&archive),
        Err(TableError::BlobDigest { expected, actual })
            if expected == other && actual == Digest::of(&archive)
    ));
    // Even if it is no archive at all: the digest is what explains that.
    for blob in [b"not an archive".repeat(100), gzip(&archive)[..50].to_vec()] {
        assert!(matches!(
            build(&blob),
            Err(TableError::BlobDigest { actual, .. }) if actual == Digest::of(&blob)
        ));
    }
}

#[test]
fn a_layer_that_is_not_the_one_named_is_refused() {
    let (archive, other) = (gzip(&sample()), b"other");
    assert!(matches!(
        of_blob(&archive, other),
        Err(TableError::DiffId { expected, actual })
            if expected.0 == Digest::of(other) && actual.0 == Digest::of(&sample())
    ));
}

#[test]
fn bytes_behind_the_end_are_part_of_the_layer() {
    let hidden = [sample().as_slice(), b"payload"].concat();
    let table = of_blob(&gzip(&hidden), &hidden).unwrap();
    assert_eq!(table.trailing_bytes(), 7);
    assert!(matches!(
        of_blob(&gzip(&hidden), &sample()),
        Err(TableError::DiffId { .. })
    ));
}

#[test]
fn compressed_data_that_is_cut_or_followed_by_something_is_refused() {
    let archive = sample();
    for whole in [gzip(&archive), zstd_frame(&archive)] {
        for length in 10..whole.len() {
            let refused = of_blob(&whole[..length], &archive);
            assert!(
                matches!(refused, Err(TableError::Compression(_))),
                "{length}"
            );
        }
        let followed = [whole.as_slice(), b"something else"].concat();
        assert!(matches!(
            of_blob(&followed, &archive),
            Err(TableError::Compression(_))
        ));
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let archive = Tar::default().file("zeros", &"\0".repeat(4 << 20)).end();
    for blob in [gzip(&archive), zstd_frame(&archive), archive.clone()] {
        let limits = Limits {
            uncompressed_bytes: 1 << 20,
            ..Limits::default()
        };
        let diff_id = DiffId(Digest::of(&archive));
        let built = FileTable::build(blob.as_slice(), Digest::of(&blob), diff_id, &limits);
        assert!(matches!(built, Err(TableError::LayerTooLarge(limit)) if limit == 1 << 20));
    }
}

#[test]
fn a_window_beyond_the_limit_is_refused() {
    let frame = |window_log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&sample()).unwrap();
        encoder.finish().unwrap()
    };
    assert!(of_blob(&frame(27), &sample()).is_ok());
    assert!(matches!(
        of_blob(&frame(28), &sample()),
        Err(TableError::Compression(_))
    ));
}

#[test]
fn a_table_beyond_its_limit_is_refused() {
    let archive = sample();
    let digest = Digest::of(&archive);
    let build =
        |limits: &Limits| FileTable::build(archive.as_slice(), digest, DiffId(digest), limits);
    let limits = Limits {
        table_bytes: 300,
        ..Limits::default()
    };
    assert!(matches!(
        build(&limits),
        Err(TableError::TableTooLarge(300))
    ));
    let limits = Limits {
        entries: 8,
        ..Limits::default()
    };
    assert!(matches!(
        build(&limits),
        Err(TableError::Tar(TarError::TooManyEntries(8)))
    ));
}

#[test]
fn a_blob_that_cannot_be_read_is_not_called_bad() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let header = crate::layer::fixture::header(b'0', "a", "", 9999);
            if self.0 == 0 {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.0 -= 1;
            let length = buf.len().min(8);
            buf[..length].copy_from_slice(&header[..length]);
            Ok(length)
        }
    }
    let digest = Digest::of(b"");
    for after in [0, 1, 2, 60] {
        let built = FileTable::build(Failing(after), digest, DiffId(digest), &Limits::default());
        assert!(
            matches!(built, Err(TableError::Io(_))),
            "{after}: {built:?}"
        );
    }
}

#[test]
fn a_table_survives_its_file() {
    let table = table(&sample()).unwrap();
    let decoded = FileTable::decode(table.encoded().to_vec()).unwrap();
    assert_eq!(decoded.encoded(), table.encoded());
    assert_eq!(decoded.digest(), table.digest());
    assert_eq!(decoded.diff_id(), table.diff_id());
    assert_eq!(decoded.trailing_bytes(), table.trailing_bytes());
    assert!(decoded.records().eq(table.records()));
}

#[test]
fn a_damaged_table_file_is_refused_wherever_the_damage_is() {
    let good = table(&sample()).unwrap().encoded().to_vec();
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            assert!(FileTable::decode(bad).is_err(), "byte {index}, bit {bit}");
        }
        assert!(
            FileTable::decode(good[..index].to_vec()).is_err(),
            "cut at {index}"
        );
    }
}

/// A table file whose digest is right, whatever it holds.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&body);
    body.extend_from_slice(digest.as_bytes());
    body
}

#[test]
fn an_archive_of_100_000_entries_is_read() {
    let mut archive = Tar::default();
    for number in 0..100_000 {
        archive = archive.file(&format!("d/{number}"), "");
    }
    let table = table(&archive.end()).unwrap();
    assert_eq!(table.entries(), 100_000);
    assert!(table.encoded().len() < 100_000 * 60);
}

proptest! {
    #[test]
    fn what_another_writer_wrote_is_read(
        files in prop::collection::vec(("[a-zé/ ]{1,200}", prop::collection::vec(any::<u8>(), 0..3000)), 0..8),
        format in prop::sample::select(vec!["gnu", "ustar"]),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut expected = Vec::new();
        for (index, (name, content)) in files.iter().enumerate() {
            let name = format!("{index}{name}x");
            let mut header = if format == "gnu" { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
            header.set_size(content.len().try_into().unwrap());
            header.set_mode(0o640);
            header.set_uid(index.try_into().unwrap());
            header.set_entry_type(tar::EntryType::Regular);
            if builder.append_data(&mut header, &name, content.as_slice()).is_err() {
                continue; // too long for ustar
            }
            expected.push((crate::layer::rootpath::clean(name.as_bytes()), Digest::of(content)));
        }
        let archive = builder.into_inner().unwrap();
        let table = table(&archive).unwrap();
        let read: Vec<_> = table.records().map(|record| {
            let record = record.unwrap();
            let Kind::File { digest, .. } = record.kind else { panic!("{record:?}") };
            assert_eq!(record.mode, 0o640);
            (crate::layer::rootpath::clean(&record.name), digest)
        }).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn a_mutated_layer_is_refused_or_becomes_a_table_that_survives(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
    ) {
        let mut archive = sample();
        for (index, value) in changes {
            let index = index.index(archive.len());
            archive[index] = value;
        }
        let blocks = archive.len() / 512;
        for (from, to) in swaps {
            let from = from.index(blocks) * 512;
            archive.copy_within(from..from + 512, to.index(blocks) * 512);
        }
        if let Ok(table) = table(&archive) {
            let decoded = FileTable::decode(table.encoded().to_vec()).unwrap();
            prop_assert_eq!(decoded.encoded(), table.encoded());
            if let Ok(placed) = place(&decoded, Snapshotter::Overlayfs, &[]) {
                placed.write(Vec::new()).unwrap();
            }
        }
    }

    #[test]
    fn a_hostile_table_file_is_refused_or_read_but_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let good = table(&sample()).unwrap();
        let mut body = good.encoded()[..good.encoded().len() - DIGEST_BYTES].to_vec();
        for (index, value) in changes {
            let index = index.index(body.len());
            body[index] = value;
        }
        if let Ok(table) = FileTable::decode(sealed(body)) {
            prop_assert!(table.records().all(|record| record.is_ok()));
            if let Ok(placed) = place(&table, Snapshotter::Native, &[]) {
                placed.write(Vec::new()).unwrap();
            }
        }
    }
}
