//! Trees on disks that rot, are cut, or were written by something else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::layer::fixture::{directory, file, tree, tree_file, whiteout};

fn id() -> ChainId {
    ChainId(Digest::of(b"layer"))
}

/// Entries enough for several blocks.
fn many() -> Vec<(String, Entry)> {
    let mut entries = vec![(String::new(), directory())];
    for directory_number in 0..20 {
        entries.push((format!("d{directory_number:02}"), directory()));
        for number in 0..20 {
            let path = format!("d{directory_number:02}/file {number:02}");
            entries.push((path.clone(), file(&path)));
        }
    }
    entries
}

fn written(entries: &[(String, Entry)]) -> Vec<u8> {
    let borrowed: Vec<_> = entries
        .iter()
        .map(|(path, entry)| (path.as_str(), entry.clone()))
        .collect();
    tree_file(&borrowed)
}

#[test]
fn everything_written_is_found_and_nothing_else() {
    let entries = many();
    let tree = ExpectedTree::open(written(&entries), id()).unwrap();
    assert!(tree.blocks.len() > 2);
    assert_eq!(tree.entries(), 421);
    assert_eq!(tree.diff_id().0, id().0);
    for (path, entry) in &entries {
        assert_eq!(
            tree.lookup(path.as_bytes()).unwrap().as_ref(),
            Some(entry),
            "{path}"
        );
    }
    for absent in [
        "d",
        "d00/",
        "d00/file",
        "d00/file 00x",
        "d19/file 20",
        "e",
        "/",
        "d00\0file 00",
    ] {
        assert_eq!(tree.lookup(absent.as_bytes()).unwrap(), None, "{absent:?}");
    }
    let long = vec![b'x'; PATH_BYTES + 1];
    assert_eq!(tree.lookup(&long).unwrap(), None);
}

#[test]
fn a_directory_is_followed_by_everything_below_it() {
    // As plain bytes "a-b" comes before "a/b".
    let entries = [
        ("", directory()),
        ("a", directory()),
        ("a/b", file("")),
        ("a-b", file("")),
    ];
    let tree = tree(&entries);
    let paths = |entries: Entries<'_>| -> Vec<String> {
        entries
            .map(|next| String::from_utf8(next.unwrap().0).unwrap())
            .collect()
    };
    assert_eq!(paths(tree.iter()), ["", "a", "a/b", "a-b"]);
    assert_eq!(paths(tree.below(b"")), ["a", "a/b", "a-b"]);
    assert_eq!(paths(tree.below(b"a")), ["a/b"]);
    assert_eq!(paths(tree.below(b"a/b")), [""; 0]);
    assert_eq!(paths(tree.below(b"nowhere")), [""; 0]);
    assert_eq!(paths(tree.below(b"a\0")), [""; 0]);
}

#[test]
fn the_bytes_of_a_tree_never_change() {
    // If this fails, the format has changed: it needs another version.
    let entries = [("", directory()), ("a", whiteout()), ("b", file("content"))];
    let digest = Digest::of(&tree_file(&entries));
    assert_eq!(
        digest.encoded(),
        "4154fde04e5993e1e0480963e79f7527261998176d63e03f239ecfae4aa78878"
    );
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let entries = [
        ("", directory()),
        ("bin", directory()),
        ("bin/sh", file("x")),
        ("etc", whiteout()),
    ];
    let good = tree_file(&entries);
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            assert!(
                ExpectedTree::open(bad, id()).is_err(),
                "byte {index}, bit {bit}"
            );
        }
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    let good = tree_file(&[("", directory()), ("a", file("x"))]);
    for length in 0..good.len() {
        let cut = good[..length].to_vec();
        assert!(ExpectedTree::open(cut, id()).is_err(), "{length}");
    }
    let longer = [good.as_slice(), b"\0"].concat();
    assert!(matches!(
        ExpectedTree::open(longer, id()),
        Err(TreeError::Damage(Damage::Trailing))
    ));
}

/// A disk that rots while it is in use.
#[derive(Clone)]
struct Rotting(Arc<Mutex<Vec<u8>>>);

impl ReadAt for Rotting {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.lock().unwrap().read_exact_at(buf, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.lock().unwrap().length()
    }
}

#[test]
fn what_rots_after_opening_is_noticed_when_it_is_read() {
    let entries = many();
    let disk = Rotting(Arc::new(Mutex::new(written(&entries))));
    let tree = ExpectedTree::open(disk.clone(), id()).unwrap();
    let second = usize::try_from(tree.blocks[1].offset).unwrap();
    let path = &path_of(tree.blocks[1].first.to_vec());
    let flip = |index: usize| disk.0.lock().unwrap()[index] ^= 0x10;

    for index in second..second + 200 {
        flip(index);
        assert!(tree.lookup(path).is_err(), "byte {index}");
        assert!(tree.iter().any(|next| next.is_err()));
        flip(index);
    }
    assert!(tree.lookup(path).unwrap().is_some());
    disk.0.lock().unwrap().truncate(second + 10);
    assert!(
        tree.lookup(&path_of(tree.blocks[2].first.to_vec()))
            .is_err()
    );
}

