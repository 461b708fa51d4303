//! Looks, ledgers and crashes for the tests beside it.

use std::path::Path;

use holdfast_agent::report::{
    Bounds, Consumers, Ledger, Opened, RecordKind, SpoolBatch, SpoolRecord,
};
use holdfast_core::container::{ContainerKey, ContainerRef, Workload};
use holdfast_core::finding::{
    Check, Condition, Detail, Finding, Severity, Subject, Transition, Unmanaged,
};
use holdfast_core::place::{About, Look};
use holdfast_protocol::v1;
use jiff::Timestamp;
use prost::Message;
use tempfile::TempDir;

pub(crate) const COLLECTOR: Consumers = Consumers {
    collector: true,
    sink: false,
};

pub(crate) const BOTH: Consumers = Consumers {
    collector: true,
    sink: true,
};

/// A ledger that is open.
pub(crate) struct Open {
    pub(crate) ledger: Ledger,
    pub(crate) opened: Opened,
}

pub(crate) fn open(directory: &Path) -> Open {
    open_as(directory, Bounds::default(), COLLECTOR)
}

pub(crate) fn open_as(directory: &Path, bounds: Bounds, consumers: Consumers) -> Open {
    let (ledger, opened) = Ledger::open(directory, bounds, consumers).unwrap();
    Open { ledger, opened }
}

impl Open {
    /// Closes the file as a stop does.
    pub(crate) fn close(self) {
        drop(self.ledger);
        self.opened.writer.join().unwrap();
    }

    /// Ends as a kill does: gives a folder with the file as it stands while it is open.
    pub(crate) fn crash(self, directory: &Path) -> TempDir {
        let files = copy(directory);
        drop(self);
        files
    }

    pub(crate) async fn look(&self, id: &str, subjects: &[&str]) -> Vec<Finding> {
        self.ledger
            .record_look(about(id), look(subjects), at(0))
            .await
            .unwrap()
    }

    /// Everything that waits, without confirming it.
    pub(crate) async fn waiting(&self) -> Vec<SpoolRecord> {
        self.batch().await.records
    }

    pub(crate) async fn batch(&self) -> SpoolBatch {
        self.ledger
            .next_batch(usize::MAX, usize::MAX)
            .await
            .unwrap()
    }

    pub(crate) async fn confirm(&self, sequence: u64) {
        let epoch = self.ledger.stats().borrow().epoch.unwrap();
        self.ledger.confirm(epoch, sequence).await.unwrap();
    }
}

/// The ledger's files as they stand, in a folder of their own.
pub(crate) fn copy(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in ["ledger.redb", "ledger.witness"] {
        std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

pub(crate) fn file(directory: &Path) -> std::path::PathBuf {
    directory.join("ledger.redb")
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn key(id: &str) -> ContainerKey {
    ContainerKey {
        namespace: "default".into(),
        id: id.into(),
    }
}

pub(crate) fn about(id: &str) -> About {
    About {
        node: "node-7".into(),
        container: ContainerRef {
            id: id.into(),
            namespace: "default".into(),
            name: id.into(),
            pod: None,
        },
        workload: Workload::of_image("default", id),
        image: None,
    }
}

pub(crate) fn condition(subject: &str, severity: Severity) -> Condition {
    Condition {
        check: Check::Files,
        subject: Subject::word(subject),
        severity,
        title: subject.to_owned(),
        basis: None,
        detail: Detail::UnmanagedContainer(Unmanaged {
            reason: subject.to_owned(),
        }),
    }
}

/// A look whose checks were done and that saw these.
pub(crate) fn look(subjects: &[&str]) -> Look {
    Look {
        done: Check::ALL.to_vec(),
        conditions: subjects
            .iter()
            .map(|subject| condition(subject, Severity::Warning))
            .collect(),
        ..Look::default()
    }
}

/// The findings among records, parsed and so known to be whole.
pub(crate) fn findings(records: &[SpoolRecord]) -> Vec<Finding> {
    records
        .iter()
        .filter(|record| record.kind == RecordKind::Finding)
        .map(|record| Finding::parse(&record.payload).unwrap())
        .collect()
}

/// Transition and subject of each finding.
pub(crate) fn told(findings: &[Finding]) -> Vec<(Transition, String)> {
    findings
        .iter()
        .map(|finding| (finding.transition, finding.subject.as_str().to_owned()))
        .collect()
}

pub(crate) fn opened(subject: &str) -> (Transition, String) {
    (Transition::Opened, subject.to_owned())
}

/// How many places a full report names.
pub(crate) fn named(report: &v1::FullReport) -> usize {
    report
        .open
        .iter()
        .map(|open| open.fingerprints.len() / 16)
        .sum()
}

/// The full reports among records.
pub(crate) fn reports(records: &[SpoolRecord]) -> Vec<v1::FullReport> {
    records
        .iter()
        .filter(|record| record.kind == RecordKind::FullReport)
        .map(|record| v1::FullReport::decode(record.payload.as_slice()).unwrap())
        .collect()
}

/// A small generator, so that a failing run can be repeated: the numbers are always the same.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A look that resolves nothing and sees condition `number`.
pub(crate) fn one_more(id: &str, number: u64) -> (Look, About) {
    let look = Look {
        done: vec![],
        conditions: vec![condition(&format!("n{number}"), Severity::Info)],
        ..Look::default()
    };
    (look, about(id))
}
