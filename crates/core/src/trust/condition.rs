//! From a verdict to what a look reports: which finding, how severe, about what.
//!
//! A verdict that is not good is always a condition. An error is never a lower degree of "unsigned",
//! and a policy in mode `warn` reports one severity lower, never nothing.

use super::verdict::{Refused, Verdict};
use crate::finding::{Check, Condition, Detail, Severity, Subject, Untrusted, Unverifiable};

/// Longest title: it goes into alerts.
const MAX_TITLE: usize = 200;

/// The condition that a verdict is; `None` when it is good. `image` is what people call the image, in
/// the reversible form.
pub fn condition(verdict: &Verdict, image: &str) -> Option<Condition> {
    match verdict {
        Verdict::Verified { .. } | Verdict::Accepted { .. } => None,
        Verdict::Unsigned {
            policies,
            warn_only,
        } => Some(of_image(
            subject(policies),
            if *warn_only {
                Severity::Info
            } else {
                Severity::Warning
            },
            &format!("No signature for {image}"),
            Detail::ImageUnsigned(untrusted(policies, &[])),
        )),
        Verdict::Untrusted {
            policies,
            refusals,
            warn_only,
        } => Some(of_image(
            subject(policies),
            if *warn_only {
                Severity::Warning
            } else {
                Severity::Critical
            },
            &format!("No signature of {image} satisfies the policy"),
            Detail::ImageUntrusted(untrusted(policies, refusals)),
        )),
        Verdict::Error { reason, message } => Some(of_image(
            Subject::word(Check::Signature.as_str()),
            Severity::Warning,
            &format!(
                "Signature of {image} could not be checked: {}",
                reason.as_str()
            ),
            Detail::Unverifiable(Unverifiable {
                check: Check::Signature,
                reason: reason.as_str().to_owned(),
                message: message.clone(),
            }),
        )),
        Verdict::Uncovered { any_policy } => Some(of_image(
            Subject::word("no-policy"),
            if *any_policy {
                Severity::Warning
            } else {
                Severity::Info
            },
            &format!("No policy names {image}"),
            Detail::ImageUncovered(untrusted(&[], &[])),
        )),
    }
}

fn of_image(subject: Subject, severity: Severity, title: &str, detail: Detail) -> Condition {
    Condition {
        check: Check::Signature,
        subject,
        severity,
        title: title.chars().take(MAX_TITLE).collect(),
        basis: None,
        detail,
    }
}

/// The unsatisfied policies in one fixed order, so that the same problem has the same fingerprint.
fn subject(policies: &[String]) -> Subject {
    let mut sorted = policies.to_vec();
    sorted.sort();
    sorted.dedup();
    Subject::word(&sorted.join(","))
}

fn untrusted(policies: &[String], refusals: &[Refused]) -> Untrusted {
    Untrusted {
        policies: policies.to_vec(),
        refusals: refusals.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::finding::Kind;
    use crate::trust::evidence::Cause;
    use crate::trust::{ErrorReason, Refusal};

    fn told(verdict: &Verdict) -> Option<(Kind, Severity, String)> {
        condition(verdict, "r.example/a:1").map(|condition| {
            assert_eq!(condition.check, Check::Signature);
            (
                condition.detail.kind(),
                condition.severity,
                condition.subject.as_str().to_owned(),
            )
        })
    }

    const ENFORCE: Verdict = Verdict::Untrusted {
        policies: Vec::new(),
        refusals: Vec::new(),
        warn_only: false,
    };

    #[test]
    fn a_good_verdict_is_no_condition() {
        let authorities = vec!["a/k".to_owned()];
        assert_eq!(told(&Verdict::Verified { authorities }), None);
        assert_eq!(told(&Verdict::Accepted { rule: "a/s".into() }), None);
    }

    #[test]
    fn each_bad_verdict_has_its_own_kind_and_severity() {
        use Severity::{Critical, Info, Warning};
        for (warn_only, untrusted, unsigned) in [(false, Critical, Warning), (true, Warning, Info)]
        {
            let verdict = Verdict::Untrusted {
                policies: vec!["a".into()],
                refusals: vec![],
                warn_only,
            };
            assert_eq!(
                told(&verdict),
                Some((Kind::ImageUntrusted, untrusted, "a".to_owned()))
            );
            let verdict = Verdict::Unsigned {
                policies: vec!["b".into(), "a".into()],
                warn_only,
            };
            assert_eq!(
                told(&verdict),
                Some((Kind::ImageUnsigned, unsigned, "a,b".to_owned()))
            );
        }
        for (any_policy, severity) in [(false, Info), (true, Warning)] {
            assert_eq!(
                told(&Verdict::Uncovered { any_policy }),
                Some((Kind::ImageUncovered, severity, "no-policy".to_owned()))
            );
        }
        let error = Verdict::Error {
            reason: ErrorReason::Missed(Cause::RateLimited),
            message: "r.example".into(),
        };
        assert_eq!(
            told(&error),
            Some((Kind::Unverifiable, Warning, "signature".to_owned()))
        );
    }

    #[test]
    fn refusals_are_told_in_words() {
        let verdict = Verdict::Untrusted {
            policies: vec!["a".into()],
            refusals: vec![Refused {
                subject: Some(Digest::of(b"")),
                signature: Some(3),
                refusal: Refusal::Encoding,
            }],
            warn_only: false,
        };
        let Detail::ImageUntrusted(detail) = condition(&verdict, "r").unwrap().detail else {
            panic!();
        };
        let digest = Digest::of(b"");
        assert_eq!(
            detail.refusals,
            [format!("signature 3 of {digest}: signature is not base64")]
        );
    }

    #[test]
    fn a_title_is_bounded() {
        let condition = condition(&ENFORCE, &"x".repeat(5000)).unwrap();
        assert_eq!(condition.title.chars().count(), MAX_TITLE);
    }
}
