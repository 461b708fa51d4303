//! A snapshot whose owners were shifted for a user namespace: the whole image again, as the container sees it.

use std::collections::BTreeMap;

use holdfast_core::layer::{MergedTree, Node, Snapshotter};
use holdfast_tests::containerd::Containerd;
use holdfast_tests::image::{Image, Layout};
use holdfast_tests::layer::Entry;
use holdfast_tests::unpacked::{self, Listing};

const IMAGE: &str = "holdfast.invalid/remap:1";

/// Every owner is moved by so much.
pub(super) const SHIFT: u32 = 100_000;

/// Files on which a change of owner leaves its marks.
pub(super) fn image() -> Image {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Image::busybox([
        Entry::program("usr/bin/set-user", "x").mode(0o4755),
        Entry::program("usr/bin/set-group", "x")
            .mode(0o2755)
            .owner(1, 2),
        Entry::file("usr/bin/lock", "x").mode(0o6644),
        Entry::directory("opt/shared").mode(0o2775).owner(3, 4),
        Entry::program("usr/bin/capable", "x").xattr("security.capability", capability),
        Entry::file("opt/noted", "x")
            .xattr("user.note", "v")
            .owner(1000, 1000),
        Entry::hardlink("opt/again", "opt/noted").owner(1000, 1000),
        Entry::symlink("opt/soft", "noted").owner(5, 6),
        Entry::fifo("opt/pipe").owner(7, 8),
        Entry::char_device("opt/null", 1, 3).mode(0o666),
        Entry::whiteout("opt/app/data.txt"),
        Entry::opaque("var"),
    ])
}

/// Everything that is seen of a stack (topmost first), in a user namespace.
fn seen(merged: &MergedTree) -> Listing {
    let (_, root) = merged.lookup(b"").unwrap().unwrap();
    let below = merged.below(b"").unwrap().map(|seen| {
        let seen = seen.unwrap();
        (seen.path, seen.entry)
    });
    std::iter::once((Vec::new(), root))
        .chain(below)
        .map(|(path, mut entry)| {
            // Each path is copied for itself, into directories in which nothing is hidden.
            entry.hard_link = None;
            if entry.node.is_directory() {
                entry.node = Node::Directory { opaque: false };
            }
            (path.escape_ascii().to_string(), unpacked::of_entry(&entry))
        })
        .collect()
}

/// A directory without what the overlay keeps there for itself.
fn plain(listing: Listing) -> Listing {
    let is_own = |word: &str| word.starts_with("trusted.overlay.");
    let without = |line: String| -> String {
        let words: Vec<_> = line.split(' ').filter(|word| !is_own(word)).collect();
        words.join(" ")
    };
    let pairs = listing
        .into_iter()
        .map(|(path, line)| (path, without(line)));
    pairs.collect::<BTreeMap<_, _>>()
}

#[tokio::test]
async fn a_remapped_snapshot_is_the_image_with_its_owners_shifted() {
    let containerd = Containerd::start().await;
    let image = image();
    let mut layout = Layout::new();
    layout.add(&image, IMAGE);
    containerd.ctr().import(&layout);
    let map = format!("0:{SHIFT}:65536");
    let container =
        containerd
            .ctr()
            .run_with(&["--uidmap", &map, "--gidmap", &map], IMAGE, "one", &[]);

    let directory = container.lowers()[0].clone();

    assert_eq!(container.lowers().len(), 3);
    let (mut trees, _) = unpacked::expected(Snapshotter::Overlayfs, image.layers());
    trees.reverse();
    let merged = MergedTree::new(trees);
    let merged = merged.with_owners_shifted(SHIFT, SHIFT).unwrap();
    let disk = plain(unpacked::of_directory(&directory));
    let differences = unpacked::differences(&disk, &seen(&merged));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
