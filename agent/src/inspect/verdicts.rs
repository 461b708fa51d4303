//! What one look has seen so far, check by check. A check is done, or it is not and says why: there is no
//! third way to leave it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::coverage::{AcceptedBy, CheckStatus, Outcome};
use holdfast_core::drift::accepted::Accepted;
use holdfast_core::finding::{Basis, Check, Condition, Detail, Kind, Severity, Subject};
use holdfast_core::place::Look;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::runtime::gather::Stop;
use crate::runtime::identify::Identified;

/// How one check ended.
#[derive(Debug, Default)]
struct Ended {
    is_done: bool,
    conditions: Vec<Condition>,
    basis: Option<Basis>,
    /// Why it could not be done, where no finding of its own says so.
    reason: Option<String>,
    accepted_by: Vec<AcceptedBy>,
    took: Option<Duration>,
    at: Option<Timestamp>,
}

/// The checks of one look.
#[derive(Debug)]
pub(super) struct Verdicts {
    now: Timestamp,
    begun: Instant,
    checks: BTreeMap<Check, Ended>,
    excused: BTreeSet<Subject>,
}

impl Verdicts {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            begun: Instant::now(),
            checks: BTreeMap::new(),
            excused: BTreeSet::new(),
        }
    }

    /// When the look began. What it read was so from here on: a change that comes after a file was read is
    /// not seen any more.
    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    /// When the look has ended, which is now: what it found was known at this time.
    pub(super) fn ended(&self) -> Timestamp {
        let millis = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        let took = SignedDuration::from_millis(millis);
        self.now.saturating_add(took).unwrap_or(self.now)
    }

    /// What identification said, now or at the last whole look.
    pub(super) fn identified(&mut self, identified: &Identified) {
        for check in [Check::Identity, Check::Digests] {
            let ended = self.checks.entry(check).or_default();
            // A failure of this look outweighs what an earlier one could do.
            ended.is_done = ended.reason.is_none() && identified.done.contains(&check);
            let own = identified
                .conditions
                .iter()
                .filter(|condition| condition.check == check);
            ended.conditions.extend(own.cloned());
        }
    }

    /// The container could not be identified now.
    pub(super) fn not_identified(&mut self, stop: &Stop) {
        let reason = stop.reason();
        self.not_done(Check::Identity, Severity::Info, reason, stop.to_string());
        self.checks.entry(Check::Digests).or_default().reason = Some(reason.to_owned());
    }

    /// Without an identity nothing else can be compared; the finding about the identity says why.
    pub(super) fn nothing_to_compare(&mut self, checks: &[Check]) {
        self.depends_on_another(checks, "not-identified");
    }

    /// What they need could not be had; the finding of the check that it comes from says why.
    pub(super) fn depends_on_another(&mut self, checks: &[Check], reason: &str) {
        for check in checks {
            self.checks.entry(*check).or_default().reason = Some(reason.to_owned());
        }
    }

    /// The look did not end in time: nothing was done.
    pub(super) fn timed_out(&mut self) {
        let message = "the look did not end in time".to_owned();
        self.not_done(Check::Files, Severity::Warning, "deadline", message);
        self.nothing_to_compare(&[
            Check::Identity,
            Check::Digests,
            Check::Signature,
            Check::Layers,
            Check::Mounts,
        ]);
    }

    /// A check that takes long has not ended once: what it has seen so far is said, and that there is more.
    pub(super) fn not_yet(
        &mut self,
        check: Check,
        basis: Option<Basis>,
        conditions: Vec<Condition>,
    ) {
        self.partly_done(check, basis, conditions);
        self.checks.entry(check).or_default().reason = Some("under-way".to_owned());
    }

    /// Something more that belongs to a check which was done elsewhere.
    pub(super) fn also(&mut self, check: Check, condition: Option<Condition>) {
        self.checks
            .entry(check)
            .or_default()
            .conditions
            .extend(condition);
    }

    /// Whether something of this kind was seen.
    pub(super) fn has(&self, check: Check, kind: Kind) -> bool {
        let conditions = self.checks.get(&check).map(|ended| &ended.conditions);
        let is_it = |condition: &Condition| condition.detail.kind() == kind;
        conditions.is_some_and(|conditions| conditions.iter().any(is_it))
    }

    /// A check was done to its end.
    pub(super) fn done(&mut self, check: Check, basis: Option<Basis>, conditions: Vec<Condition>) {
        let ended = self.checks.entry(check).or_default();
        ended.is_done = true;
        ended.basis = basis;
        ended.conditions.extend(conditions);
    }

    /// What policies have let pass.
    pub(super) fn accepted(&mut self, check: Check, accepted: Accepted) {
        let (by, excused) = accepted.into_parts();
        let by = by.into_iter();
        self.checks.entry(check).or_default().accepted_by = by
            .map(|(rule, changes)| AcceptedBy { rule, changes })
            .collect();
        self.excused.extend(excused);
    }

    /// When a check was done that was not done in this look.
    pub(super) fn at(&mut self, check: Check, at: Timestamp) {
        self.checks.entry(check).or_default().at = Some(at);
    }

    /// A check saw this, and could not be done to its end.
    pub(super) fn partly_done(
        &mut self,
        check: Check,
        basis: Option<Basis>,
        conditions: Vec<Condition>,
    ) {
        self.done(check, basis, conditions);
        self.checks.entry(check).or_default().is_done = false;
    }

    /// A check could not be done: always a finding.
    pub(super) fn not_done(
        &mut self,
        check: Check,
        severity: Severity,
        reason: &str,
        message: String,
    ) {
        let ended = self.checks.entry(check).or_default();
        ended.is_done = false;
        ended.reason = Some(reason.to_owned());
        ended
            .conditions
            .push(Condition::unverifiable(check, severity, reason, message));
    }

    /// On which basis a check stands that could not be done.
    pub(super) fn stand_on(&mut self, check: Check, basis: Basis) {
        let ended = self.checks.entry(check).or_default();
        ended.basis = Some(basis);
        for condition in &mut ended.conditions {
            condition.basis.get_or_insert(basis);
        }
    }

    /// How long checks took that were done in this look, and not repeated from an earlier one.
    pub(super) fn took(&mut self, checks: &[Check], took: Duration) {
        for check in checks {
            self.checks.entry(*check).or_default().took = Some(took);
        }
    }

    /// For the metrics.
    pub(super) fn outcomes(&self) -> Vec<(Check, Outcome, Option<Duration>)> {
        self.checks
            .iter()
            .map(|(check, ended)| (*check, ended.outcome(), ended.took))
            .collect()
    }

    /// For the ledger and for coverage. The worse of two conditions about the same stays.
    pub(super) fn into_parts(self) -> (Look, Vec<CheckStatus>) {
        let now = self.now;
        let mut look = Look {
            excused: self.excused,
            ..Look::default()
        };
        let mut statuses = Vec::new();
        for (check, ended) in self.checks {
            statuses.push(CheckStatus {
                check,
                outcome: ended.outcome(),
                severity: ended
                    .conditions
                    .iter()
                    .map(|condition| condition.severity)
                    .max(),
                basis: ended.basis,
                reason: ended.reason(),
                accepted_by: ended.accepted_by,
                at: ended.at.unwrap_or(now),
            });
            if ended.is_done {
                look.done.push(check);
            }
            look.conditions.extend(ended.conditions);
        }
        (look, statuses)
    }
}

