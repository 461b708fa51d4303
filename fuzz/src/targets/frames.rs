//! How a blob is packed: gzip members, zstd frames, or nothing. What comes out is bounded and is what another
//! reading of the same blob gives.

use std::io::{Read, Write};

use flate2::{Compression, GzBuilder};
use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::{FileTable, TableError};

use super::tar::{LIMITS, is_raw, seeds as archives};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "frames",
    check,
    max_bytes: 8 << 10,
    seeds,
    words: &[
        "\x1f",
        "BC\x02\0",
        "SG\x16\0",
        "STARGZ",
        "\x50\x2a\x4d\x18",
        "\x5f\x2a\x4d\x18",
        "GNUlInUx",
    ],
    repair: as_it_is,
};

fn check(blob: &[u8]) {
    let digest = Digest::of(blob);
    let build = |layer: DiffId| FileTable::build(blob, digest, layer, &LIMITS);
    let nobodys = DiffId(Digest::of(b"no layer"));
    let refusal = build(nobodys).expect_err("built a table of another layer");
    let TableError::DiffId { actual, .. } = refusal else {
        let again = build(nobodys).expect_err("built what was refused");
        assert_eq!(again.to_string(), refusal.to_string());
        return;
    };
    let table = build(actual).expect("the right name is refused");
    assert_eq!(table.diff_id(), actual);
    let plain = unpacked(blob);
    assert_eq!(DiffId(Digest::of(&plain)), actual, "other bytes come out");
    if is_raw(&plain) {
        let same = FileTable::build(plain.as_slice(), actual.0, actual, &LIMITS).unwrap();
        assert_eq!(same.encoded(), table.encoded());
    }
}

/// The blob unpacked by the libraries alone.
fn unpacked(blob: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let limit = LIMITS.uncompressed_bytes + 1;
    if is_raw(blob) {
        return blob.to_vec();
    } else if blob.starts_with(&[0x1f, 0x8b, 0x08]) {
        let gzip = flate2::read::MultiGzDecoder::new(blob);
        gzip.take(limit).read_to_end(&mut plain).unwrap();
    } else if blob.starts_with(&[0x1f, 0x8b]) || blob.len() < 8 {
        return blob.to_vec();
    } else {
        let zstd = zstd::stream::read::Decoder::with_buffer(blob).unwrap();
        zstd.take(limit).read_to_end(&mut plain).unwrap();
    }
    plain
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    packed(GzBuilder::new(), plain)
}

fn packed(header: GzBuilder, plain: &[u8]) -> Vec<u8> {
    let mut encoder = header.write(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn seeds() -> Vec<Vec<u8>> {
    let archives = archives();
    let archive = archives[0].as_slice();
    let (first, second) = archive.split_at(700);
    let named = GzBuilder::new().filename("layer").comment("c").mtime(7);
    let footer = GzBuilder::new().extra(b"SG\x16\x000000000000000400STARGZ".as_slice());
    let zstd = |plain: &[u8]| zstd::encode_all(plain, 19).unwrap();
    let skippable = [b"\x50\x2a\x4d\x18\x04\0\0\0".as_slice(), b"skip"].concat();
    let whole = gzip(archive);
    let bomb = vec![0; 2 << 20];
    let mut checked = zstd::Encoder::new(Vec::new(), 1).unwrap();
    checked.include_checksum(true).unwrap();
    checked.write_all(archive).unwrap();
    vec![
        archive.to_vec(),
        whole.clone(),
        [gzip(first), gzip(b""), gzip(second)].concat(),
        [packed(named, first), packed(footer, second)].concat(),
        whole[..whole.len() - 4].to_vec(),
        [whole.as_slice(), b"trailing"].concat(),
        [whole.as_slice(), &[0; 20]].concat(),
        gzip(&bomb),
        zstd(archive),
        [zstd(first), skippable.clone(), zstd(second)].concat(),
        [skippable.clone(), zstd(archive), skippable].concat(),
        checked.finish().unwrap(),
        zstd(&bomb),
    ]
}
