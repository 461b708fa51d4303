//! The door: messages to values, or to refusals with names. What passed here is trusted in shape, never
//! in content.

use std::collections::BTreeSet;

use holdfast_core::container::{ContainerKey, ContainerRef};
use holdfast_core::coverage::{self, ContainerStatus};
use holdfast_core::display;
use holdfast_core::finding::{Finding, FindingError, Fingerprint, ImageRef, Kind};
use holdfast_protocol::{MAX_BATCH_RECORDS, v1};

use crate::findings::{Batch, Body, Census, FullReport, Record};
use crate::store::OWN_EPOCH;
use crate::telemetry::Refused;

/// containerd's ids have at most 76 bytes, Kubernetes' names 253.
const MAX_NAME_BYTES: usize = 256;

/// A workload is up to three names, or a namespace and a repository; an image reference is shorter.
const MAX_WORKLOAD_BYTES: usize = 1024;

/// A path has at most 4,096 bytes, each shown as up to four.
const MAX_SUBJECT_BYTES: usize = 4 * 4096 + 1;

/// Six checks with a reason each; lists show 500 of them.
const MAX_STATUS_BYTES: usize = 64 << 10;

/// Why nothing of a batch is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BatchRefusal {
    /// More than a batch may hold.
    #[error("a batch holds at most {MAX_BATCH_RECORDS} records")]
    TooMany,
    /// The collector's own voice.
    #[error("epoch 0 is not an agent's")]
    Epoch,
    /// Not counted from 1, or not in order.
    #[error("sequences must begin at 1, rise, and stay below 2^63")]
    Sequence,
}

/// A record that is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which one.
    pub sequence: u64,
    /// Why.
    pub reason: Refused,
}

/// Reads a batch of `node`.
pub(super) fn batch(node: &str, batch: v1::Batch) -> Result<(Batch, Vec<Refusal>), BatchRefusal> {
    let epoch = epoch(batch.epoch)?;
    if batch.records.len() > MAX_BATCH_RECORDS {
        return Err(BatchRefusal::TooMany);
    }
    let mut last = 0;
    let mut records = Vec::with_capacity(batch.records.len());
    let mut refused = Vec::new();
    for record in batch.records {
        let sequence = record.sequence;
        if sequence <= last || i64::try_from(sequence).is_err() {
            return Err(BatchRefusal::Sequence);
        }
        last = sequence;
        let body = body(node, record.body).unwrap_or_else(|reason| {
            refused.push(Refusal { sequence, reason });
            Body::Refused
        });
        records.push(Record { sequence, body });
    }
    let batch = Batch {
        node: node.to_owned(),
        epoch,
        records,
    };
    Ok((batch, refused))
}

/// An agent's epoch.
pub(super) const fn epoch(epoch: u64) -> Result<u64, BatchRefusal> {
    if epoch == OWN_EPOCH {
        Err(BatchRefusal::Epoch)
    } else {
        Ok(epoch)
    }
}

fn body(node: &str, body: Option<v1::record::Body>) -> Result<Body, Refused> {
    match body {
        Some(v1::record::Body::Finding(json)) => finding(node, json),
        Some(v1::record::Body::Container(json)) => container(node, json),
        Some(v1::record::Body::Full(full)) => full_report(full).map(Body::Full),
        None => Err(Refused::Body),
    }
}

/// A transition.
///
/// 1. It is one of our documents.
/// 2. It speaks of the node that its certificate names.
/// 3. It is of a kind that an agent may report.
/// 4. Its names are bounded and cannot deceive a reader.
fn finding(node: &str, json: Vec<u8>) -> Result<Body, Refused> {
    // (1)
    let finding = Finding::parse(&json).map_err(|error| match error {
        FindingError::Shape(_) => Refused::Shape,
        FindingError::Schema => Refused::Schema,
        FindingError::Fingerprint => Refused::Fingerprint,
    })?;
    // (2) One node must not be able to open or resolve another's places.
    if finding.node != node {
        return Err(Refused::OtherNode);
    }
    // (3) Else a node could resolve the finding about its own silence, or about what it says.
    if matches!(finding.kind(), Kind::AgentSilent | Kind::AgentAltered) {
        return Err(Refused::OwnKind);
    }
    // (4)
    text(finding.workload.as_str(), MAX_WORKLOAD_BYTES)?;
    text(finding.subject.as_str(), MAX_SUBJECT_BYTES)?;
    text(&finding.title, usize::MAX)?;
    finding.container.as_ref().map_or(Ok(()), container_ref)?;
    finding.image.as_ref().map_or(Ok(()), image)?;
    let document = String::from_utf8(json).map_err(|_not_utf8| Refused::Shape)?;
    Ok(Body::Finding(Box::new(finding), document))
}

