//! Archives that containerd refuses, each for another reason.

use super::{Case, file, ground};
use crate::layer::{Entry, Layer};
use crate::rawtar::{Block, END, Field, extended, extended_raw};

pub(super) fn cases() -> Vec<Case> {
    [types(), headers(), extended_headers(), cut()].concat()
}

fn types() -> Vec<Case> {
    let of = |name, flag| {
        Case::bytes_over(
            name,
            &[file("before", "x"), Block::ustar(flag, "a").with(b"x")],
        )
    };
    vec![
        of("type-contiguous", b'7'),
        of("type-of-a-volume", b'V'),
        of("type-of-a-multi-volume", b'M'),
        of("type-of-a-dump", b'D'),
        of("type-of-old-long-names", b'N'),
        of("type-of-solaris", b'X'),
        of("type-of-no-letter", 0xff),
        Case::bytes_over(
            "types-that-are-never-made",
            &[
                Block::ustar(b'7', ".wh.bin").with(b"x"),
                Block::ustar(b'V', "./").with(b"label"),
                file("after", "x"),
            ],
        ),
    ]
}

fn headers() -> Vec<Case> {
    let one = |name, bytes| Case::bytes_over(name, &[file("before", "x"), bytes]);
    let block = || Block::ustar(b'0', "a");
    vec![
        one("checksum", block().sealed_with(1)),
        one(
            "checksum-is-no-number",
            block().put(148, b"xxxxxxxx").unsealed(),
        ),
        one(
            "mode-is-no-number",
            block().text(Field::Mode, b"rwxr-xr").sealed(),
        ),
        one("uid-is-no-number", block().text(Field::Uid, b"9").sealed()),
        one(
            "mtime-is-no-number",
            block().text(Field::Mtime, b"now").sealed(),
        ),
        one(
            "device-is-no-number",
            block().text(Field::Minor, b"x").sealed(),
        ),
        one(
            "number-too-large",
            block()
                .put(124, &[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0])
                .sealed(),
        ),
        one("negative-size", block().base256(Field::Size, -1).sealed()),
        one(
            "times-of-star-are-no-numbers",
            Block::star(b'0', "a").put(476, b"xxxxxxxxxxxx").sealed(),
        ),
    ]
}

fn extended_headers() -> Vec<Case> {
    let raw = |name, content: &[u8]| {
        Case::bytes_over(name, &[extended_raw(b'x', content), file("a", "x")])
    };
    let with = |name, key: &str, value: &[u8]| {
        Case::bytes_over(name, &[extended(&[(key, value)]), file("a", "x")])
    };
    vec![
        raw("record-without-newline", b"6 a=bc"),
        raw("record-too-long", b"60 a=b\n"),
        raw("record-too-short", b"5 a=b\n"),
        raw("record-without-equals", b"5 ab\n"),
        raw("record-without-a-key", b"5 =b\n"),
        raw("record-without-a-length", b" a=b\n"),
        raw("record-of-no-length", b"0 a=b\n"),
        raw("record-of-negative-length", b"-6 a=b\n"),
        with("key-with-a-nul", "a\0b", b"c"),
        with("path-with-a-nul", "path", b"a\0b"),
        with("user-with-a-nul", "uname", b"a\0b"),
        with("uid-in-hexadecimal", "uid", b"0x7"),
        with("uid-too-large", "uid", b"9223372036854775808"),
        with("size-is-no-number", "size", b"1e3"),
        with("size-is-negative", "size", b"-1"),
        with("time-is-no-number", "mtime", b"1.5x"),
        with("time-without-seconds", "atime", b".5"),
        Case::bytes_over("record-of-nothing", &[extended_raw(b'x', b"x")]),
        Case::bytes_over(
            "extended-header-of-more-than-a-mebibyte",
            &[
                extended(&[("comment", &vec![b'c'; 1 << 20])]),
                file("a", "x"),
            ],
        ),
        Case::bytes_over(
            "long-name-of-more-than-a-mebibyte",
            &[
                Block::gnu(b'L', "x").with(&vec![b'n'; (1 << 20) + 1]),
                file("a", "x"),
            ],
        ),
    ]
}

fn cut() -> Vec<Case> {
    let archive = [
        file("before", "x"),
        Entry::file("a", vec![b'y'; 2000]).to_bytes(),
    ]
    .concat();
    let one = |name, bytes: Vec<u8>| Case::new(name, [ground(), Layer::from_tar(bytes)]);
    vec![
        one("cut-in-a-header", archive[..1024 + 100].to_vec()),
        one("cut-in-a-file", archive[..1024 + 512 + 100].to_vec()),
        one("cut-behind-a-header", archive[..1024 + 512].to_vec()),
        one(
            "cut-in-an-extended-header",
            extended(&[("path", b"a")])[..512 + 5].to_vec(),
        ),
        one("cut-in-the-end", [archive.clone(), vec![0; 700]].concat()),
        one(
            "one-block-of-zeros",
            [archive.clone(), vec![0; 512], archive, END.to_vec()].concat(),
        ),
        one("not-an-archive", b"this is no archive\n".repeat(100)),
    ]
}
