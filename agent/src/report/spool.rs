//! The records that wait for the collector and the file sink, within one transaction of the ledger.
//!
//! Two tables under one sequence: findings, which nobody can make again, and repeatable records
//! (statuses, full reports, re-stated findings), which the next full report makes again. So the oldest
//! repeatable one is found without a search when room is needed.
//!
//! A record holds its kind, a CRC32 over sequence, kind and payload, and the payload. One that fails
//! its check is removed and counted; it never stops the queue and is never sent as genuine.
//!
//! Length is bounded by payload bytes that we count, because the database file does not shrink. On disk
//! it takes more than twice the bound.
//!
//! Long because whatever adds or removes a row also counts it, and the two stay
//! together.

use std::iter::Peekable;

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::counts::{Bounds, Consumers, Counts, DUE_DOCUMENTS, DUE_NAMES, DUE_NOTHING};
use super::record::{
    Again, MAX_PAYLOAD_BYTES, RecordKind, Report, SpoolBatch, SpoolRecord, Wanted, decode, encode,
    payload_bytes,
};
use super::witness::Testimony;

type Definition = TableDefinition<'static, u64, &'static [u8]>;
type Rows<'t> = Table<'t, u64, &'static [u8]>;

const FINDINGS: Definition = TableDefinition::new("spool-findings");
const REPEATABLE: Definition = TableDefinition::new("spool-repeatable");
/// Records that the collector refuses, the newest [`MAX_REFUSED_KEPT`], for a person to look at.
const REFUSED: Definition = TableDefinition::new("spool-refused");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// What a record costs in a message beside its payload: sequence, tags, lengths.
const ENVELOPE_BYTES: usize = 32;

/// Refused records kept for a person; more are only counted.
const MAX_REFUSED_KEPT: u64 = 100;

/// The spool, within one transaction.
#[derive(Debug)]
pub(super) struct Spool<'t> {
    findings: Rows<'t>,
    repeatable: Rows<'t>,
    refused: Rows<'t>,
    meta: Table<'t, &'static str, u64>,
    bounds: Bounds,
    consumers: Consumers,
    before: Counts,
    pub(super) counts: Counts,
}

