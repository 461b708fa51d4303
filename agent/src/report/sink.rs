//! The file sink: each finding as one line of JSON, for log shippers and people. It is a consumer of the
//! spool with a cursor of its own in the ledger, so a crash between commit and write loses no line, and
//! a full disk delays lines. Towards the file it is at least once: a crash between write and cursor
//! writes the last lines again.
//!
//! It never blocks the ledger and never opens what is not a regular file: a FIFO without a reader would
//! stop it for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_daemon::shutdown::Stop;
use rustix::fs::OFlags;
use tokio::sync::watch;

use super::counts::SpoolStats;
use super::error::LedgerError;
use super::ledger::Ledger;
use super::record::SpoolRecord;

/// Lines and bytes written and synced at a time.
const MAX_LINES: usize = 1000;
const MAX_BYTES: usize = 1 << 20;

/// Between attempts after an error.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The numbers about the file sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkState {
    /// Lines written.
    pub lines: u64,
    /// Writes and openings that failed.
    pub errors: u64,
    /// Why the last one failed; `None` after one that did not.
    pub error: Option<SinkError>,
}

/// Why lines are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The operating system refused.
    #[error("findings file: {0}")]
    Io(io::ErrorKind),
    /// A directory, FIFO or device stands in the file's place.
    #[error("findings file is not a regular file")]
    NotRegular,
    /// The spool could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// The file sink, before it runs.
#[derive(Debug)]
pub struct Sink {
    ledger: Ledger,
    path: PathBuf,
    state: watch::Sender<SinkState>,
}

impl Sink {
    /// A sink that appends to `path`.
    pub fn new(ledger: Ledger, path: PathBuf) -> (Self, watch::Receiver<SinkState>) {
        let (state, seen) = watch::channel(SinkState::default());
        let sink = Self {
            ledger,
            path,
            state,
        };
        (sink, seen)
    }

    /// Writes until `stop` turns true; fails when the ledger's writer has ended.
    pub async fn run(self, mut stop: Stop) -> Result<(), LedgerError> {
        tokio::select! {
            _stopped = stop.wait_for(|stop| *stop) => Ok(()),
            closed = self.write_all() => Err(closed),
        }
    }

    /// Ends only when the ledger does.
    async fn write_all(&self) -> LedgerError {
        let mut news = self.ledger.stats();
        let mut file = None;
        let mut retry_after = FIRST_RETRY;
        loop {
            match self.write_next(&mut news, &mut file).await {
                Ok(()) => retry_after = FIRST_RETRY,
                Err(SinkError::Ledger(LedgerError::Closed)) => return LedgerError::Closed,
                Err(error) => {
                    self.on_error(error);
                    tokio::time::sleep(retry_after).await;
                    retry_after = (retry_after * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Writes the next findings and moves the cursor past them; without any, waits for news.
    async fn write_next(
        &self,
        news: &mut watch::Receiver<SpoolStats>,
        file: &mut Option<File>,
    ) -> Result<(), SinkError> {
        if file.is_none() {
            // Before there is anything to write: a person who has named the wrong file sees it now.
            let path = self.path.clone();
            let opened = tokio::task::spawn_blocking(move || open(&path)).await;
            *file = Some(opened.map_err(io::Error::from)??);
            self.state.send_modify(|state| state.error = None);
        }
        news.mark_unchanged();
        let batch = self.ledger.next_findings(MAX_LINES, MAX_BYTES).await?;
        let Some(last) = batch.last_sequence() else {
            let changed = news.changed().await;
            return changed.map_err(|_closed| SinkError::Ledger(LedgerError::Closed));
        };
        let lines = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        let (path, open_file) = (self.path.clone(), file.take());
        let work = move || append(&path, open_file, &batch.records);
        let written = tokio::task::spawn_blocking(work).await;
        *file = Some(written.map_err(io::Error::from)??);
        self.ledger.sink_passed(batch.epoch, last).await?;
        self.state.send_modify(|state| {
            state.lines += lines;
            state.error = None;
        });
        Ok(())
    }

    fn on_error(&self, error: SinkError) {
        tracing::warn!(path = %self.path.display(), %error, "Findings file could not be written.");
        self.state.send_modify(|state| {
            state.errors += 1;
            state.error = Some(error);
        });
    }
}

/// Appends one line for each record and waits until they are on disk: the cursor moves only then.
fn append(path: &Path, file: Option<File>, records: &[SpoolRecord]) -> Result<File, SinkError> {
    let mut file = match file.filter(|file| is_still(path, file)) {
        Some(file) => file,
        None => open(path)?,
    };
    let mut lines = Vec::new();
    for record in records {
        // JSON text has no raw newline, so a record cannot end its line early.
        lines.extend_from_slice(&record.payload);
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    file.sync_data()?;
    Ok(file)
}

/// Rotation moves the file away: then the lines belong into a new one.
fn is_still(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(open)) => (there.dev(), there.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn open(path: &Path) -> Result<File, SinkError> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(SinkError::NotRegular);
    }
    if metadata.len() > 0 {
        end_torn_line(&mut file)?;
    }
    Ok(file)
}

/// A crash or a full disk may have left half a line: the next one must not be glued to it.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}
