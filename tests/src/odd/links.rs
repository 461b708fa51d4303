//! Symbolic links in the way of entries, and hard links to everything.

use super::{Case, ground};
use crate::layer::{Entry, Layer};

pub(super) fn cases() -> Vec<Case> {
    [symbolic(), hard(), hard_refused()].concat()
}

fn symbolic() -> Vec<Case> {
    let to = |target: &str| {
        vec![
            Entry::directory("usr/lib"),
            Entry::symlink("lib", target),
            Entry::file("lib/so", "x"),
            Entry::directory("lib/more"),
        ]
    };
    vec![
        Case::over("below-a-link", to("usr/lib")),
        Case::over("below-an-absolute-link", to("/usr/lib")),
        Case::over("below-a-dotted-link", to("./usr/../usr//lib/.")),
        Case::over("below-a-link-out-of-the-root", to("../../../usr/lib")),
        Case::over("below-a-dangling-link", to("not/there")),
        Case::over("below-a-link-to-the-root", to("/")),
        Case::over("below-a-link-to-itself", to("lib")),
        Case::over(
            "below-a-link-of-the-layer-below",
            [Entry::program("bin/new", "x")],
        ),
        Case::over(
            "below-an-absolute-link-below",
            [Entry::program("absolute/new", "x")],
        ),
        Case::over("removal-below-a-link-below", [Entry::whiteout("bin/tool")]),
        Case::over(
            "opaque-below-a-link-below",
            [Entry::opaque("bin"), Entry::file("bin/a", "x")],
        ),
        Case::over(
            "a-chain-of-links",
            [
                Entry::symlink("a", "b"),
                Entry::symlink("b", "c/../d"),
                Entry::directory("d"),
                Entry::file("a/x", "x"),
                Entry::file("a/y/z", "x"),
            ],
        ),
        Case::over(
            "dots-behind-a-link",
            [
                Entry::directory("d/e"),
                Entry::symlink("l", "d/e"),
                Entry::symlink("m", "l/../x"),
                Entry::file("m/in", "x"),
                Entry::file("l/../y", "x"),
            ],
        ),
        Case::over(
            "a-loop",
            [
                Entry::symlink("a", "b"),
                Entry::symlink("b", "a"),
                Entry::file("a/x", "x"),
            ],
        ),
        Case::over(
            "an-absolute-chain",
            [
                Entry::symlink("a", "/b"),
                Entry::symlink("b", "/c"),
                Entry::file("a/x", "x"),
            ],
        )
        .unknown(),
        Case::over(
            "through-an-absolute-chain",
            [
                Entry::symlink("a", "/b"),
                Entry::symlink("b", "/c"),
                Entry::file("a/y/x", "x"),
            ],
        )
        .unknown(),
        Case::over(
            "links-replaced-on-the-way",
            [
                Entry::symlink("a", "usr"),
                Entry::file("a/first", "x"),
                Entry::directory("a"),
                Entry::file("a/second", "x"),
                Entry::file("bin", "no link any more"),
            ],
        ),
    ]
}

fn hard() -> Vec<Case> {
    vec![
        Case::over(
            "hard-links",
            [
                Entry::file("z", "content").xattr("user.first", "1"),
                Entry::hardlink("a", "./z")
                    .mode(0o4755)
                    .owner(7, 8)
                    .xattr("user.second", "2"),
                Entry::hardlink("sub/b", "/z").mode(0o600),
                Entry::symlink("l", "nowhere"),
                Entry::hardlink("m", "l").owner(3, 3),
                Entry::fifo("p"),
                Entry::hardlink("q", "p").mode(0o640),
                Entry::char_device("c", 1, 5),
                Entry::hardlink("d", "c"),
            ],
        ),
        Case::over(
            "hard-link-whose-target-goes",
            [
                Entry::file("a", "content"),
                Entry::hardlink("b", "a"),
                Entry::hardlink("c", "b"),
                Entry::file("a", "another"),
            ],
        ),
        Case::over(
            "hard-link-through-links",
            [
                Entry::directory("usr/bin"),
                Entry::symlink("sbin", "/usr/bin"),
                Entry::file("usr/bin/a", "x"),
                Entry::hardlink("h", "../../sbin/a"),
                Entry::hardlink("sbin/i", "usr/bin/a"),
            ],
        ),
        Case::over(
            "hard-link-to-the-layer-below",
            [Entry::hardlink("h", "etc/conf").mode(0o600)],
        ),
        Case::over("hard-link-to-a-link-below", [Entry::hardlink("h", "soft")]),
        Case::over(
            "hard-link-through-a-link-below",
            [Entry::hardlink("h", "bin/tool").owner(5, 5)],
        ),
        Case::new(
            "hard-links-over-layers",
            [
                ground(),
                Layer::new([Entry::file("usr/bin/same", "parted")]),
                Layer::new([Entry::whiteout("pipe"), Entry::file("soft", "parted")]),
            ],
        ),
        Case::new(
            "hard-links-with-capabilities-over-layers",
            [
                Layer::new([
                    Entry::program("a", "x").mode(0o6755),
                    Entry::hardlink("b", "a")
                        .mode(0o6755)
                        .xattr("security.capability", super::attributes::CAPABILITY),
                ]),
                Layer::new([Entry::file("c", "x")]),
                Layer::new([Entry::file("d", "x")]),
            ],
        ),
        Case::lowest(
            "hard-link-to-what-is-removed-later",
            [
                Entry::file("a", "x"),
                Entry::hardlink("b", "a"),
                Entry::whiteout("a"),
            ],
        ),
    ]
}

fn hard_refused() -> Vec<Case> {
    vec![
        Case::over("hard-link-to-nothing", [Entry::hardlink("h", "nothing")]),
        Case::over(
            "hard-link-before-its-target",
            [Entry::hardlink("h", "later"), Entry::file("later", "x")],
        ),
        Case::over(
            "hard-link-to-itself",
            [Entry::file("h", "x"), Entry::hardlink("h", "h")],
        ),
        Case::over(
            "hard-link-to-a-directory",
            [Entry::directory("d"), Entry::hardlink("h", "d")],
        ),
        Case::over("hard-link-to-the-root", [Entry::hardlink("h", "/")]),
        Case::over("hard-link-to-no-name", [Entry::hardlink("h", "")]),
        Case::over("hard-link-above-the-root", [Entry::hardlink("h", "..")]),
        Case::over(
            "hard-link-to-a-slash",
            [Entry::file("f", "x"), Entry::hardlink("h", "f/")],
        ),
        Case::over(
            "hard-link-to-a-dot",
            [Entry::file("f", "x"), Entry::hardlink("h", "f/.")],
        ),
    ]
}
