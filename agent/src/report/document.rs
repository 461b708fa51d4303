//! A finding as the bytes that are spooled and sent. It decides only about length: a container with
//! long paths and large attributes must not make a document that no message can carry, because such a
//! record would block everything behind it.

use holdfast_core::finding::{Detail, FileChange, Finding};

/// A document is at most this long: four of them fit into one message, whatever a container does.
pub(super) const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The document of `finding`, its list of changes cut until it fits. Lists are ordered worst first and
/// carry their full count, so a cut says what is missing. `None` when it does not fit without any.
pub(super) fn encode(finding: &Finding) -> Option<Vec<u8>> {
    let whole = serde_json::to_vec(finding).ok()?;
    if whole.len() <= MAX_DOCUMENT_BYTES {
        return Some(whole);
    }
    let mut cut = finding.clone();
    loop {
        let changes = changes(&mut cut.detail)?;
        if changes.is_empty() {
            return None;
        }
        changes.truncate(changes.len() / 2);
        let document = serde_json::to_vec(&cut).ok()?;
        if document.len() <= MAX_DOCUMENT_BYTES {
            return Some(document);
        }
    }
}

fn changes(detail: &mut Detail) -> Option<&mut Vec<FileChange>> {
    match detail {
        Detail::FileDrift(drift) => Some(&mut drift.changes),
        Detail::LayerTampered(drift) | Detail::LayerCorrupt(drift) => Some(&mut drift.changes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::container::Workload;
    use holdfast_core::drift::{ChangeKind, Class};
    use holdfast_core::finding::{
        FileDrift, Fingerprint, Kind, SCHEMA, Severity, Subject, Transition, Unmanaged,
    };
    use jiff::Timestamp;

    use super::*;

    fn finding(detail: Detail) -> Finding {
        let (workload, subject) = (Workload::from_text("w".into()), Subject::word("s"));
        Finding {
            schema: SCHEMA.to_owned(),
            fingerprint: Fingerprint::new(Kind::FileDrift, &workload, &subject),
            transition: Transition::Opened,
            reason: None,
            severity: Severity::Info,
            title: String::new(),
            node: "n".into(),
            container: None,
            workload,
            subject,
            image: None,
            basis: None,
            detail,
            actor: None,
            first_seen: Timestamp::UNIX_EPOCH,
            last_seen: Timestamp::UNIX_EPOCH,
            observed_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn drift(changes: usize, path_bytes: usize) -> Finding {
        let change = FileChange {
            path: "x".repeat(path_bytes),
            change: ChangeKind::Added,
            class: Class::Data,
            severity: Severity::Info,
            expected: None,
            actual: None,
            note: None,
            policy: None,
        };
        finding(Detail::FileDrift(FileDrift {
            changes: vec![change; changes],
            changes_total: 1000,
        }))
    }

    #[test]
    fn a_document_that_fits_is_whole() {
        let finding = drift(3, 10);
        assert_eq!(Finding::parse(&encode(&finding).unwrap()).unwrap(), finding);
    }

    #[test]
    fn a_long_list_is_cut_and_keeps_its_count() {
        let document = encode(&drift(1000, 4096)).unwrap();
        assert!(document.len() <= MAX_DOCUMENT_BYTES);
        let Detail::FileDrift(cut) = Finding::parse(&document).unwrap().detail else {
            panic!("another kind");
        };
        assert!((100..1000).contains(&cut.changes.len()));
        assert_eq!(cut.changes_total, 1000);
    }

    #[test]
    fn one_change_too_long_leaves_an_empty_list_and_the_count() {
        let document = encode(&drift(1, MAX_DOCUMENT_BYTES)).unwrap();
        let Detail::FileDrift(cut) = Finding::parse(&document).unwrap().detail else {
            panic!("another kind");
        };
        assert_eq!((cut.changes.len(), cut.changes_total), (0, 1000));
    }

    #[test]
    fn a_document_without_a_list_that_does_not_fit_is_refused() {
        let reason = "x".repeat(MAX_DOCUMENT_BYTES);
        assert_eq!(
            encode(&finding(Detail::UnmanagedContainer(Unmanaged { reason }))),
            None
        );
    }
}