/// Numbers that look random and are the same each time.
fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    usize::try_from(*seed >> 20).unwrap()
}

#[test]
fn ten_thousand_random_bits_of_a_large_tree_never_give_a_wrong_answer() {
    let mut entries = vec![(String::new(), directory())];
    for number in 0..2_000 {
        let path = format!("file {number:05}");
        entries.push((path.clone(), file(&path)));
    }
    let good = written(&entries);
    assert!(good.len() > 50_000, "{}", good.len());
    let disk = Rotting(Arc::new(Mutex::new(good.clone())));
    let tree = ExpectedTree::open(disk.clone(), id()).unwrap();
    let (mut seed, mut noticed) = (1, 0);
    for _ in 0..10_000 {
        let bit = next(&mut seed) % (8 * good.len());
        let (index, mask) = (bit / 8, 1 << (bit % 8));
        let mut bad = good.clone();
        bad[index] ^= mask;
        assert!(ExpectedTree::open(bad, id()).is_err(), "bit {bit}");
        // And in a tree that is open, the entry that is there and one elsewhere.
        disk.0.lock().unwrap()[index] ^= mask;
        let near = index * entries.len() / good.len();
        for asked in [near, next(&mut seed) % entries.len()] {
            let (path, entry) = &entries[asked];
            match tree.lookup(path.as_bytes()) {
                Ok(found) => assert_eq!(found.as_ref(), Some(entry), "bit {bit}, {path}"),
                Err(_) => noticed += 1,
            }
        }
        *tree.recent.lock().unwrap() = None;
        disk.0.lock().unwrap()[index] ^= mask;
    }
    assert!(noticed > 1_000, "{noticed}");
}

#[test]
fn after_an_error_a_walk_has_ended() {
    let disk = Rotting(Arc::new(Mutex::new(written(&many()))));
    let tree = ExpectedTree::open(disk.clone(), id()).unwrap();
    disk.0.lock().unwrap().clear();
    let walked: Vec<_> = tree.iter().collect();
    assert_eq!(walked.len(), 1);
    assert!(walked[0].is_err());
}

#[test]
fn the_tree_of_another_snapshot_is_refused() {
    let other = ChainId(Digest::of(b"other"));
    let opened = ExpectedTree::open(tree_file(&[("", directory())]), other);
    assert!(matches!(opened, Err(TreeError::OtherChain { expected, .. }) if expected == other));
}

#[test]
fn a_later_version_is_refused_by_name() {
    let mut bytes = tree_file(&[("", directory())]);
    bytes[7] = 3;
    let opened = ExpectedTree::open(bytes, id());
    assert!(matches!(opened, Err(TreeError::Damage(Damage::Version(3)))));
}

#[test]
fn entries_out_of_order_are_not_written() {
    let write = |entries: &[(&str, Entry)]| {
        let entries = entries.iter().map(|(path, entry)| (path.as_bytes(), entry));
        ExpectedTree::write(Vec::new(), id(), DiffId(id().0), entries)
    };
    let root = || ("", directory());
    for entries in [
        vec![root(), ("b", file("")), ("a", file(""))],
        vec![root(), ("a", file("")), ("a", file(""))],
        vec![root(), ("a-b", file("")), ("a/b", file(""))],
        vec![("a", file(""))],
        vec![root(), root()],
    ] {
        let written = write(&entries);
        let is_refused = matches!(written, Err(TreeError::Damage(Damage::Order)));
        assert!(is_refused, "{entries:?}");
    }
    assert!(write(&[]).is_err());
    assert!(write(&[("", file(""))]).is_err());
    assert!(write(&[root(), ("a", file(""))]).is_ok());
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-c!~]{1,3}", 1..4).prop_map(|components| components.join("/"))
}

proptest! {
    #[test]
    fn any_set_of_paths_is_found_again(
        paths in prop::collection::btree_set(path(), 0..60),
        asked in path(),
    ) {
        let mut model: BTreeMap<Vec<u8>, (String, Entry)> = BTreeMap::new();
        model.insert(Vec::new(), (String::new(), directory()));
        for path in paths {
            let key = path.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect();
            model.insert(key, (path.clone(), file(&path)));
        }
        let entries: Vec<_> = model.into_values().collect();
        let tree = ExpectedTree::open(written(&entries), id()).unwrap();

        let walked: Vec<_> = tree.iter().map(|next| next.unwrap()).collect();
        let expected: Vec<_> = entries.iter().cloned().map(|(path, entry)| (path.into_bytes(), entry)).collect();
        prop_assert_eq!(&walked, &expected);
        let here = expected.iter().find(|(path, _)| path == asked.as_bytes()).map(|(_, entry)| entry.clone());
        prop_assert_eq!(tree.lookup(asked.as_bytes()).unwrap(), here);
        let below: Vec<_> = tree.below(asked.as_bytes()).map(|next| next.unwrap()).collect();
        let prefix = format!("{asked}/");
        let expected: Vec<_> = expected.into_iter().filter(|(path, _)| path.starts_with(prefix.as_bytes())).collect();
        prop_assert_eq!(below, expected);
    }
}
