//! The ledger as the main loop, the file sink and the uplink see it. Each call is answered after the
//! commit that holds its work; an error means that nothing of it is recorded. What a look did not get
//! recorded, the next look brings again.

use std::path::{Path, PathBuf};
use std::thread;

use holdfast_core::container::ContainerKey;
use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::Finding;
use holdfast_core::place::{About, Look};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::counts::{Bounds, Consumers, SpoolStats};
use super::error::{Fault, LedgerError};
use super::job::Job;
use super::record::{Again, SpoolBatch, SpoolRecord, Wanted};
use super::transaction::{Transaction, refused};
use super::writer::Writer;
use crate::state::{self, Known, RowKey};

/// Calls that wait for the writer; more make their callers wait.
const MAX_WAITING: usize = 1024;

/// What opening the ledger found.
#[derive(Debug)]
pub struct Opened {
    /// The epoch; `None` while the file cannot be opened.
    pub epoch: Option<u64>,
    /// The epoch begins with this opening.
    pub is_new: bool,
    /// Where a damaged file was put.
    pub set_aside: Option<PathBuf>,
    /// The writer; it ends, and the file is closed cleanly, when every [`Ledger`] is dropped.
    pub writer: thread::JoinHandle<()>,
}

/// The handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    jobs: mpsc::Sender<Job>,
    stats: watch::Receiver<SpoolStats>,
}

