//! The compare of an unpacked layer in parts: the same result as in one go, wherever it pauses, and wherever
//! it is taken up again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use holdfast_agent::files::lower::{Lower, Part, SoFar, compare, compare_part, look_first};
use holdfast_agent::files::reading::Source;
use holdfast_agent::files::{MAX_ENTRIES, Observer, Pass, Rehash, Root, ScanOutcome};
use holdfast_core::drift::corrupt::Stopped;
use holdfast_core::overlay::XattrPrefix;
use holdfast_daemon::capped;
use jiff::Timestamp;
use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::container::shown;
use super::image::{ELF, EVIL, Layer, chmod, file, link};

/// As many bytes as one part may read, so that a file of this size ends a part.
const WHOLE_PART: usize = 16 << 20;

fn pass(is_over: &dyn Fn() -> bool) -> Pass<'_> {
    Pass {
        budget: u64::MAX,
        now: Timestamp::now(),
        rehash: Rehash::All,
        max_entries: MAX_ENTRIES,
        is_over,
    }
}

fn lower<'a>(layer: &'a Layer, root: &'a Root, stopped: Stopped) -> Lower<'a> {
    Lower {
        root,
        tree: &layer.tree,
        prefix: XattrPrefix::Trusted,
        stopped,
    }
}

/// Directories before, beside and behind files that each fill a part of their own.
fn layer() -> Layer {
    let large = vec![7; WHOLE_PART];
    Layer::new(&[
        file("a/b/c/deep", ELF, 0o755),
        file("a/b/large", &large, 0o644),
        file("a/b-", b"sorts between b and what is below it", 0o644),
        file("a/z", b"z", 0o644),
        file("usr/bin/first", ELF, 0o755),
        file("usr/bin/large", &large, 0o755),
        file("usr/bin/later", ELF, 0o755).hard_link("usr/bin/first"),
        link("usr/tool", "bin/first"),
        file("zz", &large, 0o644),
        file("zzz", b"last", 0o644),
    ])
}

type Paths = BTreeSet<Vec<u8>>;

/// Compares in parts; gives what was found, where each part ended, and what was hashed.
fn in_parts(layer: &Layer, mut so_far: SoFar) -> (ScanOutcome, Vec<Vec<u8>>, Paths) {
    let root = Root::open(layer.path()).unwrap();
    let lower = lower(layer, &root, Stopped::InOrder);
    let (mut observer, mut ends, mut all) = (Observer::default(), Vec::new(), Paths::new());
    loop {
        let (part, hashed) = compare_part(lower, &mut observer, pass(&|| false), so_far).unwrap();
        for file in hashed {
            assert!(all.insert(file.path), "hashed twice");
        }
        match part {
            Part::More(more) => {
                ends.push(more.after.clone());
                so_far = *more;
            }
            Part::Last(outcome) => return (*outcome, ends, all),
            Part::GivenUp => unreachable!("there was time"),
        }
    }
}

fn whole(layer: &Layer) -> Vec<String> {
    let root = Root::open(layer.path()).unwrap();
    let lower = lower(layer, &root, Stopped::InOrder);
    shown(&compare(lower, &mut Observer::default(), pass(&|| false)).unwrap())
}

#[test]
fn a_layer_in_parts_is_the_layer_in_one_go() {
    let layer = layer();
    let (outcome, ends, hashed) = in_parts(&layer, SoFar::default());
    assert_eq!(shown(&outcome), [""; 0]);
    assert_eq!(outcome.entries + 1, layer.tree.entries());
    assert!(ends.len() >= 2, "{ends:?}");
    assert_eq!(hashed.len(), 9);
}

#[test]
fn what_is_wrong_in_any_part_is_found_and_nothing_twice() {
    let layer = layer();
    fs::write(layer.at("a/b/c/deep"), EVIL).unwrap();
    chmod(&layer.at("a/b"), 0o777);
    fs::remove_file(layer.at("a/z")).unwrap();
    fs::write(layer.at("usr/bin/new"), EVIL).unwrap();
    fs::remove_file(layer.at("usr/bin/later")).unwrap();
    fs::copy(layer.at("usr/bin/first"), layer.at("usr/bin/later")).unwrap();
    fs::remove_file(layer.at("zzz")).unwrap();
    let (outcome, ..) = in_parts(&layer, SoFar::default());
    let found = shown(&outcome);
    assert_eq!(found, whole(&layer));
    assert_eq!(found.len(), 6);
}

