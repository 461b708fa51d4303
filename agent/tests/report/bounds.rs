//! A spool that is full, and a disk that is full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_agent::report::{Bounds, LedgerError, RecordKind};
use holdfast_core::coverage::{ContainerStatus, SCHEMA};
use holdfast_core::finding::{Detail, Finding, Transition, Unmanaged};
use holdfast_core::place::Look;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::support::{
    BOTH, COLLECTOR, Open, about, at, condition, findings, key, look, named, open, open_as, opened,
    reports, told,
};

fn bound(spool_bytes: u64) -> Bounds {
    Bounds { spool_bytes }
}

/// A status whose document is about this long.
fn status(id: &str, bytes: usize) -> ContainerStatus {
    let about = about(id);
    ContainerStatus {
        schema: SCHEMA.into(),
        node: "x".repeat(bytes),
        container: about.container,
        workload: about.workload,
        image: None,
        signature: None,
        checks: vec![],
        running: true,
        observed_at: at(0),
    }
}

/// A look that sees one condition with a document of about this length.
fn long_look(subject: &str, bytes: usize) -> Look {
    let mut condition = condition(subject, holdfast_core::finding::Severity::Info);
    condition.detail = Detail::UnmanagedContainer(Unmanaged {
        reason: "x".repeat(bytes),
    });
    Look {
        done: vec![],
        conditions: vec![condition],
        ..Look::default()
    }
}

async fn record(open: &Open, subject: &str) -> Vec<Finding> {
    let look = long_look(subject, 1000);
    open.ledger
        .record_look(about("c"), look, at(0))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_full_spool_drops_what_can_be_made_again_first_and_counts_it() {
    let directory = TempDir::new().unwrap();
    let open = open_as(directory.path(), bound(9000), COLLECTOR);
    for id in ["s1", "s2", "s3"] {
        open.ledger.record_status(status(id, 1500)).await.unwrap();
    }
    let mut due = Vec::new();
    for subject in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        due.extend(record(&open, subject).await);
    }
    let stats = open.ledger.stats().borrow().clone();

    let waiting = open.waiting().await;
    let statuses = waiting
        .iter()
        .filter(|record| record.kind == RecordKind::Container)
        .count();
    assert_eq!(statuses, 0, "all statuses went before any finding");
    let kept = findings(&waiting);
    assert!(
        kept.len() < due.len(),
        "the bound is too wide for this test"
    );
    assert_eq!(kept, due[due.len() - kept.len()..], "the oldest went");
    let lost = u64::try_from(due.len() - kept.len()).unwrap();
    assert_eq!(stats.dropped_repeatable, 3);
    assert_eq!(stats.dropped, 3 + lost);
    assert!(stats.bytes <= 9000);
    assert!(!stats.full_report_due, "a report would push out findings");
}

#[tokio::test]
async fn a_report_with_documents_heals_a_full_spool_once_there_is_room() {
    let directory = TempDir::new().unwrap();
    let open = open_as(directory.path(), bound(20_000), COLLECTOR);
    let subjects = ["a", "b", "c", "d"];
    for bytes in 1000..1006 {
        for subject in subjects {
            let look = long_look(subject, bytes);
            let recorded = open.ledger.record_look(about("c"), look, at(0)).await;
            assert_eq!(recorded.unwrap().len(), 1);
        }
    }
    let dropped = open.ledger.stats().borrow().dropped;
    assert!(dropped > 0);
    assert!(!open.ledger.stats().borrow().full_report_due);

    open.confirm(u64::MAX).await;
    assert!(open.ledger.stats().borrow().full_report_due);
    open.ledger
        .full_report(vec![key("c")], at(1))
        .await
        .unwrap();

    let restated = open.waiting().await;
    let mut told = told(&findings(&restated));
    told.sort_by(|a, b| a.1.cmp(&b.1));
    let updated = |subject: &str| (Transition::Updated, subject.to_owned());
    assert_eq!(told, subjects.map(updated));
    assert_eq!(named(&reports(&restated)[0]), 4);
    let stats = open.ledger.stats().borrow().clone();
    assert!(!stats.full_report_due);
    assert_eq!(stats.dropped, dropped, "the count stays");
}

