//! Extended attributes: every namespace, any byte, on every type; capabilities; devices.

use super::{Case, ground};
use crate::layer::{Entry, Layer};

/// `cap_net_bind_service+ep`, the second form. It has a newline in it, as some sets have.
pub(super) const CAPABILITY: [u8; 20] =
    [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn cases() -> Vec<Case> {
    [attributes(), capabilities(), refused()].concat()
}

fn attributes() -> Vec<Case> {
    vec![
        Case::over(
            "attributes",
            [
                Entry::file("any-byte", "x").xattr("user.bytes", b"\0\n=\xff 9 a=b\n".to_vec()),
                Entry::file("empty", "x").xattr("user.empty", ""),
                Entry::file("repeated", "x")
                    .xattr("user.n", "first")
                    .xattr("user.n", "last"),
                Entry::file("dropped", "x")
                    .xattr("trusted.overlay.opaque", "y")
                    .xattr("trusted.note", "x")
                    .xattr("unknown.note", "x")
                    .xattr("system.note", "x")
                    .xattr("note", "x"),
                Entry::file("security", "x").xattr("security.note", b"\0\x01".to_vec()),
                Entry::directory("directory")
                    .xattr("user.note", "d")
                    .xattr("security.note", "d"),
                Entry::symlink("link", "x")
                    .xattr("user.note", "l")
                    .xattr("security.note", "l"),
                Entry::fifo("fifo")
                    .xattr("user.note", "f")
                    .xattr("security.note", "f"),
                Entry::char_device("char", 1, 5)
                    .xattr("user.note", "c")
                    .xattr("security.note", "c"),
                Entry::file("with=equals", "x").pax("SCHILY.xattr.user.a=b", "c"),
                Entry::file("overlays", "x").xattr("user.overlay.redirect", "/etc"),
            ],
        ),
        Case::over(
            "attributes-of-libarchive",
            [Entry::file("ignored", "x")
                .pax("LIBARCHIVE.xattr.user.note", "dmFsdWU=")
                .pax("LIBARCHIVE.creationtime", "1700000000")],
        ),
        Case::over(
            "attributes-of-a-repeated-directory",
            [
                Entry::directory("d")
                    .xattr("user.a", "1")
                    .xattr("user.b", "1"),
                Entry::directory("d").xattr("user.b", "2"),
                Entry::file("f", "x").xattr("user.a", "1"),
                Entry::file("f", "x").xattr("user.b", "2"),
            ],
        ),
        Case::over(
            "modes",
            [
                Entry::program("set-user", "x").mode(0o4755),
                Entry::program("set-group", "x").mode(0o2755).owner(1, 2),
                Entry::file("both-and-sticky", "x").mode(0o7644).owner(3, 4),
                Entry::file("none", "x").mode(0),
                Entry::directory("d").mode(0o7000),
                Entry::fifo("f").mode(0o6777),
                Entry::block_device("b", 8, 1).mode(0o660).owner(0, 6),
                Entry::symlink("l", "x").mode(0o4000).owner(1, 1),
            ],
        ),
    ]
}

fn capabilities() -> Vec<Case> {
    let third = |root: [u8; 4]| [&[1, 0, 0, 3], &CAPABILITY[4..], &root].concat();
    let with =
        |path: &str, value: &[u8]| Entry::program(path, "x").xattr("security.capability", value);
    vec![
        Case::new(
            "capabilities",
            [
                ground(),
                Layer::new([
                    with("second", &CAPABILITY),
                    with("third-of-root", &third([0; 4])),
                    with("third-of-a-user", &third([0x10, 0x27, 0, 0])),
                    with("not-effective", &[&[0, 0, 0, 2], &CAPABILITY[4..]].concat()),
                    with("lost-by-a-link", &CAPABILITY),
                    Entry::hardlink("link", "lost-by-a-link").mode(0o755),
                    with("set-user-too", &CAPABILITY).mode(0o4755).owner(5, 5),
                    Entry::directory("directory").xattr("security.capability", CAPABILITY),
                    Entry::symlink("soft", "x").xattr("security.capability", CAPABILITY),
                ]),
                Layer::new([Entry::file("above", "x")]),
            ],
        ),
        Case::over(
            "capability-first-form",
            [with("a", &[&[1, 0, 0, 1], &CAPABILITY[4..12]].concat())],
        ),
        Case::over("capability-cut", [with("a", &CAPABILITY[..19])]),
        Case::over("capability-empty", [with("a", b"")]).unknown(),
        Case::over("capability-of-no-user", [with("a", &third([255; 4]))]),
        Case::over(
            "capability-odd-flags",
            [with(
                "a",
                &[&[0xff, 0xee, 0xdd, 2], &CAPABILITY[4..]].concat(),
            )],
        ),
    ]
}

fn refused() -> Vec<Case> {
    let with = |name: &str, value: Vec<u8>| [Entry::file("a", "x").xattr(name, value)];
    let entry = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
    let list = [
        entry.as_slice(),
        &[
            4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ],
    ]
    .concat();
    vec![
        Case::over("attribute-without-a-name", with("", b"x".to_vec())),
        Case::over("attribute-with-half-a-name", with("user.", b"x".to_vec())),
        Case::over(
            "attribute-with-half-a-security-name",
            with("security.", b"x".to_vec()),
        ),
        Case::over(
            "attribute-name-of-256-bytes",
            with(&format!("user.{}", "n".repeat(251)), b"x".to_vec()),
        ),
        Case::over(
            "attribute-name-of-255-bytes",
            with(&format!("user.{}", "n".repeat(250)), b"x".to_vec()),
        ),
        Case::over(
            "attribute-value-too-long",
            with("user.long", vec![b'v'; 65_537]),
        ),
        Case::over("access-control-list", with("system.posix_acl_access", list)).unknown(),
    ]
}
