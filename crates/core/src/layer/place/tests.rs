//! What containerd 1.6 makes of a layer, rule by rule; each was seen in a real snapshot directory.

mod native;

use super::*;
use crate::layer::fixture::{Tar, shown, stack, table};

/// The topmost tree of a stack, without its root.
fn top(archives: &[Tar]) -> Vec<String> {
    let archives: Vec<_> = archives.iter().cloned().map(Tar::end).collect();
    let mut lines = shown(&stack(&archives).unwrap()[0]);
    let root = lines.remove(0);
    assert!(root.starts_with(" directory 755 0:0"), "{root}");
    lines
}

/// One layer over an empty one, so that it is not the lowest.
fn upper(archive: Tar) -> Vec<String> {
    top(&[Tar::default(), archive])
}

fn refusal(archives: &[Tar]) -> String {
    let archives: Vec<_> = archives.iter().cloned().map(Tar::end).collect();
    stack(&archives).unwrap_err().to_string()
}

fn upper_refusal(archive: Tar) -> String {
    refusal(&[Tar::default(), archive])
}

fn new() -> Tar {
    Tar::default()
}

#[test]
fn an_ordinary_layer_is_what_it_says() {
    let lines = upper(
        new()
            .owned(b'5', "./", 0o700, (9, 9)) // the root's own entry is ignored
            .owned(b'5', "./bin/", 0o2755, (0, 5))
            .file("./bin/sh", "")
            .symlink("sbin", "bin")
            .char_device("null", 1, 3)
            .owned(b'6', "fifo", 0o600, (1, 2)),
    );
    assert_eq!(
        lines,
        [
            "bin directory 2755 0:5",
            "bin/sh file 644 0:0",
            "fifo fifo 600 1:2",
            "null char-device 644 0:0 1:3",
            "sbin symlink 777 0:0 -> bin",
        ]
    );
}

#[test]
fn names_lead_nowhere_but_into_the_layer() {
    let lines = upper(
        new()
            .file("../../etc/a", "")
            .file("/etc//./b", "")
            .file("x/../etc/c", "")
            .file("..", ""),
    );
    assert_eq!(
        lines,
        [
            "etc directory 755 0:0",
            "etc/a file 644 0:0",
            "etc/b file 644 0:0",
            "etc/c file 644 0:0"
        ]
    );
}

#[test]
fn a_missing_parent_is_copied_from_the_topmost_layer_that_has_it() {
    let lowest = new()
        .owned(b'5', "etc", 0o700, (1, 1))
        .owned(b'5', "var", 0o1777, (2, 2));
    let middle = new()
        .extended(&[
            (b"SCHILY.xattr.user.x", b"1"),
            (b"SCHILY.xattr.trusted.y", b"2"),
        ])
        .owned(b'5', "etc", 0o750, (3, 4));
    let lines = top(&[
        lowest,
        middle,
        new().file("etc/a", "").file("var/b", "").file("opt/c", ""),
    ]);
    assert_eq!(
        lines,
        [
            "etc directory 750 3:4 user.x=1",
            "etc/a file 644 0:0",
            "opt directory 755 0:0",
            "opt/c file 644 0:0",
            "var directory 1777 2:2",
            "var/b file 644 0:0",
        ]
    );
}

#[test]
fn a_missing_parent_is_not_copied_through_what_replaced_it() {
    let lowest = new().owned(b'5', "d", 0o700, (1, 1));
    for middle in [new().file("d", ""), new().file(".wh.d", "")] {
        let lines = top(&[lowest.clone(), middle.clone(), new().file("d/a", "")]);
        assert_eq!(lines[0], "d directory 755 0:0");
        // One level deeper the runtime stumbles over the file.
        let refused = refusal(&[lowest.clone(), middle, new().file("d/e/a", "")]);
        assert_eq!(refused, "/d/e: a parent is not a directory");
    }
    // Links are followed in the layer below.
    let link = new()
        .owned(b'5', "real", 0o700, (1, 1))
        .symlink("d", "real");
    let lines = top(&[link, new().file("d/a", "")]);
    assert_eq!(lines[0], "d directory 700 1:1");
}

