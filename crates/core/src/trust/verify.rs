//! The verifier: policies, an image's digests and evidence in, one of six verdicts out. Pure.
//!
//! Thin on purpose: cosign's classic layout with ECDSA P-256 keys. A later verifier replaces what is
//! below [`verify`]; what it must keep is that nothing missed reads as "unsigned" and nothing doubtful
//! as "verified".
//!
//! 1. The policies that name the image; every one of them must be satisfied.
//! 2. The digests that mean this image: the manifest that runs, and the index that lists it.
//! 3. Each signature that was found, judged alone: what it states, and about what.
//! 4. Each policy: an authority whose key made one of the statements, or a static answer.
//! 5. One verdict from all policies; what could not be looked at matters only now.

use super::evidence::Evidence;
use super::policy::{Mode, Policy, PolicySet, Rule};
use super::verdict::{ErrorReason, Refusal, Verdict};
use found::{Found, Refusals};

pub use found::ImageDigests;

mod found;

/// Whether the policies are satisfied. `names` are the one recorded when the container was made and
/// every name that the store has for the digest.
pub fn verify<N: AsRef<str>>(
    names: &[N],
    image: ImageDigests<'_>,
    policies: &PolicySet,
    evidence: &Evidence,
) -> Verdict {
    // (1)
    let matching = match select(names, policies) {
        Ok(matching) => matching,
        Err(verdict) => return verdict,
    };
    let mut refusals = Refusals::default();
    // (2)
    let subjects = image.subjects(&mut refusals);
    // (3)
    let found = found::examine(&subjects, evidence, &mut refusals);
    // (4)
    let outcomes: Vec<Outcome<'_>> = matching
        .into_iter()
        .map(|policy| judge(policy, &found, &mut refusals))
        .collect();
    // (5)
    conclude(&outcomes, &found, refusals)
}

/// Step 1: the matching policies, or the verdict that needs none.
fn select<'a, N: AsRef<str>>(
    names: &[N],
    policies: &'a PolicySet,
) -> Result<Vec<&'a Policy>, Verdict> {
    let any_policy = !policies.is_empty();
    if any_policy && names.is_empty() {
        return Err(Verdict::Error {
            reason: ErrorReason::NoName,
            message: "the image has no name that could select a policy".to_owned(),
        });
    }
    let matching = policies.matching(names);
    if matching.is_empty() {
        return Err(Verdict::Uncovered { any_policy });
    }
    Ok(matching)
}

/// What one policy says.
struct Outcome<'a> {
    policy: &'a Policy,
    answer: Answer<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer<'a> {
    /// The named authority's key made one of the statements.
    Signed(&'a str),
    /// The named authority lets everything pass.
    Static(&'a str),
    /// No authority of this policy can ever be satisfied by a signature.
    Never,
    /// A signature is asked for, and none of those found will do.
    Unsatisfied,
}

/// Step 4: one satisfied authority is enough; a signature is worth more than a static pass.
fn judge<'a>(policy: &'a Policy, found: &Found<'_>, refusals: &mut Refusals) -> Outcome<'a> {
    let signed = policy.authorities.iter().find(|authority| {
        let Rule::Keys(keys) = &authority.rule else {
            return false;
        };
        found.statements.iter().any(|statement| {
            keys.iter()
                .any(|key| key.verifies(statement.payload, &statement.signature))
        })
    });
    let passed = policy
        .authorities
        .iter()
        .find(|authority| matches!(authority.rule, Rule::Pass));
    let answer = match (signed, passed) {
        (Some(authority), _) => Answer::Signed(&authority.name),
        (None, Some(authority)) => Answer::Static(&authority.name),
        (None, None) => refuse(policy, found, refusals),
    };
    Outcome { policy, answer }
}

/// A policy that is not satisfied, with the refusal of every statement.
fn refuse(policy: &Policy, found: &Found<'_>, refusals: &mut Refusals) -> Answer<'static> {
    let mut asks_for_signature = false;
    for authority in &policy.authorities {
        match &authority.rule {
            Rule::Keys(_) => asks_for_signature = true,
            Rule::Fail { message } => refusals.push(
                None,
                None,
                Refusal::Static {
                    policy: policy.name.clone(),
                    message: message.clone(),
                },
            ),
            Rule::Pass => {}
        }
    }
    if !asks_for_signature {
        return Answer::Never;
    }
    for statement in &found.statements {
        let policy = policy.name.clone();
        refusals.push(
            Some(statement.subject),
            Some(statement.at),
            Refusal::Signer { policy },
        );
    }
    Answer::Unsatisfied
}

/// Step 5.
fn conclude(outcomes: &[Outcome<'_>], found: &Found<'_>, mut refusals: Refusals) -> Verdict {
    let failed: Vec<&Policy> = outcomes
        .iter()
        .filter(|outcome| matches!(outcome.answer, Answer::Never | Answer::Unsatisfied))
        .map(|outcome| outcome.policy)
        .collect();
    if failed.is_empty() {
        return satisfied(outcomes);
    }
    let is_definite = outcomes
        .iter()
        .any(|outcome| outcome.answer == Answer::Never);
    let unknown = unknown(found);
    if let (Some((reason, message)), false) = (&unknown, is_definite) {
        let (reason, message) = (*reason, message.clone());
        return Verdict::Error { reason, message };
    }
    let mut policies: Vec<String> = failed.iter().map(|policy| policy.name.clone()).collect();
    policies.sort();
    let warn_only = failed.iter().all(|policy| policy.mode == Mode::Warn);
    if !is_definite && !found.any {
        return Verdict::Unsigned {
            policies,
            warn_only,
        };
    }
    // Said beside the definite answer: what another place has may not even matter, and is not known.
    for missed in &found.missed {
        refusals.push(
            None,
            None,
            Refusal::Missed {
                cause: missed.cause,
                message: missed.message.clone(),
            },
        );
    }
    Verdict::Untrusted {
        policies,
        refusals: refusals.into_list(),
        warn_only,
    }
}

/// Every matching policy is satisfied: by signatures, or one of them only by its static rule.
fn satisfied(outcomes: &[Outcome<'_>]) -> Verdict {
    let mut authorities = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let policy = &outcome.policy.name;
        match outcome.answer {
            Answer::Static(authority) => {
                let rule = format!("{policy}/{authority}");
                return Verdict::Accepted { rule };
            }
            Answer::Signed(authority) => authorities.push(format!("{policy}/{authority}")),
            Answer::Never | Answer::Unsatisfied => {}
        }
    }
    authorities.sort();
    Verdict::Verified { authorities }
}

/// Why a satisfying signature may exist that was not seen.
fn unknown(found: &Found<'_>) -> Option<(ErrorReason, String)> {
    if let Some(missed) = found.missed.first() {
        let reason = ErrorReason::Missed(missed.cause);
        return Some((reason, missed.message.clone()));
    }
    if let Some(digest) = found.not_looked {
        let message = format!("nobody has looked for signatures of {digest}");
        return Some((ErrorReason::NotLooked, message));
    }
    found.no_index.then(|| {
        let message = "the index that was pulled is not at hand".to_owned();
        (ErrorReason::NoIndex, message)
    })
}

#[cfg(test)]
mod tests;
