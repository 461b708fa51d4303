//! Tables without blobs: proofs over real unpacked directories, untouched and tampered with, and what the
//! compare then says of them.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_agent::files::lower::{Lower, compare};
use holdfast_agent::files::tables::{Asking, Layer, OpenBlob, Tables, Unavailable};
use holdfast_agent::files::{MAX_ENTRIES, Observer, Pass, Rehash, Root};
use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::drift::corrupt::Stopped;
use holdfast_core::finding::Basis;
use holdfast_core::layer::{ExpectedTree, Snapshotter};
use holdfast_core::overlay::XattrPrefix;
use holdfast_daemon::capped::read_file;
use holdfast_tests::command::must;
use holdfast_tests::layer::{self, Entry};
use jiff::Timestamp;
use rustix::fs::FileType;
use tempfile::TempDir;

use super::container::shown;
use super::image::mknod;

/// A layer that was unpacked, and skeletons of it that were made where its blob was.
struct Node {
    tar: layer::Layer,
    folder: TempDir,
}

fn entries() -> Vec<Entry> {
    let mut entries = vec![
        Entry::directory("bin"),
        Entry::program("bin/tool", "\x7fELF genuine"),
        Entry::hardlink("bin/twin", "bin/tool").mode(0o755),
        Entry::symlink("bin/link", "tool"),
        Entry::fifo("run/pipe"),
        Entry::file("etc/conf", "first, which a later entry replaces"),
        Entry::file("etc/conf", "second"),
        Entry::file("large", vec![7; 3 << 20]),
    ];
    entries.extend((0..60).map(|n| Entry::program(format!("lib/{n:02}.so"), format!("lib {n}"))));
    entries
}