#[test]
fn links_of_the_layer_itself_are_followed_and_others_are_not() {
    let link = new().directory("usr/bin").symlink("bin", "usr/bin");
    let lines = upper(link.clone().file("bin/sh", ""));
    assert!(lines.contains(&"usr/bin/sh file 644 0:0".to_owned()));
    let lines = top(&[link, new().file("bin/sh", "")]);
    assert_eq!(lines, ["bin directory 755 0:0", "bin/sh file 644 0:0"]);
    let refused = upper_refusal(new().symlink("a", "b").symlink("b", "a").file("a/x", ""));
    assert_eq!(refused, "/a/x: too many links on the way");
    let refused = upper_refusal(
        new()
            .symlink("a", "/b")
            .symlink("b", "/c")
            .file("a/y/x", ""),
    );
    assert_eq!(
        refused,
        "/a/y/x: unsupported: a link that leads out of the layer while it is unpacked"
    );
}

#[test]
fn a_file_in_the_way_is_refused() {
    assert_eq!(
        upper_refusal(new().file("a", "").file("a/b", "")),
        "/a: a parent is not a directory"
    );
    let refused = upper_refusal(new().file("a", "").file("a/b/c", ""));
    assert_eq!(refused, "/a/b/c: a parent is not a directory");
}

#[test]
fn a_repeated_file_is_replaced_and_a_repeated_directory_merged() {
    let lines = upper(
        new()
            .file("a", "first")
            .file("a", "")
            .directory("d")
            .file("d/in", "")
            .owned(b'5', "d", 0o700, (1, 1))
            .directory("gone")
            .file("gone/in", "")
            .directory("kept"),
    );
    assert_eq!(
        lines,
        [
            "a file 644 0:0",
            "d directory 700 1:1",
            "d/in file 644 0:0",
            "gone directory 755 0:0",
            "gone/in file 644 0:0",
            "kept directory 755 0:0",
        ]
    );
    let lines = upper(
        new()
            .file("x/in", "")
            .file("x", "")
            .file("y", "")
            .directory("y")
            .file("y/in", ""),
    );
    assert_eq!(
        lines,
        ["x file 644 0:0", "y directory 755 0:0", "y/in file 644 0:0"]
    );
}

#[test]
fn a_directory_that_later_entries_took_away_is_refused() {
    let lines = upper(new().directory("d").file("d", "")); // there is something to set times on
    assert_eq!(lines, ["d file 644 0:0"]);
    let refused = upper_refusal(new().directory("d/e").file("d", ""));
    assert_eq!(refused, "/d/e: a parent is not a directory");
    let refused = upper_refusal(new().directory("d/e").symlink("d", "nowhere"));
    assert_eq!(
        refused,
        "/nowhere/e: directory was replaced by a later entry"
    );
    let refused = refusal(&[new().directory("d").file(".wh.d", "")]);
    assert_eq!(refused, "/d: directory was replaced by a later entry");
}

#[test]
fn whiteouts_become_devices_and_opaque_directories() {
    let lines = upper(
        new()
            .owned(b'0', "etc/.wh.old", 0o644, (3, 4))
            .file("etc/.wh..wh..opq", "")
            .file(".wh..wh.aufs", "")
            .char_device("null", 0, 0)
            .char_device("wraps", 4096, 0),
    );
    assert_eq!(
        lines,
        [
            ".wh.aufs whiteout 0 0:0",
            "etc directory 755 0:0 opaque",
            "etc/old whiteout 0 3:4",
            "null whiteout 644 0:0",
            "wraps whiteout 644 0:0",
        ]
    );
    let root = stack(&[new().end(), new().file(".wh..wh..opq", "").end()]).unwrap();
    assert_eq!(shown(&root[0]), [" directory 755 0:0 opaque"]);
}

#[test]
fn an_opaque_mark_stays_until_its_directory_goes() {
    let marked = new().file("d/.wh..wh..opq", "");
    assert_eq!(
        upper(marked.clone().directory("d")),
        ["d directory 755 0:0 opaque"]
    );
    let replaced = marked.file("d", "").directory("d");
    assert_eq!(upper(replaced), ["d directory 755 0:0"]);
}

