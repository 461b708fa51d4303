//! The overlay rules, one by one and against a model that works the other way round.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::layer::fixture::{directory, file, opaque, symlink, tree, whiteout};
use crate::layer::tree::path_of;

fn merged(layers: &[&[(&str, Entry)]]) -> MergedTree {
    MergedTree::new(
        layers
            .iter()
            .map(|entries| Arc::new(tree(entries)))
            .collect(),
    )
}

fn layer_of(merged: &MergedTree, path: &str) -> Option<usize> {
    merged
        .lookup(path.as_bytes())
        .unwrap()
        .map(|(layer, _)| layer)
}

fn seen(merged: &MergedTree, directory: &str) -> Vec<String> {
    let below = merged.below(directory.as_bytes()).unwrap();
    below
        .map(|next| next.unwrap())
        .map(|seen| format!("{} {}", String::from_utf8_lossy(&seen.path), seen.layer))
        .collect()
}

#[test]
fn the_topmost_layer_counts_and_directories_merge() {
    let mut top_directory = directory();
    top_directory.uid = 7;
    let merged = merged(&[
        &[
            ("", directory()),
            ("d", top_directory),
            ("d/a", file("new")),
        ],
        &[
            ("", directory()),
            ("d", directory()),
            ("d/a", file("old")),
            ("d/b", file("b")),
        ],
    ]);
    assert_eq!(merged.lookup(b"d").unwrap().unwrap().1.uid, 7);
    assert_eq!(merged.lookup(b"d/a").unwrap().unwrap(), (0, file("new")));
    assert_eq!(layer_of(&merged, "d/b"), Some(1));
    assert_eq!(seen(&merged, ""), ["d 0", "d/a 0", "d/b 1"]);
    assert_eq!(seen(&merged, "d"), ["d/a 0", "d/b 1"]);
    assert_eq!(seen(&merged, "d/a"), [""; 0]);
}

#[test]
fn a_whiteout_hides_what_is_below_it() {
    let lower: &[_] = &[
        ("", directory()),
        ("d", directory()),
        ("d/a", file("")),
        ("f", file("")),
    ];
    let merged = merged(&[
        &[("", directory()), ("d", whiteout()), ("f", whiteout())],
        lower,
        &[("", directory()), ("f", file("deeper"))],
    ]);
    for path in ["d", "d/a", "f"] {
        assert_eq!(layer_of(&merged, path), None, "{path}");
    }
    assert_eq!(seen(&merged, ""), [""; 0]);
    assert_eq!(seen(&merged, "d"), [""; 0]);
}

#[test]
fn an_opaque_directory_hides_what_is_in_it_below() {
    let lower: &[_] = &[
        ("", directory()),
        ("d", directory()),
        ("d/a", file("")),
        ("d/b", file("")),
    ];
    let merged = merged(&[
        &[("", directory()), ("d", opaque()), ("d/b", file(""))],
        lower,
    ]);
    assert_eq!(layer_of(&merged, "d/a"), None);
    assert_eq!(seen(&merged, ""), ["d 0", "d/b 0"]);
}

#[test]
fn an_opaque_mark_on_the_root_hides_nothing() {
    let merged = merged(&[&[("", opaque())], &[("", directory()), ("a", file(""))]]);
    assert_eq!(layer_of(&merged, "a"), Some(1));
    assert_eq!(seen(&merged, ""), ["a 1"]);
}

#[test]
fn a_file_and_a_directory_of_one_name_do_not_merge() {
    let file_below: &[_] = &[
        ("", directory()),
        ("x", file("")),
        ("y", directory()),
        ("y/in", file("")),
    ];
    let merged = merged(&[
        &[("", directory()), ("x", directory()), ("y", file(""))],
        file_below,
        &[
            ("", directory()),
            ("x", directory()),
            ("x/deep", file("")),
            ("y", directory()),
            ("y/deep", file("")),
        ],
    ]);
    // The file between ends the search, although the lowest layer has a directory again.
    assert_eq!(layer_of(&merged, "x/deep"), None);
    assert_eq!(layer_of(&merged, "y"), Some(0));
    assert_eq!(layer_of(&merged, "y/in"), None);
    assert_eq!(seen(&merged, ""), ["x 0", "y 0"]);
}

fn digest_of(content: &str) -> Digest {
    Digest::of(content.as_bytes())
}