#[test]
fn a_compare_that_is_taken_up_again_looks_at_the_rest_and_calls_nothing_before_it_missing() {
    let layer = layer();
    fs::write(layer.at("a/b/c/deep"), EVIL).unwrap(); // before, so not looked at again
    fs::remove_file(layer.at("a/z")).unwrap(); // behind
    fs::write(layer.at("zzz"), "evil").unwrap();
    for after in ["a/b/large", "a/b", "a/b/c", "a/b/gone-since"] {
        let (outcome, ..) = in_parts(&layer, SoFar::resumed(after.into(), 5));
        let mut due = vec!["critical modified data /zzz", "critical removed data /a/z"];
        if after != "a/b/large" && after != "a/b/gone-since" {
            due.push("critical modified program /a/b/c/deep");
        }
        due.sort_unstable();
        assert_eq!(shown(&outcome), due, "{after}");
    }
}

#[test]
fn a_part_without_time_is_no_result() {
    let layer = layer();
    let root = Root::open(layer.path()).unwrap();
    let lower = lower(&layer, &root, Stopped::InOrder);
    let over = || true;
    let (part, _) = compare_part(
        lower,
        &mut Observer::default(),
        pass(&over),
        SoFar::default(),
    )
    .unwrap();
    assert!(matches!(part, Part::GivenUp));
}

#[test]
fn what_could_not_be_read_in_one_part_is_not_missing_in_the_next() {
    let layer = layer();
    let over = layer.at("a/b");
    let flags = MountFlags::empty();
    mount("tmpfs", &over, "tmpfs", flags, None).unwrap();
    let (outcome, ..) = in_parts(&layer, SoFar::default());
    unmount(&over, UnmountFlags::DETACH).unwrap();
    assert_eq!(shown(&outcome), ["unverifiable mounted /a/b"]);
}

#[test]
fn files_that_are_looked_at_first_are_hashed_once_and_reported_once() {
    let layer = layer();
    fs::write(layer.at("usr/bin/first"), EVIL).unwrap();
    let root = Root::open(layer.path()).unwrap();
    let lower = lower(&layer, &root, Stopped::InOrder);
    let mut observer = Observer::default();
    let wanted = [
        "usr/bin/first",
        "usr/bin/none",
        "usr/bin",
        "usr/tool",
        "zzz",
    ];
    let wanted = wanted.map(|path| path.as_bytes().to_vec());
    let (so_far, hashed) = look_first(lower, &mut observer, pass(&|| false), wanted).unwrap();
    let found = shown(&so_far.outcome);
    assert_eq!(found, ["critical modified program /usr/bin/first"]);
    // What differs is said so, and binds nothing.
    let paths: Vec<_> = hashed.iter().map(|it| it.path.as_slice()).collect();
    assert_eq!(paths, [b"zzz"]);

    let (outcome, _, hashed) = in_parts(&layer, so_far);
    // Its other name is the same inode, and was not looked at first.
    assert_eq!(
        shown(&outcome),
        [
            "critical modified program /usr/bin/first",
            "critical modified program /usr/bin/later"
        ]
    );
    assert_eq!(hashed.len(), 6);
    assert!(!hashed.contains(&b"zzz"[..]) && !hashed.contains(&b"usr/bin/first"[..]));
}

#[test]
fn an_emptied_file_is_corruption_only_after_a_power_cut() {
    let layer = layer();
    fs::write(layer.at("zzz"), "").unwrap();
    fs::write(layer.at("a/z"), "evil").unwrap();
    let root = Root::open(layer.path()).unwrap();
    let compare = |stopped| {
        let lower = lower(&layer, &root, stopped);
        compare(lower, &mut Observer::default(), pass(&|| false)).unwrap()
    };
    let calm = compare(Stopped::InOrder);
    assert_eq!(shown(&calm).len(), 2);
    assert!(calm.corrupt.is_empty());

    let cut = compare(Stopped::Abruptly);
    assert_eq!(shown(&cut), ["critical modified data /a/z"]);
    let corrupt: Vec<_> = cut
        .corrupt
        .iter()
        .map(|change| change.path.as_slice())
        .collect();
    assert_eq!(corrupt, [b"zzz"]);
}

#[test]
fn around_the_page_cache_the_same_is_found() {
    let (layer, odd) = (layer_on_disk(), vec![3; 70_001]);
    fs::write(layer.path().join("evil"), EVIL).unwrap();
    let root = Root::open(layer.path()).unwrap();
    let expected = Layer::new(&[file("evil", ELF, 0o644), file("odd", &odd, 0o644)]);
    fs::write(layer.path().join("odd"), &odd).unwrap();
    let lower = Lower {
        root: &root,
        tree: &expected.tree,
        prefix: XattrPrefix::Trusted,
        stopped: Stopped::InOrder,
    };
    let mut observer = Observer::default();
    observer.reading.source = Source::Disk;
    let outcome = compare(lower, &mut observer, pass(&|| false)).unwrap();
    assert_eq!(shown(&outcome), ["critical modified program /evil"]);
    assert_eq!(observer.reading.not_direct, 0);
}

