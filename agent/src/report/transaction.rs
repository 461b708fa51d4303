//! What the ledger does within one transaction: a look, an end, a full report, each with its records.

use std::collections::HashSet;

use holdfast_core::container::ContainerKey;
use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::{Finding, Transition};
use holdfast_core::place;
use holdfast_protocol::v1;
use jiff::Timestamp;
use prost::Message;

use super::document;
use super::error::{Fault, LedgerError};
use super::record::{Again, MAX_PAYLOAD_BYTES, RecordKind, Report};
use super::spool::Spool;
use crate::state::{self, Known, RowKey, State};

/// A part of a full report. It is in memory about three times while it is sent; one container has at most
/// 10,000 places of 16 bytes.
const MAX_PART_BYTES: usize = 256 << 10;

/// One transaction over state and spool.
#[derive(Debug)]
pub(super) struct Transaction<'t> {
    pub(super) state: State<'t>,
    pub(super) spool: Spool<'t>,
}

impl Transaction<'_> {
    pub(super) fn same_epoch(&self, epoch: u64) -> Result<(), Fault> {
        if self.spool.counts.epoch == epoch {
            Ok(())
        } else {
            Err(refused(LedgerError::OtherEpoch))
        }
    }

    pub(super) fn spool_findings(
        &mut self,
        findings: &[Finding],
        again: Again,
    ) -> Result<(), redb::Error> {
        for finding in findings {
            match document::encode(finding) {
                Some(document) => self.spool.append(RecordKind::Finding, again, &document)?,
                None => self.spool.count_oversized(),
            }
        }
        Ok(())
    }

    pub(super) fn spool_status(&mut self, status: &ContainerStatus) -> Result<(), redb::Error> {
        let Ok(document) = serde_json::to_vec(status) else {
            self.spool.count_oversized();
            return Ok(());
        };
        self.spool
            .append(RecordKind::Container, Again::Repeatable, &document)
    }

    pub(super) fn end(&mut self, row: &RowKey, now: Timestamp) -> Result<Vec<Finding>, Fault> {
        let Some(ended) = self.state.end(row, now)? else {
            return Ok(Vec::new());
        };
        self.spool_findings(&ended.findings, Again::Never)?;
        self.spool_status(&ended.status)?;
        Ok(ended.findings)
    }

    pub(super) fn full_report(
        &mut self,
        running: &[ContainerKey],
        now: Timestamp,
    ) -> Result<(), Fault> {
        let known = self.state.known()?;
        let kind = self.spool.begin_report();
        if kind == Report::Documents {
            self.restate(&known, now)?;
        }
        let mut part = v1::FullReport::default();
        for Known { about, .. } in &known {
            let row = state::key_of(&about.container).map_err(refused)?;
            let mut fingerprints = Vec::new();
            for (fingerprint, _) in self.state.open_places(&row)? {
                fingerprints.extend_from_slice(&fingerprint.as_bytes()[..]);
            }
            let open = v1::OpenContainer {
                container: Some(container_id(&about.container.key())),
                fingerprints,
            };
            if part.encoded_len().saturating_add(open.encoded_len()) > MAX_PART_BYTES {
                self.spool_part(&std::mem::take(&mut part))?;
            }
            part.open.push(open);
        }
        part.census = Some(census(running, &known));
        self.spool_part(&part)?;
        self.spool.end_report(kind);
        Ok(())
    }

    fn spool_part(&mut self, part: &v1::FullReport) -> Result<(), Fault> {
        let bytes = part.encoded_len();
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(refused(LedgerError::ReportTooLong { bytes }));
        }
        let payload = part.encode_to_vec();
        self.spool
            .append(RecordKind::FullReport, Again::Repeatable, &payload)?;
        Ok(())
    }

    /// The documents of everything that is open, and the last statuses.
    fn restate(&mut self, known: &[Known], now: Timestamp) -> Result<(), Fault> {
        for Known { about, .. } in known {
            let row = state::key_of(&about.container).map_err(refused)?;
            let findings: Vec<Finding> = self
                .state
                .open_places(&row)?
                .iter()
                .map(|(fingerprint, place)| {
                    place::document(*fingerprint, place, about, Transition::Updated, now)
                })
                .collect();
            self.spool_findings(&findings, Again::Repeatable)?;
            if let Some(status) = self.state.last_status(&row)? {
                self.spool_status(&status)?;
            }
        }
        Ok(())
    }
}

fn census(running: &[ContainerKey], known: &[Known]) -> v1::Census {
    let is_running: HashSet<&ContainerKey> = running.iter().collect();
    let others = known.iter().map(|known| known.about.container.key());
    v1::Census {
        running: running.iter().map(container_id).collect(),
        known: others
            .filter(|key| !is_running.contains(key))
            .map(|key| container_id(&key))
            .collect(),
    }
}

fn container_id(key: &ContainerKey) -> v1::ContainerId {
    v1::ContainerId {
        namespace: key.namespace.clone(),
        id: key.id.clone(),
    }
}

pub(super) fn refused(error: impl Into<LedgerError>) -> Fault {
    Fault::Refused(error.into())
}