#[test]
fn a_content_is_found_where_it_is_seen_and_nowhere_else() {
    let merged = merged(&[
        &[
            ("", directory()),
            ("gone", whiteout()),
            ("new", file("new")),
            ("over", file("above")),
        ],
        &[
            ("", directory()),
            ("d", directory()),
            ("d/copy", file("twice")),
            ("empty", file("")),
            ("gone", file("hidden")),
            ("over", file("below")),
            ("twice", file("twice")),
        ],
    ]);
    let contents = merged.contents().unwrap();
    let found = |content: &str| {
        let path = merged.path_of_content(&contents, digest_of(content));
        path.unwrap().map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(found("new").as_deref(), Some("new"));
    assert_eq!(found("above").as_deref(), Some("over"));
    assert_eq!(found("twice").as_deref(), Some("d/copy"));
    for nowhere in ["hidden", "below", "none", ""] {
        assert_eq!(found(nowhere), None, "{nowhere}");
    }
}

#[test]
fn contents_are_listed_once_for_all_who_hold_them_and_forgotten_with_them() {
    let tree = Arc::new(tree(&[("", directory()), ("a", file("a"))]));
    let one = tree.contents().unwrap();
    assert!(Arc::ptr_eq(&one, &tree.contents().unwrap()));
    let before = Arc::downgrade(&one);
    drop(one);
    assert!(before.upgrade().is_none());
}

#[test]
fn a_content_in_many_blocks_of_a_layer_is_found_in_each() {
    let paths: Vec<String> = (0..2000).map(|n| format!("f{n:04}")).collect();
    let contents: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let mut entries = vec![("", directory())];
    for (path, content) in paths.iter().zip(&contents) {
        entries.push((path, file(content)));
    }
    let merged = merged(&[&entries]);
    let index = merged.contents().unwrap();
    for n in (0..2000).step_by(97) {
        let found = merged
            .path_of_content(&index, digest_of(&contents[n]))
            .unwrap();
        assert_eq!(found.as_deref(), Some(paths[n].as_bytes()));
    }
}

#[test]
fn an_older_content_is_that_of_a_layer_below_the_one_that_is_seen() {
    let merged = merged(&[
        &[("", directory()), ("f", file("3")), ("gone", whiteout())],
        &[("", directory()), ("empty", file("x")), ("f", file("2"))],
        &[
            ("", directory()),
            ("empty", file("")),
            ("f", file("1")),
            ("gone", file("old")),
        ],
    ]);
    let older = |path: &str, content: &str| {
        merged
            .older_layer_with(path.as_bytes(), digest_of(content))
            .unwrap()
    };
    assert_eq!(older("f", "2"), Some(1));
    assert_eq!(older("f", "1"), Some(2));
    assert_eq!(older("f", "3"), None);
    assert_eq!(older("f", "old"), None);
    assert_eq!(older("gone", "old"), Some(2));
    assert_eq!(older("empty", ""), None);
    assert_eq!(older("none", "1"), None);
}

#[test]
fn links_are_resolved_within_the_root() {
    let merged = merged(&[
        &[
            ("", directory()),
            ("bin", symlink("usr/bin")),
            ("dots", symlink("/usr/../../../bin/./tool")),
            ("gone", symlink("nowhere")),
            ("loop", symlink("loop")),
            ("root", symlink("/")),
        ],
        &[
            ("", directory()),
            ("usr", directory()),
            ("usr/bin", directory()),
            ("usr/bin/tool", file("t")),
            ("usr/up", symlink("../../bin")),
        ],
    ]);
    let resolve = |path: &str| merged.resolve(path.as_bytes()).unwrap();
    let found = |at: &str| {
        let (layer, entry) = merged.lookup(at.as_bytes()).unwrap().unwrap();
        Resolved::Found {
            path: at.into(),
            layer,
            entry,
        }
    };
    for path in [
        "bin/tool",
        "dots",
        "/usr/bin//tool",
        "usr/up/tool",
        "../../usr/bin/tool",
        "root/bin/tool",
    ] {
        assert_eq!(resolve(path), found("usr/bin/tool"), "{path}");
    }
    assert_eq!(resolve(""), found(""));
    assert_eq!(resolve("root"), found(""));
    assert_eq!(resolve("bin/.."), found("usr"));
    assert_eq!(resolve("loop"), Resolved::Loop);
    let dangling = |path: &str| Resolved::Dangling { path: path.into() };
    assert_eq!(resolve("gone"), dangling("nowhere"));
    assert_eq!(resolve("gone/x/../y"), dangling("nowhere/y"));
    assert_eq!(resolve("bin/tool/x"), dangling("usr/bin/tool/x"));
    assert_eq!(
        MergedTree::new(Vec::new()).resolve(b"x").unwrap(),
        dangling("x")
    );
}

#[test]
fn without_layers_nothing_is_seen() {
    let none = MergedTree::new(Vec::new());
    assert_eq!(none.lookup(b"").unwrap(), None);
    assert_eq!(none.lookup(b"a").unwrap(), None);
    assert_eq!(seen(&none, ""), [""; 0]);
}

#[test]
fn what_is_no_path_is_not_seen() {
    let merged = merged(&[&[("", directory()), ("a", directory()), ("a/b", file(""))]]);
    for path in [
        "a\0b", "/a/b", "a//b", "a/b/", "/", "//a/b", "a/./b", "../a/b",
    ] {
        assert_eq!(layer_of(&merged, path), None, "{path:?}");
        assert_eq!(seen(&merged, path), [""; 0], "{path:?}");
    }
    assert_eq!(seen(&merged, "/a"), [""; 0]);
    assert_eq!(seen(&merged, "a/"), [""; 0]);
    assert_eq!(seen(&merged, "a"), ["a/b 0"]);
}

/// A layer of a few paths, each with its parents.
fn layer() -> impl Strategy<Value = BTreeMap<Vec<u8>, Entry>> {
    let node = prop_oneof![
        3 => Just(directory()), 1 => Just(opaque()), 2 => Just(file("x")),
        1 => Just(whiteout()), 1 => Just(symlink("a")),
    ];
    let path = prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    (prop::collection::vec((path, node), 0..12), any::<u32>()).prop_map(|(entries, uid)| {
        let mut layer: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        layer.insert(Vec::new(), directory());
        for (path, mut entry) in entries {
            let path = path.into_bytes();
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let ancestors: Vec<&[u8]> = slashes.map(|(at, _)| &path[..at]).collect();
            let fits = |ancestor: &&[u8]| {
                layer
                    .get(&key_of(ancestor).unwrap())
                    .is_none_or(|entry| entry.node.is_directory())
            };
            if !ancestors.iter().all(fits) || layer.contains_key(&key_of(&path).unwrap()) {
                continue;
            }
            for ancestor in ancestors {
                layer
                    .entry(key_of(ancestor).unwrap())
                    .or_insert_with(directory);
            }
            entry.uid = uid;
            layer.insert(key_of(&path).unwrap(), entry);
        }
        layer
    })
}

/// The same rules the other way round: layers put over each other from the lowest.
fn flattened(layers: &[BTreeMap<Vec<u8>, Entry>]) -> BTreeMap<Vec<u8>, (usize, Entry)> {
    let mut flat: BTreeMap<Vec<u8>, (usize, Entry)> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate().rev() {
        for (key, entry) in layer {
            let was_directory = flat
                .get(key)
                .is_some_and(|(_, entry)| entry.node.is_directory());
            let is_opaque = entry.node == Node::Directory { opaque: true } && !key.is_empty();
            let merges = entry.node.is_directory() && was_directory;
            let hides = is_opaque || !merges;
            if hides {
                let prefix = [key.as_slice(), b"\0"].concat();
                flat.retain(|other, (from, _)| *from == number || !other.starts_with(&prefix));
            }
            if entry.node == Node::Whiteout {
                flat.remove(key);
            } else {
                flat.insert(key.clone(), (number, entry.clone()));
            }
        }
    }
    flat
}

proptest! {
    #[test]
    fn looking_up_walking_and_flattening_agree(
        layers in prop::collection::vec(layer(), 1..5),
        asked in prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/")),
    ) {
        let trees = layers.iter().map(|layer| {
            let paths: Vec<_> = layer.iter()
                .map(|(key, entry)| (String::from_utf8(path_of(key.clone())).unwrap(), entry.clone()))
                .collect();
            let borrowed: Vec<_> = paths.iter().map(|(path, entry)| (path.as_str(), entry.clone())).collect();
            Arc::new(tree(&borrowed))
        });
        let merged = MergedTree::new(trees.collect());
        let flat = flattened(&layers);

        let walked: BTreeMap<_, _> = merged.below(b"").unwrap()
            .map(|next| next.unwrap())
            .map(|seen| (key_of(&seen.path).unwrap(), (seen.layer, seen.entry)))
            .collect();
        let mut expected = flat.clone();
        expected.remove(b"".as_slice());
        prop_assert_eq!(&walked, &expected);
        prop_assert_eq!(merged.lookup(asked.as_bytes()).unwrap(), flat.get(&key_of(asked.as_bytes()).unwrap()).cloned());
        for (key, there) in &expected {
            let found = merged.lookup(&path_of(key.clone())).unwrap();
            prop_assert_eq!(found.as_ref(), Some(there));
        }
        let below = merged.below(asked.as_bytes()).unwrap().count();
        let prefix = [key_of(asked.as_bytes()).unwrap().as_slice(), b"\0"].concat();
        prop_assert_eq!(below, expected.keys().filter(|key| key.starts_with(&prefix)).count());
    }
}