fn container(node: &str, json: Vec<u8>) -> Result<Body, Refused> {
    if json.len() > MAX_STATUS_BYTES {
        return Err(Refused::TooLong);
    }
    let status: ContainerStatus = serde_json::from_slice(&json).map_err(|_shape| Refused::Shape)?;
    if status.schema != coverage::SCHEMA {
        return Err(Refused::Schema);
    }
    if status.node != node {
        return Err(Refused::OtherNode);
    }
    text(status.workload.as_str(), MAX_WORKLOAD_BYTES)?;
    container_ref(&status.container)?;
    status.image.as_ref().map_or(Ok(()), image)?;
    let document = String::from_utf8(json).map_err(|_not_utf8| Refused::Shape)?;
    Ok(Body::Container(Box::new(status), document))
}

fn full_report(full: v1::FullReport) -> Result<FullReport, Refused> {
    let open = full.open.into_iter().map(|open| {
        let container = container_key(open.container.ok_or(Refused::Place)?)?;
        let (fingerprints, rest) = open.fingerprints.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(Refused::Place);
        }
        let fingerprints = fingerprints.iter().copied().map(Fingerprint::from_bytes);
        Ok((container, fingerprints.collect()))
    });
    Ok(FullReport {
        open: open.collect::<Result<_, Refused>>()?,
        census: full.census.map(census).transpose()?,
    })
}

fn census(census: v1::Census) -> Result<Census, Refused> {
    let keys = |ids: Vec<v1::ContainerId>| -> Result<BTreeSet<ContainerKey>, Refused> {
        ids.into_iter().map(container_key).collect()
    };
    Ok(Census {
        running: keys(census.running)?,
        known: keys(census.known)?,
    })
}

fn container_key(id: v1::ContainerId) -> Result<ContainerKey, Refused> {
    name(&id.namespace)?;
    name(&id.id)?;
    Ok(ContainerKey {
        namespace: id.namespace,
        id: id.id,
    })
}

fn container_ref(container: &ContainerRef) -> Result<(), Refused> {
    name(&container.namespace)?;
    name(&container.id)?;
    name(&container.name)?;
    if let Some(pod) = &container.pod {
        name(&pod.name)?;
        name(&pod.namespace)?;
        name(&pod.uid)?;
    }
    Ok(())
}

fn image(image: &ImageRef) -> Result<(), Refused> {
    match &image.reference {
        Some(reference) => text(reference, MAX_WORKLOAD_BYTES),
        None => Ok(()),
    }
}

/// A name of a container or pod. An empty one would be the key of a finding about the node itself.
fn name(name: &str) -> Result<(), Refused> {
    if name.is_empty() {
        return Err(Refused::Text);
    }
    text(name, MAX_NAME_BYTES)
}

