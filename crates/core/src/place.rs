//! Places: one problem on one container, over time. Pure: the caller brings what it saw, what it could
//! look at, and `now`, and gets the transitions.
//!
//! A place is resolved only by a look of the same check that did not see it, or by its container's end.
//! A check that could not be done resolves nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{ContainerRef, Workload};
use crate::finding::{
    Basis, Check, Condition, Detail, Finding, Fingerprint, ImageRef, Resolution, SCHEMA, Severity,
    Subject, Transition,
};

/// Who a container's findings are about; kept from first sight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The node's name.
    pub node: String,
    /// The container.
    pub container: ContainerRef,
    /// Its workload.
    pub workload: Workload,
    /// Its image, as far as it is known.
    pub image: Option<ImageRef>,
}

/// One problem on one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The check that can find it gone.
    pub check: Check,
    /// The workload that it was opened for, which its fingerprint holds. Not that of the look which resolves
    /// it: what is known of a container grows, and a document whose fingerprint does not belong to its
    /// workload is refused by whoever reads it, so that the place would stay open there.
    pub workload: Workload,
    /// What it is about.
    pub subject: Subject,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// How the file table was proved.
    pub basis: Option<Basis>,
    /// Kind and evidence as last seen.
    #[serde(flatten)]
    pub detail: Detail,
    /// When it was opened.
    pub first_seen: Timestamp,
    /// When it was last seen changed; a look that sees the same again does not touch it.
    pub last_seen: Timestamp,
    /// When it was resolved; kept for a while, so that a return is a reopening.
    pub resolved_at: Option<Timestamp>,
}

/// The places of one container, by fingerprint.
pub type Places = BTreeMap<Fingerprint, Place>;

/// How long a resolved place is remembered.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// What one look saw: the checks that were done, and every condition that they saw.
///
/// A check that could not be done is absent from `done` and present among the conditions as
/// `unverifiable`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Checks that were done to their end.
    pub done: Vec<Check>,
    /// Everything wrong, at most one condition for each kind and subject.
    pub conditions: Vec<Condition>,
    /// Subjects of drift that a policy accepts: what was said of them is still so, and no finding any more.
    pub excused: BTreeSet<Subject>,
}

/// Joins a look into the places of its container, and gives the documents of what changed.
pub fn advance(places: &mut Places, about: &About, look: Look, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = Vec::with_capacity(look.conditions.len());
    for condition in look.conditions {
        let fingerprint =
            Fingerprint::new(condition.detail.kind(), &about.workload, &condition.subject);
        seen.push(fingerprint);
        if let Some(transition) = meet(places, fingerprint, open(condition, about, now))
            && let Some(place) = places.get(&fingerprint)
        {
            findings.push(document(fingerprint, place, about, transition, now));
        }
    }
    let gone: Vec<Fingerprint> = places
        .iter()
        .filter(|(fingerprint, place)| {
            place.resolved_at.is_none()
                && look.done.contains(&place.check)
                && !seen.contains(fingerprint)
        })
        .map(|(fingerprint, _)| *fingerprint)
        .collect();
    let is_excused = |fingerprint: &Fingerprint| {
        places.get(fingerprint).is_some_and(|place| {
            matches!(place.detail, Detail::FileDrift(_)) && look.excused.contains(&place.subject)
        })
    };
    let (excused, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_excused);
    findings.extend(resolve(places, &excused, about, Resolution::Policy, now));
    findings.extend(resolve(places, &gone, about, Resolution::Gone, now));
    places.retain(|_, place| {
        place
            .resolved_at
            .is_none_or(|at| now.duration_since(at) < REMEMBERED)
    });
    findings
}

/// Resolves every open place of a container that has ended.
pub fn end(places: &mut Places, about: &About, now: Timestamp) -> Vec<Finding> {
    let open: Vec<Fingerprint> = places
        .iter()
        .filter(|(_, place)| place.resolved_at.is_none())
        .map(|(fingerprint, _)| *fingerprint)
        .collect();
    resolve(places, &open, about, Resolution::ContainerEnded, now)
}