impl<'t> Spool<'t> {
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        bounds: Bounds,
        consumers: Consumers,
        counts: Counts,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            findings: transaction.open_table(FINDINGS)?,
            repeatable: transaction.open_table(REPEATABLE)?,
            refused: transaction.open_table(REFUSED)?,
            meta: transaction.open_table(META)?,
            bounds,
            consumers,
            before: counts,
            counts,
        })
    }

    /// Reads the kept numbers and counts the records; a file without an epoch gets `new_epoch` and owes
    /// a full report. True when it is new.
    pub(super) fn load(
        &mut self,
        new_epoch: u64,
        witness: Option<Testimony>,
    ) -> Result<bool, redb::Error> {
        // What this process has counted goes on when the file is opened again.
        let mut counts = Counts {
            records: 0,
            bytes: 0,
            ..self.counts
        };
        for (name, slot) in counts.kept() {
            *slot = self.meta.get(name)?.map_or(0, |value| value.value());
        }
        let is_new = counts.epoch == 0;
        if is_new {
            counts.epoch = new_epoch.max(1);
            counts.next_sequence = 1;
            counts.due = DUE_NAMES;
        }
        for table in [&self.findings, &self.repeatable] {
            for row in table.iter()? {
                let (sequence, row) = row?;
                counts.records += 1;
                counts.bytes += payload_bytes(row.value());
                counts.next_sequence = counts.next_sequence.max(sequence.value() + 1);
            }
        }
        // A collector that was not there before has missed records.
        if self.consumers.collector && counts.had_collector == 0 && !is_new {
            counts.due = DUE_DOCUMENTS;
        }
        counts.had_collector = u64::from(self.consumers.collector);
        self.counts = counts;
        if let Some(witness) = witness.filter(|witness| witness.epoch == counts.epoch) {
            self.hear(witness);
        }
        self.prune()?;
        Ok(is_new)
    }

    /// Records that the witness has seen and the file has not were in a commit that was lost.
    fn hear(&mut self, witness: Testimony) {
        let lost = witness
            .next_sequence
            .saturating_sub(self.counts.next_sequence);
        if lost > 0 {
            self.counts.next_sequence = witness.next_sequence;
            self.counts.damaged += lost;
            self.counts.dropped += lost;
            self.want_documents();
        }
    }

    /// Writes the kept numbers that changed; true when there is anything to commit.
    pub(super) fn finish(&mut self) -> Result<bool, redb::Error> {
        if self.before == self.counts {
            return Ok(false);
        }
        let (mut before, mut after) = (self.before, self.counts);
        for ((name, new), (_, old)) in after.kept().into_iter().zip(before.kept()) {
            if new != old {
                self.meta.insert(name, *new)?;
            }
        }
        self.before = self.counts;
        Ok(true)
    }

    /// Appends a record for the consumers that want it, then makes room.
    pub(super) fn append(
        &mut self,
        kind: RecordKind,
        again: Again,
        payload: &[u8],
    ) -> Result<(), redb::Error> {
        let is_wanted = match again {
            Again::Never => self.consumers.collector || self.consumers.sink,
            Again::Repeatable => self.consumers.collector,
        };
        if !is_wanted {
            return Ok(());
        }
        let sequence = self.counts.next_sequence;
        self.counts.next_sequence += 1;
        if payload.len() > MAX_PAYLOAD_BYTES {
            self.count_oversized();
            return Ok(());
        }
        let row = encode(sequence, kind, payload);
        self.table(again).insert(sequence, row.as_slice())?;
        self.counts.records += 1;
        self.counts.bytes += payload_bytes(&row);
        while self.counts.bytes > self.bounds.spool_bytes && self.drop_one()? {}
        Ok(())
    }

    /// A finding that no message can carry.
    pub(super) fn count_oversized(&mut self) {
        self.counts.oversized += 1;
        self.counts.dropped += 1;
    }

    /// The oldest records after `cursor` that fit the limits; at least one when there is any.
    pub(super) fn next(
        &mut self,
        cursor: u64,
        wanted: Wanted,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<SpoolBatch, redb::Error> {
        let (mut taken, mut damaged, mut bytes) = (Vec::new(), Vec::new(), 0);
        let from = cursor.saturating_add(1);
        let mut rows = BySequence {
            findings: self.findings.range(from..)?.peekable(),
            repeatable: match wanted {
                Wanted::All => Some(self.repeatable.range(from..)?.peekable()),
                Wanted::FindingsOnly => None,
            },
        };
        while taken.len() < max_records
            && let Some(row) = rows.next()
        {
            let (sequence, row) = row?;
            let Some(record) = decode(sequence.value(), row.value()) else {
                damaged.push(sequence.value());
                continue;
            };
            bytes += record.payload.len() + ENVELOPE_BYTES;
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(record);
        }
        drop(rows);
        for sequence in damaged {
            self.remove_damaged(sequence)?;
        }
        Ok(SpoolBatch {
            epoch: self.counts.epoch,
            records: taken,
        })
    }

    /// The collector has everything up to `sequence`.
    pub(super) fn confirm(&mut self, sequence: u64) -> Result<(), redb::Error> {
        let last = self.counts.next_sequence.saturating_sub(1);
        self.counts.confirmed = self.counts.confirmed.max(sequence.min(last));
        self.prune()
    }

    /// The file sink has written everything up to `sequence`.
    pub(super) fn sink_passed(&mut self, sequence: u64) -> Result<(), redb::Error> {
        let last = self.counts.next_sequence.saturating_sub(1);
        self.counts.sunk = self.counts.sunk.max(sequence.min(last));
        self.prune()
    }

    /// Takes out a record that the collector refuses as malformed, and everything before it, which the
    /// collector has.
    pub(super) fn refuse(&mut self, record: &SpoolRecord) -> Result<(), redb::Error> {
        let row = encode(record.sequence, record.kind, &record.payload);
        self.refused.insert(record.sequence, row.as_slice())?;
        if self.refused.len()? > MAX_REFUSED_KEPT {
            self.refused.pop_first()?;
        }
        self.counts.refused += 1;
        self.counts.dropped += 1;
        self.confirm(record.sequence)
    }

    /// The collector asks for everything.
    pub(super) fn want_report(&mut self) {
        let is_under_way = self.counts.complete_report > self.counts.confirmed;
        if is_under_way {
            return;
        }
        let due = if self.counts.confirmed == 0 {
            DUE_NAMES
        } else {
            DUE_DOCUMENTS
        };
        self.counts.due = self.counts.due.max(due);
    }

    /// The collector may lack documents of what is open.
    pub(super) fn want_documents(&mut self) {
        self.counts.due = DUE_DOCUMENTS;
    }

    /// What is due goes into the spool now; says what that is. Asked before its records are appended:
    /// those of them for which there is no room are due again.
    pub(super) fn begin_report(&mut self) -> Report {
        let is_documents = self.counts.due == DUE_DOCUMENTS;
        self.counts.due = DUE_NOTHING;
        if is_documents {
            Report::Documents
        } else {
            Report::Names
        }
    }

    /// The record appended last is a full report.
    pub(super) fn end_report(&mut self, report: Report) {
        if report == Report::Documents || self.counts.confirmed == 0 {
            self.counts.complete_report = self.counts.next_sequence.saturating_sub(1);
        }
    }

    fn table(&mut self, again: Again) -> &mut Rows<'t> {
        match again {
            Again::Never => &mut self.findings,
            Again::Repeatable => &mut self.repeatable,
        }
    }

    /// Removes what every consumer has passed.
    fn prune(&mut self) -> Result<(), redb::Error> {
        let Consumers { collector, sink } = self.consumers;
        let confirmed = if collector {
            self.counts.confirmed
        } else {
            u64::MAX
        };
        let sunk = if sink { self.counts.sunk } else { u64::MAX };
        let (mut records, mut bytes) = (0, 0);
        for (table, limit) in [
            (&mut self.findings, confirmed.min(sunk)),
            (&mut self.repeatable, confirmed),
        ] {
            table.retain_in(..=limit, |_, row| {
                records += 1;
                bytes += payload_bytes(row);
                false
            })?;
        }
        self.forget(records, bytes);
        Ok(())
    }

    /// Drops the record that is missed least: one that only the sink lacks, else the oldest repeatable
    /// one, else the oldest finding. False when there is none.
    ///
    /// A record that was sent and whose confirmation is under way counts as dropped although the
    /// collector may have it: the count errs to the worse.
    fn drop_one(&mut self) -> Result<bool, redb::Error> {
        let oldest_finding = self.findings.first()?.map(|(sequence, _)| sequence.value());
        let is_confirmed = self.consumers.collector
            && oldest_finding.is_some_and(|sequence| sequence <= self.counts.confirmed);
        let again = if !is_confirmed && self.repeatable.first()?.is_some() {
            Again::Repeatable
        } else {
            Again::Never
        };
        let removed = self
            .table(again)
            .pop_first()?
            .map(|(_, row)| payload_bytes(row.value()));
        let Some(bytes) = removed else {
            return Ok(false);
        };
        self.forget(1, bytes);
        if is_confirmed {
            self.counts.dropped_for_sink += 1;
            return Ok(true);
        }
        self.counts.dropped += 1;
        self.want_documents();
        if again == Again::Repeatable {
            self.counts.dropped_repeatable += 1;
        }
        Ok(true)
    }

    fn remove_damaged(&mut self, sequence: u64) -> Result<(), redb::Error> {
        for again in [Again::Never, Again::Repeatable] {
            let bytes = self
                .table(again)
                .remove(sequence)?
                .map(|row| payload_bytes(row.value()));
            if let Some(bytes) = bytes {
                self.forget(1, bytes);
                self.counts.damaged += 1;
                self.counts.dropped += 1;
                self.want_documents();
            }
        }
        Ok(())
    }

    fn forget(&mut self, records: u64, bytes: u64) {
        self.counts.records = self.counts.records.saturating_sub(records);
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes);
    }
}

type Row<'a> = <redb::Range<'a, u64, &'static [u8]> as Iterator>::Item;

/// Both tables as one, in the order of the sequence.
struct BySequence<'a> {
    findings: Peekable<redb::Range<'a, u64, &'static [u8]>>,
    repeatable: Option<Peekable<redb::Range<'a, u64, &'static [u8]>>>,
}

impl<'a> Iterator for BySequence<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let finding = sequence_of(self.findings.peek());
        let rival = self.repeatable.as_mut().and_then(|rows| {
            let sequence = sequence_of(rows.peek())?;
            (finding.is_none_or(|finding| sequence < finding)).then_some(rows)
        });
        match rival {
            Some(rows) => rows.next(),
            None => self.findings.next(),
        }
    }
}

/// An error sorts first, so that it is met and not skipped.
fn sequence_of(row: Option<&Row<'_>>) -> Option<u64> {
    match row? {
        Ok((sequence, _)) => Some(sequence.value()),
        Err(_) => Some(0),
    }
}
