//! Layers upon layers: what placing makes of any archives is a tree that a disk could hold, the same each
//! time, and that is seen the same by name and by walking.
//!
//! The input is a script of four bytes a step, so that a mutation is another archive and not a broken one.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::{
    Entry, ExpectedTree, FileTable, MergedTree, Node, PlaceError, Snapshotter, place,
};

use super::tar::LIMITS;
use crate::archive::Archive;
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "place",
    check,
    max_bytes: 256,
    seeds,
    words: &[],
    repair: as_it_is,
};

/// Names that mean something to each other: parents, links, whiteouts, and ways around a clean path.
const NAMES: [&str; 32] = [
    "a",
    "a/",
    "b",
    "a/b",
    "a/b/c",
    "a/b/c/d",
    "b/x",
    "c",
    "c/y",
    "./a",
    "/a",
    "../a",
    "a/../b",
    "a//b",
    "",
    ".",
    "/",
    "..",
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "a/b/.wh.c",
    ".wh.",
    ".wh..",
    ".wh...",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    "c/.wh..wh..opq",
    ".wh..wh.plnk",
    "a/.wh..wh.aufs",
    ".wh.c",
    "c/.wh.y",
];

const TYPES: &[u8] = b"05210052316";

const LAYERS: usize = 4;

fn check(script: &[u8]) {
    let tables: Vec<FileTable> = layers(script).iter().map(table).collect();
    for snapshotter in [Snapshotter::Overlayfs, Snapshotter::Native] {
        let trees = stack(&tables, snapshotter, script.len());
        // Only an overlay's trees are stacked; on native each is the whole.
        if let (Some(trees), Snapshotter::Overlayfs) = (trees, snapshotter) {
            check_merged(&MergedTree::new(trees));
        }
    }
}

fn table(layer: &Vec<u8>) -> FileTable {
    let id = DiffId(Digest::of(layer));
    FileTable::build(layer.as_slice(), id.0, id, &LIMITS).unwrap()
}

/// The trees of these layers, top first; none where one is refused.
fn stack(
    tables: &[FileTable],
    snapshotter: Snapshotter,
    steps: usize,
) -> Option<Vec<Arc<ExpectedTree>>> {
    let mut trees: Vec<Arc<ExpectedTree>> = Vec::new();
    for table in tables {
        let placed = || place(table, snapshotter, &trees);
        let (first, second) = match (placed(), placed()) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(refusal), Err(again)) => {
                check_refusal(&refusal, &again);
                return None;
            }
            (first, second) => panic!("{first:?}, then {second:?}"),
        };
        let (mut file, mut again) = (Vec::new(), Vec::new());
        first.write(&mut file).unwrap();
        second.write(&mut again).unwrap();
        assert_eq!(file, again);
        let tree = ExpectedTree::open(file, first.chain_id()).unwrap();
        assert!(check_tree(&tree) <= LAYERS * (steps + 1) * 8);
        trees.insert(0, Arc::new(tree));
    }
    Some(trees)
}

fn check_refusal(refusal: &PlaceError, again: &PlaceError) {
    assert_eq!(refusal.to_string(), again.to_string());
    assert!(!matches!(
        refusal,
        PlaceError::Tree(_) | PlaceError::Table(_) | PlaceError::Parents
    ));
}

/// A disk could hold it; gives how many entries there are.
fn check_tree(tree: &ExpectedTree) -> usize {
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for next in tree {
        let (path, entry) = next.unwrap();
        if let Some(parent) = parent_of(&path) {
            let parent = entries.get(parent).expect("no parent before it");
            assert!(parent.node.is_directory());
        }
        if let Some(first) = &entry.hard_link {
            let first = entries.get(first).expect("a link to nothing before it");
            assert_eq!(first.hard_link, None);
            let linked = Entry {
                hard_link: None,
                ..entry.clone()
            };
            assert_eq!(*first, linked);
        }
        assert_eq!(tree.lookup(&path).unwrap().as_ref(), Some(&entry));
        assert_eq!(entries.insert(path, entry), None);
    }
    assert_eq!(u64::try_from(entries.len()), Ok(tree.entries()));
    entries.len()
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    (!path.is_empty()).then(|| slash.map_or(b"".as_slice(), |slash| &path[..slash]))
}

/// Walked and looked up, the same is seen; a whiteout never is.
fn check_merged(merged: &MergedTree) {
    for seen in merged.below(b"").unwrap() {
        let seen = seen.unwrap();
        assert_ne!(seen.entry.node, Node::Whiteout);
        let found = merged.lookup(&seen.path).unwrap();
        assert_eq!(found, Some((seen.layer, seen.entry)));
        merged.resolve(&seen.path).unwrap();
    }
}

/// The archives of a script, lowest first.
fn layers(script: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = vec![Archive::default()];
    for step in script.chunks_exact(4) {
        if step[0] == 0xff {
            layers.push(Archive::default());
            continue;
        }
        let last = layers.pop().unwrap();
        layers.push(entry(last, step));
    }
    layers.into_iter().take(LAYERS).map(Archive::end).collect()
}

/// Type, name, target, and what else there is to say.
fn entry(archive: Archive, step: &[u8]) -> Archive {
    let pick = |at: usize| NAMES[usize::from(step[at]) % NAMES.len()];
    let flag = TYPES[usize::from(step[0]) % TYPES.len()];
    let (name, link, more) = (pick(1), pick(2), step[3]);
    let archive = if more & 1 == 0 {
        archive
    } else {
        let [x, y] = ["SCHILY.xattr.user.x", "SCHILY.xattr.trusted.y"];
        archive.extended(&[(x, &[more]), (y, b"y")])
    };
    let mut header =
        crate::archive::header(flag, name, link, usize::from(flag == b'0' && more & 2 != 0));
    header.set_mode(if more & 4 == 0 { 0o755 } else { 0o6711 });
    header.set_uid(u64::from(more >> 4));
    if more & 8 != 0 {
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
    }
    header.set_cksum();
    let body: &[u8] = if flag == b'0' && more & 2 != 0 {
        b"x"
    } else {
        b""
    };
    archive.header(&header, body)
}

fn seeds() -> Vec<Vec<u8>> {
    let next = [0xff, 0, 0, 0];
    vec![
        [[1, 0, 0, 0], [0, 3, 0, 2], [4, 2, 3, 0]].concat(),
        [
            [1, 0, 0, 0],
            [0, 3, 0, 2],
            next,
            [0, 20, 0, 0],
            [2, 7, 0, 0],
        ]
        .concat(),
        [
            [0, 4, 0, 2],
            next,
            [0, 26, 0, 0],
            [0, 3, 0, 3],
            next,
            [0, 18, 0, 0],
        ]
        .concat(),
        [[2, 0, 2, 0], [0, 3, 0, 2], [3, 7, 3, 4], [3, 8, 7, 0]].concat(),
        [
            [1, 0, 0, 7],
            [8, 3, 0, 8],
            next,
            [1, 4, 0, 0],
            [10, 8, 0, 0],
        ]
        .concat(),
    ]
}
