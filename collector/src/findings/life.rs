//! One finding, before and after a transaction. Pure.

use holdfast_core::finding::{Finding, Fingerprint, Resolution, Severity};

use super::members::Members;
use crate::store::{FindingRow, Lead, PlaceKey, PlaceRow};

/// When a transaction happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Our clock.
    pub now: i64,
    /// The transaction's number.
    pub change: i64,
}

/// What a transaction has seen of one finding.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its transitions, joined.
    pub touched: Option<Touched>,
    /// A full report did not name one of its places.
    pub not_reported: Option<Resolution>,
    /// Its worst open place, now that all places have moved.
    pub lead: Option<Lead>,
}

/// The transitions of one finding in one transaction.
#[derive(Clone, Debug)]
pub(super) struct Touched {
    fingerprint: Fingerprint,
    kind: &'static str,
    workload: String,
    subject: String,
    first_seen: i64,
    last_seen: i64,
    severity: Severity,
    last_place: PlaceKey,
    reason: Option<Resolution>,
    members: Members,
}

impl Touched {
    pub(super) fn new(finding: &Finding, place: &PlaceRow) -> Self {
        Self {
            fingerprint: finding.fingerprint,
            kind: finding.kind().as_str(),
            workload: finding.workload.as_str().to_owned(),
            subject: finding.subject.as_str().to_owned(),
            first_seen: place.first_seen,
            last_seen: place.last_seen,
            severity: place.severity,
            last_place: place.key.clone(),
            reason: None,
            members: Members::default(),
        }
    }

    /// Adds a transition that has moved `place`.
    pub(super) fn add(&mut self, finding: &Finding, place: &PlaceRow) {
        self.first_seen = self.first_seen.min(place.first_seen);
        self.last_seen = self.last_seen.max(place.last_seen);
        self.severity = place.severity;
        self.last_place = place.key.clone();
        if place.resolved.is_some() {
            self.reason = place.reason;
        } else {
            self.members.add(&finding.detail);
        }
    }
}

/// The finding after the transaction; `None` when there is nothing to keep.
pub(super) fn join(held: Option<FindingRow>, seen: Seen, moment: Moment) -> Option<FindingRow> {
    let reason = match &seen.touched {
        Some(touched) => touched.reason.or(seen.not_reported),
        None => seen.not_reported,
    };
    let mut finding = match (held, seen.touched) {
        (Some(held), touched) if held.is_open() => {
            continued(held, touched, seen.lead.as_ref(), moment)
        }
        (held, Some(touched)) => opened(held, touched, moment),
        (held, None) => held?,
    };
    if let Some(lead) = seen.lead {
        finding.severity = lead.severity;
        finding.places_open = lead.places_open;
        finding.lead = lead.key;
        finding.resolved = None;
        finding.reason = None;
    } else if finding.is_open() {
        finding.places_open = 0;
        // A wall clock that was set back must not end a finding before it began.
        finding.resolved = Some(moment.now.max(finding.opened));
        finding.reason = reason;
    }
    finding.change = moment.change;
    Some(finding)
}

/// A finding that was open before.
fn continued(
    mut held: FindingRow,
    touched: Option<Touched>,
    lead: Option<&Lead>,
    moment: Moment,
) -> FindingRow {
    let mut is_news = lead.is_some_and(|lead| lead.severity > held.severity);
    if let Some(touched) = touched {
        held.first_seen = held.first_seen.min(touched.first_seen);
        held.last_seen = held.last_seen.max(touched.last_seen);
        let mut members = Members::from_bytes(&held.members);
        is_news |= members.join(&touched.members);
        held.members = members.to_bytes();
    }
    if is_news {
        held.news += 1;
        held.news_at = moment.now;
    }
    held
}

