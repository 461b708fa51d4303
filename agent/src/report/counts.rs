//! The numbers about the spool: what bounds it, who empties it, how far everybody is, what was lost.

use super::error::LedgerError;
use super::witness::Testimony;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Payload bytes of all records in the spool.
    pub spool_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            spool_bytes: 256 << 20,
        }
    }
}

/// Who takes records out of the spool. With nobody, records are not made; places still live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumers {
    /// A collector is configured.
    pub collector: bool,
    /// A file sink is configured.
    pub sink: bool,
}

/// Everything is told.
pub(super) const DUE_NOTHING: u64 = 0;
/// The collector has, or will get, every document: names are enough.
pub(super) const DUE_NAMES: u64 = 1;
/// The collector may lack documents of what is open.
pub(super) const DUE_DOCUMENTS: u64 = 2;

/// The numbers about the spool. Those marked "kept" are rows of the database; the others are counted
/// anew by each process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Kept: random, made with the file.
    pub(super) epoch: u64,
    /// Kept: the sequence of the next record.
    pub(super) next_sequence: u64,
    /// Kept: the collector has everything up to here.
    pub(super) confirmed: u64,
    /// Kept: the file sink has everything up to here.
    pub(super) sunk: u64,
    /// Kept: records that never reached the collector, since the epoch began.
    pub(super) dropped: u64,
    /// Kept: whether a full report is due, and of what: the `DUE` constants.
    pub(super) due: u64,
    /// Kept: the sequence of the last full report that tells a collector everything it may lack.
    pub(super) complete_report: u64,
    /// Kept: 1 when a collector was a consumer when the file was last open.
    pub(super) had_collector: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Of the dropped ones: repeatable.
    pub(super) dropped_repeatable: u64,
    /// Confirmed by the collector, but never written by the sink.
    pub(super) dropped_for_sink: u64,
    /// Of the dropped ones: bytes were not what had been written.
    pub(super) damaged: u64,
    /// Of the dropped ones: longer than any message.
    pub(super) oversized: u64,
    /// Of the dropped ones: refused by the collector as malformed.
    pub(super) refused: u64,
}

impl Counts {
    /// The kept numbers with the names of their rows.
    pub(super) fn kept(&mut self) -> [(&'static str, &mut u64); 8] {
        [
            ("epoch", &mut self.epoch),
            ("next-sequence", &mut self.next_sequence),
            ("confirmed", &mut self.confirmed),
            ("sink-cursor", &mut self.sunk),
            ("dropped", &mut self.dropped),
            ("report-due", &mut self.due),
            ("complete-report", &mut self.complete_report),
            ("had-collector", &mut self.had_collector),
        ]
    }

    /// How far the sequence has come, for the witness.
    pub(super) fn testimony(&self) -> Testimony {
        Testimony {
            epoch: self.epoch,
            next_sequence: self.next_sequence,
        }
    }
}

/// The numbers about the ledger, after its last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// The epoch; `None` while the file cannot be opened.
    pub epoch: Option<u64>,
    /// Records that wait.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The newest sequence; 0 when there is none.
    pub last_sequence: u64,
    /// The collector has everything up to here.
    pub confirmed: u64,
    /// The file sink has everything up to here.
    pub sunk: u64,
    /// Records that never reached the collector, since the epoch began: the sum of what follows, of
    /// earlier processes too, and of findings that a full spool dropped.
    pub dropped: u64,
    /// Repeatable records that a full spool dropped.
    pub dropped_repeatable: u64,
    /// Records whose bytes were not what had been written.
    pub damaged: u64,
    /// Findings longer than any message.
    pub oversized: u64,
    /// Records that the collector refused as malformed.
    pub refused: u64,
    /// Confirmed findings that a full spool dropped before the file sink wrote them.
    pub dropped_for_sink: u64,
    /// Rows of the state whose bytes were not what had been written.
    pub damaged_rows: u64,
    /// Files that were set aside.
    pub files_set_aside: u64,
    /// Commits.
    pub commits: u64,
    /// Transactions and openings that failed.
    pub failures: u64,
    /// Why the ledger records nothing at the moment.
    pub error: Option<LedgerError>,
    /// The main loop should call `Ledger::full_report`, after it has looked at every container once.
    pub full_report_due: bool,
}

impl SpoolStats {
    pub(super) fn take(&mut self, counts: &Counts, bounds: Bounds, consumers: Consumers) {
        self.epoch = Some(counts.epoch);
        self.records = counts.records;
        self.bytes = counts.bytes;
        self.last_sequence = counts.next_sequence.saturating_sub(1);
        self.confirmed = counts.confirmed;
        self.sunk = counts.sunk;
        self.dropped = counts.dropped;
        self.dropped_repeatable = counts.dropped_repeatable;
        self.damaged = counts.damaged;
        self.oversized = counts.oversized;
        self.refused = counts.refused;
        self.dropped_for_sink = counts.dropped_for_sink;
        // A full report into a full spool would only push out what it reports.
        self.full_report_due = counts.due != DUE_NOTHING
            && consumers.collector
            && counts.bytes <= bounds.spool_bytes / 2;
    }
}
