//! What the native snapshotter makes of layers: one whole directory a chain.

use super::*;
use crate::layer::fixture::stack_of;

/// The tree of a chain, without its root.
fn whole(archives: &[Tar]) -> Vec<String> {
    let archives: Vec<_> = archives.iter().cloned().map(Tar::end).collect();
    let trees = stack_of(Snapshotter::Native, &archives).unwrap();
    assert_eq!(trees[0].snapshotter(), Snapshotter::Native);
    let mut lines = shown(&trees[0]);
    assert!(lines.remove(0).starts_with(" directory 755 0:0"));
    lines
}

fn whole_refusal(archives: &[Tar]) -> String {
    let archives: Vec<_> = archives.iter().cloned().map(Tar::end).collect();
    let refused = stack_of(Snapshotter::Native, &archives);
    refused.unwrap_err().to_string()
}

#[test]
fn a_chain_is_one_directory() {
    let lines = whole(&[
        new().owned(b'5', "etc", 0o700, (1, 2)).file("etc/a", ""),
        new().file("etc/b", "").file("etc/a", "x"),
        new().file(".wh.nothing", "").char_device("zero", 0, 0),
    ]);
    assert_eq!(
        lines,
        [
            "etc directory 700 1:2",
            "etc/a file 644 0:0 2d711642",
            "etc/b file 644 0:0",
            "zero char-device 644 0:0 0:0",
        ]
    );
}

#[test]
fn entries_land_where_links_of_the_layers_below_lead() {
    let link = new().directory("usr/bin").symlink("bin", "usr/bin");
    let lines = whole(&[link.clone(), new().file("bin/sh", "")]);
    assert_eq!(lines[0], "bin symlink 777 0:0 -> usr/bin");
    assert!(
        lines.contains(&"usr/bin/sh file 644 0:0".to_owned()),
        "{lines:?}"
    );
    // A removal goes the same way.
    let file = link.file("usr/bin/sh", "");
    let lines = whole(&[file.clone(), new().file("bin/.wh.sh", "")]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        whole_refusal(&[file, new().file("usr/bin/sh/x", "")]),
        "/usr/bin/sh: a parent is not a directory"
    );
}

#[test]
fn removals_remove_and_may_meet_anything() {
    let below = new().directory("d").file("d/a", "").file("d/b", "");
    let lines = whole(&[below.clone(), new().file("d/a", "").file("d/.wh.a", "")]);
    assert_eq!(lines, ["d directory 755 0:0", "d/b file 644 0:0"]);
    let lines = whole(&[
        below.clone(),
        new().file("d/own", "").file("d/.wh..wh..opq", ""),
    ]);
    assert_eq!(lines, ["d directory 755 0:0", "d/own file 644 0:0"]);
    let lines = whole(&[below, new().file(".wh..wh..opq", "")]);
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn a_hard_link_may_lead_to_a_layer_below() {
    let lines = whole(&[
        new().file("f", "x"),
        new().owned_link((b'1', "h", "f"), 0o600, (3, 4)),
    ]);
    assert_eq!(
        lines,
        ["f file 600 3:4 2d711642", "h file 600 3:4 2d711642 = f",]
    );
}

#[test]
fn a_copy_keeps_hard_links_of_regular_files_alone() {
    let lowest = new()
        .file("f", "x")
        .hard_link("g", "f")
        .symlink("s", "f")
        .hard_link("t", "s")
        .owned(b'6', "p", 0o644, (0, 0))
        .hard_link("q", "p");
    let linked = |lines: Vec<String>| -> Vec<String> {
        let is_link = |line: &String| line.contains(" = ");
        lines.into_iter().filter(is_link).collect()
    };
    assert_eq!(linked(whole(std::slice::from_ref(&lowest))).len(), 3);
    let lines = linked(whole(&[lowest.clone(), new()]));
    assert_eq!(lines, ["g file 644 0:0 2d711642 = f"]);
    // And parts them as a file system does.
    let lines = linked(whole(&[lowest, new().file("f", "new")]));
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn a_missing_parent_is_not_copied_because_none_is_missing() {
    let below = new().owned(b'5', "etc", 0o2750, (1, 20));
    let lines = whole(&[below, new().file("etc/made/file", "")]);
    assert_eq!(
        lines,
        [
            "etc directory 2750 1:20",
            "etc/made directory 755 0:20",
            "etc/made/file file 644 0:0",
        ]
    );
}