/// Agents escape what containers control. One that does not must not reach a terminal or a page.
fn text(text: &str, limit: usize) -> Result<(), Refused> {
    if text.len() > limit {
        return Err(Refused::TooLong);
    }
    let is_escaped = text
        .split('\\')
        .all(|part| display::escape(part.as_bytes()) == part);
    if is_escaped {
        Ok(())
    } else {
        Err(Refused::Text)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::container::Workload;
    use holdfast_core::finding::{
        Check, Detail, SCHEMA, Severity, Silence, Subject, Transition, Unverifiable,
    };
    use jiff::Timestamp;

    use super::*;

    fn document(change: impl FnOnce(&mut Finding)) -> Finding {
        let mut finding = Finding {
            schema: SCHEMA.into(),
            fingerprint: Fingerprint::from_bytes([0; 16]),
            transition: Transition::Opened,
            reason: None,
            severity: Severity::Info,
            title: "t".into(),
            node: "n-1".into(),
            container: Some(ContainerRef {
                id: "c".into(),
                namespace: "default".into(),
                name: "c".into(),
                pod: None,
            }),
            workload: Workload::of_image("default", "r"),
            subject: Subject::word("files"),
            image: None,
            basis: None,
            detail: Detail::Unverifiable(Unverifiable {
                check: Check::Files,
                reason: "r".into(),
                message: "m".into(),
            }),
            actor: None,
            first_seen: Timestamp::UNIX_EPOCH,
            last_seen: Timestamp::UNIX_EPOCH,
            observed_at: Timestamp::UNIX_EPOCH,
        };
        change(&mut finding);
        finding.fingerprint = Fingerprint::new(finding.kind(), &finding.workload, &finding.subject);
        finding
    }

    fn judged(finding: &Finding) -> Result<(), Refused> {
        super::finding("n-1", serde_json::to_vec(finding).unwrap()).map(drop)
    }

    #[test]
    fn a_document_of_ours_passes() {
        assert_eq!(judged(&document(|_| ())), Ok(()));
        assert_eq!(judged(&document(|f| f.title = "a\\x0ab".into())), Ok(()));
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_own_name() {
        let other = document(|f| f.node = "n-2".into());
        assert_eq!(judged(&other), Err(Refused::OtherNode));
        let schema = document(|f| f.schema = "holdfast.finding/v2".into());
        assert_eq!(judged(&schema), Err(Refused::Schema));
        let forged = Finding {
            workload: Workload::of_image("default", "other"),
            ..document(|_| ())
        };
        assert_eq!(judged(&forged), Err(Refused::Fingerprint));
        let silent = document(|f| {
            f.detail = Detail::AgentSilent(Silence {
                last_heard: Timestamp::UNIX_EPOCH,
            });
        });
        assert_eq!(judged(&silent), Err(Refused::OwnKind));
        let deceptive = document(|f| f.title = "a\u{202e}b".into());
        assert_eq!(judged(&deceptive), Err(Refused::Text));
        let long = document(|f| f.workload = Workload::of_image("default", &"r".repeat(2000)));
        assert_eq!(judged(&long), Err(Refused::TooLong));
        let nameless = document(|f| f.container.as_mut().unwrap().id.clear());
        assert_eq!(judged(&nameless), Err(Refused::Text));
        for garbage in [&b""[..], b"{}", b"\xff", b"[[[[[["] {
            let refused = finding("n-1", garbage.to_vec()).err();
            assert_eq!(refused, Some(Refused::Shape));
        }
    }

    fn record(sequence: u64, body: Option<v1::record::Body>) -> v1::Record {
        v1::Record { sequence, body }
    }

    fn batch_of(records: Vec<v1::Record>) -> v1::Batch {
        v1::Batch { epoch: 7, records }
    }

    #[test]
    fn a_bad_record_is_refused_by_name_and_the_others_pass() {
        let json = serde_json::to_vec(&document(|_| ())).unwrap();
        let good = v1::record::Body::Finding(json);
        let bad = v1::record::Body::Finding(b"{".to_vec());
        let sent = batch_of(vec![
            record(3, Some(bad)),
            record(5, Some(good)),
            record(6, None),
        ]);

        let (batch, refused) = batch("n-1", sent).unwrap();

        assert_eq!(
            batch.records.len(),
            3,
            "a refused one still moves the sequence"
        );
        let reasons: Vec<_> = refused.iter().map(|r| (r.sequence, r.reason)).collect();
        assert_eq!(reasons, [(3, Refused::Shape), (6, Refused::Body)]);
    }

    #[test]
    fn a_batch_out_of_order_or_in_our_own_voice_is_refused_whole() {
        let none = || record(1, None);
        let refusal = |sent| batch("n-1", sent).unwrap_err();
        assert_eq!(
            refusal(batch_of(vec![record(0, None)])),
            BatchRefusal::Sequence
        );
        assert_eq!(
            refusal(batch_of(vec![none(), none()])),
            BatchRefusal::Sequence
        );
        assert_eq!(
            refusal(batch_of(vec![record(u64::MAX, None)])),
            BatchRefusal::Sequence
        );
        let many = (1..=1001).map(|sequence| record(sequence, None)).collect();
        assert_eq!(refusal(batch_of(many)), BatchRefusal::TooMany);
        let own = v1::Batch {
            epoch: 0,
            records: vec![],
        };
        assert_eq!(refusal(own), BatchRefusal::Epoch);
    }

    #[test]
    fn a_full_report_with_a_short_fingerprint_is_refused() {
        let open = v1::OpenContainer {
            container: Some(v1::ContainerId {
                namespace: "k8s.io".to_owned(),
                id: "c".to_owned(),
            }),
            fingerprints: vec![1; 31],
        };
        let full = v1::FullReport {
            open: vec![open],
            census: None,
        };
        assert_eq!(full_report(full).err(), Some(Refused::Place));
    }
}
