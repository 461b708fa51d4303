//! Scans after the first: what is remembered, what is looked at again, and what is forgotten.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use holdfast_agent::files::{Rehash, ScanOutcome, Unread};
use holdfast_core::digest::Digest;
use holdfast_core::finding::Severity;
use holdfast_core::layer::Node;
use jiff::Timestamp;

use super::container::{Container, shown};
use super::image::{EVIL, chmod};

#[test]
fn an_unchanged_entry_is_not_read_again_and_is_still_found() {
    let mut container = Container::new();
    fs::write(container.upper("usr/bin/victim"), EVIL).unwrap();
    chmod(&container.upper("usr/bin/victim"), 0o755);
    fs::write(container.upper("opt/app/app.conf"), "mode=safe\nlevel=2\n").unwrap();
    let first = container.scan();
    container.later(1);
    let second = container.scan();
    assert_eq!(shown(&first), ["critical modified program /usr/bin/victim"]);
    assert_eq!(first.changes, second.changes);
    assert!(first.bytes_hashed > 0);
    assert_eq!(second.bytes_hashed, 0);
    assert_eq!(first.entries, second.entries);
}

#[test]
fn only_what_changed_is_read_again() {
    let mut container = Container::new();
    for n in 0..10 {
        fs::write(container.upper(&format!("opt/app/n{n}")), [b'x'; 1000]).unwrap();
    }
    container.scan();
    fs::write(container.upper("opt/app/n3"), [b'y'; 1000]).unwrap();
    container.later(1);
    let outcome = container.scan();
    assert_eq!(outcome.bytes_hashed, 1000);
    let changed = outcome
        .changes
        .iter()
        .find(|change| change.path == b"opt/app/n3")
        .unwrap();
    let Node::File { digest, .. } = changed.actual.as_ref().unwrap().node else {
        panic!("{changed:?}");
    };
    assert_eq!(digest, Digest::of(&[b'y'; 1000]));
}

/// A container that has written more files than changes are kept whole.
#[test]
fn many_new_files_are_read_once_and_found_as_they_were() {
    let mut container = Container::new();
    for n in 0..20_100 {
        fs::write(container.upper(&format!("opt/app/n{n}")), n.to_string()).unwrap();
    }
    container.later(600);
    let first = container.scan();
    let second = container.scan();
    assert_eq!(second.bytes_hashed, 0);
    assert_eq!(second.changes.total(), 20_100);
    assert_eq!(first.changes, second.changes);
}

#[test]
fn new_files_in_place_of_others_are_found_as_they_are() {
    let mut container = Container::new();
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("opt/app/n{n}"));
    for round in 0..4_u32 {
        for name in names(round * 150..round * 150 + 200) {
            fs::write(container.upper(&name), format!("{name} {round}")).unwrap();
        }
        container.later(600);
        container.scan();
        let known = container.scan();
        assert_eq!(known.bytes_hashed, 0);
        let anew = container.pass(Rehash::All, &|| false);
        assert_eq!(known.changes, anew.changes);
        for name in names(round * 150..round * 150 + 150) {
            fs::remove_file(container.upper(&name)).unwrap();
        }
    }
}

#[test]
fn more_than_one_look_reads_is_said_and_read_in_the_next_ones() {
    let mut container = Container::new();
    for n in 0..5 {
        fs::write(container.upper(&format!("opt/app/n{n}")), [b'x'; 1000]).unwrap();
    }
    fs::write(container.upper("usr/bin/victim"), EVIL).unwrap();
    chmod(&container.upper("usr/bin/victim"), 0o755);
    container.budget = 1500;
    let postponed = |outcome: &ScanOutcome| {
        let all = &outcome.unverifiable;
        assert!(
            all.listed
                .iter()
                .all(|(_, reason)| *reason == Unread::Postponed)
        );
        (all.total, all.worst)
    };

    assert_eq!(postponed(&container.scan()), (4, Some(Severity::Critical)));
    container.later(1);
    assert_eq!(postponed(&container.scan()), (2, Some(Severity::Critical)));
    container.later(1);
    assert_eq!(postponed(&container.scan()), (0, None));
    container.later(1);
    let outcome = container.scan();
    assert_eq!((outcome.bytes_hashed, outcome.changes.total()), (0, 6));
}

