//! Headers of every format, and numbers of every form.

use super::{Case, file, ground, layer_of};
use crate::layer::{Entry, Layer};
use crate::rawtar::{Block, END, Field, extended, extended_raw, records_of};

pub(super) fn cases() -> Vec<Case> {
    [
        headers(),
        long_names(),
        extended_headers(),
        numbers(),
        ends(),
    ]
    .concat()
}

fn headers() -> Vec<Case> {
    let high = Block::v7(b'0', b"\xe4\xf6\xfc").sealed_signed();
    vec![
        Case::bytes_over(
            "every-format",
            &[
                Block::v7(0, "v7-directory/").sealed(),
                Block::v7(0, "v7-directory/file").with(b"v7"),
                Block::v7(b'2', "v7-link").link("v7-directory").sealed(),
                Block::ustar(b'0', "name")
                    .put(345, b"prefix/of")
                    .with(b"ustar"),
                Block::star(b'0', "name").put(345, b"star").with(b"star"),
                Block::gnu(b'0', "gnu").with(b"gnu"),
                // Times where ustar has its prefix.
                Block::gnu(b'0', "gnu-times")
                    .put(345, b"14524524524\x0014524524524\0")
                    .with(b"times"),
                Block::gnu(b'0', "name")
                    .put(345, b"an/old/go/writer/put/this/here")
                    .with(b"prefix"),
                Block::gnu(b'0', "other")
                    .put(345, b"\xff\xfeno/ascii/at/all/in/this")
                    .with(b"x"),
                Block::ustar(b'3', "char").devices(5, 1).sealed(),
                Block::v7(b'3', "v7-char")
                    .put(329, b"0000005\x000000001\0")
                    .sealed(),
            ],
        ),
        Case::bytes_over("signed-checksum", &[high]),
        Case::bytes_over(
            "sizes-where-nothing-follows",
            &[
                Block::ustar(b'5', "directory")
                    .octal(Field::Size, 700)
                    .sealed(),
                Block::ustar(b'2', "link")
                    .link("x")
                    .octal(Field::Size, 700)
                    .sealed(),
                Block::ustar(b'6', "fifo").octal(Field::Size, 700).sealed(),
                Block::ustar(b'3', "device")
                    .octal(Field::Size, 700)
                    .devices(1, 5)
                    .sealed(),
                file("a", "content"),
                Block::ustar(b'1', "hard")
                    .link("a")
                    .octal(Field::Size, 7)
                    .sealed(),
                file("after", "x"),
            ],
        ),
        Case::bytes_over(
            "hard-link-with-content",
            &[
                file("a", "content"),
                Block::ustar(b'1', "hard").link("a").with(b"other"),
            ],
        ),
        Case::bytes_over(
            "global-headers",
            &[
                file("f", "x"),
                file("kept", "x"),
                extended_raw(b'g', &records_of(&[("comment", b"0123")])),
                extended_raw(b'g', &records_of(&[("path", b"f"), ("uid", b"7")])),
                file("after", "x"),
                Block::ustar(b'g', "new/parent/x").with(b""),
                extended(&[("path", b"forgotten")]),
                extended_raw(b'g', b""),
                file("not-forgotten", "x"),
            ],
        ),
    ]
}

fn long_names() -> Vec<Case> {
    let long = |end: &str| format!("{}/{end}", ["deep"; 40].join("/"));
    vec![
        Case::bytes_over(
            "gnu-long-names",
            &[
                Block::gnu(b'L', "././@LongLink").with(format!("{}\0", long("a")).as_bytes()),
                Block::gnu(b'0', "cut").with(b"long"),
                Block::gnu(b'K', "././@LongLink").with(format!("{}\0rest", long("a")).as_bytes()),
                Block::gnu(b'2', "soft").link("cut").sealed(),
                Block::gnu(b'K', "././@LongLink").with(long("a").as_bytes()),
                Block::gnu(b'L', "././@LongLink").with(long("b").as_bytes()),
                Block::gnu(b'1', "x").link("cut").sealed(),
                Block::gnu(b'L', "././@LongLink").with(b""),
                Block::gnu(b'0', "empty-changes-nothing").with(b"x"),
                Block::gnu(b'L', "././@LongLink").with(b"first"),
                Block::gnu(b'L', "././@LongLink").with(b"last"),
                Block::gnu(b'0', "x").with(b"x"),
            ],
        ),
        Case::bytes_over(
            "gnu-and-extended-names",
            &[
                Block::gnu(b'L', "././@LongLink").with(b"by-gnu"),
                extended(&[("path", b"by-pax"), ("uid", b"9")]),
                Block::ustar(b'0', "x").with(b"x"),
                extended(&[("path", b"by-pax")]),
                Block::gnu(b'L', "././@LongLink").with(b"by-gnu-again"),
                Block::ustar(b'0', "x").with(b"x"),
            ],
        ),
        Case::over(
            "names-beyond-the-header",
            [
                Entry::file(long("file"), "x"),
                Entry::symlink("to", long("file")),
            ],
        ),
        Case::over(
            "a-long-name-that-is-short",
            [Entry::file(format!("{}short", "./".repeat(4000)), "x")],
        ),
    ]
}

