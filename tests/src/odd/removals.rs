//! Whiteouts and opaque markers in every order, and names that only look like them.

use super::{Case, ground};
use crate::layer::{Entry, Layer};

pub(super) fn cases() -> Vec<Case> {
    [whiteouts(), opaque(), aufs(), invalid()].concat()
}

fn whiteouts() -> Vec<Case> {
    vec![
        Case::over(
            "whiteouts",
            [
                Entry::whiteout("etc/conf").owner(3, 4).mode(0o600),
                Entry::whiteout("etc/dir"),
                Entry::whiteout("bin"),
                Entry::whiteout("pipe"),
                Entry::whiteout("not/there"),
                Entry::directory(".wh.usr"),
            ],
        ),
        Case::over(
            "whiteout-then-entry",
            [Entry::whiteout("etc/conf"), Entry::file("etc/conf", "new")],
        ),
        Case::over(
            "entry-then-whiteout",
            [Entry::file("etc/conf", "new"), Entry::whiteout("etc/conf")],
        ),
        Case::over(
            "directory-then-whiteout",
            [Entry::directory("etc"), Entry::whiteout("etc")],
        ),
        Case::over(
            "whiteout-twice",
            [Entry::whiteout("etc/conf"), Entry::whiteout("etc/conf")],
        ),
        Case::over(
            "whiteout-then-directory",
            [
                Entry::whiteout("etc"),
                Entry::directory("etc"),
                Entry::file("etc/new", "x"),
            ],
        ),
        Case::over(
            "entry-below-a-whiteout",
            [Entry::whiteout("etc"), Entry::file("etc/new", "x")],
        ),
        Case::over(
            "whiteout-below-a-file",
            [Entry::file("f", "x"), Entry::whiteout("f/x")],
        ),
        Case::over(
            "devices-that-are-whiteouts",
            [
                Entry::char_device("etc/conf", 0, 0).mode(0o644),
                Entry::char_device("bin", 0, 0)
                    .mode(0)
                    .xattr("user.note", "x"),
                Entry::block_device("block", 0, 0),
            ],
        ),
        Case::lowest(
            "lowest-whiteouts",
            [
                Entry::directory("d"),
                Entry::file("d/a", "x"),
                Entry::file("d/b", "x"),
                Entry::whiteout("d/a"),
                Entry::whiteout("none"),
                Entry::whiteout("e/none"),
                Entry::char_device("zero", 0, 0),
                Entry::file("d/sub/x", "x"),
                Entry::whiteout("d/sub"),
            ],
        ),
        Case::new(
            "back-again",
            [
                ground(),
                Layer::new([Entry::whiteout("etc"), Entry::whiteout("usr/bin/tool")]),
                Layer::new([
                    Entry::file("etc/conf", "back"),
                    Entry::program("usr/bin/tool", "back"),
                ]),
                Layer::new([Entry::whiteout("etc/conf")]),
            ],
        ),
    ]
}

fn opaque() -> Vec<Case> {
    let made = || {
        [
            Entry::directory("etc").mode(0o711),
            Entry::file("etc/own", "x"),
        ]
    };
    let [directory, file] = made();
    vec![
        Case::over(
            "opaque-first",
            [Entry::opaque("etc"), directory.clone(), file.clone()],
        ),
        Case::over(
            "opaque-between",
            [directory.clone(), Entry::opaque("etc"), file.clone()],
        ),
        Case::over(
            "opaque-last",
            [directory.clone(), file.clone(), Entry::opaque("etc")],
        ),
        Case::over("opaque-alone", [Entry::opaque("etc")]),
        Case::over("opaque-of-nothing", [Entry::opaque("new/directory")]),
        Case::over(
            "opaque-twice",
            [Entry::opaque("etc"), file.clone(), Entry::opaque("etc")],
        ),
        Case::over(
            "opaque-root",
            [Entry::file("own", "x"), Entry::file(".wh..wh..opq", "")],
        ),
        Case::over(
            "opaque-over-made-parents",
            [
                Entry::file("etc/made/own", "x"),
                Entry::opaque("etc"),
                Entry::file("etc/late", "x"),
            ],
        ),
        Case::over(
            "opaque-and-whiteouts",
            [
                Entry::whiteout("etc/conf"),
                Entry::opaque("etc"),
                Entry::whiteout("etc/dir"),
            ],
        ),
        Case::over(
            "opaque-mark-goes-with-its-directory",
            [
                Entry::opaque("etc"),
                Entry::file("etc", "x"),
                Entry::directory("etc"),
            ],
        ),
        Case::over(
            "opaque-with-a-slash",
            [
                Entry::file("etc/own", "x"),
                Entry::directory("etc/.wh..wh..opq/"),
                Entry::directory("usr/bin/.wh.tool/."),
            ],
        ),
        Case::lowest(
            "lowest-opaque-with-a-slash",
            [
                Entry::directory("d"),
                Entry::file("d/own", "x"),
                Entry::file("d/made/in", "x"),
                Entry::file("d/.wh..wh..opq/x/../.", ""),
            ],
        ),
        Case::over(
            "opaque-of-a-file",
            [Entry::file("f", "x"), Entry::opaque("f")],
        ),
        Case::lowest(
            "lowest-opaque",
            [
                Entry::directory("d"),
                Entry::file("d/own", "x"),
                Entry::file("d/made/in", "x"),
                Entry::opaque("d"),
                Entry::file("d/late", "x"),
            ],
        ),
    ]
}

fn aufs() -> Vec<Case> {
    vec![
        Case::over(
            "aufs",
            [
                Entry::file(".wh..wh.aufs", ""),
                Entry::directory(".wh..wh.plnk"),
                Entry::directory(".wh..wh.orph"),
                Entry::file("etc/.wh..wh.other", ""),
            ],
        ),
        Case::over(
            "aufs-link-folder",
            [
                Entry::directory(".wh..wh.plnk"),
                Entry::file(".wh..wh.plnk/1234.5678", "content"),
                Entry::hardlink("etc/linked", ".wh..wh.plnk/1234.5678"),
            ],
        ),
        Case::over(
            "below-an-opaque-name",
            [Entry::file("etc/.wh..wh..opq/x", "x")],
        ),
        Case::over(
            "below-a-whiteout-name",
            [Entry::file("etc/.wh.conf/x", "x")],
        ),
    ]
}

fn invalid() -> Vec<Case> {
    vec![
        Case::over("whiteout-without-a-name", [Entry::file("etc/.wh.", "")]),
        Case::over("whiteout-of-the-directory", [Entry::file("etc/.wh..", "")]),
        Case::over(
            "whiteout-of-the-one-above",
            [Entry::file("etc/dir/.wh...", "")],
        ),
        Case::over("whiteout-of-the-root", [Entry::file(".wh.", "")]),
        Case::lowest(
            "lowest-whiteout-without-a-name",
            [Entry::file("d/.wh.", "")],
        ),
    ]
}