/// A file system on a disk that a test can write to behind its back.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn with(name: &str, content: &[u8]) -> Self {
        let folder = layer_on_disk();
        let disk = Self { folder };
        let image = fs::File::create(disk.image()).unwrap();
        image.set_len(16 << 20).unwrap();
        fs::create_dir(disk.root()).unwrap();
        let (image, root) = (disk.image(), disk.root());
        command("mkfs.ext4", &["-q".as_ref(), image.as_ref()]);
        command(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_ref(),
                root.as_ref(),
            ],
        );
        let mut file = fs::File::create(disk.root().join(name)).unwrap();
        file.write_all(content).unwrap();
        file.sync_all().unwrap();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Puts other bytes where the disk holds these; what is in memory stays as it is.
    fn overwrite(&self, content: &[u8], other: &[u8]) {
        let bytes = capped::read_file(&self.image(), 16 << 20).unwrap();
        let mut places = bytes.windows(content.len());
        let at = places.position(|bytes| bytes == content).unwrap();
        let disk = fs::File::options().write(true).open(self.image()).unwrap();
        disk.write_all_at(other, at.try_into().unwrap()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.root(), UnmountFlags::DETACH).unwrap();
    }
}

fn command(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn what_only_the_disk_holds_is_seen_around_the_page_cache_alone() {
    const DUE: &[u8] = b"\x7fELF genuine program on a disk of its own";
    const OTHER: &[u8] = b"\x7fELF evil program, there on the disk too!";
    let layer = Layer::new(&[file("service", DUE, 0o644)]);
    let disk = Disk::with("service", DUE);
    let found = |source: Source| {
        let root = Root::open(&disk.root()).unwrap();
        let mut observer = Observer::default();
        observer.reading.source = source;
        let first = vec![b"service".to_vec()];
        let lower = lower(&layer, &root, Stopped::InOrder);
        let (so_far, _) = look_first(lower, &mut observer, pass(&|| false), first).unwrap();
        assert_eq!(observer.reading.not_direct, 0);
        shown(&so_far.outcome)
    };
    assert_eq!(found(Source::CacheGivenBack), [""; 0]);
    assert_eq!(found(Source::Disk), [""; 0]);

    disk.overwrite(DUE, OTHER);

    assert_eq!(found(Source::CacheGivenBack), [""; 0]);
    assert_eq!(found(Source::Disk), ["critical modified program /service"]);
}

/// A folder on a disk; a tmpfs reads directly too, or not at all.
fn layer_on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn where_the_file_system_refuses_direct_reads_the_page_cache_serves_and_is_counted() {
    let root = Root::open(std::path::Path::new("/sys/kernel")).unwrap();
    let layer = Layer::new(&[file("uevent_seqnum", b"another content", 0o444)]);
    let lower = lower(&layer, &root, Stopped::InOrder);
    let mut observer = Observer::default();
    observer.reading.source = Source::Disk;
    let first = vec![b"uevent_seqnum".to_vec()];
    let (so_far, hashed) = look_first(lower, &mut observer, pass(&|| false), first).unwrap();
    assert_eq!((hashed.len(), so_far.looked_at.len()), (0, 1));
    assert!(!so_far.outcome.changes.is_empty());
    assert_eq!(observer.reading.not_direct, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn wherever_it_is_taken_up_the_two_halves_are_the_whole(
        names in prop::collection::btree_set("[ab.-]{1,2}(/[ab.-]{1,2}){0,2}", 1..12),
        at in any::<prop::sample::Index>(),
    ) {
        let is_plain = |name: &String| !name.split('/').any(|part| part == "." || part == "..");
        let names: Vec<String> = names.into_iter().filter(is_plain).collect();
        let is_above = |name: &String| names.iter().any(|other| other.starts_with(&format!("{name}/")));
        let files: Vec<String> = names.iter().filter(|name| !is_above(name)).cloned().collect();
        if files.is_empty() {
            return Ok(());
        }
        let specs: Vec<_> = files.iter().map(|name| file(name, b"due", 0o644)).collect();
        let layer = Layer::new(&specs);
        let after = at.get(&files).clone();
        for name in &files {
            fs::write(layer.at(name), "bad").unwrap();
        }
        let (outcome, ..) = in_parts(&layer, SoFar::resumed(after.clone().into(), 0));
        let key = |name: &str| name.replace('/', "\0");
        let mut due: Vec<String> = files
            .iter()
            .filter(|name| key(name) > key(&after))
            .map(|name| format!("critical modified data /{name}"))
            .collect();
        due.sort();
        prop_assert_eq!(shown(&outcome), due);
    }
}