#[test]
fn a_whiteout_that_meets_something_is_refused() {
    let refused = "/a: whiteout of an entry of the same layer";
    assert_eq!(
        upper_refusal(new().file("a", "").file(".wh.a", "")),
        refused
    );
    assert_eq!(
        upper_refusal(new().directory("a").file(".wh.a", "")),
        refused
    );
    assert_eq!(
        upper_refusal(new().file(".wh.a", "").file(".wh.a", "")),
        refused
    );
    // The other way round the file replaces the whiteout.
    assert_eq!(
        upper(new().file(".wh.a", "").file("a", "")),
        ["a file 644 0:0"]
    );
}

#[test]
fn a_whiteout_without_a_name_is_refused() {
    for name in ["d/.wh.", "d/.wh..", "d/.wh..."] {
        assert!(
            upper_refusal(new().file(name, "")).ends_with("whiteout has no valid name"),
            "{name}"
        );
    }
}

#[test]
fn in_the_lowest_layer_whiteouts_remove() {
    let lines = top(&[new()
        .directory("d")
        .file("d/a", "")
        .file("d/b", "")
        .file("d/.wh.a", "")
        .file(".wh.none", "")]);
    assert_eq!(lines, ["d directory 755 0:0", "d/b file 644 0:0"]);
    // Parents that no entry names are not the layer's own: the marker takes them with all in them.
    for marker in ["d/.wh..wh..opq", "d/.wh..wh..opq/", "d/.wh..wh..opq/x/../."] {
        let lines = top(&[new()
            .directory("d")
            .file("d/own", "")
            .file("d/made/in", "")
            .file(marker, "")
            .file("d/late", "")]);
        assert_eq!(
            lines,
            [
                "d directory 755 0:0",
                "d/late file 644 0:0",
                "d/own file 644 0:0"
            ]
        );
    }
}

#[test]
fn a_hard_link_is_the_same_file() {
    let lines = upper(
        new()
            .extended(&[(b"SCHILY.xattr.user.x", b"1")])
            .file("z", "content")
            .extended(&[(b"SCHILY.xattr.user.y", b"2")])
            .owned_link((b'1', "a", "./z"), 0o4755, (7, 8))
            .symlink("l", "nowhere")
            .hard_link("m", "l"),
    );
    assert_eq!(
        lines,
        [
            "a file 4755 7:8 ed7002b4 user.x=1 user.y=2",
            "l symlink 777 0:0 -> nowhere",
            "m symlink 777 0:0 -> nowhere = l",
            "z file 4755 7:8 ed7002b4 user.x=1 user.y=2 = a",
        ]
    );
}

#[test]
fn a_hard_link_keeps_its_file_when_the_first_path_goes() {
    let lines = upper(new().file("a", "content").hard_link("b", "a").file("a", ""));
    assert_eq!(lines, ["a file 644 0:0", "b file 644 0:0 ed7002b4"]);
}

#[test]
fn a_hard_link_to_nothing_is_refused() {
    let missing = "hard link to what is not in the layer";
    let lower = new().file("f", "").directory("d");
    let refused = refusal(&[lower, new().hard_link("h", "f")]);
    assert_eq!(refused, format!("/h: {missing}")); // the layer below does not count
    assert_eq!(
        upper_refusal(new().hard_link("h", "h")),
        format!("/h: {missing}")
    );
    assert_eq!(
        upper_refusal(new().file("h", "").hard_link("h", "h")),
        format!("/h: {missing}")
    );
    let directory = "/h: hard link to a directory";
    for target in ["d", "d/", "", "/", "d/..", ".."] {
        assert_eq!(
            upper_refusal(new().directory("d").hard_link("h", target)),
            directory,
            "{target}"
        );
    }
}

