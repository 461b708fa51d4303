//! One record of the spool, as consumers get it and as a row holds it.

use super::document::MAX_DOCUMENT_BYTES;
use crate::state::{seal, unseal};

/// The longest payload: a full report in one message of 4 MiB, with room for the batch around it.
pub(super) const MAX_PAYLOAD_BYTES: usize = holdfast_protocol::MAX_MESSAGE_BYTES - (64 << 10);
const _: () = assert!(MAX_DOCUMENT_BYTES <= MAX_PAYLOAD_BYTES);

/// CRC and kind before each payload.
const HEADER_BYTES: usize = 5;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// JSON, `holdfast.finding/v1`.
    Finding,
    /// JSON, `holdfast.container/v1`.
    Container,
    /// The protobuf message `FullReport`.
    FullReport,
}

impl RecordKind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Finding => 1,
            Self::Container => 2,
            Self::FullReport => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Finding),
            2 => Some(Self::Container),
            3 => Some(Self::FullReport),
            _ => None,
        }
    }
}

/// Whether the next full report makes the same record again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    Repeatable,
}

/// What a full report brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Names,
    Documents,
}

/// A record as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolRecord {
    /// Counts from 1 in the epoch.
    pub sequence: u64,
    /// What it holds.
    pub kind: RecordKind,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Records in the order of their sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolBatch {
    /// The epoch that their sequences belong to. Whoever speaks about a sequence names it: the file may
    /// be set aside at any time, and then the same numbers mean other records.
    pub epoch: u64,
    /// The records.
    pub records: Vec<SpoolRecord>,
}

impl SpoolBatch {
    /// The newest sequence; `None` when the batch is empty.
    pub fn last_sequence(&self) -> Option<u64> {
        self.records.last().map(|record| record.sequence)
    }
}

/// Which records a consumer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    FindingsOnly,
}

/// The row of a record.
pub(super) fn encode(sequence: u64, kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let content = [[kind.to_byte()].as_slice(), payload].concat();
    seal(&sequence.to_le_bytes(), &content)
}

/// The record of a row; `None` when it is not as it was written.
pub(super) fn decode(sequence: u64, row: &[u8]) -> Option<SpoolRecord> {
    let (kind, payload) = unseal(&sequence.to_le_bytes(), row)?.split_first()?;
    Some(SpoolRecord {
        sequence,
        kind: RecordKind::from_byte(*kind)?,
        payload: payload.to_vec(),
    })
}

/// What a row counts towards the bound.
pub(super) fn payload_bytes(row: &[u8]) -> u64 {
    u64::try_from(row.len().saturating_sub(HEADER_BYTES)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn kind() -> impl Strategy<Value = RecordKind> {
        use RecordKind::{Container, Finding, FullReport};
        prop::sample::select(vec![Finding, Container, FullReport])
    }

    proptest! {
        #[test]
        fn a_row_gives_its_record_back_and_with_any_bit_flipped_none(
            sequence: u64,
            kind in kind(),
            payload: Vec<u8>,
            at: Index,
        ) {
            let mut row = encode(sequence, kind, &payload);
            prop_assert_eq!(payload_bytes(&row), u64::try_from(payload.len()).unwrap());
            let record = SpoolRecord { sequence, kind, payload };
            prop_assert_eq!(decode(sequence, &row), Some(record));
            prop_assert_eq!(decode(sequence ^ 1, &row), None);
            let bit = at.index(row.len() * 8);
            row[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(sequence, &row), None);
        }

        #[test]
        fn a_row_that_somebody_else_sealed_is_refused_or_is_what_we_would_write(
            sequence: u64,
            kind in 0_u8..6,
            payload: Vec<u8>,
        ) {
            let row = seal(&sequence.to_le_bytes(), &[&[kind], payload.as_slice()].concat());
            if let Some(record) = decode(sequence, &row) {
                prop_assert_eq!(encode(sequence, record.kind, &record.payload), row);
            } else {
                prop_assert!(!(1..=3).contains(&kind));
            }
        }
    }
}
