//! One batch from the spool to the collector's confirmation. Only here does a record leave the spool for
//! the collector's sake.

use holdfast_daemon::fail_point;
use holdfast_protocol::v1::{self, record::Body};
use prost::Message;
use tonic::{Code, Status};

use super::{Uplink, UplinkError};
use crate::report::record::{RecordKind, SpoolBatch, SpoolRecord};

/// Records of one batch that are set aside before a long pause. A collector that takes no record at all
/// is more likely wrong than every record: it must not empty the spool, and one bad record must not
/// block it.
pub(super) const MAX_REFUSED_AT_ONCE: u32 = 8;

/// The part of a batch that goes into one call.
#[derive(Debug)]
struct Piece<'a> {
    first: &'a SpoolRecord,
    last: &'a SpoolRecord,
    records: &'a [SpoolRecord],
}

impl<'a> Piece<'a> {
    /// The first `size` records, at least one; `None` when there is none.
    fn first_of(records: &'a [SpoolRecord], size: usize) -> Option<Self> {
        let records = records.get(..size.max(1)).unwrap_or(records);
        Some(Self {
            first: records.first()?,
            last: records.last()?,
            records,
        })
    }
}

impl Uplink {
    /// Sends a batch in order. What the collector calls malformed is halved until the record that it
    /// means stands alone; that one is set aside, and the pieces grow again.
    pub(super) async fn send(&self, batch: &SpoolBatch) -> Result<(), UplinkError> {
        let (mut records, mut size, mut refused) =
            (batch.records.as_slice(), batch.records.len(), 0);
        while let Some(piece) = Piece::first_of(records, size) {
            let passed = match self.submit(batch.epoch, piece.records).await {
                Ok(confirmed) => {
                    size = piece.records.len() * 2;
                    self.on_confirmed(batch.epoch, &piece, confirmed).await?
                }
                Err(UplinkError::Status(status)) if is_malformed(&status) => {
                    size = piece.records.len() / 2;
                    refused += u32::from(size == 0);
                    self.on_refused(batch.epoch, &piece, &status, refused)
                        .await?
                }
                Err(error) => return Err(error),
            };
            records = records.get(passed..).unwrap_or_default();
        }
        Ok(())
    }

    /// Gives how many records of the piece are done.
    async fn on_confirmed(
        &self,
        epoch: u64,
        piece: &Piece<'_>,
        confirmed: u64,
    ) -> Result<usize, UplinkError> {
        if confirmed < piece.first.sequence {
            return Err(UplinkError::Unconfirmed);
        }
        // Not further than what was sent: an answer must not delete what is still ours.
        let confirmed = confirmed.min(piece.last.sequence);
        self.ledger.confirm(epoch, confirmed).await?;
        let records = piece.records;
        let passed = records.partition_point(|record| record.sequence <= confirmed);
        let now = (self.now)();
        self.state.send_modify(|state| {
            state.confirmed_records += u64::try_from(passed).unwrap_or(u64::MAX);
            state.last_confirmed = Some(now);
            state.error = None;
        });
        Ok(passed)
    }

    /// Gives how many records of the piece are done: one when it stood alone, else none yet.
    async fn on_refused(
        &self,
        epoch: u64,
        piece: &Piece<'_>,
        status: &Status,
        refused: u32,
    ) -> Result<usize, UplinkError> {
        if piece.records.len() > 1 {
            return Ok(0);
        }
        if refused > MAX_REFUSED_AT_ONCE {
            return Err(UplinkError::RefusesAll);
        }
        let record = piece.first;
        let error = holdfast_core::display::escape(status.message().as_bytes());
        tracing::error!(
            sequence = record.sequence, kind = ?record.kind, %error,
            "Collector refuses a record; it is set aside."
        );
        self.ledger.refuse(epoch, record.clone()).await?;
        self.state.send_modify(|state| state.refused_records += 1);
        Ok(1)
    }

    async fn submit(&self, epoch: u64, records: &[SpoolRecord]) -> Result<u64, UplinkError> {
        let batch = v1::Batch {
            epoch,
            records: records.iter().map(to_wire).collect(),
        };
        fail_point::hit("uplink-before-send");
        let mut client = self.client();
        let confirmation = self.answer(client.submit(batch)).await?;
        fail_point::hit("uplink-after-confirmation");
        Ok(confirmation.sequence)
    }
}

/// `OutOfRange` is how a gRPC library says "longer than I accept".
fn is_malformed(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}

fn to_wire(record: &SpoolRecord) -> v1::Record {
    let payload = record.payload.clone();
    let body = match record.kind {
        RecordKind::Finding => Some(Body::Finding(payload)),
        RecordKind::Container => Some(Body::Container(payload)),
        // Its checksum was right, so it decodes; if not, the collector refuses an empty record.
        RecordKind::FullReport => v1::FullReport::decode(payload.as_slice())
            .ok()
            .map(Body::Full),
    };
    v1::Record {
        sequence: record.sequence,
        body,
    }
}
