//! The one thread that touches the ledger's database. redb blocks, so it may not run on the async
//! runtime; one thread also means that nothing is ever read beside a transaction.
//!
//! Work that waits is taken together into one transaction (group commit) and answered after its commit.
//! redb's handle is dead after any I/O error, such as a full disk: it is dropped, the work is answered
//! with the error, and the file is opened again with back-off. Detection goes on meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::Database;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::commit::{Done, commit, load};
use super::counts::{Bounds, Consumers, Counts, SpoolStats};
use super::error::LedgerError;
use super::file;
use super::job::Job;
use super::witness::Witness;

/// Work in one transaction: enough that an fsync is shared under load, few enough that one failure makes
/// few looks wait for their next turn.
const MAX_GROUP: usize = 100;

/// Between attempts to open the file: a full disk is not made better by trying, and each attempt reads
/// the whole file.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Failures in a row that no disk explains, after which the file is taken for damaged although it opens:
/// with the same rows the same bug would meet us for ever.
const MAX_STRIKES: u32 = 3;

#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    bounds: Bounds,
    consumers: Consumers,
    database: Option<Database>,
    witness: Option<Witness>,
    /// After the last commit.
    counts: Counts,
    retry_after: Duration,
    retry_at: Instant,
    /// Failures in a row that no disk explains.
    strikes: u32,
    stats: SpoolStats,
    publish: watch::Sender<SpoolStats>,
}

impl Writer {
    pub(super) fn new(
        directory: &Path,
        bounds: Bounds,
        consumers: Consumers,
        publish: watch::Sender<SpoolStats>,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            bounds,
            consumers,
            database: None,
            witness: None,
            counts: Counts::default(),
            retry_after: FIRST_RETRY,
            retry_at: Instant::now(),
            strikes: 0,
            stats: SpoolStats::default(),
            publish,
        }
    }

    /// The first opening. Only a file that another agent holds is a reason not to start.
    pub(super) fn start(&mut self) -> Result<(bool, Option<PathBuf>), LedgerError> {
        match self.open_now() {
            Err(LedgerError::Busy) => Err(LedgerError::Busy),
            Err(error) => {
                tracing::error!(%error, "Ledger cannot be opened; nothing is recorded until it can.");
                Ok((false, None))
            }
            Ok(found) => Ok(found),
        }
    }

    /// Serves until every handle is dropped.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP
                && let Ok(job) = waiting.try_recv()
            {
                group.push(job);
            }
            self.serve(group);
        }
    }

    fn serve(&mut self, group: Vec<Job>) {
        if let Err(error) = self.ensure_open() {
            refuse(group, error);
            return;
        }
        let Some(database) = &self.database else {
            return;
        };
        let (bounds, consumers, counts) = (self.bounds, self.consumers, self.counts);
        let mut replies = Vec::with_capacity(group.len());
        // A panic must not end the writer: the agent would look healthy and record nothing.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let write = database.begin_write()?;
            commit(write, (bounds, consumers, counts), group, &mut replies)
        }));
        let answer = match result {
            Ok(Ok(done)) => {
                self.on_transaction(&done);
                Ok(())
            }
            Ok(Err(error)) => Err(self.on_failure(LedgerError::of(&error))),
            Err(_panic) => Err(self.on_failure(LedgerError::Interrupted)),
        };
        for reply in replies {
            reply(answer);
        }
    }

    fn ensure_open(&mut self) -> Result<(), LedgerError> {
        if self.database.is_some() {
            return Ok(());
        }
        if Instant::now() < self.retry_at {
            return Err(self.stats.error.unwrap_or(LedgerError::Interrupted));
        }
        self.open_now()?;
        tracing::info!("Ledger is open again.");
        Ok(())
    }

    fn open_now(&mut self) -> Result<(bool, Option<PathBuf>), LedgerError> {
        match self.try_open() {
            Ok(found) => Ok(found),
            Err(error) => {
                self.wait_to_retry(error);
                Err(error)
            }
        }
    }

    fn try_open(&mut self) -> Result<(bool, Option<PathBuf>), LedgerError> {
        let mut set_aside = None;
        loop {
            let file = file::open(&self.directory)?;
            self.on_set_aside(file.set_aside.as_deref());
            set_aside = file.set_aside.or(set_aside);
            let witness = Witness::open(&self.directory);
            let known = (self.bounds, self.consumers, self.counts);
            let loaded = catch_unwind(AssertUnwindSafe(|| {
                load(&file.database, known, witness.read())
            }));
            let error = match loaded {
                Ok(Ok((counts, is_new))) => {
                    self.database = Some(file.database);
                    self.witness = Some(witness);
                    self.stats.error = None;
                    self.on_done(counts);
                    return Ok((is_new, set_aside));
                }
                Ok(Err(error)) => LedgerError::of(&error),
                Err(_panic) => LedgerError::Damaged,
            };
            self.database = Some(file.database);
            self.close();
            // A database of pages in order whose tables are not ours is as foreign as any file. Once:
            // a new file that does not load either is no reason to make more of them.
            if error != LedgerError::Damaged || set_aside.is_some() {
                return Err(error);
            }
            set_aside = Some(file::set_aside(&self.directory.join(file::FILE_NAME))?);
            self.on_set_aside(set_aside.as_deref());
        }
    }

    fn on_set_aside(&mut self, path: Option<&Path>) {
        if let Some(path) = path {
            self.stats.files_set_aside += 1;
            tracing::error!(path = %path.display(), "Ledger was damaged and has been set aside.");
        }
    }

    fn on_transaction(&mut self, done: &Done) {
        if done.is_committed {
            self.stats.commits += 1;
            self.stats.damaged_rows += done.damaged_rows;
            self.retry_after = FIRST_RETRY;
            self.strikes = 0;
        }
        self.on_done(done.counts);
    }

    fn on_failure(&mut self, error: LedgerError) -> LedgerError {
        self.close();
        if matches!(error, LedgerError::Damaged | LedgerError::Interrupted) {
            self.strikes += 1;
        }
        if self.strikes >= MAX_STRIKES {
            self.strikes = 0;
            let aside = file::set_aside(&self.directory.join(file::FILE_NAME));
            self.on_set_aside(aside.ok().as_deref());
        }
        self.wait_to_retry(error);
        error
    }

    /// Dropping a database writes to it, which may fail as its last use did.
    fn close(&mut self) {
        let database = self.database.take();
        drop(catch_unwind(AssertUnwindSafe(move || drop(database))));
    }

    fn wait_to_retry(&mut self, error: LedgerError) {
        tracing::warn!(%error, retry_after = ?self.retry_after, "Ledger records nothing.");
        self.stats.failures += 1;
        self.stats.error = Some(error);
        self.retry_at = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(LAST_RETRY);
        self.publish();
    }

    fn on_done(&mut self, counts: Counts) {
        let has_grown = self.counts.testimony() != counts.testimony();
        if let Some(witness) = self.witness.as_mut().filter(|_| has_grown) {
            witness.write(counts.testimony());
        }
        self.counts = counts;
        self.stats.take(&counts, self.bounds, self.consumers);
        self.publish();
    }

    fn publish(&self) {
        self.publish.send_if_modified(|published| {
            let is_new = *published != self.stats;
            published.clone_from(&self.stats);
            is_new
        });
    }
}

fn refuse(group: Vec<Job>, error: LedgerError) {
    for job in group {
        let (reply, _no_transaction) = job.run(Err(error));
        reply(Err(error));
    }
}
