//! Columns to values and back. A column that holds what we never write is an error, never a default.

use holdfast_core::finding::{Fingerprint, Resolution, Severity};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::store::{
    ContainerRow, EpochRow, FindingRow, FindingView, NodeRow, PlaceKey, PlaceRow, StoreError,
};

/// Columns of a place, in the order of [`place`].
pub(super) const PLACE: &str = "p.fingerprint, p.node, p.namespace, p.container, p.severity, p.title, \
     p.brief, p.first_seen, p.last_seen, p.resolved, p.reason, p.epoch, p.sequence";

/// Columns of a finding, in the order of [`finding`].
pub(super) const FINDING: &str = "f.id, f.fingerprint, f.kind, f.workload, f.subject, f.severity, \
     f.first_seen, f.last_seen, f.opened, f.resolved, f.reason, f.places_open, f.lead_node, \
     f.lead_namespace, f.lead_container, f.members, f.news, f.news_at, f.change";

pub(super) fn place(row: &SqliteRow) -> Result<PlaceRow, StoreError> {
    Ok(PlaceRow {
        key: key(row, 0)?,
        severity: severity(row.try_get(4)?)?,
        title: row.try_get(5)?,
        brief: row.try_get(6)?,
        first_seen: row.try_get(7)?,
        last_seen: row.try_get(8)?,
        resolved: row.try_get(9)?,
        reason: reason(row.try_get(10)?)?,
        epoch: row.try_get::<i64, _>(11)?.cast_unsigned(),
        sequence: count(row.try_get(12)?)?,
    })
}

pub(super) fn finding(row: &SqliteRow) -> Result<FindingRow, StoreError> {
    let fingerprint = fingerprint(row.try_get(1)?)?;
    Ok(FindingRow {
        id: row.try_get(0)?,
        fingerprint,
        kind: row.try_get(2)?,
        workload: row.try_get(3)?,
        subject: row.try_get(4)?,
        severity: severity(row.try_get(5)?)?,
        first_seen: row.try_get(6)?,
        last_seen: row.try_get(7)?,
        opened: row.try_get(8)?,
        resolved: row.try_get(9)?,
        reason: reason(row.try_get(10)?)?,
        places_open: count(row.try_get(11)?)?,
        lead: PlaceKey {
            fingerprint,
            node: row.try_get(12)?,
            namespace: row.try_get(13)?,
            container: row.try_get(14)?,
        },
        members: row.try_get(15)?,
        news: count(row.try_get(16)?)?,
        news_at: row.try_get(17)?,
        change: row.try_get(18)?,
    })
}

/// A finding followed by its lead place's title and brief.
pub(super) fn view(row: &SqliteRow) -> Result<FindingView, StoreError> {
    let finding = finding(row)?;
    Ok(FindingView {
        nodes: vec![finding.lead.node.clone()],
        finding,
        title: row.try_get(19)?,
        brief: row.try_get(20)?,
    })
}

pub(super) fn key(row: &SqliteRow, first: usize) -> Result<PlaceKey, StoreError> {
    Ok(PlaceKey {
        fingerprint: fingerprint(row.try_get(first)?)?,
        node: row.try_get(first + 1)?,
        namespace: row.try_get(first + 2)?,
        container: row.try_get(first + 3)?,
    })
}

pub(super) fn epoch(row: &SqliteRow) -> Result<EpochRow, StoreError> {
    Ok(EpochRow {
        node: row.try_get(0)?,
        epoch: row.try_get::<i64, _>(1)?.cast_unsigned(),
        last_sequence: count(row.try_get(2)?)?,
        last_batch: row.try_get(3)?,
        full_report: row.try_get(4)?,
    })
}

pub(super) fn node(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    Ok(NodeRow {
        name: row.try_get(0)?,
        first_heard: row.try_get(1)?,
        last_heard: row.try_get(2)?,
        heartbeat: row.try_get(3)?,
    })
}

pub(super) fn container(row: &SqliteRow) -> Result<ContainerRow, StoreError> {
    Ok(ContainerRow {
        node: row.try_get(0)?,
        namespace: row.try_get(1)?,
        container: row.try_get(2)?,
        is_running: row.try_get(3)?,
        observed: row.try_get(4)?,
        received: row.try_get(5)?,
        document: row.try_get(6)?,
    })
}

pub(super) fn fingerprint(blob: &[u8]) -> Result<Fingerprint, StoreError> {
    <[u8; 16]>::try_from(blob)
        .map(Fingerprint::from_bytes)
        .map_err(|_length| StoreError::Row("fingerprint"))
}

pub(super) fn severity(number: i64) -> Result<Severity, StoreError> {
    match number {
        0 => Ok(Severity::Info),
        1 => Ok(Severity::Warning),
        2 => Ok(Severity::Critical),
        _ => Err(StoreError::Row("severity")),
    }
}

pub(super) const fn severity_number(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Critical => 2,
    }
}

pub(super) fn reason(text: Option<&str>) -> Result<Option<Resolution>, StoreError> {
    text.map(|text| {
        Resolution::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or(StoreError::Row("reason"))
    })
    .transpose()
}

pub(super) fn count(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_negative| StoreError::Row("count"))
}

/// A number that was checked at the door to be below 2^63.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_is_written_can_be_read() {
        for due in Resolution::ALL {
            assert_eq!(reason(Some(due.as_str())).unwrap(), Some(due));
        }
        assert_eq!(reason(None).unwrap(), None);
        assert!(reason(Some("other")).is_err());
    }
}
