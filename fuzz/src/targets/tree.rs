//! A tree's file: what opens is read the same by name, by walking and below a directory, or is damage; and
//! written again it is the same tree.

use std::sync::Arc;

use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::fuzzing::seal_tree;
use holdfast_core::layer::{Entry, ExpectedTree, Marker, MergedTree, Node};

use super::table::check_flips;
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "tree",
    check,
    max_bytes: 8 << 10,
    seeds,
    words: &["hftree\0", "security.capability"],
    repair: seal_tree,
};

fn check(file: &[u8]) {
    // Behind the magic, the version and the snapshotter.
    let Some(chain) = file.get(9..).and_then(<[u8]>::first_chunk) else {
        assert!(ExpectedTree::open(file.to_vec(), ChainId(Digest::of(b""))).is_err());
        return;
    };
    let chain = ChainId(Digest::from_sha256(*chain));
    let other = ChainId(Digest::of(b"another"));
    assert!(chain == other || ExpectedTree::open(file.to_vec(), other).is_err());
    let Ok(tree) = ExpectedTree::open(file.to_vec(), chain) else {
        return;
    };
    check_flips(file, |flipped| ExpectedTree::open(flipped, chain).is_err());
    let walked: Result<Vec<(Vec<u8>, Entry)>, _> = tree.iter().collect();
    let Ok(walked) = walked else {
        return look_everywhere(tree);
    };
    for (path, _) in &walked {
        let _answer_or_damage = tree.lookup(path).is_ok();
        let _answers_or_damage = tree.below(path).flatten().count();
    }
    // Who seals a file of ours may put keys into it that are no paths: those are not written again.
    let mut again = Vec::new();
    let entries = walked.iter().map(|(path, entry)| (path.as_slice(), entry));
    if ExpectedTree::write(&mut again, chain, tree.diff_id(), entries).is_ok() {
        check_written(&ExpectedTree::open(again, chain).unwrap(), &walked);
    }
    look_everywhere(tree);
}

/// Walked and looked up, it is what was written.
fn check_written(tree: &ExpectedTree, entries: &[(Vec<u8>, Entry)]) {
    let walked: Vec<(Vec<u8>, Entry)> = tree.iter().map(Result::unwrap).collect();
    assert_eq!(walked, entries);
    for (path, entry) in entries {
        assert_eq!(tree.lookup(path).unwrap().as_ref(), Some(entry));
    }
}

/// Answers or damage, whatever is asked.
fn look_everywhere(tree: ExpectedTree) {
    let tree = Arc::new(tree);
    let merged = MergedTree::new(vec![Arc::clone(&tree), tree]);
    let paths: [&[u8]; 5] = [b"", b"usr", b"usr/bin/sh", b"bin/sh", b"\xff/\0"];
    for path in paths {
        let _answer_or_damage = (merged.lookup(path).is_ok(), merged.resolve(path).is_ok());
        if let Ok(visible) = merged.below(path) {
            assert!(visible.take(10_000).count() < 10_000);
        }
    }
}

fn entry(node: Node) -> Entry {
    Entry {
        node,
        mode: 0o755,
        uid: 0,
        gid: 70_000,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let directory = || entry(Node::Directory { opaque: false });
    let file = entry(Node::File {
        size: 300,
        digest: Digest::of(b"content"),
        marker: Marker::Elf,
    });
    let capable = Entry {
        xattrs: vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2])],
        ..file.clone()
    };
    let linked = Entry {
        hard_link: Some(b"usr/bin/sh".to_vec()),
        ..file.clone()
    };
    let target = b"usr/bin".to_vec();
    let small = vec![
        ("", directory()),
        ("bin", entry(Node::Symlink { target })),
        ("etc", entry(Node::Directory { opaque: true })),
        ("etc/gone", entry(Node::Whiteout)),
        ("usr", directory()),
        ("usr/bin", directory()),
        ("usr/bin/ping", capable),
        ("usr/bin/sh", file.clone()),
        ("usr/bin/shell", linked),
        ("zero", entry(Node::CharDevice { major: 1, minor: 5 })),
    ];
    let names: Vec<String> = (0..120).map(|number| format!("f{number:03}")).collect();
    let mut large = vec![("", directory())];
    large.extend(names.iter().map(|name| (name.as_str(), file.clone())));
    [small, large]
        .iter()
        .map(|entries| written(entries))
        .collect()
}

fn written(entries: &[(&str, Entry)]) -> Vec<u8> {
    let id = Digest::of(b"layer");
    let mut file = Vec::new();
    let entries = entries.iter().map(|(path, entry)| (path.as_bytes(), entry));
    ExpectedTree::write(&mut file, ChainId(id), DiffId(id), entries).unwrap();
    file
}
