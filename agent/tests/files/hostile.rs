//! What makes a look hard: files that never hold still, trees without an end, and no time.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_agent::files::{
    Extent, MAX_ENTRIES, Observer, Pass, Rehash, Root, RootError, ScanError, Upper, UpperScan,
};
use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::finding::Severity;
use holdfast_core::layer::{ExpectedTree, MergedTree, ReadAt};
use holdfast_core::overlay::{Stubs, XattrPrefix};
use jiff::Timestamp;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::container::{Container, shown};
use super::image::{EVIL, chmod, dir, set_xattr};

/// Writes to a file without a pause while something else is done.
fn while_growing<T>(at: &Path, act: impl FnOnce() -> T) -> T {
    fs::write(at, vec![0; 32 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let started = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(at).unwrap();
            file.write_all(b"x").unwrap();
            started.wait();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
            }
        });
        started.wait();
        let done = act();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_file_that_grows_while_it_is_read_is_unverifiable_outside_volatile_places() {
    let mut container = Container::new();
    let at = container.upper("opt/app/data.bin");
    let found = while_growing(&at, || container.found());
    assert_eq!(found, ["unverifiable changing /opt/app/data.bin"]);
}

#[test]
fn who_writes_a_file_all_the_time_gets_away_with_no_less() {
    let worst_while_growing = |path: &str| {
        let mut container = Container::new();
        let at = container.upper(path);
        let outcome = while_growing(&at, || container.scan());
        assert_eq!(shown(&outcome), [format!("unverifiable changing /{path}")]);
        outcome.unverifiable.worst
    };
    assert_eq!(
        worst_while_growing("usr/bin/victim"),
        Some(Severity::Critical)
    );
    assert_eq!(worst_while_growing("etc/crontab"), Some(Severity::Critical));
    assert_eq!(
        worst_while_growing("opt/app/app.conf"),
        Some(Severity::Warning)
    );
    assert_eq!(
        worst_while_growing("opt/app/new.bin"),
        Some(Severity::Warning)
    );
}

#[test]
fn a_program_that_grows_in_a_volatile_place_is_not_taken_for_a_log() {
    let mut container = Container::new();
    let at = container.upper("var/log/evil");
    let found = while_growing(&at, || {
        chmod(&at, 0o755);
        container.found()
    });
    assert_eq!(found, ["unverifiable changing /var/log/evil"]);
}

#[test]
fn a_log_that_grows_is_nothing() {
    let mut container = Container::new();
    for path in ["var/log/new.log", "var/log/boot.log"] {
        let at = container.upper(path);
        let outcome = while_growing(&at, || {
            set_xattr(&at, "trusted.overlay.origin", b"as after a copy-up");
            container.scan()
        });
        assert_eq!(shown(&outcome), [""; 0]);
        assert_eq!(outcome.bytes_hashed, 0);
    }
}

#[test]
fn a_deep_tree_is_walked_to_its_end() {
    let mut container = Container::new();
    let deep = vec!["tenletters"; 200].join("/");
    let at = container.upper(&format!("{deep}/evil"));
    fs::write(&at, EVIL).unwrap();
    // After the way back up: directories that were closed are opened again.
    fs::write(container.upper("tenletters/zzz"), EVIL).unwrap();
    let outcome = container.scan();
    let programs: Vec<String> = shown(&outcome)
        .into_iter()
        .filter(|line| line.contains("program"))
        .collect();
    assert_eq!(
        programs,
        [
            format!("warning added program /{deep}/evil"),
            "warning added program /tenletters/zzz".to_owned()
        ]
    );
    assert_eq!(outcome.changes.total(), 202);
}

#[test]
fn a_tree_deeper_than_any_path_is_unverifiable_where_paths_end() {
    let mut container = Container::new();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, container.upper(""), flags, Mode::empty()).unwrap();
    for _level in 0..500 {
        mkdirat(&at, "tenletters", Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, "tenletters", flags, Mode::empty()).unwrap();
    }
    let outcome = container.scan();
    assert_eq!(outcome.unverifiable.total, 1);
    let (path, reason) = &outcome.unverifiable.listed[0];
    assert_eq!((path.len() > 4096, reason.as_str()), (true, "path-length"));
}