#[test]
fn what_is_undone_is_gone() {
    let mut container = Container::mounted();
    fs::write(container.root("opt/app/new"), "x").unwrap();
    fs::write(container.root("opt/app/app.conf"), "x").unwrap();
    fs::remove_file(container.root("opt/app/lib/mod1.txt")).unwrap();
    assert_eq!(container.found().len(), 3);
    fs::remove_file(container.root("opt/app/new")).unwrap();
    fs::write(container.root("opt/app/app.conf"), "mode=safe\nlevel=2\n").unwrap();
    fs::write(container.root("opt/app/lib/mod1.txt"), "lib 1\n").unwrap();
    container.later(1);
    assert_eq!(container.found(), [""; 0]);
}

#[test]
fn a_change_within_the_same_tick_of_the_clock_is_not_missed() {
    let mut container = Container::new();
    let at = container.upper("opt/app/app.conf");
    fs::write(&at, "mode=safe\nlevel=2\n").unwrap();
    // The look is so close behind the write that a second write could have the same time.
    container.now = Timestamp::now();
    assert_eq!(container.scan().bytes_hashed, 18);
    assert_eq!(container.scan().bytes_hashed, 18);
    container.later(60);
    assert_eq!(container.scan().bytes_hashed, 18);
    container.later(1);
    assert_eq!(container.scan().bytes_hashed, 0);
}

#[test]
fn everything_is_read_again_within_ten_minutes_spread_over_the_scans() {
    let mut container = Container::new();
    for n in 0..600 {
        fs::write(container.upper(&format!("opt/app/n{n}")), "x").unwrap();
    }
    assert_eq!(container.scan().bytes_hashed, 600);
    let mut hashed = Vec::new();
    for _scan in 0..60 {
        container.later(10);
        hashed.push(container.scan().bytes_hashed);
    }
    assert_eq!(hashed.iter().sum::<u64>(), 600);
    assert!(hashed.iter().all(|bytes| *bytes < 60), "{hashed:?}");
}

/// Stores through a mapping whose page is dirty already: no timestamp changes.
#[test]
fn a_store_through_a_mapping_is_found_by_a_full_look_and_within_ten_minutes() {
    let mut container = Container::new();
    let at = container.upper("opt/app/app.conf");
    fs::write(&at, "mode=safe\nlevel=2\n").unwrap();
    let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\n\
        for byte in b'mMm':\n m[0]=byte\n print('stored',flush=True)\n sys.stdin.readline()\n";
    let mut writer = Command::new("python3")
        .args(["-c", script, at.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut input = writer.stdin.take().unwrap();
    let mut store = || assert_eq!(lines.next().unwrap().unwrap(), "stored");
    store(); // the same byte again: now the page is dirty
    assert_eq!(container.found(), [""; 0]);
    let state = fs::metadata(&at).unwrap();

    input.write_all(b"\n").unwrap();
    store();
    container.later(600);
    let due = ["warning modified configuration /opt/app/app.conf"];
    assert_eq!(container.found(), due);

    input.write_all(b"\n").unwrap();
    store();
    container.later(1);
    assert_eq!(shown(&container.pass(Rehash::All, &|| false)), [""; 0]);
    let same = fs::metadata(&at).unwrap();
    assert_eq!(state.modified().unwrap(), same.modified().unwrap());

    input.write_all(b"\n").unwrap();
    drop(input);
    assert!(writer.wait().unwrap().success());
}

#[test]
fn a_new_entry_of_a_known_name_is_looked_at() {
    let mut container = Container::new();
    let at = container.upper("opt/app/app.conf");
    fs::write(&at, "mode=safe\nlevel=2\n").unwrap();
    assert_eq!(container.found(), [""; 0]);
    fs::remove_file(&at).unwrap();
    fs::create_dir(&at).unwrap();
    container.later(1);
    assert_eq!(
        container.found(),
        ["warning modified configuration /opt/app/app.conf"]
    );
}