#[test]
fn a_hard_links_parent_is_found_within_the_layer() {
    let layer = new()
        .directory("usr/bin")
        .symlink("bin", "/usr/bin")
        .file("usr/bin/a", "");
    let lines = upper(layer.hard_link("h", "../../bin/a"));
    assert!(
        lines.contains(&"usr/bin/a file 644 0:0 = h".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn a_change_of_owner_takes_capabilities() {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let with = |tar: Tar| tar.extended(&[(b"SCHILY.xattr.security.capability", capability)]);
    let lines = upper(with(new()).file("a", "").hard_link("b", "a"));
    assert_eq!(lines, ["a file 644 0:0", "b file 644 0:0 = a"]);
    let lines = upper(with(with(new()).file("a", "")).hard_link("b", "a"));
    assert!(
        lines[0].contains("security.capability=\\x01\\x00"),
        "{lines:?}"
    );
    let refused = upper_refusal(
        new()
            .extended(&[(b"SCHILY.xattr.security.capability", b"x")])
            .file("a", ""),
    );
    assert_eq!(
        refused,
        "/a: extended attribute security.capability: not a set of capabilities"
    );
    let refused = upper_refusal(
        new()
            .extended(&[(b"SCHILY.xattr.system.posix_acl_access", b"x")])
            .file("a", ""),
    );
    assert_eq!(refused, "/a: unsupported: access control list");
}

#[test]
fn an_owner_of_minus_one_is_left_as_it_is() {
    let owner: &[(&[u8], &[u8])] = &[(b"uid", b"-1"), (b"gid", b"4294967295")];
    let lines = upper(
        new()
            .owned(b'5', "d", 0o2755, (1, 5))
            .extended(owner)
            .file("d/a", "")
            .extended(owner)
            .file("b", ""),
    );
    assert_eq!(
        lines,
        ["b file 644 0:0", "d directory 2755 1:5", "d/a file 644 0:5"]
    );
    let wrapped = new().extended(&[(b"uid", b"4294967297")]).file("a", "");
    assert_eq!(upper(wrapped), ["a file 644 1:0"]);
}

#[test]
fn a_global_header_removes_what_has_its_name() {
    let layer = new().directory("d").file("d/in", "").file("kept", "");
    assert_eq!(
        upper(layer.entry(b'g', "pax_global_header", "", b"")).len(),
        3
    );
    let layer = new()
        .file("f", "")
        .file("kept", "")
        .entry(b'g', "f", "", b"");
    assert_eq!(upper(layer), ["kept file 644 0:0"]);
    // What it says of an owner is not read.
    let layer = new().owned(b'g', ".wh.a", 0o644, (1, 2));
    assert_eq!(upper(layer), ["a whiteout 0 0:0"]);
}

#[test]
fn an_unknown_type_is_refused_where_it_would_be_made() {
    assert_eq!(
        upper_refusal(new().entry(b'7', "a", "", b"")),
        "/a: unknown type 0x37"
    );
    // As a whiteout or the root it is never made.
    assert_eq!(
        upper(
            new()
                .entry(b'7', ".wh.a", "", b"")
                .entry(b'V', "./", "", b"")
        )
        .len(),
        1
    );
}

#[test]
fn names_that_linux_does_not_take_are_refused() {
    let long = "n".repeat(256);
    let with = |name: &str| new().extended(&[(b"path", name.as_bytes())]).file("x", "");
    assert!(upper_refusal(with(&long)).ends_with("name is too long"));
    assert!(upper_refusal(with(&format!("{long}/a"))).ends_with("name is too long"));
    assert_eq!(upper(with(&"n".repeat(255))).len(), 1);
    assert!(upper_refusal(new().symlink("a", "")).ends_with("without a target"));
}

#[test]
fn trees_of_another_chain_are_no_parents() {
    let trees = stack(&[new().file("a", "").end(), new().file("b", "").end()]).unwrap();
    let above = table(&new().file("c", "").end()).unwrap();
    let placed = |trees: &[_]| place(&above, Snapshotter::Overlayfs, trees);
    assert_eq!(
        placed(&trees).unwrap().chain_id(),
        trees[0].chain_id().push(above.diff_id())
    );
    assert!(matches!(placed(&trees[..1]), Err(PlaceError::Parents)));
    let native = place(&above, Snapshotter::Native, &trees);
    assert!(matches!(native, Err(PlaceError::Parents)));
    let reversed: Vec<_> = trees.into_iter().rev().collect();
    assert!(matches!(placed(&reversed), Err(PlaceError::Parents)));
}

#[test]
fn a_hostile_path_is_shown_escaped() {
    let refused = upper_refusal(new().entry(b'7', "a\x1b[31m\nb", "", b""));
    assert_eq!(refused, "/a\\x1b[31m\\x0ab: unknown type 0x37");
}