/// Puts what was seen into its place; `None` when nothing about it is new.
fn meet(places: &mut Places, fingerprint: Fingerprint, seen: Place) -> Option<Transition> {
    let Some(place) = places.get_mut(&fingerprint) else {
        places.insert(fingerprint, seen);
        return Some(Transition::Opened);
    };
    if place.resolved_at.is_some() {
        *place = seen;
        return Some(Transition::Reopened);
    }
    let is_same = place.severity == seen.severity && place.detail == seen.detail;
    if is_same {
        return None;
    }
    *place = Place {
        first_seen: place.first_seen,
        ..seen
    };
    Some(Transition::Updated)
}

fn open(condition: Condition, about: &About, now: Timestamp) -> Place {
    Place {
        check: condition.check,
        workload: about.workload.clone(),
        subject: condition.subject,
        severity: condition.severity,
        title: condition.title,
        basis: condition.basis,
        detail: condition.detail,
        first_seen: now,
        last_seen: now,
        resolved_at: None,
    }
}

fn resolve(
    places: &mut Places,
    gone: &[Fingerprint],
    about: &About,
    reason: Resolution,
    now: Timestamp,
) -> Vec<Finding> {
    let mut findings = Vec::with_capacity(gone.len());
    for fingerprint in gone {
        if let Some(place) = places.get_mut(fingerprint) {
            place.resolved_at = Some(now);
            let resolved = document(*fingerprint, place, about, Transition::Resolved, now);
            findings.push(Finding {
                reason: Some(reason),
                ..resolved
            });
        }
    }
    findings
}