#[test]
fn a_look_without_time_is_unverifiable_and_says_nothing_is_removed() {
    let mut container = Container::new();
    container.upper("opt/app/lib/");
    set_xattr(
        &container.upper("opt/app/lib"),
        "trusted.overlay.opaque",
        b"y",
    );
    let outcome = container.pass(Rehash::Due, &|| true);
    assert_eq!(shown(&outcome), ["unverifiable deadline /opt"]);
}

#[test]
fn time_that_ends_within_a_long_file_ends_the_reading() {
    let mut container = Container::new();
    fs::write(container.upper("big"), vec![1; 8 << 20]).unwrap();
    let asked = Cell::new(0);
    let outcome = container.pass(Rehash::Due, &|| {
        asked.set(asked.get() + 1);
        asked.get() > 3
    });
    assert_eq!(shown(&outcome), ["unverifiable deadline /big"]);
    assert!(outcome.bytes_hashed < 8 << 20);
}

#[test]
fn too_many_entries_are_unverifiable_after_the_last_one_looked_at() {
    let mut container = Container::new();
    for n in 0..100 {
        fs::write(container.upper(&format!("data{n:03}")), "x").unwrap();
    }
    container.max_entries = 60;
    let outcome = container.scan();
    assert_eq!(outcome.changes.total(), 60);
    let unread: Vec<String> = shown(&outcome)
        .into_iter()
        .filter(|line| line.starts_with("unverifiable"))
        .collect();
    assert_eq!(unread, ["unverifiable entries /data060"]);
}

#[test]
fn many_attributes_are_read_up_to_a_limit() {
    let mut container = Container::new();
    let at = container.upper("opt/app/x");
    fs::write(&at, "x").unwrap();
    for n in 0..40 {
        set_xattr(&at, &format!("user.n{n}"), &[b'v'; 64]);
    }
    chmod(&at, 0o600);
    let outcome = container.scan();
    let change = outcome.changes.iter().next().unwrap();
    assert_eq!(change.actual.as_ref().unwrap().xattrs.len(), 40);
}

#[test]
fn a_directory_that_cannot_be_opened_says_why() {
    let missing = Root::open(Path::new("/nonexistent/upper"));
    assert!(matches!(missing, Err(RootError::Refused(Errno::NOENT))));
}

/// A tree file that cannot be read any more.
#[derive(Debug)]
struct Rotten {
    bytes: Vec<u8>,
    is_rotten: Arc<AtomicBool>,
}

impl ReadAt for Rotten {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.is_rotten.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.read_exact_at(buf, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.bytes.length()
    }
}

#[test]
fn a_tree_that_gives_no_answer_makes_no_scan() {
    let is_rotten = Arc::new(AtomicBool::new(false));
    let (chain_id, diff_id) = (ChainId(Digest::of(b"")), DiffId(Digest::of(b"")));
    let root = dir("", 0o755).entry;
    let mut bytes = Vec::new();
    ExpectedTree::write(&mut bytes, chain_id, diff_id, [(&b""[..], &root)]).unwrap();
    let source = Rotten {
        bytes,
        is_rotten: Arc::clone(&is_rotten),
    };
    let tree = ExpectedTree::open(source, chain_id).unwrap();
    let tree = MergedTree::new(vec![Arc::new(tree)]);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("evil"), EVIL).unwrap();
    let upper = Upper {
        root: &Root::open(directory.path()).unwrap(),
        extent: Extent::Changes,
        tree: &tree,
        lowers: &[],
        stubs: &Stubs::default(),
        prefix: XattrPrefix::Trusted,
    };
    let pass = Pass {
        budget: u64::MAX,
        now: Timestamp::now(),
        rehash: Rehash::Due,
        max_entries: MAX_ENTRIES,
        is_over: &|| false,
    };

    is_rotten.store(true, Ordering::Relaxed);
    let refused = UpperScan::default().scan(&upper, &mut Observer::default(), pass);

    assert!(matches!(refused, Err(ScanError::Tree(_))));
}
