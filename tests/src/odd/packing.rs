//! Blobs: one archive in every packing that a reader may understand, and some that none may.

use std::io::Write as _;

use flate2::GzBuilder;

use super::{Case, file, ground};
use crate::layer::{Compression, Layer};
use crate::rawtar::END;

pub(super) fn cases() -> Vec<Case> {
    [gzip(), zstd(), refused()].concat()
}

/// The layer that is packed. Each case has its own: of one that is unpacked already nothing is read.
fn packed(name: &str) -> Layer {
    Layer::from_tar(
        [
            file("a", &"content\n".repeat(2000)),
            file("b", name),
            END.to_vec(),
        ]
        .concat(),
    )
}

/// A case of one blob, made of the layer that only this case has.
fn case(name: &'static str, blob: impl FnOnce(&Layer) -> Vec<u8>) -> Case {
    let layer = packed(name);
    let blob = blob(&layer);
    Case::new(name, [ground(), layer.with_blob(blob)])
}

/// The same, told to be zstd.
fn zstd_case(name: &'static str, blob: impl FnOnce(&Layer) -> Vec<u8>) -> Case {
    let layer = packed(name).compressed(Compression::Zstd);
    let blob = blob(&layer);
    Case::new(name, [ground(), layer.with_blob(blob)])
}

/// The tar in two parts, cut within a file.
fn parts(layer: &Layer) -> (&[u8], &[u8]) {
    layer.tar().split_at(3000)
}

fn gzip() -> Vec<Case> {
    let dressed = |layer: &Layer| {
        let builder = GzBuilder::new().filename("layer.tar").comment("a comment");
        finished(builder.extra(b"XX\x02\0ab".to_vec()).mtime(7), layer.tar())
    };
    let empty = |layer: &Layer| {
        let (first, second) = parts(layer);
        [b"".as_slice(), first, b"", second, b""]
            .map(member)
            .concat()
    };
    let none = packed("plain").compressed(Compression::None);
    let members = packed("gzip-members").compressed(Compression::GzipMembers(7));
    vec![
        Case::new("plain", [ground(), none]),
        Case::new("gzip-members", [ground(), members]),
        case("gzip-empty-members", empty),
        case("gzip-dressed", dressed),
        case("gzip-estargz-footer", |layer| {
            [member(layer.tar()), estargz_footer()].concat()
        }),
        Case::new("gzip-of-nothing", [ground(), Layer::from_tar(Vec::new())]),
    ]
}

fn zstd() -> Vec<Case> {
    let frames = |layer: &Layer| {
        let (first, second) = parts(layer);
        [first, b"", second].map(frame).concat()
    };
    let skippable_frames = |layer: &Layer| {
        let (first, second) = parts(layer);
        let (before, between) = (skippable(0, b""), skippable(15, &[9; 300]));
        [
            before,
            frame(first),
            between,
            frame(second),
            chunked_footer(),
        ]
        .concat()
    };
    vec![
        zstd_case("zstd", |layer| frame(layer.tar())),
        zstd_case("zstd-frames", frames),
        zstd_case("zstd-checksummed", |layer| checksummed(layer.tar())),
        zstd_case("zstd-skippable-frames", skippable_frames),
    ]
}

fn refused() -> Vec<Case> {
    let with = |layer: &Layer, more: &[u8]| [layer.blob(), more].concat();
    let cut = |layer: &Layer| layer.blob()[..layer.blob().len() - 9].to_vec();
    let flipped = |mut blob: Vec<u8>, from_end: usize| {
        let at = blob.len() - from_end;
        blob[at] ^= 1;
        blob
    };
    vec![
        case("gzip-and-garbage", |layer| with(layer, b"garbage")),
        case("gzip-and-zeros", |layer| with(layer, &[0; 512])),
        case("gzip-cut", cut),
        case("gzip-wrong-sum", |layer| flipped(layer.blob().to_vec(), 6)),
        zstd_case("zstd-and-garbage", |layer| with(layer, b"garbage!")),
        zstd_case("zstd-cut", cut),
        zstd_case("zstd-wrong-sum", |layer| {
            flipped(checksummed(layer.tar()), 1)
        }),
        case("another-diff-id", |_| member(b"another layer")),
    ]
}

fn member(bytes: &[u8]) -> Vec<u8> {
    finished(GzBuilder::new(), bytes)
}

fn finished(builder: GzBuilder, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An empty member that says where the table of contents is.
fn estargz_footer() -> Vec<u8> {
    let extra = [b"SG\x16\0".as_slice(), b"0000000000000000", b"STARGZ"].concat();
    finished(GzBuilder::new().extra(extra), b"")
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn checksummed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [
        [0x50 + number, 0x2a, 0x4d, 0x18].as_slice(),
        &length,
        content,
    ]
    .concat()
}

/// The last frame of zstd:chunked: offsets and lengths of its table, then its name.
fn chunked_footer() -> Vec<u8> {
    skippable(0, &[[0_u8; 56].as_slice(), b"GNUlInUx"].concat())
}