fn extended_headers() -> Vec<Case> {
    let with = |records: &[(&str, &[u8])]| [extended(records), file("x", "content")].concat();
    vec![
        Case::bytes_over(
            "extended-headers",
            &[
                with(&[
                    ("path", b"p"),
                    ("uid", b"1"),
                    ("gid", b"2"),
                    ("mtime", b"-1.5"),
                ]),
                with(&[
                    ("path", b"first"),
                    ("path", b"repeated"),
                    ("uid", b"x"),
                    ("uid", b"3"),
                ]),
                with(&[("path", b""), ("uid", b""), ("size", b"")]),
                with(&[("path", b"comment"), ("comment", b"\0\n=\xff")]),
                [
                    extended(&[("path", b"replaced"), ("uid", b"4")]),
                    with(&[("gid", b"5")]),
                ]
                .concat(),
                [
                    extended(&[("linkpath", b"a/target")]),
                    Entry::symlink("soft", "other").to_bytes(),
                ]
                .concat(),
                with(&[("path", b"+numbers"), ("uid", b"+7"), ("gid", b"007")]),
                with(&[("path", b"uname"), ("uname", b"root"), ("gname", b"wheel")]),
            ],
        ),
        Case::bytes_over(
            "a-size-in-an-extended-header",
            &[
                extended(&[("size", b"5")]),
                Block::ustar(b'0', "sized").sealed(),
                crate::rawtar::padded(b"hello"),
                file("after", "x"),
            ],
        ),
    ]
}

fn numbers() -> Vec<Case> {
    let owner = |name: &str, uid: i64, gid: i64| {
        Block::gnu(b'0', name)
            .base256(Field::Uid, uid)
            .base256(Field::Gid, gid)
            .with(b"x")
    };
    vec![
        Case::bytes_over(
            "binary-numbers",
            &[
                owner("large", 0x7fff_ffff, 3_000_000_000),
                owner("minus-one", -1, 4_294_967_295),
                owner("minus-two", -2, -3),
                owner("wraps", 4_294_967_297, 1 << 40),
                Block::gnu(b'0', "size").base256(Field::Size, 5).sealed(),
                crate::rawtar::padded(b"hello"),
                Block::gnu(b'0', "mode")
                    .base256(Field::Mode, 0o4711)
                    .with(b"x"),
                Block::gnu(b'0', "type-in-mode")
                    .octal(Field::Mode, 0o100_644)
                    .with(b"x"),
                Block::gnu(b'0', "time")
                    .base256(Field::Mtime, -100)
                    .with(b"x"),
                Block::gnu(b'0', "far")
                    .base256(Field::Mtime, i64::MAX)
                    .with(b"x"),
                Block::gnu(b'4', "device")
                    .base256(Field::Major, 8)
                    .base256(Field::Minor, 1)
                    .sealed(),
                Block::ustar(b'3', "large-device")
                    .devices(0o7777, 0o3_777_777)
                    .sealed(),
                Block::ustar(b'3', "too-large")
                    .devices(0o17_777, 0o7_777_777)
                    .sealed(),
            ],
        ),
        Case::bytes_over(
            "numbers-in-any-dress",
            &[
                Block::ustar(b'0', "spaces")
                    .text(Field::Mode, b"   600 ")
                    .text(Field::Uid, b" 12")
                    .with(b"x"),
                Block::ustar(b'0', "nothing")
                    .text(Field::Mode, b"")
                    .text(Field::Gid, b"        ")
                    .with(b"x"),
                Block::ustar(b'0', "ends-early")
                    .text(Field::Mode, b"640\x00777")
                    .with(b"x"),
                Block::ustar(b'0', "full").put(100, b"00000755").with(b"x"),
            ],
        ),
        Case::over(
            "owner-minus-one",
            [
                Entry::directory("d").mode(0o2755).owner(1, 5),
                Entry::file("d/a", "x")
                    .pax("uid", "-1")
                    .pax("gid", "4294967295"),
                Entry::file("b", "x").pax("uid", "4294967297"),
            ],
        ),
    ]
}

fn ends() -> Vec<Case> {
    let a = file("a", "content");
    let over = |name, bytes: Vec<u8>| Case::new(name, [ground(), Layer::from_tar(bytes)]);
    vec![
        over("no-end", a.clone()),
        over("half-an-end", [a.clone(), vec![0; 512]].concat()),
        over("no-padding", a[..512 + 7].to_vec()),
        over("some-padding", a[..512 + 100].to_vec()),
        over("empty-layer", END.to_vec()),
        over("no-bytes", Vec::new()),
        over(
            "zeros-behind-the-end",
            [a.clone(), vec![0; 20_480]].concat(),
        ),
        over(
            "data-behind-the-end",
            [a.clone(), END.to_vec(), b"hidden".to_vec()].concat(),
        ),
        over(
            "an-archive-behind-the-end",
            [
                a.clone(),
                END.to_vec(),
                file("b", "never seen"),
                END.to_vec(),
            ]
            .concat(),
        ),
        Case::new("empty-lowest", [layer_of(&[]), layer_of(&[a])]),
    ]
}