impl Ledger {
    /// Opens the ledger below `directory` and starts its writer.
    ///
    /// Reads the whole file. Fails only when another agent holds it or no thread can be started: damage is
    /// set aside, and a disk that is full or read-only is tried again while the agent works.
    pub fn open(
        directory: &Path,
        bounds: Bounds,
        consumers: Consumers,
    ) -> Result<(Self, Opened), LedgerError> {
        let (stats_sender, stats) = watch::channel(SpoolStats::default());
        let mut writer = Writer::new(directory, bounds, consumers, stats_sender);
        let (is_new, set_aside) = writer.start()?;
        let epoch = stats.borrow().epoch;
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let writer = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(waiting))?;
        let opened = Opened {
            epoch,
            is_new,
            set_aside,
            writer,
        };
        Ok((Self { jobs, stats }, opened))
    }

    /// Joins what a look saw into the container's places and spools one finding for each transition.
    pub async fn record_look(
        &self,
        about: About,
        look: Look,
        now: Timestamp,
    ) -> Result<Vec<Finding>, LedgerError> {
        let row = state::key_of(&about.container)?;
        self.run(move |transaction| {
            let findings = transaction.state.look(&row, &about, look, now)?;
            transaction.spool_findings(&findings, Again::Never)?;
            Ok(findings)
        })
        .await
    }

    /// Keeps bytes that identify the container, until it ends; see [`Ledger::known`].
    pub async fn remember(&self, about: About, identity: Vec<u8>) -> Result<(), LedgerError> {
        let row = state::key_of(&about.container)?;
        self.run(move |transaction| Ok(transaction.state.remember(&row, &about, &identity)?))
            .await
    }

    /// Keeps and spools a status, unless it says what the last one said less than an hour ago.
    pub async fn record_status(&self, status: ContainerStatus) -> Result<(), LedgerError> {
        let row = state::key_of(&status.container)?;
        self.run(move |transaction| {
            if transaction.state.status(&row, &status)? {
                transaction.spool_status(&status)?;
            }
            Ok(())
        })
        .await
    }

    /// Resolves what is open on a container that has ended, and forgets the container.
    pub async fn end_container(
        &self,
        key: &ContainerKey,
        now: Timestamp,
    ) -> Result<Vec<Finding>, LedgerError> {
        let row = RowKey::of(key)?;
        self.run(move |transaction| transaction.end(&row, now))
            .await
    }

    /// Ends every known container that is not in `running`. Only for a list that the runtime gave in
    /// full: an empty one ends everything.
    pub async fn end_absent(
        &self,
        running: Vec<ContainerKey>,
        now: Timestamp,
    ) -> Result<Vec<Finding>, LedgerError> {
        self.run(move |transaction| {
            let mut known = transaction.state.known()?;
            known.retain(|known| !running.contains(&known.about.container.key()));
            let mut findings = Vec::new();
            for absent in known {
                let row = state::key_of(&absent.about.container).map_err(refused)?;
                findings.extend(transaction.end(&row, now)?);
            }
            Ok(findings)
        })
        .await
    }

    /// Every container that has not ended, as known from before.
    pub async fn known(&self) -> Result<Vec<Known>, LedgerError> {
        self.run(|transaction| Ok(transaction.state.known()?)).await
    }

    /// Spools a full report: everything that is open, and the containers that run.
    ///
    /// When the collector may lack documents (records were dropped or damaged, it was attached later, it
    /// asks although it has confirmed some), those of all open places, as `updated`, and the last
    /// statuses go before it: names alone can resolve what is there, not restore what is not.
    pub async fn full_report(
        &self,
        running: Vec<ContainerKey>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.run(move |transaction| transaction.full_report(&running, now))
            .await
    }

    /// The collector asks for everything; [`SpoolStats::full_report_due`] tells the main loop.
    pub async fn want_full_report(&self) -> Result<(), LedgerError> {
        self.run(|transaction| {
            transaction.spool.want_report();
            Ok(())
        })
        .await
    }

    /// The oldest records that the collector has not confirmed.
    pub async fn next_batch(
        &self,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<SpoolBatch, LedgerError> {
        self.run(move |transaction| {
            let cursor = transaction.spool.counts.confirmed;
            Ok(transaction
                .spool
                .next(cursor, Wanted::All, max_records, max_bytes)?)
        })
        .await
    }

    /// The collector has committed everything of `epoch` up to `sequence`.
    pub async fn confirm(&self, epoch: u64, sequence: u64) -> Result<(), LedgerError> {
        self.run(move |transaction| {
            transaction.same_epoch(epoch)?;
            Ok(transaction.spool.confirm(sequence)?)
        })
        .await
    }

    /// The collector refuses this record as malformed and has everything before it.
    pub async fn refuse(&self, epoch: u64, record: SpoolRecord) -> Result<(), LedgerError> {
        self.run(move |transaction| {
            transaction.same_epoch(epoch)?;
            Ok(transaction.spool.refuse(&record)?)
        })
        .await
    }

    /// The oldest findings that the file sink has not written.
    pub async fn next_findings(
        &self,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<SpoolBatch, LedgerError> {
        self.run(move |transaction| {
            let cursor = transaction.spool.counts.sunk;
            Ok(transaction
                .spool
                .next(cursor, Wanted::FindingsOnly, max_records, max_bytes)?)
        })
        .await
    }

    /// The file sink has written everything of `epoch` up to `sequence`.
    pub async fn sink_passed(&self, epoch: u64, sequence: u64) -> Result<(), LedgerError> {
        self.run(move |transaction| {
            transaction.same_epoch(epoch)?;
            Ok(transaction.spool.sink_passed(sequence)?)
        })
        .await
    }

    /// The numbers after the last commit; changes wake whoever waits.
    pub fn stats(&self) -> watch::Receiver<SpoolStats> {
        self.stats.clone()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (answer, answered) = oneshot::channel();
        let job = Job::new(work, answer);
        if self.jobs.send(job).await.is_err() {
            return Err(LedgerError::Closed);
        }
        // The writer drops an answer only when a panic ends the transaction that it belongs to.
        answered.await.unwrap_or(Err(LedgerError::Interrupted))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::report::record::RecordKind;

    fn open(directory: &TempDir) -> Ledger {
        let consumers = Consumers {
            collector: true,
            sink: false,
        };
        let opened = Ledger::open(directory.path(), Bounds::default(), consumers);
        opened.unwrap().0
    }

    async fn append(ledger: &Ledger) -> Result<(), LedgerError> {
        let payload = b"x";
        ledger
            .run(|transaction| {
                Ok(transaction
                    .spool
                    .append(RecordKind::Finding, Again::Never, payload)?)
            })
            .await
    }

    /// Work that fails half-way through, after it has written.
    async fn panic_after_append(ledger: &Ledger) -> Result<(), LedgerError> {
        ledger
            .run(|transaction| {
                transaction
                    .spool
                    .append(RecordKind::Finding, Again::Never, b"half")?;
                panic!("a bug");
            })
            .await
    }

    /// Until the writer has opened the file again, in its own time.
    async fn append_when_open(ledger: &Ledger) {
        while append(ledger).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_rolls_its_transaction_back_and_the_writer_goes_on() {
        let directory = TempDir::new().unwrap();
        let ledger = open(&directory);
        append(&ledger).await.unwrap();

        let interrupted = panic_after_append(&ledger).await;

        assert_eq!(interrupted, Err(LedgerError::Interrupted));
        append_when_open(&ledger).await;
        let waiting = ledger.next_batch(10, 1000).await.unwrap();
        let sequences: Vec<u64> = waiting.records.iter().map(|r| r.sequence).collect();
        assert_eq!(sequences, [1, 2]);
        let payloads: Vec<_> = waiting
            .records
            .iter()
            .map(|r| r.payload.as_slice())
            .collect();
        assert_eq!(payloads, [b"x", b"x"]);
        assert_eq!(ledger.stats().borrow().files_set_aside, 0);
    }

    #[tokio::test]
    async fn a_file_on_which_everything_panics_is_set_aside() {
        let directory = TempDir::new().unwrap();
        let ledger = open(&directory);
        append(&ledger).await.unwrap();
        let epoch = ledger.stats().borrow().epoch;

        while ledger.stats().borrow().files_set_aside == 0 {
            assert!(panic_after_append(&ledger).await.is_err());
            tokio::task::yield_now().await;
        }

        append_when_open(&ledger).await;
        assert_ne!(ledger.stats().borrow().epoch, epoch);
        assert!(directory.path().join("ledger.redb.damaged-1").exists());
    }
}