impl Node {
    fn new() -> Self {
        let tar = layer::Layer::new(entries());
        let folder = tempfile::tempdir().unwrap();
        let node = Self { tar, folder };
        fs::create_dir(node.lower("")).unwrap();
        fs::write(node.at("layer.tar"), node.tar.tar()).unwrap();
        fs::write(node.at("blob"), node.tar.blob()).unwrap();
        let (tar, lower) = (node.at("layer.tar"), node.lower(""));
        must(
            "tar",
            &["-xpf", tar.to_str().unwrap(), "-C", lower.to_str().unwrap()],
        );
        // Whoever has the blob makes the skeleton.
        let maker = Tables::new(&node.at("maker"), None).unwrap();
        node.tree_of_blob(&maker).unwrap();
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lower(&self, path: &str) -> PathBuf {
        self.at("lower").join(path)
    }

    fn skeleton(&self) -> PathBuf {
        let name = format!("{}.skeleton", self.tar.diff_id().encoded());
        self.at("maker/skeletons").join(name)
    }

    fn layer(&self) -> Layer {
        let diff_id = DiffId(self.tar.diff_id());
        Layer {
            diff_id,
            chain_id: ChainId::bottom(diff_id),
            blob: self.tar.digest(),
            lower: Some(self.lower("")),
        }
    }

    /// Tables of a node without the blob, with the skeletons of the one that had it.
    fn tables(&self, state: &str) -> Tables {
        let given = self.at("maker/skeletons");
        let tables = Tables::new(&self.at(state), None).unwrap();
        tables.with_skeletons(Some(&given))
    }

    /// The tree on a node that has the blob.
    fn tree_of_blob(&self, tables: &Tables) -> Result<Arc<ExpectedTree>, Unavailable> {
        self.tree_from(tables, &|_| File::open(self.at("blob")).map(Some))
    }

    /// The tree on a node without the blob.
    fn tree(&self, tables: &Tables) -> Result<Arc<ExpectedTree>, Unavailable> {
        self.tree_from(tables, &|_| Ok(None))
    }

    fn tree_from(
        &self,
        tables: &Tables,
        open_blob: OpenBlob<'_>,
    ) -> Result<Arc<ExpectedTree>, Unavailable> {
        let asking = Asking {
            open_blob,
            is_over: &|| false,
        };
        let mut trees = tables.stack(Snapshotter::Overlayfs, &[self.layer()], asking)?;
        Ok(trees.remove(0))
    }

    /// Why there is no tree on a node without the blob.
    fn refusal(&self, tables: &Tables) -> Unavailable {
        self.tree(tables).unwrap_err()
    }

    /// What the compare of the directory with a tree says.
    fn compared(&self, tree: &ExpectedTree) -> Vec<String> {
        let root = Root::open(&self.lower("")).unwrap();
        let lower = Lower {
            root: &root,
            tree,
            prefix: XattrPrefix::Trusted,
            stopped: Stopped::InOrder,
        };
        let pass = Pass {
            budget: u64::MAX,
            now: Timestamp::now(),
            rehash: Rehash::All,
            max_entries: MAX_ENTRIES,
            is_over: &|| false,
        };
        shown(&compare(lower, &mut Observer::default(), pass).unwrap())
    }

    /// Puts genuine contents where a repeated proof finds them.
    fn supply(&self, contents: impl IntoIterator<Item = Vec<u8>>) {
        let folder = self.at("maker/skeletons/contents");
        fs::create_dir_all(&folder).unwrap();
        for content in contents {
            fs::write(folder.join(Digest::of(&content).encoded()), content).unwrap();
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    read_file(path, 1 << 20).unwrap()
}

fn replace(path: &Path, content: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn an_untouched_directory_proves_the_very_table_that_the_blob_gives() {
    let node = Node::new();
    let tables = node.tables("without-blob");

    let tree = node.tree(&tables).unwrap();

    let diff_id = DiffId(node.tar.diff_id());
    assert_eq!(tables.basis(diff_id), Basis::Reassembled);
    let name = format!("tables/{}.table", diff_id.0.encoded());
    let (proved, built) = (
        node.at("without-blob").join(&name),
        node.at("maker").join(&name),
    );
    assert_eq!(read(&proved), read(&built));
    assert_eq!(node.compared(&tree), [""; 0]);
    // Without skeletons the table is kept, and so is how it was had.
    let again = Tables::new(&node.at("without-blob"), None).unwrap();
    assert!(node.tree(&again).is_ok());
    assert_eq!(again.basis(diff_id), Basis::Reassembled);
}

#[test]
fn a_blob_is_taken_before_any_skeleton() {
    let node = Node::new();
    let tables = node.tables("with-blob");
    node.tree_of_blob(&tables).unwrap();
    assert_eq!(tables.basis(DiffId(node.tar.diff_id())), Basis::LocalBlob);
}

#[test]
fn without_blob_and_skeleton_there_is_no_table() {
    let node = Node::new();
    fs::remove_file(node.skeleton()).unwrap();
    let refusal = node.refusal(&node.tables("empty"));
    assert_eq!(
        (refusal.reason(), refusal.basis()),
        ("blob-absent", Basis::None)
    );
    let diff_id = DiffId(node.tar.diff_id());
    assert_eq!(refusal.without_blob(), Some(diff_id));
    assert!(!refusal.is_suspicious());
}

/// What is said, and what somebody did to a file.
type Act = (&'static str, fn(&Path));

#[test]
fn whatever_takes_the_place_of_a_file_fails_the_proof_and_never_blocks() {
    let acts: [Act; 6] = [
        ("of another size", |file| replace(file, b"evil")),
        ("other content", |file| replace(file, b"lib  ")),
        ("missing", |file| fs::remove_file(file).unwrap()),
        ("no regular file", |file| {
            fs::remove_file(file).unwrap();
            mknod(file, FileType::Fifo, 0, 0);
        }),
        ("no regular file", |file| {
            fs::remove_file(file).unwrap();
            symlink("06.so", file).unwrap();
        }),
        ("no regular file", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    for (says, act) in acts {
        let node = Node::new();
        act(&node.lower("lib/05.so"));
        let refusal = node.refusal(&node.tables("state"));
        assert_eq!(
            (refusal.reason(), refusal.basis()),
            ("proof-failed", Basis::Reported)
        );
        assert!(refusal.is_suspicious());
        let text = refusal.to_string();
        assert!(text.ends_with(&format!("/lib/05.so ({says})")), "{text}");
    }
}

#[test]
fn a_directory_that_became_a_link_out_of_the_snapshot_is_not_followed() {
    let node = Node::new();
    fs::rename(node.lower("lib"), node.at("outside")).unwrap();
    symlink(node.at("outside"), node.lower("lib")).unwrap();
    let text = node.refusal(&node.tables("state")).to_string();
    assert!(
        text.contains("/lib/00.so") && text.ends_with("and 55 more"),
        "{text}"
    );
}

#[test]
fn files_that_were_joined_into_one_fail_the_proof() {
    let node = Node::new();
    fs::remove_file(node.lower("lib/05.so")).unwrap();
    fs::hard_link(node.lower("lib/06.so"), node.lower("lib/05.so")).unwrap();
    let text = node.refusal(&node.tables("state")).to_string();
    // Either of the two; the skeleton's digests say that one is wrong, the inode that it was used.
    assert!(text.contains("/lib/05.so (other content)"), "{text}");
    assert!(
        text.contains("/lib/06.so (a hard link to another file)"),
        "{text}"
    );
}

#[test]
fn with_the_genuine_contents_exactly_the_tampered_files_are_named() {
    for count in [1, 50] {
        let node = Node::new();
        let tampered: Vec<String> = (0..count).map(|n| format!("lib/{n:02}.so")).collect();
        for path in &tampered {
            replace(&node.lower(path), b"evil!");
        }
        let tables = node.tables("state");
        let refusal = node.refusal(&tables);
        assert_eq!(refusal.reason(), "proof-failed");
        let diff_id = node.layer().diff_id;
        let lacks = || tables.failures(diff_id)[0].lacks.clone();
        let mut wanted: Vec<Digest> = lacks().unwrap().iter().map(|lack| lack.0).collect();
        let genuine: Vec<Vec<u8>> = (0..count)
            .map(|n| format!("lib {n}").into_bytes())
            .collect();
        let mut digests: Vec<Digest> = genuine.iter().map(|content| Digest::of(content)).collect();
        digests.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(wanted, digests);

        // One less than all does not help; nothing is read again for it.
        node.supply(genuine[1..].iter().cloned());
        assert_eq!(node.refusal(&tables).reason(), "proof-failed");
        assert_eq!(lacks(), Some(vec![(Digest::of(&genuine[0]), 5)]));
        node.supply(genuine[..1].iter().cloned());
        let tree = node.tree(&tables).unwrap();

        let mut found = node.compared(&tree);
        found.sort();
        let due: Vec<String> = tampered
            .iter()
            .map(|path| format!("critical modified program /{path}"))
            .collect();
        assert_eq!(found, due);
        assert_eq!(tables.basis(node.layer().diff_id), Basis::Reassembled);
    }
}

#[test]
fn contents_that_are_a_lie_do_not_make_a_proof() {
    let node = Node::new();
    replace(&node.lower("lib/05.so"), b"evil!");
    let folder = node.at("maker/skeletons/contents");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(Digest::of(b"lib 5").encoded()), b"evil!").unwrap();
    let tables = node.tables("state");
    assert_eq!(node.refusal(&tables).reason(), "proof-failed");
    let failures = tables.failures(node.layer().diff_id);
    assert_eq!(failures[0].lacks, None, "the same ones would not help");
}

#[test]
fn a_file_that_differs_where_its_content_is_not_the_layers_is_found_by_the_compare() {
    let node = Node::new();
    // Mode and an extra file are no part of the archive's contents, so the proof holds all the same.
    super::image::chmod(&node.lower("bin/tool"), 0o4755);
    fs::write(node.lower("bin/extra"), "x").unwrap();
    let tree = node.tree(&node.tables("state")).unwrap();
    assert_eq!(
        node.compared(&tree),
        [
            "critical added data /bin/extra",
            "critical metadata program /bin/tool",
            "critical metadata program /bin/twin",
        ]
    );
}

#[test]
fn a_failed_proof_is_not_made_again_at_every_look() {
    let node = Node::new();
    replace(&node.lower("lib/05.so"), b"evil!");
    let tables = node.tables("state");
    assert_eq!(node.refusal(&tables).reason(), "proof-failed");
    // The disk is as it was, and still nobody looks: what was found stays so for a while.
    replace(&node.lower("lib/05.so"), b"lib 5");
    assert_eq!(node.refusal(&tables).reason(), "proof-failed");
    assert!(node.tree(&node.tables("other")).is_ok());
}

#[test]
fn a_proof_ends_when_nobody_waits_for_it() {
    let node = Node::new();
    let (tables, asked) = (node.tables("state"), Cell::new(0));
    let is_over = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let asking = Asking {
        open_blob: &|_| Ok(None),
        is_over: &is_over,
    };
    let refusal = tables
        .stack(Snapshotter::Overlayfs, &[node.layer()], asking)
        .unwrap_err();
    assert_eq!((refusal.reason(), asked.get()), ("deadline", 4));
    // It was no failure: the next one that waits gets its answer.
    assert!(node.tree(&tables).is_ok());
}

#[test]
fn a_skeleton_that_is_damaged_or_of_another_layer_is_as_good_as_none() {
    let node = Node::new();
    let genuine = read(&node.skeleton());
    let mut damaged = genuine.clone();
    damaged[100] ^= 1;
    fs::write(node.skeleton(), damaged).unwrap();
    assert_eq!(node.refusal(&node.tables("a")).reason(), "blob-absent");
    fs::remove_file(node.skeleton()).unwrap();
    mknod(&node.skeleton(), FileType::Fifo, 0, 0);
    assert_eq!(node.refusal(&node.tables("b")).reason(), "blob-absent");
    fs::remove_file(node.skeleton()).unwrap();
    fs::write(node.skeleton(), genuine).unwrap();
    assert!(node.tree(&node.tables("c")).is_ok());
}