#[tokio::test]
async fn the_count_of_dropped_records_survives_a_restart() {
    let directory = TempDir::new().unwrap();
    let before = open_as(directory.path(), bound(3000), COLLECTOR);
    for subject in ["a", "b", "c", "d", "e"] {
        record(&before, subject).await;
    }
    let dropped = before.ledger.stats().borrow().dropped;
    assert!(dropped > 0);
    before.close();

    let after = open_as(directory.path(), bound(3000), COLLECTOR);
    assert_eq!(after.ledger.stats().borrow().dropped, dropped);
}

#[tokio::test]
async fn a_sink_that_writes_nothing_costs_the_collector_nothing() {
    let directory = TempDir::new().unwrap();
    let open = open_as(directory.path(), bound(6000), BOTH);
    for subject in ["a", "b", "c"] {
        record(&open, subject).await;
    }
    open.confirm(3).await;
    for subject in ["d", "e", "f"] {
        record(&open, subject).await;
    }
    let stats = open.ledger.stats().borrow().clone();
    assert_eq!(stats.dropped, 0);
    assert!(stats.dropped_for_sink > 0);
    assert_eq!(
        told(&findings(&open.waiting().await)),
        [opened("d"), opened("e"), opened("f")]
    );
}

#[tokio::test]
async fn a_finding_longer_than_any_message_is_counted_and_its_place_lives() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let found = open
        .ledger
        .record_look(about("c"), long_look("a", 5 << 20), at(0))
        .await
        .unwrap();
    assert_eq!(told(&found), [opened("a")]);
    assert_eq!(open.waiting().await, []);
    let stats = open.ledger.stats().borrow().clone();
    assert_eq!((stats.oversized, stats.dropped), (1, 1));
}

/// A small file system of its own, gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &std::ffi::CStr) -> Self {
        let directory = TempDir::new().unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("holdfast-test", directory.path(), "tmpfs", flags, options).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = std::fs::File::create(&path).unwrap();
        let block = [0; 4096];
        while filler.write_all(&block).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Looks until one is recorded: the writer opens the file again in its own time.
async fn record_when_possible(open: &Open, subject: &str) -> Vec<Finding> {
    let again = async {
        loop {
            let look = long_look(subject, 1000);
            match open.ledger.record_look(about("c"), look, at(0)).await {
                Ok(found) => break found,
                Err(error) => assert_eq!(error, LedgerError::NoSpace),
            }
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, again).await.unwrap()
}

#[tokio::test]
async fn a_full_disk_loses_no_answered_look_and_ends_when_space_returns() {
    let disk = SmallDisk::new(c"size=12m");
    let open = open(disk.path());
    let mut due = record(&open, "first").await;
    let filler = disk.fill();

    // Free pages of the file take some looks; then the disk refuses.
    let mut refused = None;
    for number in 0..20_000 {
        let look = long_look(&format!("s{number}"), 1000);
        match open.ledger.record_look(about("c"), look, at(0)).await {
            Ok(found) => due.extend(found),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(LedgerError::NoSpace));
    assert_eq!(
        open.ledger.stats().borrow().error,
        Some(LedgerError::NoSpace)
    );

    std::fs::remove_file(filler).unwrap();
    due.extend(record_when_possible(&open, "last").await);

    let epoch = open.opened.epoch;
    let stats = open.ledger.stats().borrow().clone();
    assert_eq!((stats.epoch, stats.files_set_aside), (epoch, 0));
    assert_eq!((stats.error, stats.dropped), (None, 0));
    let kept = findings(&open.waiting().await);
    // A look that was refused may be in the file all the same; then the next look has nothing new.
    let kept: Vec<_> = kept.into_iter().filter(|kept| due.contains(kept)).collect();
    assert_eq!(kept, due);
    open.close();
}

#[tokio::test]
async fn an_agent_starts_on_a_full_disk_and_records_once_there_is_space() {
    let disk = SmallDisk::new(c"size=12m");
    let filler = disk.fill();

    let open = open(disk.path());
    assert_eq!(open.opened.epoch, None);
    let refused = open
        .ledger
        .record_look(about("c"), look(&["a"]), at(0))
        .await;
    assert_eq!(refused, Err(LedgerError::NoSpace));

    std::fs::remove_file(filler).unwrap();
    let found = record_when_possible(&open, "a").await;
    assert_eq!(told(&found), [opened("a")]);
    assert!(open.ledger.stats().borrow().epoch.is_some());
    open.close();
}
