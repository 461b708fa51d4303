//! Names that lead somewhere else than they seem to, and parents that nobody named.

use super::{Case, ground};
use crate::layer::{Entry, Layer};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::over(
            "dotted-and-absolute",
            [
                Entry::directory("./").mode(0o700).owner(9, 9),
                Entry::directory(".").mode(0o700),
                Entry::directory("/").owner(8, 8),
                Entry::file("..", "x"),
                Entry::file("../..", "x"),
                Entry::file("/etc/absolute", "x"),
                Entry::file("../../etc/outside", "x"),
                Entry::file("a//b/./c", "x"),
                Entry::file("gone/../up", "x"),
                Entry::file("etc/dir/../beside", "x"),
                Entry::file("slashes/", "x"),
                Entry::file("dot/.", "x"),
                Entry::directory("etc/dir/").mode(0o700),
            ],
        ),
        Case::over(
            "bytes",
            [
                Entry::file(b"\xff\xfe", "x"),
                Entry::file("a\nb", "x"),
                Entry::file("\x1b[31m", "x"),
                Entry::file("\u{202e}gpj.exe", "x"),
                Entry::file("back\\slash", "x"),
                Entry::file(" ", "x"),
                Entry::file("-rf", "x"),
                Entry::file("n".repeat(255), "x"),
                Entry::directory(format!("{}/{}", "m".repeat(255), "o".repeat(255))),
            ],
        ),
        Case::over("name-of-256-bytes", [Entry::file("n".repeat(256), "x")]),
        Case::over(
            "parent-of-256-bytes",
            [Entry::file(format!("{}/x", "n".repeat(256)), "x")],
        ),
        Case::over("whiteout-of-256-bytes", [Entry::whiteout("n".repeat(256))]),
        Case::lowest(
            "lowest-whiteout-of-256-bytes",
            [Entry::whiteout("n".repeat(256))],
        ),
        Case::over(
            "target-of-4095-bytes",
            [Entry::symlink("l", "t".repeat(4095))],
        ),
        Case::over(
            "target-of-4096-bytes",
            [Entry::symlink("l", "t".repeat(4096))],
        ),
        Case::over("empty-target", [Entry::symlink("l", "")]),
        Case::over(
            "missing-parents",
            [
                Entry::file("etc/new", "x"),
                Entry::file("etc/dir/deeper/new", "x"),
                Entry::file("new/parents/of/file", "x"),
                Entry::file("usr/new", "x"),
            ],
        ),
        Case::new(
            "missing-parents-copy-the-topmost",
            [
                ground(),
                Layer::new([
                    Entry::directory("etc")
                        .mode(0o700)
                        .owner(3, 4)
                        .xattr("user.top", "2"),
                    Entry::directory("usr").xattr("security.note", "3"),
                ]),
                Layer::new([Entry::file("etc/new", "x"), Entry::file("usr/bin/new", "x")]),
            ],
        ),
        Case::new(
            "missing-parents-that-were-replaced",
            [
                ground(),
                Layer::new([Entry::file("etc", "a file now"), Entry::whiteout("usr")]),
                Layer::new([Entry::file("etc/new", "x"), Entry::file("usr/new", "x")]),
            ],
        ),
        Case::new(
            "missing-parents-below-what-was-replaced",
            [
                ground(),
                Layer::new([Entry::file("etc", "a file now")]),
                Layer::new([Entry::file("etc/dir/new", "x")]),
            ],
        ),
        Case::over(
            "group-of-the-directory",
            [
                Entry::directory("g").mode(0o2755).owner(1, 5),
                Entry::file("g/made/file", "x").owner(7, 8),
                Entry::whiteout("g/gone").owner(6, 7),
                Entry::directory("g/own").owner(2, 3),
                Entry::file("etc/made/file", "x"),
            ],
        ),
        Case::over(
            "a-file-in-the-way",
            [Entry::file("a", "x"), Entry::file("a/b", "x")],
        ),
        Case::over(
            "a-file-further-up",
            [Entry::file("a", "x"), Entry::file("a/b/c", "x")],
        ),
        Case::over("a-file-below-in-the-way", [Entry::file("etc/conf/x", "x")]),
        Case::over(
            "repeated",
            [
                Entry::file("f", "first"),
                Entry::program("f", "last").owner(1, 1),
                Entry::directory("d"),
                Entry::file("d/in", "x"),
                Entry::directory("d").mode(0o700).owner(2, 2),
                Entry::directory("e"),
                Entry::file("e/in", "x"),
                Entry::file("e", "a file now"),
                Entry::file("g", "x"),
                Entry::directory("g"),
                Entry::file("g/in", "x"),
                Entry::symlink("s", "d"),
                Entry::directory("s"),
                Entry::directory("s").mode(0o711),
                Entry::fifo("f"),
                Entry::file("etc/conf", "replaced"),
                Entry::file("etc/dir", "a file now"),
                Entry::directory("null"),
            ],
        ),
        Case::over(
            "directory-taken-away",
            [Entry::directory("d/e"), Entry::file("d", "x")],
        ),
        Case::over(
            "directory-led-astray",
            [Entry::directory("d/e"), Entry::symlink("d", "nowhere")],
        ),
        Case::over(
            "directory-led-elsewhere",
            [
                Entry::directory("d/e"),
                Entry::directory("o/e"),
                Entry::symlink("d", "o"),
            ],
        ),
        Case::lowest(
            "directory-removed",
            [Entry::directory("d"), Entry::whiteout("d")],
        ),
    ]
}