/// The document of a place as it stands.
pub fn document(
    fingerprint: Fingerprint,
    place: &Place,
    about: &About,
    transition: Transition,
    now: Timestamp,
) -> Finding {
    Finding {
        schema: SCHEMA.to_owned(),
        fingerprint,
        transition,
        reason: None,
        severity: place.severity,
        title: place.title.clone(),
        node: about.node.clone(),
        container: Some(about.container.clone()),
        workload: place.workload.clone(),
        subject: place.subject.clone(),
        image: about.image.clone(),
        basis: place.basis,
        detail: place.detail.clone(),
        actor: None,
        first_seen: place.first_seen,
        last_seen: now,
        observed_at: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Unmanaged;

    fn about() -> About {
        About {
            node: "n".into(),
            container: ContainerRef {
                id: "c".into(),
                namespace: "default".into(),
                name: "c".into(),
                pod: None,
            },
            workload: Workload::of_image("default", "r"),
            image: None,
        }
    }

    fn condition(subject: &str, severity: Severity) -> Condition {
        Condition {
            check: Check::Files,
            subject: Subject::word(subject),
            severity,
            title: subject.to_owned(),
            basis: None,
            detail: Detail::UnmanagedContainer(Unmanaged {
                reason: subject.to_owned(),
            }),
        }
    }

    fn look(done: &[Check], conditions: Vec<Condition>) -> Look {
        Look {
            done: done.to_vec(),
            conditions,
            ..Look::default()
        }
    }

    fn transitions(findings: &[Finding]) -> Vec<Transition> {
        findings.iter().map(|finding| finding.transition).collect()
    }

    #[test]
    fn what_a_policy_accepts_is_resolved_by_it_and_what_is_gone_is_gone() {
        let (mut places, about, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        let files = [Check::Files];
        let drift = |subject: &str| Condition {
            detail: Detail::FileDrift(crate::finding::FileDrift {
                changes: Vec::new(),
                changes_total: 1,
            }),
            ..condition(subject, Severity::Warning)
        };
        let both = vec![drift("a"), drift("b"), condition("c", Severity::Info)];
        advance(&mut places, &about, look(&files, both), now);

        let accepting = Look {
            excused: ["a", "c"].map(Subject::word).into(),
            ..look(&files, Vec::new())
        };
        let resolved = advance(&mut places, &about, accepting, now);
        let mut reasons: Vec<_> = resolved
            .iter()
            .map(|finding| (finding.subject.as_str(), finding.reason))
            .collect();
        reasons.sort_by_key(|(subject, _)| *subject);
        let (policy, gone) = (Some(Resolution::Policy), Some(Resolution::Gone));
        assert_eq!(reasons, [("a", policy), ("b", gone), ("c", gone)]);
        let back = advance(&mut places, &about, look(&files, vec![drift("a")]), now);
        assert_eq!(transitions(&back), [Transition::Reopened]);
    }

    #[test]
    fn a_place_opens_once_changes_resolves_and_reopens() {
        let (mut places, about, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        let files = [Check::Files];

        let opened = advance(
            &mut places,
            &about,
            look(&files, vec![condition("a", Severity::Info)]),
            now,
        );
        assert_eq!(transitions(&opened), [Transition::Opened]);
        let same = advance(
            &mut places,
            &about,
            look(&files, vec![condition("a", Severity::Info)]),
            now,
        );
        assert_eq!(transitions(&same), []);
        let worse = advance(
            &mut places,
            &about,
            look(&files, vec![condition("a", Severity::Critical)]),
            now,
        );
        assert_eq!(transitions(&worse), [Transition::Updated]);
        let gone = advance(&mut places, &about, look(&files, vec![]), now);
        assert_eq!(transitions(&gone), [Transition::Resolved]);
        assert_eq!(gone[0].reason, Some(Resolution::Gone));
        let still_gone = advance(&mut places, &about, look(&files, vec![]), now);
        assert_eq!(transitions(&still_gone), []);
        let back = advance(
            &mut places,
            &about,
            look(&files, vec![condition("a", Severity::Info)]),
            now,
        );
        assert_eq!(transitions(&back), [Transition::Reopened]);
    }

    #[test]
    fn a_check_that_was_not_done_resolves_nothing() {
        let (mut places, about, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        advance(
            &mut places,
            &about,
            look(&[Check::Files], vec![condition("a", Severity::Info)]),
            now,
        );

        let other = advance(
            &mut places,
            &about,
            look(&[Check::Identity, Check::Layers], vec![]),
            now,
        );

        assert_eq!(transitions(&other), []);
    }

    #[test]
    fn a_place_is_resolved_for_the_workload_that_it_was_opened_for() {
        let (mut places, unknown, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        let seen = look(&[Check::Files], vec![condition("a", Severity::Info)]);
        let opened = advance(&mut places, &unknown, seen, now);
        let known = About {
            workload: Workload::of_image("default", "better-known"),
            ..about()
        };

        let gone = advance(&mut places, &known, look(&[Check::Files], vec![]), now);

        assert_eq!(gone[0].fingerprint, opened[0].fingerprint);
        let json = serde_json::to_vec(&gone[0]).unwrap();
        assert_eq!(Finding::parse(&json).unwrap().workload, unknown.workload);
    }

    #[test]
    fn the_end_of_a_container_resolves_what_is_open() {
        let (mut places, about, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        advance(
            &mut places,
            &about,
            look(&[Check::Files], vec![condition("a", Severity::Info)]),
            now,
        );

        let ended = end(&mut places, &about, now);

        assert_eq!(ended[0].reason, Some(Resolution::ContainerEnded));
        assert_eq!(transitions(&end(&mut places, &about, now)), []);
    }

    #[test]
    fn a_document_survives_its_json_and_a_forged_fingerprint_does_not() {
        let (mut places, about, now) = (Places::new(), about(), Timestamp::UNIX_EPOCH);
        let finding = advance(
            &mut places,
            &about,
            look(&[], vec![condition("a", Severity::Info)]),
            now,
        )
        .remove(0);
        let json = serde_json::to_string(&finding).unwrap();

        assert_eq!(Finding::parse(json.as_bytes()).unwrap(), finding);
        let forged = json.replace(
            "\"workload\":\"default:r\"",
            "\"workload\":\"default:other\"",
        );
        assert!(matches!(
            Finding::parse(forged.as_bytes()),
            Err(crate::finding::FindingError::Fingerprint)
        ));
    }
}