/// A finding that is new, or back. Also one that was resolved within the same transaction, as in a
/// backlog: it is kept, as somebody may ask for it.
fn opened(held: Option<FindingRow>, touched: Touched, moment: Moment) -> FindingRow {
    let (id, news) = held.map_or((0, 0), |held| (held.id, held.news));
    FindingRow {
        id,
        fingerprint: touched.fingerprint,
        kind: touched.kind.to_owned(),
        workload: touched.workload,
        subject: touched.subject,
        severity: touched.severity,
        first_seen: touched.first_seen,
        last_seen: touched.last_seen,
        opened: moment.now,
        resolved: None,
        reason: None,
        places_open: 0,
        lead: touched.last_place,
        members: touched.members.to_bytes(),
        news: news + 1,
        news_at: moment.now,
        change: moment.change,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::container::Workload;
    use holdfast_core::finding::{Check, Detail, Kind, Subject, Transition, Unverifiable};
    use jiff::Timestamp;

    use super::*;

    const FIRST: Moment = Moment {
        now: 1000,
        change: 1,
    };
    const SECOND: Moment = Moment {
        now: 2000,
        change: 2,
    };

    fn finding(reason: &str, severity: Severity) -> Finding {
        let workload = Workload::of_image("default", "r");
        let subject = Subject::word("files");
        Finding {
            schema: holdfast_core::finding::SCHEMA.into(),
            fingerprint: Fingerprint::new(Kind::Unverifiable, &workload, &subject),
            transition: Transition::Opened,
            reason: None,
            severity,
            title: "t".into(),
            node: "n".into(),
            container: None,
            workload,
            subject,
            image: None,
            basis: None,
            detail: Detail::Unverifiable(Unverifiable {
                check: Check::Files,
                reason: reason.into(),
                message: String::new(),
            }),
            actor: None,
            first_seen: Timestamp::UNIX_EPOCH,
            last_seen: Timestamp::UNIX_EPOCH,
            observed_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn place(finding: &Finding, resolved: Option<i64>) -> PlaceRow {
        PlaceRow {
            key: PlaceKey {
                fingerprint: finding.fingerprint,
                node: "n".into(),
                namespace: String::new(),
                container: String::new(),
            },
            severity: finding.severity,
            title: String::new(),
            brief: String::new(),
            first_seen: 10,
            last_seen: 20,
            resolved,
            reason: resolved.map(|_| Resolution::Gone),
            epoch: 1,
            sequence: 1,
        }
    }

    fn seen(finding: &Finding, resolved: Option<i64>) -> Seen {
        let place = place(finding, resolved);
        let mut touched = Touched::new(finding, &place);
        touched.add(finding, &place);
        let lead = Lead {
            key: place.key,
            severity: finding.severity,
            places_open: 1,
        };
        Seen {
            touched: Some(touched),
            not_reported: None,
            lead: resolved.is_none().then_some(lead),
        }
    }

    fn opened_once() -> FindingRow {
        join(None, seen(&finding("a", Severity::Info), None), FIRST).unwrap()
    }

    #[test]
    fn a_first_place_opens_the_finding() {
        let finding = opened_once();
        assert!(finding.is_open());
        assert_eq!(
            (finding.news, finding.opened, finding.places_open),
            (1, 1000, 1)
        );
    }

    #[test]
    fn the_same_again_is_no_news_and_a_new_member_or_a_higher_severity_is() {
        let held = opened_once();
        let same = join(
            Some(held.clone()),
            seen(&finding("a", Severity::Info), None),
            SECOND,
        );
        assert_eq!(same.unwrap().news, 1);
        let member = join(
            Some(held.clone()),
            seen(&finding("b", Severity::Info), None),
            SECOND,
        );
        assert_eq!(member.unwrap().news, 2);
        let worse = join(
            Some(held),
            seen(&finding("a", Severity::Warning), None),
            SECOND,
        )
        .unwrap();
        assert_eq!(
            (worse.news, worse.news_at, worse.severity),
            (2, 2000, Severity::Warning)
        );
    }

    #[test]
    fn a_lower_severity_is_no_news() {
        let held = join(None, seen(&finding("a", Severity::Critical), None), FIRST);
        let milder = join(held, seen(&finding("a", Severity::Info), None), SECOND).unwrap();
        assert_eq!((milder.news, milder.severity), (1, Severity::Info));
    }

    #[test]
    fn the_last_place_resolves_the_finding_and_a_return_reopens_it() {
        let held = opened_once();
        let resolved = join(
            Some(held),
            seen(&finding("a", Severity::Info), Some(2000)),
            SECOND,
        )
        .unwrap();
        assert_eq!(resolved.resolved, Some(2000));
        assert_eq!(resolved.reason, Some(Resolution::Gone));

        let back = join(
            Some(resolved),
            seen(&finding("a", Severity::Info), None),
            Moment {
                now: 3000,
                change: 3,
            },
        )
        .unwrap();
        assert_eq!((back.resolved, back.opened, back.news), (None, 3000, 2));
    }

    #[test]
    fn another_open_place_keeps_the_finding_open() {
        let mut partly = seen(&finding("a", Severity::Info), Some(2000));
        partly.lead = seen(&finding("a", Severity::Info), None).lead;
        let finding = join(Some(opened_once()), partly, SECOND).unwrap();
        assert!(finding.is_open());
        assert_eq!(finding.reason, None);
    }

    #[test]
    fn what_opened_and_ended_within_one_transaction_is_kept_as_resolved() {
        let both = seen(&finding("a", Severity::Info), Some(1000));
        let finding = join(None, both, FIRST).unwrap();
        assert_eq!((finding.opened, finding.resolved), (1000, Some(1000)));
    }

    #[test]
    fn a_full_report_that_does_not_name_it_resolves_it_with_that_reason() {
        let unnamed = Seen {
            not_reported: Some(Resolution::NotReported),
            ..Seen::default()
        };
        let finding = join(Some(opened_once()), unnamed, SECOND).unwrap();
        assert_eq!(finding.reason, Some(Resolution::NotReported));
    }
}