impl Ended {
    fn outcome(&self) -> Outcome {
        match (self.is_done, self.conditions.is_empty()) {
            (false, _) => Outcome::Unverifiable,
            (true, true) => Outcome::Clean,
            (true, false) => Outcome::Findings,
        }
    }

    fn reason(&self) -> Option<String> {
        let said = self
            .conditions
            .iter()
            .find_map(|condition| match &condition.detail {
                Detail::Unverifiable(unverifiable) => Some(unverifiable.reason.clone()),
                _ => None,
            });
        (!self.is_done).then(|| self.reason.clone().or(said))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::CallError;

    #[test]
    fn a_check_that_could_not_be_done_is_a_finding_and_resolves_nothing() {
        let mut verdicts = Verdicts::new(Timestamp::UNIX_EPOCH);
        verdicts.done(Check::Files, None, Vec::new());
        verdicts.not_done(
            Check::Layers,
            Severity::Info,
            "blob-absent",
            "no blob".to_owned(),
        );

        let (look, statuses) = verdicts.into_parts();

        assert_eq!(look.done, [Check::Files]);
        assert_eq!(look.conditions.len(), 1);
        let outcomes: Vec<_> = statuses
            .iter()
            .map(|status| (status.outcome, status.reason.as_deref()))
            .collect();
        assert_eq!(
            outcomes,
            [
                (Outcome::Clean, None),
                (Outcome::Unverifiable, Some("blob-absent"))
            ]
        );
    }

    #[test]
    fn a_check_that_depends_on_another_is_not_done_without_a_finding_of_its_own() {
        let mut verdicts = Verdicts::new(Timestamp::UNIX_EPOCH);
        verdicts.not_done(
            Check::Identity,
            Severity::Info,
            "shim-silent",
            "no answer".to_owned(),
        );
        verdicts.nothing_to_compare(&[Check::Files]);

        let (look, statuses) = verdicts.into_parts();

        assert_eq!((look.done.len(), look.conditions.len()), (0, 1));
        assert!(
            statuses
                .iter()
                .all(|status| status.outcome == Outcome::Unverifiable)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_after_it_has_begun_and_what_it_read_was_so_at_the_beginning() {
        let begun = Timestamp::UNIX_EPOCH;
        let mut verdicts = Verdicts::new(begun);
        verdicts.done(Check::Files, None, Vec::new());
        tokio::time::advance(Duration::from_mins(10)).await;

        assert_eq!(verdicts.ended(), begun + SignedDuration::from_mins(10));
        let (_, statuses) = verdicts.into_parts();
        assert_eq!(statuses[0].at, begun);
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_said_once_with_its_reason() {
        for (stop, due) in [
            (Stop::Call(CallError::ShimSilent), "shim-silent"),
            (Stop::ProcessNotVisible, "process-not-visible"),
        ] {
            let mut verdicts = Verdicts::new(Timestamp::UNIX_EPOCH);
            verdicts.not_identified(&stop);

            let (look, statuses) = verdicts.into_parts();

            let reasons: Vec<_> = statuses.iter().map(|it| it.reason.as_deref()).collect();
            assert_eq!(reasons, [Some(due), Some(due)]);
            assert_eq!((look.done.len(), look.conditions.len()), (0, 1));
        }
    }
}
